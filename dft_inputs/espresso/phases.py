"""Berry phases of the k-strings, as pw.x writes them with ``efield_phase = 'write'``.

pw.x averages the principal value of each string's phase. Where these straddle +-pi its dipole is off by a fraction of
a quantum; the phases themselves allow a branch on which the strings agree (King-Smith and Vanderbilt, PRB 47, 1651).
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

FILE = "phase.data"
_LINE = re.compile(r"\s*(\d+)\s+(\d+)\s+\(\s*([^,]+),\s*([^)]+)\)")


def read_phases(folder: Path, prefix: str = "") -> list[np.ndarray]:
    """The product of overlaps along each string, for the three lattice directions, complex (spin, strings).

    Raises:
        OSError: a file is missing.
        ValueError: a file is empty or broken.
    """
    directions = []
    for axis in (1, 2, 3):
        path = folder / f"{prefix}{FILE}{axis}"
        rows = [_LINE.match(line) for line in path.read_text().splitlines()]
        if not rows or None in rows:
            raise ValueError(f"{path} is broken")
        zeta = [(int(m[2]), complex(float(m[3]), float(m[4]))) for m in rows if m]
        spins = sorted({spin for spin, _ in zeta})
        directions.append(np.array([[z for s, z in zeta if s == spin] for spin in spins]))
    return directions


def dipole_from_phases(phases: list[np.ndarray], cell: np.ndarray) -> np.ndarray:
    """Electronic dipole with the strings of each direction on one branch, e A, (3,).

    P = f e / (2 pi) sum_i <phi>_i a_i summed over spin channels, with f = 2 where there is one. The phases of a
    direction are taken around the direction of their mean on the unit circle.

    Args:
        phases: from ``read_phases``.
        cell: lattice vectors as rows, A.
    """
    dipole = np.zeros(3)
    for zeta, vector in zip(phases, cell, strict=True):
        weight = 2.0 / len(zeta)
        for channel in zeta:
            unit = channel / np.abs(channel)
            middle = np.angle(unit.mean())
            mean = middle + np.angle(unit * np.exp(-1j * middle)).mean()
            dipole += weight * mean / (2 * np.pi) * vector
    return dipole
