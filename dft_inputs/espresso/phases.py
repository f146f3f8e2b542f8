"""Berry phases of the k-strings: from the wavefunctions of a plain SCF, and in the files that pw.x reads.

Computed here they cost a matrix product per k-point, where pw.x's ``efield_phase = 'write'`` makes every SCF iteration
of the zero-field run a third slower.

pw.x averages the principal value of each string's phase. Where these straddle +-pi its dipole is off by a fraction of
a quantum; the phases themselves allow a branch on which the strings agree (King-Smith and Vanderbilt, PRB 47, 1651).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .save_files import Wavefunctions, read_wavefunctions, wavefunction_files

FILE = "phase.data"
_LINE = re.compile(r"\s*(\d+)\s+(\d+)\s+\(\s*([^,]+),\s*([^)]+)\)")


_RADIX = 4096
"""Larger than any Miller index of a plane wave, twice."""


def field_kpoints(mesh: Sequence[int]) -> np.ndarray:
    """k-points of a run in a field in pw.x's order, in reciprocal lattice vectors within [0, 1), (N, 3)."""
    return np.stack(np.meshgrid(*[np.arange(n) / n for n in mesh], indexing="ij"), axis=-1).reshape(-1, 3)


def string_phases(save: Path, mesh: Sequence[int], occupied: int) -> list[np.ndarray]:
    """Product of the determinants of the overlaps along each k-string, for the three lattice directions.

    King-Smith and Vanderbilt, PRB 47, 1651 (1993), eq. (10); for norm-conserving pseudopotentials.

    Args:
        save: ``.save`` folder of an SCF on all of ``field_kpoints``.
        mesh: k-points along the lattice vectors.
        occupied: bands of each spin channel.

    Returns:
        Complex (spin, strings) for each direction.

    Raises:
        SaveFileError: wavefunctions are missing or broken.
    """
    channels = [np.array(files, dtype=object).reshape(tuple(mesh)) for files in wavefunction_files(save)]
    return [np.array([_channel_phases(files, axis, occupied) for files in channels]) for axis in range(3)]


def _channel_phases(files: np.ndarray, axis: int, occupied: int) -> list[complex]:
    # pw.x counts the strings along the second vector with the first index running fastest.
    strings = np.moveaxis(files, axis, -1)
    strings = strings.swapaxes(0, 1) if axis == 1 else strings
    return [_string_phase([read_wavefunctions(f) for f in string], axis, occupied)
            for string in strings.reshape(-1, files.shape[axis])]  # fmt: skip


def _string_phase(string: list[Wavefunctions], axis: int, occupied: int) -> complex:
    step = np.eye(3)[axis] / len(string)
    product = 1.0 + 0.0j
    for left, right in zip(string, [*string[1:], string[0]], strict=True):
        product *= complex(np.linalg.det(_overlap(left, right, left.kpoint + step, occupied)))
    return product


def _overlap(left: Wavefunctions, right: Wavefunctions, place: np.ndarray, occupied: int) -> np.ndarray:
    """<u_m(left)|u_n(right)> with the right ones brought to the k-point ``place``, a reciprocal vector away."""
    moved = right.miller + np.rint(right.kpoint - place).astype(int)
    _, mine, its = np.intersect1d(_codes(left.miller), _codes(moved), assume_unique=True, return_indices=True)
    return left.coefficients[:occupied, mine].conj() @ right.coefficients[:occupied, its].T


def _codes(miller: np.ndarray) -> np.ndarray:
    """One integer for each plane wave."""
    return (miller.astype(np.int64) + _RADIX // 2) @ np.array([_RADIX**2, _RADIX, 1])


def write_phases(folder: Path, phases: Sequence[np.ndarray], prefix: str = "") -> None:
    """Write the files of ``read_phases``, as pw.x reads them with ``efield_phase = 'read'``."""
    for axis, channels in zip((1, 2, 3), phases, strict=True):
        lines = [
            f"{string:12d}{spin:12d}       ({zeta.real:.17E},{zeta.imag:.17E})\n"
            for spin, channel in enumerate(channels, 1)
            for string, zeta in enumerate(channel, 1)
        ]
        (folder / f"{prefix}{FILE}{axis}").write_text("".join(lines))


def read_phases(folder: Path, prefix: str = "") -> list[np.ndarray]:
    """The product of overlaps along each string, for the three lattice directions, complex (spin, strings).

    Raises:
        OSError: a file is missing.
        ValueError: a file is empty or broken.
    """
    directions = []
    for axis in (1, 2, 3):
        path = folder / f"{prefix}{FILE}{axis}"
        rows = [_LINE.match(line) for line in path.read_text(errors="replace").splitlines()]
        zeta = [(int(m[2]), int(m[1]), complex(float(m[3]), float(m[4]))) for m in rows if m]
        spins = max((spin for spin, _, _ in zeta), default=1)
        strings = list(range(1, len(rows) // spins + 1))
        channels = [[(string, z) for s, string, z in zeta if s == spin] for spin in range(1, spins + 1)]
        if not rows or None in rows or any([string for string, _ in channel] != strings for channel in channels):
            raise ValueError(f"{path} is broken")
        directions.append(np.array([[z for _, z in channel] for channel in channels]))
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
