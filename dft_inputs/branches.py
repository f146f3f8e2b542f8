"""Bring the runs of a stencil onto one Berry-phase branch.

Runs made without shared string phases are each on a branch of their own. One string that hops moves P by
f e a_i / N_strings, so that is the lattice of repairs, N_strings being the number of k-strings along a_i. Printed
dipole and enthalpy can hop apart from each other (seen in published runs), so each is checked by itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

from .polarization import closest_lattice_vector
from .records import FieldPoint
from .stencil import ZERO

_TOLERANCE = 0.05
"""A jump must match a lattice vector to this fraction of the shortest quantum to be repaired."""
_STRINGS = range(-4, 5)
"""Single strings that hop, along each lattice vector; all strings of a direction hop together up to twice."""
_WHOLE = range(-2, 3)


def string_lattice(cell: np.ndarray, kpoints: tuple[int, int, int], electrons: int = 1) -> np.ndarray:
    """Rows ``electrons * a_i / N_strings_i`` in e A, (3, 3): what P moves by when one k-string hops."""
    strings = np.array(string_counts(kpoints))
    return electrons * np.asarray(cell) / strings[:, None]


def string_counts(kpoints: tuple[int, int, int]) -> tuple[int, int, int]:
    """k-strings along each lattice vector."""
    n1, n2, n3 = kpoints
    return (n2 * n3, n1 * n3, n1 * n2)


def align_dipoles(points: Mapping[str, FieldPoint], lattice: np.ndarray) -> tuple[dict[str, FieldPoint], list[str]]:
    """Move each P to the branch closest to that of the zero point; returns the points and one line per repair."""
    reference = points[ZERO].polarization
    aligned, repairs = {}, []
    for name, point in points.items():
        jump = closest_lattice_vector(point.polarization - reference, lattice)
        if np.abs(jump).max() > 1e-9:
            repairs.append(f"{name}: dipole moved by {_words(-jump)} e A to the branch of the zero point")
            point = point.model_copy(update={"polarization": point.polarization - jump})  # noqa: PLW2901
        aligned[name] = point
    return aligned, repairs


def enthalpy_residual(point: FieldPoint, zero: FieldPoint) -> float:
    """Violation of H(E) - H(0) = -(P(0) + P(E)) . (E - E0) / 2, eV; the law holds to third order in the field."""
    mean = (zero.polarization + point.polarization) / 2
    return float(point.enthalpy - zero.enthalpy + mean @ (point.field - zero.field))


def align_enthalpies(
    points: Mapping[str, FieldPoint], lattice: np.ndarray, strings: tuple[int, int, int] = (1, 1, 1)
) -> tuple[dict[str, FieldPoint], list[str]]:
    """Move each enthalpy by the -E.nQ that puts it on the branch of the dipoles; points and one line per repair.

    Args:
        points: of a stencil, with their dipoles on one branch.
        lattice: from ``string_lattice``.
        strings: from ``string_counts``: with them jumps of whole quanta, of all strings at once, are repaired too.
    """
    zero = points[ZERO]
    quanta = _jumps(strings) @ lattice
    shortest = np.linalg.norm(lattice, axis=1).min()
    aligned, repairs = {}, []
    for name, point in points.items():
        step = point.field - zero.field
        tolerance = _TOLERANCE * shortest * np.linalg.norm(step)
        residual = enthalpy_residual(point, zero)
        if abs(residual) > tolerance:
            matching = quanta[np.abs(residual - quanta @ step) < tolerance]
            if len(matching):
                jump = matching[0]
                repairs.append(
                    f"{name}: enthalpy moved by {-jump @ step:.6f} eV, {_words(jump)} e A along the field, "
                    "to the branch of its dipole"
                )
                point = point.model_copy(update={"enthalpy": point.enthalpy - float(jump @ step)})  # noqa: PLW2901
        aligned[name] = point
    return aligned, repairs


def _jumps(strings: tuple[int, int, int]) -> np.ndarray:
    """Jumps to look for in string quanta, the fewest strings first, (n, 3)."""
    single = itertools.product(_STRINGS, repeat=3)
    whole = ([n * m for n, m in zip(jump, strings, strict=True)] for jump in itertools.product(_WHOLE, repeat=3))
    return np.array(sorted({*map(tuple, single), *map(tuple, whole)}, key=lambda jump: (sum(map(abs, jump)), jump)))


def _words(vector: np.ndarray) -> str:
    return "(" + ", ".join(f"{v:.4f}" for v in vector + 0.0) + ")"
