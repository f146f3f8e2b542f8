"""From the points of a stencil to responses, and the checks that say how far they can be trusted; any DFT code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from .branches import enthalpy_residual
from .polarization import quantum_lattice
from .records import ElectricResponse, FieldPoint, Frame, Quality
from .stencil import AXES, ZERO, Stencil, point_name


@dataclass(frozen=True)
class QualityBounds:
    """Largest values that pass. See ``Quality`` for the meaning of each.

    Attributes:
        scf_accuracy: eV.
        critical_field_fraction: of the critical field.
        enthalpy_law_error: relative.
        enthalpy_slope_error: e A.
        polarizability_asymmetry: relative.
        polarization_accuracy: e A.
        born_effective_charges_accuracy: e.
        stencil_error: e.
        magnetization_change: Bohr magnetons.
        acoustic_sum_rule: e.
    """

    scf_accuracy: float = 1e-6
    critical_field_fraction: float = 0.8
    enthalpy_law_error: float = 0.02
    enthalpy_slope_error: float = 2e-3
    polarizability_asymmetry: float = 0.02
    polarization_accuracy: float = 2e-4
    born_effective_charges_accuracy: float = 0.05
    stencil_error: float = 0.05
    magnetization_change: float = 0.05
    acoustic_sum_rule: float = 0.05


DEFAULT_BOUNDS = QualityBounds()
_STIFFNESS = 1.0
"""eV/A^2: what relates the SCF's remaining energy error to that of forces."""


def assemble(
    points: Mapping[str, FieldPoint],
    frame: Frame,
    stencil: Stencil,
    *,
    electrons_per_quantum: int = 1,
    bounds: QualityBounds = DEFAULT_BOUNDS,
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
        "polarization_accuracy": _largest(point.polarization_accuracy for point in points.values()),
        "born_effective_charges_accuracy": _charge_accuracy(points, stencil),
        "stencil_error": _stencil_error(points, stencil),
        "magnetization_change": _magnetization_change(points),
    }
    flags = tuple(name for name, value in checks.items() if value is not None and not value <= getattr(bounds, name))
    return response, Quality(**checks, repairs=repairs, flags=flags)


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _charge_accuracy(points: Mapping[str, FieldPoint], stencil: Stencil) -> float:
    """Error of Z* that the remaining SCF errors suggest, e.

    An energy error of second order in that of the density, dE ~ k u^2 / 2, is a force error of first order, k u =
    sqrt(2 k dE); see ``_STIFFNESS``. Two points of independent errors make a difference over two steps.
    """
    force_error = np.sqrt(2 * _STIFFNESS * max(point.scf_accuracy for name, point in points.items() if name != ZERO))
    return float(force_error / (np.sqrt(2) * stencil.step))


def _stencil_error(points: Mapping[str, FieldPoint], stencil: Stencil) -> float | None:
    charges = stencil.born_effective_charges(points)
    return _largest(
        float(np.abs(charges - lower.born_effective_charges).max()) for lower in stencil.differences(points)
    )


def _magnetization_change(points: Mapping[str, FieldPoint]) -> float | None:
    zero = points[ZERO]
    if zero.magnetization is None or zero.absolute_magnetization is None:
        return None
    reference = np.array([zero.magnetization, zero.absolute_magnetization])
    # A state whose spins all flip has the same energy, and total magnetization of the other sign.
    states = [(p.magnetization or 0.0, p.absolute_magnetization or 0.0) for p in points.values()]
    return float(np.abs(np.array(states) - reference).max())


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
