"""One k-mesh for a data set: from a density, and for supercells and strained copies of the parent crystal.

What a mesh leaves out of P and of the polarizability depends on N_i |a_i|, the length of the strings of k-points, so
all frames of a data set share it. It is that of the parent crystal: a strained copy keeps the mesh, a supercell
divides it.
"""

from __future__ import annotations

import math

import numpy as np

Mesh = tuple[int, int, int]

LARGEST_STRAIN = 0.1
"""Cells that differ by more than this from a multiple of the parent are no copies of it."""
_ROUNDING = 1e-6


Density = float | tuple[float, float, float]
"""N_i |a_i| in A, one for all or one for each lattice vector."""


def check_one_mesh(kpoints: Mesh | None, density: Density | None) -> None:
    """Settings name a mesh in one way.

    Raises:
        ValueError: both or neither is given.
    """
    if (kpoints is None) == (density is None):
        raise ValueError("give one of kpoints, e.g. [4, 4, 4], and kpoint_density, e.g. 25 (N_i |a_i| in A)")


def known_mesh(kpoints: Mesh | None) -> Mesh:
    """The mesh of settings that may name a density instead.

    Raises:
        ValueError: it follows from a density and a cell.
    """
    if kpoints is None:
        raise ValueError("kpoint_density gives no mesh before a cell is known; call settings.for_cell(cell)")
    return kpoints


def mesh_for_cell(
    kpoints: Mesh | None, density: Density | None, cell: np.ndarray, parent_cell: np.ndarray | None = None
) -> Mesh:
    """The mesh of one cell, such that every cell of a data set has the same N_i |a_i|.

    Args:
        kpoints: mesh of the parent crystal, or None where its density is given.
        density: least N_i |a_i| of the parent, A.
        cell: lattice vectors as rows, A.
        parent_cell: of the parent crystal; a strained copy of it keeps the mesh, a supercell divides it. Without one,
            the cell is its own parent.

    Raises:
        ValueError: the cell is no supercell of the parent, or its multiple does not divide the mesh.
    """
    mesh = kpoints or resolve_kpoints(cell if parent_cell is None else parent_cell, density or 0.0)
    return mesh if parent_cell is None else mesh_of_supercell(mesh, supercell_multiples(cell, parent_cell))


def resolve_kpoints(cell: np.ndarray, density: Density) -> Mesh:
    """The smallest mesh with N_i |a_i| of at least ``density`` along each lattice vector.

    Args:
        cell: lattice vectors as rows, A.
        density: least N_i |a_i|, A.
    """
    wanted = np.broadcast_to(np.asarray(density, dtype=float), (3,)) / np.linalg.norm(cell, axis=1)
    first, second, third = (max(1, math.ceil(n - _ROUNDING)) for n in wanted)
    return first, second, third


def supercell_multiples(cell: np.ndarray, parent_cell: np.ndarray) -> Mesh:
    """How often the parent fits along each lattice vector of a cell that may be strained.

    Raises:
        ValueError: the cell is no multiple of the parent along its own lattice vectors.
    """
    transformation = np.asarray(cell) @ np.linalg.inv(parent_cell)
    multiples = np.rint(np.diag(transformation))
    if multiples.min() >= 1:
        strain = transformation / multiples[:, None] - np.eye(3)
        # In Cartesian axes, as a strain of lattice coordinates has no size.
        strain = np.linalg.inv(parent_cell) @ strain @ parent_cell
        if np.abs(strain).max() <= LARGEST_STRAIN:
            first, second, third = (int(m) for m in multiples)
            return first, second, third
    raise ValueError(
        "the cell is no supercell of the parent crystal along its lattice vectors (strained by up to "
        f"{LARGEST_STRAIN:.0%}), so it has no mesh of the same N_i |a_i|; label it in a data set of its own"
    )


def mesh_of_supercell(mesh: Mesh, multiples: Mesh) -> Mesh:
    """The mesh of the parent divided by the multiples of a supercell: the same strings of k-points.

    Raises:
        ValueError: it cannot be divided; the message names a mesh of the parent that can.
    """
    if any(n % m for n, m in zip(mesh, multiples, strict=True)):
        better = [math.ceil(n / m) * m for n, m in zip(mesh, multiples, strict=True)]
        raise ValueError(
            f"the k-mesh {list(mesh)} of the parent cannot be divided for its {'x'.join(map(str, multiples))} "
            f"supercell; {better} can: set label.settings.kpoints to it"
        )
    first, second, third = (n // m for n, m in zip(mesh, multiples, strict=True))
    return first, second, third


def string_lengths(cell: np.ndarray, mesh: Mesh) -> np.ndarray:
    """N_i |a_i| of a cell and its mesh, A, (3,)."""
    return np.linalg.norm(cell, axis=1) * np.array(mesh)
