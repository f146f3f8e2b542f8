"""Labelling by DFPT as jobs: one job labels one frame, its SCF and its response in one directory."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from jobflow.core.job import Job, job
from jobflow.core.maker import Maker
from pymatgen.core import Structure

from ..dft_inputs.espresso.code import PwCode
from ..dft_inputs.espresso.dfpt import PhCode, PhSettings, label_frame_dfpt
from ..dft_inputs.espresso.dfpt.inputs import dfpt_label_id
from ..dft_inputs.espresso.settings import PwSettings
from ..dft_inputs.records import Frame, LabelledFrame, Proposal
from .keys import content_job
from .labelling import CampaignError, LabelMaker, as_frame, label_key
from .paths import recorded

FINITE_FIELD, DFPT = "finite-field", "dfpt"
"""Sources of labels on the command line."""


@dataclass
class DfptLabelMaker(Maker):
    """Label frames by density-functional perturbation theory with pw.x and ph.x: Z* and polarizability, but no P.

    Attributes:
        settings: level of theory of the SCF; its mesh, or density of k-points, is that of the parent crystal. DFPT
            wants a denser one than finite fields: watch ``acoustic_sum_rule`` of the quality.
        response: settings of the response.
        code: how pw.x and ph.x are run here.
        parent_cell: lattice vectors of the parent crystal in A, as for ``LabelMaker``.
    """

    name: str = "label by DFPT"  # pyright: ignore[reportIncompatibleMethodOverride]
    settings: PwSettings = field(default_factory=lambda: PwSettings.from_protocol("standard"))
    response: PhSettings = field(default_factory=PhSettings)
    code: PhCode = field(default_factory=PhCode)
    parent_cell: tuple[tuple[float, ...], ...] | None = None

    def settings_for(self, frame: Frame) -> PwSettings:
        """The settings with the mesh of the frame's cell.

        Raises:
            ValueError: a cell that can have no mesh with the N_i |a_i| of the parent.
        """
        return self.settings.for_cell(frame.cell, None if self.parent_cell is None else np.array(self.parent_cell))

    def label_id(self, frame: Frame) -> str:
        """Identity of the label of a frame at this level of theory.

        Raises:
            PseudopotentialError: an element without a pseudopotential.
            ValueError: no mesh for this cell.
        """
        pseudopotentials = self.code.pw.find_pseudopotentials(frame.species)
        return dfpt_label_id(frame, self.settings_for(frame), self.response, pseudopotentials)

    def make(self, frame: Frame | Atoms | Structure, proposal: Proposal | None = None, gap: Any = None) -> Job:
        """A job whose output is the ``LabelledFrame``; found instead of run where the store holds it.

        Args:
            frame: the geometry.
            proposal: why it is labelled.
            gap: a reference to the check that it waits for, as for ``LabelMaker``; no field needs it here.
        """
        frame = as_frame(frame)
        identity = self.label_id(frame)
        labelling = _label_dfpt(frame, self, proposal, gap)
        labelling.name = self.name
        return content_job(labelling, label_key(identity), f"labels/{identity}")


def dfpt_maker(maker: LabelMaker) -> DfptLabelMaker:
    """The DFPT maker at the level of theory of a finite-field one, with ``ph.x`` beside its ``pw.x``.

    Raises:
        ProgramNotFoundError: there is none.
        CampaignError: labels of another code.
    """
    if not isinstance(maker.settings, PwSettings) or not isinstance(maker.code, PwCode):
        raise CampaignError("labels by DFPT are made with ph.x: set label.code to pw.x, or leave --source dfpt out")
    code = PhCode(pw=maker.code)
    code.ph.argv()
    return DfptLabelMaker(settings=maker.settings, code=code, parent_cell=maker.parent_cell)


@job
def _label_dfpt(frame: Frame, maker: DfptLabelMaker, proposal: Proposal | None, gap: float | None) -> LabelledFrame:
    """Label a frame in the current directory."""
    here = Path.cwd()
    labelled = label_frame_dfpt(frame, maker.settings_for(frame), maker.response, maker.code, here, proposal)
    provenance = labelled.provenance.model_copy(update={"directory": recorded(here)})
    return labelled.model_copy(update={"provenance": provenance})
