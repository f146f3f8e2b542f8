"""Labelling with pw.x as jobs: one job labels one frame, all its field points in one directory."""

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
from ..dft_inputs.espresso.gap import band_gap, critical_field, critical_fraction
from ..dft_inputs.espresso.inputs import label_id
from ..dft_inputs.espresso.labels import label_frame
from ..dft_inputs.espresso.settings import PwSettings
from ..dft_inputs.records import Frame, LabelledFrame, Proposal
from ..dft_inputs.stencil import Stencil
from .keys import content_job, content_key
from .paths import recorded
from .records import ParentCheck


class CampaignError(ValueError):
    """A campaign that cannot work as it is set up: a metal, or a field its mesh cannot stand."""


@dataclass
class LabelMaker(Maker):
    """Label frames by finite-field DFT with pw.x.

    Attributes:
        settings: level of theory.
        step: field step, V/A.
        order: order of the stencil, 2 or 4.
        code: how pw.x is run here.
    """

    name: str = "label"  # pyright: ignore[reportIncompatibleMethodOverride]
    settings: PwSettings = field(default_factory=lambda: PwSettings.from_protocol("standard"))
    step: float = Stencil().step
    order: int = 2
    code: PwCode = field(default_factory=PwCode)

    @property
    def stencil(self) -> Stencil:
        """The field points, about zero field."""
        return Stencil(step=self.step, order=self.order)  # type: ignore[arg-type]

    def label_id(self, frame: Frame) -> str:
        """Identity of the label of a frame at this level of theory.

        Raises:
            PseudopotentialError: an element without a pseudopotential.
        """
        return label_id(frame, self.settings, self.code.find_pseudopotentials(frame.species), self.stencil)

    def make(self, frame: Frame | Atoms | Structure, proposal: Proposal | None = None, gap: Any = None) -> Job:
        """A job whose output is the ``LabelledFrame``; found instead of run where the store holds it.

        Args:
            frame: the geometry.
            proposal: why it is labelled.
            gap: band gap of the crystal in eV, or a reference to it; for the check against the critical field.
        """
        frame = as_frame(frame)
        identity = self.label_id(frame)
        labelling = _label(frame, self, proposal, gap)
        labelling.name = self.name
        return content_job(labelling, label_key(identity), f"labels/{identity}")

    def make_check(self, parent: Frame, fields: tuple[tuple[float, float, float], ...] = ()) -> Job:
        """A job that refuses a metal, and fields of the labels or the dynamics above the critical one.

        Args:
            parent: the crystal.
            fields: further fields that will be applied, V/A.
        """
        check = check_parent(parent, self, fields)
        pseudopotentials = self.code.find_pseudopotentials(parent.species)
        hashes = {element: p.sha256 for element, p in pseudopotentials.items()}
        key = content_key("parent", parent.frame_id, self.settings, hashes, self.step, self.order, fields)
        return content_job(check, key, f"parent/{key[:16]}")


def label_key(identity: str) -> str:
    """Content key of the job that makes the label with this ``label_id``."""
    return content_key("label", identity)


def as_frame(structure: Frame | Atoms | Structure) -> Frame:
    """A frame from any of the three usual structure classes."""
    if isinstance(structure, Atoms):
        return Frame.from_atoms(structure)
    return Frame.from_structure(structure) if isinstance(structure, Structure) else structure


@job
def _label(frame: Frame, maker: LabelMaker, proposal: Proposal | None, gap: float | None) -> LabelledFrame:
    """Label a frame in the current directory."""
    here = Path.cwd()
    labelled = label_frame(frame, maker.settings, maker.stencil, maker.code, here, proposal, gap=gap)
    provenance = labelled.provenance.model_copy(update={"directory": recorded(here)})
    return labelled.model_copy(update={"provenance": provenance})


@job
def check_parent(parent: Frame, maker: LabelMaker, fields: tuple[tuple[float, float, float], ...]) -> ParentCheck:
    """One SCF with empty bands: is the parent an insulator, and do its mesh and gap stand the fields?

    Raises:
        CampaignError: a metal, or a field at or above the critical one.
    """
    result = band_gap(parent, maker.settings, maker.code, Path.cwd())
    if result.metallic:
        raise CampaignError(f"{parent.formula} is {result.reason}")
    applied = [np.array(vector) for vector in maker.stencil.points().values()]
    for vector in applied:
        fraction = critical_fraction(vector, result.gap, parent.cell, maker.settings.kpoints)
        if fraction >= 1:
            raise CampaignError(
                f"a field of {np.linalg.norm(vector):.3g} V/A is {fraction:.2f} times the critical field of "
                f"{parent.formula} on this mesh (gap {result.gap:.2f} eV): lower label.field_step or the k-mesh"
            )
    for vector in fields:
        drop = float(np.abs(parent.cell @ np.array(vector)).max())
        if drop >= result.gap:
            raise CampaignError(
                f"a field of {np.linalg.norm(vector):.3g} V/A drops {drop:.2f} V over one cell of {parent.formula}, "
                f"more than its gap of {result.gap:.2f} eV: lower exploration.fields"
            )
    return ParentCheck(
        frame_id=parent.frame_id,
        gap=result.gap,
        critical_field=critical_field(result.gap, parent.cell, maker.settings.kpoints),
        largest_field=max(float(np.linalg.norm(vector)) for vector in applied),
    )
