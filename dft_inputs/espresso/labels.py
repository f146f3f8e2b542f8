"""From a frame to its label with pw.x: the points of a stencil, the responses they give, and checks of both."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..branches import align_enthalpies, string_lattice
from ..quality import DEFAULT_BOUNDS, QualityBounds, assemble
from ..records import ElectricResponse, FieldPoint, Frame, LabelledFrame, Proposal, Provenance, Quality
from ..stencil import ZERO, Stencil
from .code import PwCode
from .gap import critical_fraction
from .inputs import inputs_hash, label_id
from .outputs import PwOutput, PwOutputError
from .phases import dipole_from_phases, read_phases
from .run import PwRunError, lease
from .settings import PwSettings
from .stencil_runs import ORIGIN, StencilJob, run_stencil


def label_frame(
    frame: Frame,
    settings: PwSettings,
    stencil: Stencil,
    code: PwCode,
    directory: Path | str,
    proposal: Proposal | None = None,
    *,
    gap: float | None = None,
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
    job = StencilJob(frame, settings, stencil, code, pseudopotentials, Path(directory), identity)
    texts = {name: job.text(name) for name in job.fields}
    outputs: dict[str, PwOutput] = {}
    points: dict[str, FieldPoint] = {}
    failure, response, quality = None, ElectricResponse(), Quality()
    with lease(job.directory, code.lease_timeout, code.program) as descriptor:
        try:
            for name, output in run_stencil(job, texts, descriptor):
                outputs[name] = output
                reference = _reference_dipole(job)
                if name != ORIGIN:
                    relative = name != next(iter(job.fields))
                    points[name] = field_point(name, output, reference, relative=relative)
            points, response, quality = checked(points, outputs[ZERO], stencil, gap, bounds)
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


def _reference_dipole(job: StencilJob) -> np.ndarray:
    """Electronic dipole of the run that wrote the phases, its strings on one branch."""
    folder = job.folder(next(iter(job.fields)))
    try:
        return dipole_from_phases(read_phases(folder), job.frame.cell)
    except ValueError as error:
        raise PwOutputError(str(error)) from error


def _provenance(job: StencilJob, outputs: Mapping[str, PwOutput]) -> Provenance:
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
        cpu_seconds=sum(output.cpu_time for output in outputs.values()),
        directory=str(job.directory),
    )
