"""What pw.x leaves out is put in: absolute field points from its outputs and the Berry phases at zero field."""

from __future__ import annotations

import numpy as np

from ..records import FieldPoint
from ..stencil import ZERO
from .outputs import PwOutput, PwOutputError


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


def electrons_per_quantum(output: PwOutput) -> int:
    """Of the lattice of quanta of P: 2 without spin polarization where all valences are even."""
    return 2 if output.nspin == 1 and output.even_valences else 1
