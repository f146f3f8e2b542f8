"""From a frame to its label, with any DFT code: the runs of a stencil, the responses they give, and checks of both."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .branches import align_dipoles, align_enthalpies, string_counts, string_lattice
from .engine import ORIGIN, Engine, FieldJob, FieldRun
from .errors import EngineError, failure_words
from .insulators import BandGap, critical_fraction, judged
from .meshes import Mesh
from .polarization import quantum_lattice
from .program import lease
from .quality import DEFAULT_BOUNDS, QualityBounds, assemble
from .records import ElectricResponse, FieldPoint, Frame, LabelledFrame, Proposal, Quality
from .stencil import AXES, ZERO, Stencil
from .symmetry import asymmetry, finite_field_operations, full_stencil, space_group

SYMMETRIC = 1e-3
"""eV/A and e A: a state that violates the symmetry of its crystal by more is computed in full."""
LARGEST_BASE_FRACTION = 0.5
"""Of the critical field: the strongest field about which a stencil may be centred."""
PARTS = (ZERO, *AXES)
"""The parts of a label. The axes start from zero field, and are independent of one another."""


class Labels(NamedTuple):
    """What the points of a stencil give; the points agree with the labels."""

    points: dict[str, FieldPoint]
    response: ElectricResponse
    quality: Quality


def label_frame(
    engine: Engine,
    frame: Frame,
    stencil: Stencil,
    directory: Path | str,
    proposal: Proposal | None = None,
    *,
    bounds: QualityBounds = DEFAULT_BOUNDS,
) -> LabelledFrame:
    """Label a frame by finite fields, resuming from the points already in ``directory``.

    A failed DFT run gives a record with ``status="failed"`` and the reason; files are kept and a second call resumes.

    Args:
        engine: the code and the level of theory.
        frame: the geometry.
        stencil: field points.
        directory: of this frame alone.
        proposal: why it is labelled.
        bounds: what passes the checks.

    Raises:
        ProgramNotFoundError, PseudopotentialError, ValueError: nothing was run; the message says what to do.
        DirectoryBusyError: another process labels in this directory.
    """
    job = engine.prepare(frame, stencil, Path(directory))
    runs: dict[str, FieldRun] = {}
    failure, labels = None, None
    with lease(job.directory, job.code) as descriptor:
        try:
            runs.update(run_fields(job, descriptor, only=(job.first,)))
            gap = check_zero_field(job, runs[job.first])
            job = with_symmetry(job, descriptor)
            runs.update(run_fields(job, descriptor))  # one by one: what was made before a failure is kept
            labels = assemble_runs(job, runs, gap, bounds)
        except (EngineError, OSError) as error:
            failure = failure_words(error)
    points = labels.points if labels else {name: run.point for name, run in runs.items()}
    return LabelledFrame(
        label_id=job.label_id,
        frame=frame,
        status="done" if labels else "failed",
        failure=failure,
        response=labels.response if labels else ElectricResponse(),
        field_points=tuple(points[name] for name in stencil.points() if name in points),
        lower_orders=stencil.differences(points) if labels else (),
        proposal=proposal or Proposal(origin="import"),
        provenance=job.provenance().model_copy(update=_cost(runs.values(), job.directory)),
        quality=labels.quality if labels else Quality(),
    )


def label_part(engine: Engine, frame: Frame, stencil: Stencil, directory: Path | str, part: str) -> str | None:
    """Run one part of a label; ``label_frame`` then finds its points and makes the label of all of them.

    Points on disk are kept, as by ``label_frame``. Parts may run at the same time in the same directory.

    Args:
        engine: the code and the level of theory.
        frame: the geometry.
        stencil: field points.
        directory: of the label.
        part: one of ``PARTS``.

    Returns:
        Why the part has failed, one line; None where it is done.

    Raises:
        As ``label_frame``.
    """
    job = engine.prepare(frame, stencil, Path(directory))
    try:
        if part == ZERO or not job.has_files(ZERO):
            # Zero field is made, or made again, under the lease of the whole, as all axes start from it.
            with lease(job.directory, job.code) as descriptor:
                _run_part(job, part, descriptor)
            return None
        folders = [job.folder(name) for name in stencil.points() if name[-1] == part]
        with lease(job.directory, job.code, part=part, among=folders) as descriptor:
            _run_part(job, part, descriptor)
    except (EngineError, OSError) as error:
        return failure_words(error)
    return None


def _run_part(job: FieldJob, part: str, descriptor: int) -> None:
    """The points of a part that symmetry does not give, after a look at zero field."""
    for _, run in run_fields(job, descriptor, only=(job.first,)):
        check_zero_field(job, run)
    if part != ZERO:
        job = with_symmetry(job, descriptor)
    names = (ORIGIN, ZERO) if part == ZERO else [name for name in job.fields if name[-1] == part]
    for _ in run_fields(job, descriptor, only=names):
        pass


def gap_at_zero_field(engine: Engine, frame: Frame, directory: Path) -> BandGap:
    """The gap that the run at zero field of a label tells; found where it is on disk.

    Args:
        engine: the code and the level of theory.
        frame: the geometry.
        directory: of this run.

    Raises:
        EngineError: the run failed, or does not tell.
        DirectoryBusyError: another process works in this directory.
    """
    job = engine.prepare(frame, Stencil(), directory)
    with lease(job.directory, job.code) as descriptor:
        run = job.read(ZERO) or job.run(ZERO, descriptor)
        job.drop_files(ZERO)
    if run.gap is None:
        raise EngineError(f"the run at zero field in {job.folder(ZERO)} does not tell the gap: it has no empty bands")
    return judged(run.gap)


def run_fields(job: FieldJob, descriptor: int, only: Collection[str] | None = None) -> Iterator[tuple[str, FieldRun]]:
    """Yield each finished run in order, running only what is not on disk.

    Args:
        job: the label.
        descriptor: from ``lease``.
        only: the runs wanted; all where None. What they start from is run where it is missing.

    Raises:
        EngineError: a run failed.
        OSError: the disk is full or not writable.
    """
    wanted = [name for name in job.fields if only is None or name in only]
    # No look at any other run: another part of the label may be at work on it, and a look marks what has ended.
    names = _with_sources(job, wanted)
    stored = {name: job.read(name) for name in names}
    missing = _missing(job, wanted, stored)
    if missing:
        _drop_what_nobody_needs(job, stored)
        job.require_space()
    for name in names:
        if name in missing:
            stored[name] = job.run(name, descriptor)
        run = stored[name]
        if run is not None and name in wanted:
            yield name, run
        _drop_what_nobody_needs(job, stored)


def _with_sources(job: FieldJob, wanted: Collection[str]) -> list[str]:
    """Runs and all that they start from, in order."""
    found = set(wanted)
    for name in reversed(job.fields):
        if name in found:
            found.update(job.sources(name))
    return [name for name in job.fields if name in found]


def _missing(job: FieldJob, wanted: Sequence[str], stored: dict[str, FieldRun | None]) -> set[str]:
    """Runs to make: those wanted that are not stored, and those that these start from whose large files are gone."""
    missing = {name for name in wanted if stored[name] is None}
    for name in reversed(stored):
        if name in missing:
            missing |= {source for source in job.sources(name) if stored[source] is None or not job.has_files(source)}
    return missing


def _drop_what_nobody_needs(job: FieldJob, stored: Mapping[str, FieldRun | None]) -> None:
    """Large files go as soon as no run that is still to come starts from them."""
    needed = {source for name in job.fields if stored.get(name) is None for source in job.sources(name)}
    for name, run in stored.items():
        if run is not None and name not in needed:
            job.drop_files(name)


def check_zero_field(job: FieldJob, zero: FieldRun) -> float | None:
    """Gap of this frame on its mesh, eV, from its run at zero field; before anything is run in a field.

    Raises:
        EngineError: the gap is closed, or the base field is too strong for it.
    """
    if zero.gap is None:
        return None
    found = judged(zero.gap)
    if found.metallic:
        raise EngineError(found.reason)
    base = np.array(job.stencil.base)
    fraction = critical_fraction(base, found.gap, job.frame.cell, job.settings.mesh)
    if fraction > LARGEST_BASE_FRACTION:
        raise EngineError(
            f"the base field {[round(float(c), 6) for c in base]} V/A is {fraction:.2f} of the critical field "
            f"of this frame (gap {found.gap:.2f} eV); label it at {LARGEST_BASE_FRACTION:g} of it or less"
        )
    return found.gap


def with_symmetry(job: FieldJob, descriptor: int) -> FieldJob:
    """The job without the points that follow from others by symmetry, if the state has that of its crystal.

    Spin-polarized states may have any lower one, so these are computed in full.
    """
    operations = finite_field_operations(space_group(job.frame), job.settings.mesh, field=job.stencil.base)
    if len(operations) == 1 or job.settings.nspin != 1:
        return job
    zero = dict(run_fields(job, descriptor, only=(ZERO,)))[ZERO].point
    forces, dipole = asymmetry(zero, operations, quantum_lattice(job.frame.cell))
    return replace(job, operations=operations) if max(forces, dipole) < SYMMETRIC else job


def assemble_runs(job: FieldJob, runs: Mapping[str, FieldRun], gap: float | None, bounds: QualityBounds) -> Labels:
    """All points of the stencil on one branch, those that symmetry left out by rotation, and what they give.

    Args:
        job: the label.
        runs: all of its runs.
        gap: at zero field, eV, or None.
        bounds: what passes the checks.

    Raises:
        EngineError: responses by which the code shows that it was not understood.
    """
    zero, mesh = runs[ZERO], job.settings.mesh
    points = {name: run.point for name, run in runs.items() if name != ORIGIN}
    repairs = [line for run in runs.values() for line in run.repairs]
    if not job.one_branch:
        points, more = on_branch_of_zero(points, job.frame.cell, mesh, job.settings.nspin)
        repairs += more
    if job.operations:
        points, more = align_enthalpies(points, string_lattice(job.frame.cell, mesh), string_counts(mesh))
        repairs += more
        operations = finite_field_operations(job.operations, mesh, field=job.stencil.base, fft_grid=zero.fft_grid)
        points = full_stencil(points, job.stencil, operations)
    labels = assemble_points(
        points,
        job.frame,
        job.stencil,
        mesh,
        gap=gap,
        electrons_per_quantum=zero.electrons_per_quantum,
        bounds=bounds,
        repairs=repairs,
    )
    job.verify(labels.response)
    return labels


def on_branch_of_zero(
    points: Mapping[str, FieldPoint], cell: np.ndarray, mesh: Mesh, nspin: int
) -> tuple[dict[str, FieldPoint], list[str]]:
    """Points of runs that are each on a branch of their own: P closest to that of zero, the enthalpy along with it.

    The ions are the same in all runs, so electronic quanta alone matter.

    Args:
        points: whose enthalpies hold -E.P with the very P of the point.
        cell: lattice vectors as rows, A.
        mesh: of the runs.
        nspin: 1 or 2.

    Returns:
        The points, and one line per repair.
    """
    aligned, repairs = align_dipoles(points, string_lattice(cell, mesh, 2 // nspin))
    moved = {}
    for name, point in aligned.items():
        jump = float(point.field @ (point.polarization - points[name].polarization))
        moved[name] = point.model_copy(update={"enthalpy": point.enthalpy - jump})
    return moved, repairs


def assemble_points(
    points: Mapping[str, FieldPoint],
    frame: Frame,
    stencil: Stencil,
    mesh: Mesh,
    *,
    gap: float | None = None,
    electrons_per_quantum: int = 1,
    bounds: QualityBounds = DEFAULT_BOUNDS,
    repairs: Sequence[str] = (),
) -> Labels:
    """Bring the enthalpies onto the branch of the dipoles, then assemble responses and checks.

    Args:
        points: all points of the stencil, their dipoles on one branch.
        frame: the geometry.
        stencil: field points.
        mesh: of the runs.
        gap: at zero field, eV; the critical field is not judged where None.
        electrons_per_quantum: see ``polarization.quantum_lattice``.
        bounds: what passes the checks.
        repairs: what was repaired before.
    """
    aligned, more = align_enthalpies(points, string_lattice(frame.cell, mesh), string_counts(mesh))
    fraction = None
    if gap is not None:
        fraction = max(critical_fraction(point.field, gap, frame.cell, mesh) for point in points.values())
    response, quality = assemble(
        aligned,
        frame,
        stencil,
        electrons_per_quantum=electrons_per_quantum,
        bounds=bounds,
        critical_field_fraction=fraction,
        repairs=(*repairs, *more),
    )
    return Labels(aligned, response, quality)


def _cost(runs: Collection[FieldRun], directory: Path) -> dict[str, object]:
    """What only the runs tell of the provenance."""
    return {
        "code_version": " ".join(sorted({run.version for run in runs})),
        "scf_count": len(runs),
        "scf_iterations": sum(run.point.scf_iterations for run in runs),
        "seconds": sum(run.point.seconds for run in runs),
        "cpu_seconds": sum(run.cpu_seconds for run in runs),
        "directory": str(directory),
    }
