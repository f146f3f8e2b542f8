"""Start a field point from wavefunctions and a density extrapolated along its field axis.

With the points at m = 0 and +1 steps converged, 2 psi(0) - psi(+1) is psi(-1) to second order in the step: the second
point of an axis takes two SCF iterations instead of eight. Wavefunctions are known up to a rotation among the occupied
ones, so each set is first turned to be closest to the first one, as in the orthogonal Procrustes problem; for
extrapolation in dynamics: Arias, Payne, Joannopoulos, PRB 45, 1538 (1992).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .save_files import (
    density_file,
    read_density,
    read_wavefunctions,
    wavefunction_files,
    write_density,
    write_wavefunctions,
)


def extrapolation_weights(known: list[int], target: int) -> dict[int, float]:
    """Lagrange's weights that carry a polynomial through the known places to the target."""
    weights = {}
    for place in known:
        others = np.array([other for other in known if other != place])
        weights[place] = float(np.prod((target - others) / (place - others)))
    return weights


def write_extrapolated(weights: Mapping[Path, float], target: Path) -> None:
    """Replace wavefunctions and density of a ``.save`` folder.

    Args:
        weights: of the ``.save`` folder of each known point; the first one is the reference of the rotations.
        target: a copy of the first of these folders.

    Raises:
        SaveFileError: a file is missing or broken.
    """
    saves = list(weights)
    densities = [read_density(density_file(save)) for save in saves]
    density = density_file(target)
    write_density(density, density, np.tensordot(list(weights.values()), densities, axes=1))
    for channels in zip(*(wavefunction_files(save) for save in (target, *saves)), strict=True):
        for path, *sources in zip(*channels, strict=True):
            bands = [read_wavefunctions(source).coefficients for source in sources]
            # Occupied ones alone: the run that the others start from may have empty bands too.
            occupied = min(len(coefficients) for coefficients in bands)
            bands = [coefficients[:occupied] for coefficients in bands]
            aligned = [closest_rotation(coefficients, bands[0]) for coefficients in bands]
            write_wavefunctions(path, path, orthonormalized(np.tensordot(list(weights.values()), aligned, axes=1)))


def closest_rotation(bands: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Bands rotated among themselves to be as close as possible to the reference, both complex (bands, M)."""
    left, _, right = np.linalg.svd(reference.conj() @ bands.T)
    return (left @ right).conj() @ bands


def orthonormalized(bands: np.ndarray) -> np.ndarray:
    """The orthonormal bands closest to the given ones (Loewdin), complex (bands, M)."""
    values, vectors = np.linalg.eigh(bands.conj() @ bands.T)
    return ((vectors / np.sqrt(values)) @ vectors.conj().T).T @ bands
