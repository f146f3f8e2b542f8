"""Labelling with any DFT code as jobs: one job labels one frame, all its field points in one directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from jobflow.core.flow import Flow
from jobflow.core.job import Job, job
from jobflow.core.maker import Maker
from pymatgen.core import Structure

from ..dft_inputs.codes import engine_for
from ..dft_inputs.engine import Engine, LevelOfTheory
from ..dft_inputs.errors import EngineError
from ..dft_inputs.espresso.code import PwCode
from ..dft_inputs.espresso.settings import PwSettings
from ..dft_inputs.insulators import critical_field, critical_fraction, step_from_gap
from ..dft_inputs.labelling import label_frame, label_part
from ..dft_inputs.program import Program
from ..dft_inputs.records import Frame, LabelledFrame, Proposal, Provenance
from ..dft_inputs.stencil import AXES, ZERO, Stencil
from .keys import content_job, content_key
from .paths import located, recorded
from .records import LabelPart, ParentCheck


class CampaignError(ValueError):
    """A campaign that cannot work as it is set up: a metal, or a field its mesh cannot stand."""


@dataclass
class LabelMaker(Maker):
    """Label frames by finite-field DFT.

    Attributes:
        settings: level of theory, which says the code too; its mesh, or density of k-points, is that of the parent
            crystal.
        step: field step, V/A; None to choose it from the gap of the parent, see ``with_step``.
        order: order of the stencil, 2 or 4.
        code: how that code is run here.
        parent_cell: lattice vectors of the parent crystal in A, for strained copies and supercells of it to have its
            N_i |a_i|; without it each frame is its own parent.
        split_fields: a job for zero field and one for each axis, for frames that outlast a batch job; the label and its
            identity are the same.
    """

    name: str = "label"  # pyright: ignore[reportIncompatibleMethodOverride]
    settings: LevelOfTheory = field(default_factory=lambda: PwSettings.from_protocol("standard"))
    step: float | None = Stencil().step
    order: int = 2
    code: Program = field(default_factory=PwCode)
    parent_cell: tuple[tuple[float, ...], ...] | None = None
    split_fields: bool = False

    @property
    def stencil(self) -> Stencil:
        """The field points, about zero field.

        Raises:
            ValueError: the step is not known yet.
        """
        return self.stencil_at((0.0, 0.0, 0.0))

    def stencil_at(self, base: Sequence[float]) -> Stencil:
        """The field points about a base field, V/A, (3,); raises as ``stencil``."""
        if self.step is None:
            raise ValueError("the field step follows from the gap of the parent crystal: call with_step(parent) first")
        x, y, z = map(float, base)
        return Stencil(step=self.step, order=self.order, base=(x, y, z))  # type: ignore[arg-type]

    def settings_for(self, frame: Frame) -> LevelOfTheory:
        """The settings with the mesh of the frame's cell.

        Raises:
            ValueError: a cell that can have no mesh with the N_i |a_i| of the parent.
        """
        return self.settings.for_cell(frame.cell, None if self.parent_cell is None else np.array(self.parent_cell))

    def engine(self, frame: Frame) -> Engine:
        """The code at the level of theory of this frame; raises as ``settings_for``."""
        return engine_for(self.settings_for(frame), self.code)

    def for_parent(self, parent: Frame) -> LabelMaker:
        """This maker for the frames of one data set, whose mesh is that of the parent."""
        return replace(self, parent_cell=tuple(tuple(map(float, vector)) for vector in parent.cell))

    def with_step(self, parent: Frame, root: Path) -> LabelMaker:
        """This maker with the field step that the gap of the parent allows, where it has none.

        The gap comes from the run that ``make_check`` asks for too: it is made once, and found after that.

        Args:
            parent: the crystal.
            root: of the project.

        Raises:
            CampaignError: a metal, or the run failed.
        """
        if self.step is not None:
            return self
        engine = self.engine(parent)
        try:
            result = engine.band_gap(parent, root / self._check_directory(parent))
        except EngineError as error:
            raise CampaignError(f"no gap of {parent.formula} to choose a field step by: {error}") from error
        if result.metallic:
            raise CampaignError(f"{parent.formula} is {result.reason}")
        return replace(self, step=step_from_gap(result.gap, parent.cell, engine.settings.mesh))

    def label_id(self, frame: Frame, field: Sequence[float] = (0.0, 0.0, 0.0)) -> str:
        """Identity of the label of a frame at this level of theory.

        Args:
            frame: the geometry.
            field: about which it is labelled, V/A, (3,).

        Raises:
            PseudopotentialError: an element without a pseudopotential.
            ValueError: no step, or no mesh for this cell.
        """
        return self.engine(frame).label_id(frame, self.stencil_at(field))

    def make(
        self,
        frame: Frame | Atoms | Structure,
        proposal: Proposal | None = None,
        gap: Any = None,
        field: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> Job | Flow:
        """A job whose output is the ``LabelledFrame``; found instead of run where the store holds it.

        With ``split_fields`` a flow with the same output.

        Args:
            frame: the geometry.
            proposal: why it is labelled.
            gap: of the parent crystal, or a reference to it: the label then waits for the check that gives it. The
                fields of a label are judged by the gap of its own frame.
            field: about which it is labelled, V/A, (3,); up to half the critical field.
        """
        frame = as_frame(frame)
        field = tuple(map(float, field))
        identity = self.label_id(frame, field)
        directory = f"labels/{identity}"
        if not self.split_fields:
            labelling = _label(frame, self, proposal, gap, field)
            labelling.name = self.name
            return content_job(labelling, label_key(identity), directory)
        first = self._part(ZERO, identity, directory, frame, field, gap)
        axes = [self._part(a, identity, f"{directory}/jobs/{a}", frame, field, first.output) for a in AXES]
        collected = _collect(frame, self, proposal, field, [first.output, *(job.output for job in axes)])
        collected.name = self.name
        content_job(collected, label_key(identity), directory)
        return Flow([first, *axes, collected], output=collected.output, name=self.name)

    def _part(
        self, part: str, identity: str, directory: str, frame: Frame, field: tuple[float, ...], after: Any
    ) -> Job:
        running = _label_part(frame, self, field, part, after)
        running.name = f"{self.name} {part}"
        return content_job(running, content_key("label part", identity, part), directory)

    def make_check(self, parent: Frame, fields: tuple[tuple[float, float, float], ...] = ()) -> Job:
        """A job that refuses a metal, and fields of the labels or the dynamics above the critical one.

        Args:
            parent: the crystal.
            fields: further fields that will be applied, V/A.
        """
        check = check_parent(parent, self, fields)
        key = content_key("parent", self._gap_key(parent), self.step, self.order, fields)
        return content_job(check, key, self._check_directory(parent))

    def _gap_key(self, parent: Frame) -> str:
        engine = self.engine(parent)
        return content_key("gap", parent.frame_id, engine.settings, engine.pseudopotentials(parent.species))

    def _check_directory(self, parent: Frame) -> str:
        """Of the gap run, whatever is checked with it."""
        return f"parent/{self._gap_key(parent)[:16]}"


def label_key(identity: str) -> str:
    """Content key of the job that makes the label with this ``label_id``."""
    return content_key("label", identity)


def as_frame(structure: Frame | Atoms | Structure) -> Frame:
    """A frame from any of the three usual structure classes."""
    if isinstance(structure, Atoms):
        return Frame.from_atoms(structure)
    return Frame.from_structure(structure) if isinstance(structure, Structure) else structure


@job
def _label(
    frame: Frame, maker: LabelMaker, proposal: Proposal | None, gap: float | None, field: tuple[float, float, float]
) -> LabelledFrame:
    """Label a frame in the current directory."""
    here = Path.cwd()
    labelled = label_frame(maker.engine(frame), frame, maker.stencil_at(field), here, proposal)
    provenance = labelled.provenance.model_copy(update={"directory": recorded(here)})
    return labelled.model_copy(update={"provenance": provenance})


@job
def _label_part(frame: Frame, maker: LabelMaker, field: tuple[float, float, float], part: str, after: Any) -> LabelPart:
    """Zero field in the current directory, or the points along an axis in the directory of the zero-field job."""
    directory = located(after.directory) if isinstance(after, LabelPart) else Path.cwd()
    if isinstance(after, LabelPart) and after.failure:
        failure: str | None = "zero field has failed"
    else:
        failure = label_part(maker.engine(frame), frame, maker.stencil_at(field), directory, part)
    return LabelPart(part=part, directory=recorded(directory), status="failed" if failure else "done", failure=failure)


@job
def _collect(
    frame: Frame,
    maker: LabelMaker,
    proposal: Proposal | None,
    field: tuple[float, float, float],
    parts: list[LabelPart],
) -> LabelledFrame:
    """The label from points that are all on disk, or why they are not."""
    engine, directory = maker.engine(frame), located(parts[0].directory)
    first, *_ = parts
    failures = [part.failure for part in ([first] if first.failure else parts) if part.failure]
    if not failures:
        labelled = label_frame(engine, frame, maker.stencil_at(field), directory, proposal)
        provenance = labelled.provenance.model_copy(update={"directory": recorded(directory)})
        return labelled.model_copy(update={"provenance": provenance})
    return LabelledFrame(
        label_id=maker.label_id(frame, field),
        frame=frame,
        status="failed",
        failure="; ".join(failures),
        proposal=proposal or Proposal(origin="import"),
        provenance=Provenance(code=engine.name, protocol=engine.settings.protocol, directory=recorded(directory)),
    )


@job
def check_parent(parent: Frame, maker: LabelMaker, fields: tuple[tuple[float, float, float], ...]) -> ParentCheck:
    """One SCF at zero field: is the parent an insulator, and do its mesh and gap stand the fields?

    Raises:
        CampaignError: a metal, a field at or above the critical one, or a run that failed.
    """
    engine = maker.engine(parent)
    mesh = engine.settings.mesh
    try:
        result = engine.band_gap(parent, Path.cwd())
    except EngineError as error:
        raise CampaignError(f"no gap of {parent.formula}: {error}") from error
    if result.metallic:
        raise CampaignError(f"{parent.formula} is {result.reason}")
    applied = [np.array(vector) for vector in maker.stencil.points().values()]
    for vector in applied:
        fraction = critical_fraction(vector, result.gap, parent.cell, mesh)
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
        critical_field=critical_field(result.gap, parent.cell, mesh),
        largest_field=max(float(np.linalg.norm(vector)) for vector in applied),
    )
