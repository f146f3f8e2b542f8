"""From a frame to its label with pw.x: the points of a stencil, the responses they give, and checks of both."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..branches import align_enthalpies, string_counts, string_lattice
from ..polarization import quantum_lattice
from ..pseudopotentials import family_hash
from ..quality import DEFAULT_BOUNDS, QualityBounds, assemble
from ..records import ElectricResponse, FieldPoint, Frame, LabelledFrame, Proposal, Provenance, Quality
from ..stencil import ZERO, Stencil
from ..symmetry import asymmetry, finite_field_operations, full_stencil, space_group
from .attempts import repair_lines
from .code import PwCode
from .gap import critical_fraction, judge_gap
from .inputs import inputs_hash, label_id, occupied_bands, settings_hash
from .outputs import PwOutput, PwOutputError
from .run import PwRunError, lease
from .settings import PwSettings
from .stencil_runs import ORIGIN, StencilJob, run_stencil

SYMMETRIC = 1e-3
"""eV/A and e A: a state that violates the symmetry of its crystal by more is computed in full."""
LARGEST_BASE_FRACTION = 0.5
"""Of the critical field: the strongest field about which a stencil may be centred."""


def label_frame(
    frame: Frame,
    settings: PwSettings,
    stencil: Stencil,
    code: PwCode,
    directory: Path | str,
    proposal: Proposal | None = None,
    *,
    bounds: QualityBounds = DEFAULT_BOUNDS,
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
        bounds: what passes the checks.

    Raises:
        PwNotFoundError, PseudopotentialError, ValueError: nothing was run; the message says what to do.
        DirectoryBusyError: another process labels in this directory.
    """
    job = prepare_job(frame, settings, stencil, code, directory)
    outputs: dict[str, PwOutput] = {}
    points: dict[str, FieldPoint] = {}
    failure, response, quality = None, ElectricResponse(), Quality()
    with lease(job.directory, code.lease_timeout, code.program) as descriptor:
        try:
            outputs.update(run_stencil(job, descriptor, only=(job.first,)))
            gap = check_zero_field(job, outputs[job.first])
            job = with_symmetry(job, descriptor)
            for name, output in run_stencil(job, descriptor):
                outputs[name] = output
                if name != ORIGIN:
                    points[name] = _point(job, name, output)
            repairs = [line for name in outputs for line in repair_lines(job.folder(name), name)]
            whole, more = _rotated(job, points, outputs[ZERO])
            points, response, quality = checked(whole, outputs[ZERO], stencil, gap, bounds, (*repairs, *more))
        except (PwRunError, PwOutputError, OSError) as error:
            failure = failure_words(error)
    return LabelledFrame(
        label_id=job.label_id,
        frame=frame,
        status="failed" if failure else "done",
        failure=failure,
        response=response,
        field_points=tuple(points[name] for name in stencil.points() if name in points),
        lower_orders=() if failure else stencil.differences(points),
        proposal=proposal or Proposal(origin="import"),
        provenance=_provenance(job, outputs),
        quality=quality,
    )


def prepare_job(
    frame: Frame, settings: PwSettings, stencil: Stencil, code: PwCode, directory: Path | str
) -> StencilJob:
    """The runs of a label, with all checked that can be without running; raises as ``label_frame``."""
    code.argv()
    settings = settings if settings.kpoints else settings.for_cell(frame.cell)
    settings.check_cell(frame.cell)
    pseudopotentials = code.find_pseudopotentials(frame.species)
    settings.check_electrons(frame.species, pseudopotentials)
    identity = label_id(frame, settings, pseudopotentials, stencil)
    return StencilJob(frame, settings, stencil, code, pseudopotentials, Path(directory), identity)


def failure_words(error: Exception) -> str:
    """One line for the record; a full disk has no file to blame."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "No space left on device"
    return " ".join(str(error).split())


def with_symmetry(job: StencilJob, descriptor: int) -> StencilJob:
    """The job without the points that follow from others by symmetry, if the state has that of its crystal.

    Spin-polarized states may have any lower one, so these are computed in full.
    """
    operations = finite_field_operations(space_group(job.frame), job.settings.mesh, field=job.stencil.base)
    if len(operations) == 1 or job.settings.nspin != 1:
        return job
    outputs = dict(run_stencil(job, descriptor, only=(job.first, ZERO)))
    zero, lattice = _point(job, ZERO, outputs[ZERO]), quantum_lattice(job.frame.cell)
    forces, dipole = asymmetry(zero, operations, lattice)
    return replace(job, operations=operations) if max(forces, dipole) < SYMMETRIC else job


def _rotated(job: StencilJob, points: dict[str, FieldPoint], zero: PwOutput) -> tuple[dict[str, FieldPoint], list[str]]:
    """All points of the stencil, those that symmetry left out by rotation, and what was repaired before."""
    if not job.operations:
        return points, []
    lattice = string_lattice(job.frame.cell, zero.kpoints)
    aligned, repairs = align_enthalpies(points, lattice, string_counts(zero.kpoints))
    operations = finite_field_operations(
        job.operations, job.settings.mesh, field=job.stencil.base, fft_grid=zero.fft_grid
    )
    return full_stencil(aligned, job.stencil, operations), repairs


def _point(job: StencilJob, name: str, output: PwOutput) -> FieldPoint:
    reference = _reference_dipole(job)
    return zero_point(output, reference) if name == job.first else field_point(name, output, reference, relative=True)


def zero_point(output: PwOutput, electronic_dipole: np.ndarray) -> FieldPoint:
    """The zero-field point from a plain SCF and the dipole that its Berry phases give, e A, (3,).

    Raises:
        PwOutputError: a run without forces, or one that does not tell the valences.
    """
    if output.forces is None or not set(output.frame.species) <= set(output.valences):
        raise PwOutputError("the zero-field run has no forces or no table of valences")
    charges = np.array([output.valences[symbol] for symbol in output.frame.species])
    return FieldPoint(
        name=ZERO,
        field=output.field,
        enthalpy=output.enthalpy,
        forces=output.forces,
        polarization=electronic_dipole + charges @ output.frame.positions,
        stress=output.stress,
        scf_accuracy=output.scf_accuracy,
        scf_iterations=output.iterations,
        seconds=output.wall_time,
        magnetization=output.magnetization,
        absolute_magnetization=output.absolute_magnetization,
    )


def check_zero_field(job: StencilJob, zero: PwOutput) -> float:
    """Gap of this frame on its mesh, eV, from its run at zero field; before anything is run in a field.

    Raises:
        PwOutputError: a charged cell.
        PwRunError: the gap is closed, or the base field is too strong for it.
    """
    check_neutral(zero)
    found = judge_gap(zero.eigenvalues, occupied_bands(job.frame, job.pseudopotentials), zero.nspin)
    if found.metallic:
        raise PwRunError(found.reason)
    check_base_field(job.stencil, found.gap, job.frame, job.settings)
    return found.gap


def check_neutral(output: PwOutput) -> None:
    """Refuse a charged cell, whose P depends on the origin and whose energy on a background.

    Raises:
        PwOutputError: electrons and valences differ.
    """
    valences = sum(output.valences.get(symbol, 0.0) for symbol in output.frame.species)
    if abs(output.n_electrons - valences) > 1e-6:
        raise PwOutputError(
            f"the cell is charged: {output.n_electrons:g} electrons for valences of {valences:g}; label neutral cells"
        )


def check_base_field(stencil: Stencil, gap: float, frame: Frame, settings: PwSettings) -> None:
    """Refuse a stencil about a field too strong for the frame.

    Raises:
        PwRunError: above ``LARGEST_BASE_FRACTION`` of the critical field.
    """
    fraction = critical_fraction(np.array(stencil.base), gap, frame.cell, settings.mesh)
    if fraction > LARGEST_BASE_FRACTION:
        raise PwRunError(
            f"the base field {[round(float(c), 6) for c in stencil.base]} V/A is {fraction:.2f} of the critical field "
            f"of this frame (gap {gap:.2f} eV); label it at {LARGEST_BASE_FRACTION:g} of it or less"
        )


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
        polarization_accuracy=None if output.dipole_change is None else float(np.abs(output.dipole_change).max()),
        magnetization=output.magnetization,
        absolute_magnetization=output.absolute_magnetization,
    )


def checked(
    points: Mapping[str, FieldPoint],
    zero: PwOutput,
    stencil: Stencil,
    gap: float | None,
    bounds: QualityBounds,
    repairs: Sequence[str] = (),
) -> tuple[dict[str, FieldPoint], ElectricResponse, Quality]:
    """Bring the enthalpies onto the branch of the dipoles, then assemble; the points returned agree with the labels."""
    cell = zero.frame.cell
    aligned, more = align_enthalpies(points, string_lattice(cell, zero.kpoints), string_counts(zero.kpoints))
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


def _reference_dipole(job: StencilJob) -> np.ndarray:
    try:
        return job.reference_dipole()
    except ValueError as error:
        raise PwOutputError(str(error)) from error


def _provenance(job: StencilJob, outputs: Mapping[str, PwOutput]) -> Provenance:
    versions = {output.version for output in outputs.values()}
    return Provenance(
        code="pw.x",
        code_version=" ".join(sorted(versions)),
        protocol=job.settings.protocol,
        inputs_hash=inputs_hash(job.settings, job.pseudopotentials, job.stencil),
        settings_hash=settings_hash(job.settings),
        kpoints=job.settings.mesh,
        pseudopotentials={element: p.sha256 for element, p in job.pseudopotentials.items()},
        pseudopotential_family=family_hash(job.pseudopotentials),
        scf_count=len(outputs),
        scf_iterations=sum(output.iterations for output in outputs.values()),
        seconds=sum(output.wall_time for output in outputs.values()),
        cpu_seconds=sum(output.cpu_time for output in outputs.values()),
        directory=str(job.directory),
    )
