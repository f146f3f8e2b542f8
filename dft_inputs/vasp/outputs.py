"""What a single VASP run says of a frame: a label, or a point of a stencil."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ..polarization import fold, quantum_lattice
from ..quality import DEFAULT_BOUNDS, QualityBounds
from ..records import (
    ElectricResponse,
    FieldPoint,
    Frame,
    LabelledFrame,
    Proposal,
    Provenance,
    Quality,
    imported_label_id,
)
from ..units import VACUUM_PERMITTIVITY
from .inputs import CODE, FIELD_SIGN
from .results import VaspOutput, VaspOutputError
from .run_output import read_vasp_output

_SAME_CELL = 1e-4
_PRINTED_FIELD = 6e-5
"""V/A."""
_SAME_PLACE = 1e-3


def read_vasp_label(
    path: Path | str,
    frame: Frame | None = None,
    *,
    proposal: Proposal | None = None,
    bounds: QualityBounds = DEFAULT_BOUNDS,
    field_sign: float = FIELD_SIGN,
) -> LabelledFrame:
    """Label from one run, with what it computed: energy, forces, stress; P with LCALCPOL; Z* and alpha with LEPSILON.

    alpha = eps0 V (eps_inf - 1). Of a run with several geometries the last counts; ``vasp_label`` makes one of any.

    Args:
        path: the run's directory, or its OUTCAR or vasprun.xml.
        frame: the geometry, with its order of atoms and unwrapped positions; that of the run where None.
        proposal: where it comes from.
        bounds: what passes the checks.
        field_sign: EFIELD_PEAD over the field.

    Raises:
        VaspOutputError: see ``read_vasp_output``; also for another structure than ``frame``.
    """
    return vasp_label(read_vasp_output(path, field_sign), path, frame, proposal=proposal, bounds=bounds)


def vasp_label(
    output: VaspOutput,
    where: Path | str,
    frame: Frame | None = None,
    *,
    proposal: Proposal | None = None,
    bounds: QualityBounds = DEFAULT_BOUNDS,
) -> LabelledFrame:
    """Label from one geometry; see ``read_vasp_label``.

    Args:
        output: of the geometry.
        where: its run, for messages.
        frame: the geometry, with its order of atoms and unwrapped positions; that of the run where None.
        proposal: where it comes from.
        bounds: what passes the checks.

    Raises:
        VaspOutputError: another structure than ``frame``, or a field without a dipole.
    """
    frame = frame or output.frame
    order = _order(output.frame, frame, where)
    dipole = _dipole(output, frame)
    if np.any(output.field) and dipole is None:
        raise VaspOutputError(f"{where}: a run in a field without its dipole: set LCALCPOL")
    charges = output.born_effective_charges
    response = ElectricResponse(
        field=output.field,
        enthalpy=output.enthalpy if dipole is None else _enthalpy(output, dipole),
        forces=output.forces[order],
        stress=output.stress,
        polarization=dipole,
        polarization_quanta=None if dipole is None else quantum_lattice(frame.cell, electrons_per_quantum(output)),
        born_effective_charges=None if charges is None else charges[order],
        polarizability=_polarizability(output),
    )
    return LabelledFrame(
        label_id=imported_label_id(CODE, frame, response),
        frame=frame,
        response=response,
        proposal=proposal or Proposal(origin="import"),
        provenance=vasp_provenance(output),
        quality=_quality(output, response, bounds),
    )


def at_field(output: VaspOutput, field: np.ndarray, where: Path | str) -> VaspOutput:
    """The run with all digits of its field, of which VASP may print four.

    Args:
        output: the run.
        field: what was asked for, V/A, (3,).
        where: the run's directory, for messages.

    Raises:
        VaspOutputError: it ran at another field.
    """
    if np.abs(output.field - field).max() > _PRINTED_FIELD:
        raise VaspOutputError(f"{where}: its field is {output.field} V/A, not {field}")
    return replace(output, field=field)


def vasp_point(name: str, output: VaspOutput, frame: Frame, where: Path | str) -> FieldPoint:
    """A field point in the order of atoms of a frame, its enthalpy on the branch of its P.

    P is the sum of valence times position, unwrapped, and the electrons' dipole. VASP's enthalpy holds -E.P with an
    ionic part of its own, which is replaced by this one.

    Args:
        name: of the point.
        output: the run.
        frame: the geometry.
        where: the run's directory, for messages.

    Raises:
        VaspOutputError: no dipole, no valences, or another structure.
    """
    order = _order(output.frame, frame, where)
    dipole = _dipole(output, frame)
    if dipole is None:
        raise VaspOutputError(f"{where}: no dipole of the electrons and ions, or no ZVAL: set LCALCPOL")
    return FieldPoint(
        name=name,
        field=output.field,
        enthalpy=_enthalpy(output, dipole),
        forces=output.forces[order],
        polarization=dipole,
        stress=output.stress,
        scf_accuracy=output.scf_accuracy,
        scf_iterations=output.iterations,
        seconds=output.seconds,
    )


def _dipole(output: VaspOutput, frame: Frame) -> np.ndarray | None:
    """P of a run, e A, (3,), with the ions where the frame has them.

    p[ion] itself serves the enthalpy alone: it leaves out ions close to the border of the cell that VASP centres about
    the origin, so it jumps by other vectors than quanta.
    """
    if output.electronic_dipole is None or output.ionic_dipole is None:
        return None
    if not set(frame.species) <= set(output.valences):
        return None
    charges = np.array([output.valences[symbol] for symbol in frame.species])
    return charges @ frame.positions + output.electronic_dipole


def _enthalpy(output: VaspOutput, dipole: np.ndarray) -> float:
    """The printed enthalpy with -E.``dipole`` for VASP's own -E.P."""
    assert output.electronic_dipole is not None and output.ionic_dipole is not None  # noqa: S101
    return output.enthalpy + float(output.field @ (output.electronic_dipole + output.ionic_dipole - dipole))


def _order(given: Frame, wanted: Frame, where: Path | str) -> list[int]:
    """Place in ``given`` of each atom of ``wanted``: the same atom, modulo the lattice."""
    different = VaspOutputError(f"{where}: its structure is another than that of the frame")
    if sorted(given.species) != sorted(wanted.species) or np.abs(given.cell - wanted.cell).max() > _SAME_CELL:
        raise different
    between = fold(wanted.positions[:, None] - given.positions[None], wanted.cell)
    order = [int(place) for place in np.linalg.norm(between, axis=-1).argmin(axis=1)]
    distances = [np.linalg.norm(between[atom, place]) for atom, place in enumerate(order)]
    same = [wanted.species[atom] == given.species[place] for atom, place in enumerate(order)]
    if sorted(order) != list(range(len(wanted))) or max(distances) > _SAME_PLACE or not all(same):
        raise different
    return order


def electrons_per_quantum(output: VaspOutput) -> int:
    """2 without spin polarization where all valences are even, else 1."""
    return 2 if output.nspin == 1 and output.even_valences else 1


def _polarizability(output: VaspOutput) -> np.ndarray | None:
    if output.dielectric_tensor is None:
        return None
    return VACUUM_PERMITTIVITY * output.frame.volume * (output.dielectric_tensor - np.eye(3))


def _quality(output: VaspOutput, response: ElectricResponse, bounds: QualityBounds) -> Quality:
    checks: dict[str, float] = {"scf_accuracy": output.scf_accuracy}
    if (alpha := response.polarizability) is not None:
        checks["polarizability_asymmetry"] = float(np.abs(alpha - alpha.T).max() / 2 / abs(np.trace(alpha) / 3))
    if (charges := response.born_effective_charges) is not None:
        checks["acoustic_sum_rule"] = float(np.abs(charges.mean(axis=0)).max())
    flags = tuple(name for name, value in checks.items() if not value <= getattr(bounds, name))
    return Quality.model_validate({**checks, "flags": flags})


def vasp_provenance(*outputs: VaspOutput) -> Provenance:
    """Provenance of a label from runs, the first of which is at zero field."""
    zero = outputs[0]
    return Provenance(
        code=CODE,
        code_version=zero.version,
        protocol="import",
        kpoints=zero.kpoints,
        # The content of POTCAR files is licensed and not among the outputs; their TITEL names them.
        pseudopotentials=dict(zero.titles),
        scf_count=len(outputs),
        scf_iterations=sum(output.iterations for output in outputs),
        seconds=sum(output.seconds for output in outputs),
        cpu_seconds=sum(output.cpu_seconds for output in outputs),
    )
