"""Finite-difference stencils in the electric field, and the responses they give.

Central differences of order 2 and 4; order 1 (forward) exists to read data sets made that way. Coefficients:
Fornberg, Math. Comp. 51, 699 (1988).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from .records import FieldPoint, StencilDifferences
from .units import RYDBERG_FIELD_IN_V_PER_ANGSTROM

AXES = ("x", "y", "z")
ZERO = "zero"
DEFAULT_STEP = 1e-4 * RYDBERG_FIELD_IN_V_PER_ANGSTROM
"""1e-4 Ry a.u. = 3.636e-3 V/A = 0.36 MV/cm."""

_COEFFICIENTS: dict[int, dict[int, float]] = {
    1: {0: -1.0, 1: 1.0},
    2: {-1: -0.5, 1: 0.5},
    4: {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12},
}


@dataclass(frozen=True)
class Stencil:
    """Field points around a base field.

    Attributes:
        step: field step h, V/A.
        order: order of accuracy, 1 (forward), 2 or 4.
        base: the field about which the stencil is centred, V/A.
    """

    step: float = DEFAULT_STEP
    order: Literal[1, 2, 4] = 2
    base: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        if self.order not in _COEFFICIENTS:
            raise ValueError(f"stencil order must be 1, 2 or 4, not {self.order}")
        if not 0 < self.step < 1:
            raise ValueError(f"field step must lie between 0 and 1 V/A, not {self.step}")

    @property
    def lower_orders(self) -> tuple[Stencil, ...]:
        """Central stencils of lower order whose points are among those of this one."""
        return (replace(self, order=2),) if self.order == 4 else ()

    def points(self) -> dict[str, np.ndarray]:
        """Field of every point by name, V/A; the zero point first, as the others start from it."""
        base = np.array(self.base)
        points = {ZERO: base}
        for axis in range(3):
            for multiple in _COEFFICIENTS[self.order]:
                if multiple:
                    points[point_name(axis, multiple)] = base + multiple * self.step * np.eye(3)[axis]
        return points

    def derivative(self, values: Mapping[str, np.ndarray], axis: int) -> np.ndarray:
        """d(value)/dE along an axis, from the values at the points of ``points``."""
        terms = [c * values[point_name(axis, m)] for m, c in _COEFFICIENTS[self.order].items()]
        return np.sum(terms, axis=0) / self.step

    def born_effective_charges(self, points: Mapping[str, FieldPoint]) -> np.ndarray:
        """Z*[i, a, b] = dF_ib/dE_a in e, (N, 3, 3)."""
        forces = {name: point.forces for name, point in points.items()}
        return np.stack([self.derivative(forces, axis) for axis in range(3)], axis=1)

    def polarizability(self, points: Mapping[str, FieldPoint]) -> np.ndarray:
        """alpha[a, b] = dP_a/dE_b in e^2 A^2/eV, (3, 3), as differenced (not symmetrized)."""
        dipoles = {name: point.polarization for name, point in points.items()}
        return np.stack([self.derivative(dipoles, axis) for axis in range(3)], axis=1)

    def differences(self, points: Mapping[str, FieldPoint]) -> tuple[StencilDifferences, ...]:
        """The responses by each lower order, highest first."""
        return tuple(
            StencilDifferences(
                order=lower.order,
                born_effective_charges=lower.born_effective_charges(points),
                polarizability=lower.polarizability(points),
            )
            for lower in self.lower_orders
        )


def point_name(axis: int, multiple: int) -> str:
    """Name of a stencil point: ``+x``, ``-2z``, ``zero``."""
    if multiple == 0:
        return ZERO
    sign = "+" if multiple > 0 else "-"
    return f"{sign}{abs(multiple) if abs(multiple) > 1 else ''}{AXES[axis]}"
