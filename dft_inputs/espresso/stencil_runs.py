"""The pw.x runs of one label: which start from which, what is on disk already, and what can go.

A plain SCF at zero field comes first. Its Berry phases fix the branch of all others, which start from its
wavefunctions; the second and later points of a field axis start from extrapolated ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from ..branches import string_counts
from ..pseudopotentials import Pseudopotential
from ..records import Frame
from ..stencil import ZERO, Stencil
from ..symmetry import Operation, irreducible_points
from .code import PwCode
from .gap import judge_gap
from .handlers import closed_gap, run_with_remedies, strong_field
from .inputs import PREFIX, SCRATCH, field_input, occupied_bands, zero_input
from .outputs import PwOutput
from .phases import dipole_from_phases, read_phases, string_phases, write_phases
from .run import PwRunError, drop_scratch, ended_point, has_scratch, link_pseudopotentials, stored_point
from .save_files import SaveFileError
from .scratch import require_space, scratch_bytes
from .settings import PwSettings
from .warm_start import extrapolation_weights, write_extrapolated

ORIGIN = "origin"
"""The E = 0 run that precedes a stencil about a finite field."""


@dataclass(frozen=True)
class StencilJob:
    """One frame to label, with all that its runs need."""

    frame: Frame
    settings: PwSettings
    stencil: Stencil
    code: PwCode
    pseudopotentials: dict[str, Pseudopotential]
    directory: Path
    label_id: str
    operations: tuple[Operation, ...] = ()
    """Symmetry of the crystal and its mesh that is used to leave points out."""

    @cached_property
    def fields(self) -> dict[str, np.ndarray]:
        """Field of each run by name, in the order of running: each axis outwards."""
        computed = irreducible_points(self.stencil, self.operations)
        points = {name: field for name, field in self.stencil.points().items() if name in computed}
        places = {name: self._place(field) for name, field in points.items()}
        ordered = sorted(points, key=lambda name: _rank(places[name]))
        origin = {ORIGIN: np.zeros(3)} if any(self.stencil.base) else {}
        return {**origin, **{name: points[name] for name in ordered}}

    @property
    def points_at_a_time(self) -> int:
        """Most points whose large files are kept at a time: the one at work, and those that it starts from."""
        return 1 + max(len(self.sources(name)) for name in self.fields)

    @property
    def first(self) -> str:
        """The run at zero field."""
        return next(iter(self.fields))

    def sources(self, name: str) -> dict[str, float]:
        """The runs that a run starts from, with their weights in the extrapolation; the first one lends its files."""
        if name == self.first:
            return {}
        if name == ZERO:
            return {ORIGIN: 1.0}
        axis, target = _along(self._place(self.fields[name]))
        known = {0: ZERO}
        for other, field in self.fields.items():
            if other == name:
                break
            if other not in (ORIGIN, ZERO) and _along(self._place(field))[0] == axis:
                known[_along(self._place(field))[1]] = other
        return {known[place]: weight for place, weight in extrapolation_weights(list(known), target).items()}

    def folder(self, name: str) -> Path:
        """Directory of a run."""
        return self.directory / (name if name[0] not in "+-" else f"field{name}")

    def save(self, name: str) -> Path:
        """Where pw.x leaves wavefunctions and density of a run."""
        return self.folder(name) / SCRATCH / f"{PREFIX}.save"

    def text(self, name: str) -> str:
        """Input of a run."""
        comment = f"label {self.label_id}, point {name}"
        if name == self.first:
            return zero_input(self.frame, self.settings, self.pseudopotentials, comment)
        return field_input(
            self.frame,
            self.settings,
            self.pseudopotentials,
            self.fields[name],
            extrapolated=len(self.sources(name)) > 1,
            comment=comment,
        )

    def reference_dipole(self) -> np.ndarray:
        """Electronic dipole at zero field, its k-strings on one branch, e A, (3,).

        Raises:
            OSError, ValueError: the phases are missing or broken.
        """
        folder = self.folder(self.first)
        phases = read_phases(folder)
        if [one.shape for one in phases] != [(self.settings.nspin, n) for n in string_counts(self.settings.mesh)]:
            raise ValueError(f"the Berry phases in {folder} are not those of all k-strings")
        return dipole_from_phases(phases, self.frame.cell)

    def has_phases(self) -> bool:
        """The Berry phases of the zero-field run are beside its output, and whole."""
        try:
            self.reference_dipole()
        except (OSError, ValueError):
            return False
        return True

    def _place(self, field: np.ndarray) -> np.ndarray:
        return np.rint((field - np.array(self.stencil.base)) / self.stencil.step).astype(int)


def run_stencil(
    job: StencilJob, descriptor: int, only: Collection[str] | None = None
) -> Iterator[tuple[str, PwOutput]]:
    """Yield each finished run in order, running only what is not on disk.

    Args:
        job: the label.
        descriptor: from ``lease``.
        only: the runs wanted; all where None. What they start from is run where it is missing.

    Raises:
        PwRunError: pw.x failed, or the frame is a metal.
        OSError: the disk is full or not writable.
    """
    wanted = [name for name in job.fields if only is None or name in only]
    texts = {name: job.text(name) for name in job.fields}
    stored = {name: ended_point(job.folder(name), texts[name], job.code) for name in job.fields}
    if not job.has_phases() and not has_scratch(job.folder(job.first)):
        stored[job.first] = None
    missing = _missing(job, wanted, stored)
    link_pseudopotentials(job.directory, job.pseudopotentials)
    if missing:
        _drop_what_nobody_needs(job, stored)
        electrons = sum(job.pseudopotentials[symbol].z_valence for symbol in job.frame.species)
        space = scratch_bytes(job.frame, job.settings, electrons, points=job.points_at_a_time)
        require_space(space, job.code, job.directory)
    for name in job.fields:
        if name in missing:
            stored[name] = _run(job, name, texts[name], descriptor)
        output = stored[name]
        if output is not None and name == job.first:
            _keep_phases(job)
        if output is not None and name in wanted:
            yield name, output
        _drop_what_nobody_needs(job, stored)


def _missing(job: StencilJob, wanted: list[str], stored: Mapping[str, PwOutput | None]) -> set[str]:
    """Runs to make: those wanted that are not stored, and those that these start from whose large files are gone."""
    missing = {name for name in wanted if stored[name] is None}
    for name in reversed(job.fields):
        if name in missing:
            missing |= {s for s in job.sources(name) if stored[s] is None or not has_scratch(job.folder(s))}
    return missing


def _run(job: StencilJob, name: str, text: str, descriptor: int) -> PwOutput:
    sources = job.sources(name)
    start = job.folder(next(iter(sources))) if sources else None
    prepare = partial(_extrapolate, job, name) if len(sources) > 1 else None
    output, _ = run_with_remedies(
        job.folder(name),
        text,
        job.code,
        name=name,
        lease_descriptor=descriptor,
        start_from=start,
        prepare=prepare,
        hopeless=partial(_hopeless, job, name),
    )
    return output


def _hopeless(job: StencilJob, name: str) -> str | None:
    """Why no remedy helps a run that does not converge: a closed gap or a field too strong for the mesh; or None."""
    if name == job.first:
        return closed_gap(job.frame, job.settings, job.code, job.directory)
    zero = stored_point(job.folder(job.first), job.text(job.first))
    if zero is None:
        return None
    gap = judge_gap(zero.eigenvalues, occupied_bands(job.frame, job.pseudopotentials), zero.nspin).gap
    return strong_field(job.fields[name], gap, job.frame.cell, job.settings.mesh)


def _extrapolate(job: StencilJob, name: str, directory: Path) -> None:
    """Change the files copied from the first source to what the next point should look like."""
    weights = {job.save(source): weight for source, weight in job.sources(name).items()}
    try:
        write_extrapolated(weights, directory / SCRATCH / f"{PREFIX}.save")
    except SaveFileError as error:
        raise PwRunError(f"no start for {name}: {error}") from error


def _keep_phases(job: StencilJob) -> None:
    """Berry phases of the zero-field run beside its output and among the files that the others start from."""
    folder = job.folder(job.first)
    if job.has_phases() or not has_scratch(folder):
        return
    try:
        phases = string_phases(job.save(job.first), job.settings.mesh, occupied_bands(job.frame, job.pseudopotentials))
    except SaveFileError as error:
        raise PwRunError(f"no Berry phases at zero field: {error}") from error
    write_phases(folder / SCRATCH, phases, prefix=f"{PREFIX}.")
    write_phases(folder, phases)


def _drop_what_nobody_needs(job: StencilJob, stored: Mapping[str, PwOutput | None]) -> None:
    """Large files go as soon as no run that is still to come starts from them."""
    needed = {source for name in job.fields if stored[name] is None for source in job.sources(name)}
    for name in job.fields:
        if stored[name] is not None and name not in needed:
            drop_scratch(job.folder(name))


def _along(place: np.ndarray) -> tuple[int, int]:
    """Axis and multiple of the step of a stencil point."""
    axis = int(np.abs(place).argmax())
    return axis, int(place[axis])


def _rank(place: np.ndarray) -> tuple[int, int, int]:
    axis, multiple = _along(place)
    return (axis if multiple else -1, abs(multiple), -multiple)
