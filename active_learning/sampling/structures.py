"""Two structures of one crystal: whether their cells agree, and which atom of one is which atom of the other."""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np

from ...dft_inputs.records import Frame
from .frames import SeedError

_SHIFTS = np.array(list(product((-1, 0, 1), repeat=3)))


def read_structures(path: Path, index: str = ":") -> list[Frame]:
    """Structures of a file, in any format that ASE reads.

    Raises:
        SeedError: no such file, or not one that can be read.
    """
    if not path.is_file():
        raise SeedError(f"there is no file {path}")
    try:
        from ase.io import read  # noqa: PLC0415  (half a second, and most sources read nothing)

        images = cast("list[Any]", read(path, index=index))
        frames = [Frame.from_atoms(atoms) for atoms in images]
    except Exception as error:  # ASE's readers raise whatever they stumble over
        reason = " ".join(str(error).split()) or "not in a format that ASE recognizes"
        raise SeedError(f"cannot read {path}: {type(error).__name__}: {reason}") from error
    if not frames:
        raise SeedError(f"{path} holds no structure")
    return frames


def strain_between(parent: Frame, other: Frame) -> float:
    """Largest principal strain that takes the cell of one frame into that of another, rotations included."""
    gradient = np.linalg.solve(parent.cell, other.cell) - np.eye(3)
    return float(np.linalg.svd(gradient, compute_uv=False).max())


def check_same_crystal(parent: Frame, other: Frame, largest_strain: float, name: str) -> None:
    """Refuse a frame that cannot share a data set with the parent.

    Raises:
        SeedError: other atoms, or a cell strained or turned by more than the bound.
    """
    if Counter(parent.species) != Counter(other.species):
        raise SeedError(f"{name} holds {other.formula}, the parent is {parent.formula}")
    strain = strain_between(parent, other)
    if strain > largest_strain:
        raise SeedError(
            f"the cell of {name} differs from the parent's by {strain:.2%} (at most {largest_strain:.2%}): "
            "turn it into the parent's orientation, or give it a data set of its own"
        )


def minimum_image(displacements: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """The shortest of each displacement and its periodic images, A, (..., 3); for a reduced cell."""
    images = _folded(displacements, cell)[..., None, :] + _SHIFTS @ cell
    best = np.argmin(np.einsum("...ij,...ij->...i", images, images), axis=-1)
    return np.take_along_axis(images, best[..., None, None], axis=-2)[..., 0, :]


def _folded(displacements: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """An image of each displacement near zero; the shortest one where it is shorter than half the planes' distance."""
    return displacements - np.round(displacements @ np.linalg.inv(cell)) @ cell


def matched(parent: Frame, positions: np.ndarray, species: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Which of the positions belongs to which atom of the parent, so that the atoms move least.

    The assignment is optimal for the sum of squared distances within each species (Kuhn-Munkres).

    Args:
        parent: the frame.
        positions: of the other structure in the parent's cell, A, (N, 3).
        species: of the other structure, of the same composition.

    Returns:
        Index into ``positions`` for each atom, (N,), and the displacements from the parent there, A, (N, 3).
    """
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415  (slow to import, and seldom needed)

    order = np.empty(len(parent), dtype=int)
    moves = np.empty((len(parent), 3))
    for symbol in sorted(set(parent.species)):
        here = np.flatnonzero(np.array(parent.species) == symbol)
        there = np.flatnonzero(np.array(species) == symbol)
        between = _folded(positions[None, there] - parent.positions[here, None], parent.cell)
        rows, columns = linear_sum_assignment(np.einsum("ijk,ijk->ij", between, between))
        order[here[rows]] = there[columns]
        moves[here[rows]] = minimum_image(between[rows, columns], parent.cell)
    return order, moves
