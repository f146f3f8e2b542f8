"""Berry-phase branches: P of a crystal is known modulo a lattice of quanta (King-Smith and Vanderbilt, PRB 47, 1651).

Folding takes the closest lattice vector, which for skew cells is not the rounding of lattice coordinates.
"""

from __future__ import annotations

import numpy as np
from ase.geometry import minkowski_reduce

_NEIGHBOURS = np.array(np.meshgrid(*[range(-2, 3)] * 3, indexing="ij")).reshape(3, -1).T


def quantum_lattice(cell: np.ndarray, electrons_per_quantum: int = 1) -> np.ndarray:
    """Lattice of quanta of the cell dipole, rows in e A, (3, 3).

    Args:
        cell: lattice vectors as rows, A.
        electrons_per_quantum: 1 in general; 2 without spin polarization where all valences are even, since a band
            then carries two electrons and moving an ion by a lattice vector moves an even charge.
    """
    return electrons_per_quantum * np.asarray(cell, dtype=float)


def closest_lattice_vector(vectors: np.ndarray, lattice: np.ndarray) -> np.ndarray:
    """The lattice vector closest to each vector, exact for any cell.

    In a Minkowski-reduced basis the closest vector lies within one step of the rounded coordinates (Nguyen and
    Stehle, ACM Trans. Algorithms 5, 46 (2009)); two steps are searched.

    Args:
        vectors: (..., 3).
        lattice: rows span the lattice, (3, 3).

    Returns:
        Lattice vectors, (..., 3).
    """
    vectors = np.asarray(vectors, dtype=float)
    reduced, _ = minkowski_reduce(np.asarray(lattice, dtype=float))
    rounded = np.rint(vectors @ np.linalg.inv(reduced))
    candidates = (rounded[..., None, :] + _NEIGHBOURS) @ reduced
    nearest = np.argmin(((vectors[..., None, :] - candidates) ** 2).sum(-1), axis=-1)
    return np.take_along_axis(candidates, nearest[..., None, None], axis=-2)[..., 0, :]


def fold(difference: np.ndarray, lattice: np.ndarray) -> np.ndarray:
    """A polarization difference on the branch where it is smallest, (..., 3).

    Args:
        difference: e A, (..., 3).
        lattice: rows span the lattice of quanta, e A, (3, 3).
    """
    return np.asarray(difference, dtype=float) - closest_lattice_vector(difference, lattice)


def nearest_branch(polarization: np.ndarray, reference: np.ndarray, lattice: np.ndarray) -> np.ndarray:
    """The image of ``polarization`` closest to ``reference``, (..., 3).

    Args:
        polarization: on any branch, e A, (..., 3).
        reference: e A, (..., 3).
        lattice: rows span the lattice of quanta, e A, (3, 3).
    """
    return reference + fold(np.asarray(polarization) - reference, lattice)


def track(path: np.ndarray, lattices: np.ndarray) -> np.ndarray:
    """Unfold P along a path of slowly changing structures, each image on the branch closest to the one before.

    Args:
        path: P of each image on any branch, (n, 3).
        lattices: lattice of quanta of each image, (n, 3, 3).
    """
    tracked = [np.asarray(path[0], dtype=float)]
    for polarization, lattice in zip(path[1:], lattices[1:], strict=True):
        tracked.append(nearest_branch(polarization, tracked[-1], lattice))
    return np.array(tracked)
