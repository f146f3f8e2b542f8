"""From a frame to its label with pw.x: the points of a stencil, the responses they give, and checks of both."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..polarization import quantum_lattice
from ..pseudopotentials import Pseudopotential
from ..records import ElectricResponse, FieldPoint, Frame, LabelledFrame, Proposal, Provenance, Quality
from ..stencil import AXES, ZERO, Stencil, point_name
from .branches import align_dipoles, align_enthalpies, enthalpy_residual, string_lattice
from .gap import critical_fraction
from .inputs import field_input, inputs_hash, label_id
from .outputs import PwOutput, PwOutputError, read_pw_output
from .phases import dipole_from_phases, read_phases
from .run import PwRunError, drop_scratch, has_scratch, lease, link_pseudopotentials, run_point, stored_point
from .settings import PwCode, PwSettings

ORIGIN = "origin"
"""The E = 0 run that precedes a stencil about a finite field: string phases are well defined there."""


@dataclass(frozen=True)
class QualityBounds:
    """Largest values that pass. See ``Quality`` for the meaning of each.

    Attributes:
        scf_accuracy: eV.
        critical_field_fraction: of the critical field.
        enthalpy_law_error: relative.
        enthalpy_slope_error: e A.
        polarizability_asymmetry: relative.
    """

    scf_accuracy: float = 1e-6
    critical_field_fraction: float = 0.8
    enthalpy_law_error: float = 0.02
    enthalpy_slope_error: float = 2e-3
    polarizability_asymmetry: float = 0.02


@dataclass(frozen=True)
class _Job:
    """One frame to label, with all that its runs need."""

    frame: Frame
    settings: PwSettings
    stencil: Stencil
    code: PwCode
    pseudopotentials: dict[str, Pseudopotential]
    directory: Path
    label_id: str

    @property
    def fields(self) -> dict[str, np.ndarray]:
        """Field of each run by name, in the order of running."""
        biased = any(self.stencil.base)
        return {ORIGIN: np.zeros(3), **self.stencil.points()} if biased else self.stencil.points()

    def folder(self, name: str) -> Path:
        return self.directory / (name if name[0] not in "+-" else f"field{name}")

    def text(self, name: str) -> str:
        return field_input(
            self.frame,
            self.settings,
            self.pseudopotentials,
            self.fields[name],
            restart=name != next(iter(self.fields)),
            comment=f"label {self.label_id}, point {name}",
        )


def label_frame(
    frame: Frame,
    settings: PwSettings,
    stencil: Stencil,
    code: PwCode,
    directory: Path | str,
    proposal: Proposal | None = None,
    *,
    gap: float | None = None,
    bounds: QualityBounds = QualityBounds(),
) -> LabelledFrame:
    """Label a frame by finite fields, resuming from the points already in ``directory``.

    A failed DFT run gives a record with ``status="failed"`` and the reason; files are kept and a second call resumes.

    Args:
        frame: the geometry.
        settings: level of theory.
        stencil: field points.
        code: how to run pw.x.
        directory: of this frame alone.
        proposal: why it is labelled.
        gap: band gap in eV, for the check against the critical field.
        bounds: what passes the checks.

    Raises:
        PwNotFoundError, PseudopotentialError, ValueError: nothing was run; the message says what to do.
        DirectoryBusyError: another process labels in this directory.
    """
    code.argv()
    settings.check_cell(frame.cell)
    pseudopotentials = code.find_pseudopotentials(frame.species)
    identity = label_id(frame, settings, pseudopotentials, stencil)
    job = _Job(frame, settings, stencil, code, pseudopotentials, Path(directory), identity)
    texts = {name: job.text(name) for name in job.fields}
    outputs: dict[str, PwOutput] = {}
    points: dict[str, FieldPoint] = {}
    failure, response, quality = None, ElectricResponse(), Quality()
    with lease(job.directory, code.lease_timeout, code.program) as descriptor:
        try:
            for name, output in _run_stencil(job, texts, descriptor):
                outputs[name] = output
                reference = _reference_dipole(job)
                if name != ORIGIN:
                    relative = name != next(iter(job.fields))
                    points[name] = field_point(name, output, reference, relative=relative)
            points, response, quality = _checked(points, outputs[ZERO], stencil, gap, bounds)
        except (PwRunError, PwOutputError, OSError) as error:
            failure = _words(error)
    return LabelledFrame(
        label_id=identity,
        frame=frame,
        status="failed" if failure else "done",
        failure=failure,
        response=response,
        field_points=tuple(points.values()),
        proposal=proposal or Proposal(origin="import"),
        provenance=_provenance(job, outputs),
        quality=quality,
    )


def _words(error: Exception) -> str:
    """One line for the record; a full disk has no file to blame."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "No space left on device"
    return " ".join(str(error).split())


def field_point(name: str, output: PwOutput, reference: np.ndarray, *, relative: bool) -> FieldPoint:
    """An absolute field point: what pw.x leaves out when it reads phases is restored.

    Args:
        name: of the point.
        output: the run.
        reference: electronic dipole of the run that wrote the phases, with its strings on one branch, e A, (3,).
        relative: the run read those phases, so its electronic dipole is relative to ``reference`` and its enthalpy
            lacks -E.reference.

    Raises:
        PwOutputError: a run without field or forces.
    """
    if output.electronic_dipole is None or output.ionic_dipole is None or output.forces is None:
        raise PwOutputError(f"the run at {name} has no dipole or no forces: set lelfield and tprnfor")
    electronic = output.electronic_dipole + reference if relative else reference
    missing = reference if relative else reference - output.electronic_dipole
    return FieldPoint(
        name=name,
        field=output.field,
        enthalpy=output.enthalpy - float(output.field @ missing),
        forces=output.forces,
        polarization=electronic + output.ionic_dipole,
        stress=output.stress,
        scf_accuracy=output.scf_accuracy,
        scf_iterations=output.iterations,
        seconds=output.wall_time,
    )


def assemble(
    points: Mapping[str, FieldPoint],
    frame: Frame,
    stencil: Stencil,
    *,
    electrons_per_quantum: int = 1,
    bounds: QualityBounds = QualityBounds(),
    critical_field_fraction: float | None = None,
    repairs: tuple[str, ...] = (),
) -> tuple[ElectricResponse, Quality]:
    """Responses and checks from the points of a stencil; a pure function.

    Args:
        points: all points of the stencil, on one branch.
        frame: the geometry.
        stencil: field points.
        electrons_per_quantum: 2 without spin polarization where all valences are even, else 1.
        bounds: what passes the checks.
        critical_field_fraction: largest over the points, where the gap is known.
        repairs: what was repaired on the way, for the record.
    """
    zero = points[ZERO]
    polarizability = stencil.polarizability(points)
    response = ElectricResponse(
        field=zero.field,
        enthalpy=zero.enthalpy,
        forces=zero.forces,
        stress=zero.stress,
        polarization=zero.polarization,
        polarization_quanta=quantum_lattice(frame.cell, electrons_per_quantum),
        born_effective_charges=stencil.born_effective_charges(points),
        polarizability=polarizability,
    )
    asymmetry = np.abs(polarizability - polarizability.T).max() / 2
    checks = {
        "scf_accuracy": max(point.scf_accuracy for point in points.values()),
        "critical_field_fraction": critical_field_fraction,
        "enthalpy_law_error": _law_error(points, stencil, polarizability),
        "enthalpy_slope_error": _slope_error(points, stencil),
        "polarizability_asymmetry": float(asymmetry / abs(np.trace(polarizability) / 3)),
    }
    flags = tuple(name for name, value in checks.items() if value is not None and not value <= getattr(bounds, name))
    return response, Quality(**checks, repairs=repairs, flags=flags)


def ingest(
    runs: Mapping[str, Path | str],
    stencil: Stencil,
    *,
    proposal: Proposal | None = None,
    bounds: QualityBounds = QualityBounds(),
) -> LabelledFrame:
    """Label from pw.x runs made elsewhere without shared string phases, each on a branch of its own.

    Args:
        runs: directory of each point of the stencil by name (``zero``, ``+x``, ...).
        stencil: the fields of those runs.
        proposal: where they come from.
        bounds: what passes the checks.

    Raises:
        PwOutputError: a run is missing, unfinished, at another field or of another structure.
    """
    if missing := sorted(set(stencil.points()) - set(runs)):
        raise PwOutputError(f"no run given for {', '.join(missing)}; the stencil needs {', '.join(stencil.points())}")
    outputs = {name: read_pw_output(Path(runs[name])) for name in stencil.points()}
    zero = outputs[ZERO]
    for name, field in stencil.points().items():
        if np.abs(outputs[name].field - field).max() > 1e-3 * stencil.step:
            raise PwOutputError(f"{runs[name]}: its field is {outputs[name].field} V/A, not {field} as {name} needs")
        if outputs[name].frame.frame_id != zero.frame.frame_id or outputs[name].kpoints != zero.kpoints:
            raise PwOutputError(f"{runs[name]}: structure or k-points differ from those of the zero run")
    # The ions are the same in all runs, so electronic quanta alone matter.
    lattice = string_lattice(zero.frame.cell, zero.kpoints, 2 // zero.nspin)
    points, repairs = align_dipoles({name: _own_branch(name, output) for name, output in outputs.items()}, lattice)
    points, response, quality = _checked(points, zero, stencil, None, bounds, repairs)
    provenance = Provenance(
        code="pw.x",
        code_version=zero.version,
        protocol="import",
        scf_count=len(outputs),
        scf_iterations=sum(output.iterations for output in outputs.values()),
        seconds=sum(output.wall_time for output in outputs.values()),
    )
    return LabelledFrame(
        label_id=f"import-{zero.frame.frame_id}",
        frame=zero.frame,
        response=response,
        field_points=tuple(points.values()),
        proposal=proposal or Proposal(origin="import"),
        provenance=provenance,
        quality=quality,
    )


def _own_branch(name: str, output: PwOutput) -> FieldPoint:
    """A point of a run that shares no phases: dipole and enthalpy are as printed."""
    if output.electronic_dipole is None:
        raise PwOutputError(f"the run at {name} has no dipole: set lelfield")
    return field_point(name, output, output.electronic_dipole, relative=False)


def _checked(
    points: Mapping[str, FieldPoint],
    zero: PwOutput,
    stencil: Stencil,
    gap: float | None,
    bounds: QualityBounds,
    repairs: Sequence[str] = (),
) -> tuple[dict[str, FieldPoint], ElectricResponse, Quality]:
    """Bring the enthalpies onto the branch of the dipoles, then assemble; the points returned agree with the labels."""
    cell = zero.frame.cell
    aligned, more = align_enthalpies(points, string_lattice(cell, zero.kpoints))
    fraction = None
    if gap is not None:
        fraction = max(critical_fraction(point.field, gap, cell, zero.kpoints) for point in points.values())
    response, quality = assemble(
        aligned,
        zero.frame,
        stencil,
        electrons_per_quantum=2 if zero.nspin == 1 and zero.even_valences else 1,
        bounds=bounds,
        critical_field_fraction=fraction,
        repairs=(*repairs, *more),
    )
    return aligned, response, quality


def _run_stencil(job: _Job, texts: Mapping[str, str], descriptor: int) -> Iterator[tuple[str, PwOutput]]:
    """Yield each finished run in order, running only what is not on disk; large files go when all is done."""
    names = list(job.fields)
    parents = {name: names[max(0, min(i - 1, names.index(ZERO)))] for i, name in enumerate(names)}
    stored = {name: stored_point(job.folder(name), texts[name]) for name in names}
    link_pseudopotentials(job.directory, job.pseudopotentials)
    for name in names:
        output, parent = stored[name], parents[name]
        if output is None and name != parent and not has_scratch(job.folder(parent)):
            # Its scratch files are gone: run the chain again, as later points are relative to the phases it writes.
            stored = dict.fromkeys(names)
            break
    for name in names:
        output, parent = stored[name], parents[name]
        if output is None:
            start = None if name == parent else job.folder(parent)
            output = run_point(
                job.folder(name), texts[name], job.code, name=name, lease_descriptor=descriptor, start_from=start
            )
            if name in parents.values():
                stored = dict.fromkeys(names)
            else:
                drop_scratch(job.folder(name))
        yield name, output
    for name in names:
        drop_scratch(job.folder(name))


def _reference_dipole(job: _Job) -> np.ndarray:
    """Electronic dipole of the run that wrote the phases, its strings on one branch."""
    folder = job.folder(next(iter(job.fields)))
    try:
        return dipole_from_phases(read_phases(folder), job.frame.cell)
    except ValueError as error:
        raise PwOutputError(str(error)) from error


def _provenance(job: _Job, outputs: Mapping[str, PwOutput]) -> Provenance:
    versions = {output.version for output in outputs.values()}
    return Provenance(
        code="pw.x",
        code_version=" ".join(sorted(versions)),
        protocol=job.settings.protocol,
        inputs_hash=inputs_hash(job.settings, job.pseudopotentials, job.stencil),
        pseudopotentials={element: p.sha256 for element, p in job.pseudopotentials.items()},
        scf_count=len(outputs),
        scf_iterations=sum(output.iterations for output in outputs.values()),
        seconds=sum(output.wall_time for output in outputs.values()),
        directory=str(job.directory),
    )


def _law_error(points: Mapping[str, FieldPoint], stencil: Stencil, polarizability: np.ndarray) -> float | None:
    """H(+E) + H(-E) - 2 H(0) = -alpha E^2, relative, worst direction; a forward stencil has no such points."""
    if stencil.order == 1:
        return None
    errors = []
    for axis in range(3):
        plus, minus = points[point_name(axis, 1)], points[point_name(axis, -1)]
        expected = -polarizability[axis, axis] * stencil.step**2
        errors.append(abs((plus.enthalpy + minus.enthalpy - 2 * points[ZERO].enthalpy) / expected - 1))
    return float(max(errors))


def _slope_error(points: Mapping[str, FieldPoint], stencil: Stencil) -> float:
    """dH/dE = -P along each axis, e A: between the outer points where there are two, else from the forward one."""
    zero = points[ZERO]
    if stencil.order == 1:
        return max(abs(enthalpy_residual(points[f"+{axis}"], zero)) / stencil.step for axis in AXES)
    errors = []
    for axis in range(3):
        rise = points[point_name(axis, 1)].enthalpy - points[point_name(axis, -1)].enthalpy
        errors.append(abs(rise / (2 * stencil.step) + zero.polarization[axis]))
    return float(max(errors))
