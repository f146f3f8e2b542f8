"""Symmetry of reference crystals: fewer field points to compute, the others by rotation.

An operation takes r to R r + t and maps the crystal onto itself, atom i onto an image of atom pi(i). It takes the state
in a field E to the state in R E. Rattled frames have the identity alone, and nothing changes for them.

A finite-field calculation has less symmetry than its crystal. Its k-mesh must be kept, and so must the directions
b_1, b_2, b_3 along which Berry phases are taken: an operation that turns b_i into a sum of others changes the
discretization, and a coarse mesh shows it (2x2x2: 4 % of alpha in primitive AlAs; 1 % of alpha and 0.04 e of Z* in
quartz). So only signed permutations of the b_i count, unless asked otherwise. An operation that does not keep the grid
of the density is handled apart: forces on one grid and on another differ by 1e-4 eV/A, at any field the same.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import spglib
from scipy.spatial import KDTree

from .polarization import fold
from .records import ElectricResponse, FieldPoint, Frame
from .stencil import ZERO, Stencil

TOLERANCE = 1e-4
"""Largest distance in A between the image of an atom and the site it goes to: far below any rattle."""
_SAME_FIELD = 1e-4
"""Fields closer than this fraction of the step are one."""
_WHOLE = 1e-6
_ON_GRID = 1e-3
"""Translations this close to a grid point, in spacings, lie on it."""


@dataclass(frozen=True, eq=False)
class Operation:
    """One operation of a space group.

    Attributes:
        rotation: R on Cartesian vectors, orthogonal, proper or not, (3, 3).
        translation: t, Cartesian, A, (3,).
        permutation: atom i goes to an image of atom ``permutation[i]``, (N,).
        lattice_rotation: R on lattice coordinates, integers, (3, 3).
        lattice_translation: t in lattice coordinates, between -1/2 and 1/2, (3,).
        keeps_grid: it is known to map the grid of the density onto itself.
    """

    rotation: np.ndarray
    translation: np.ndarray
    permutation: np.ndarray
    lattice_rotation: np.ndarray
    lattice_translation: np.ndarray
    keeps_grid: bool = False

    def rotate_vectors(self, vectors: np.ndarray) -> np.ndarray:
        """R v of a vector of each atom, at the atom it goes to, (N, 3)."""
        rotated = np.empty((len(self.permutation), 3))
        rotated[self.permutation] = vectors @ self.rotation.T
        return rotated

    def rotate_matrix(self, matrix: np.ndarray) -> np.ndarray:
        """R M R^T, (..., 3, 3)."""
        return self.rotation @ matrix @ self.rotation.T

    def rotate_matrices(self, matrices: np.ndarray) -> np.ndarray:
        """R M R^T of a matrix of each atom, at the atom it goes to, (N, 3, 3)."""
        rotated = np.empty((len(self.permutation), 3, 3))
        rotated[self.permutation] = self.rotate_matrix(matrices)
        return rotated


class Image(NamedTuple):
    """A field point that need not be computed, and the operation that takes its representative to it."""

    name: str
    operation: Operation


def space_group(
    frame: Frame, *, kinds: Sequence[Hashable] | None = None, tolerance: float = TOLERANCE
) -> tuple[Operation, ...]:
    """Operations that map a crystal onto itself, the identity first, then by the length of their translations.

    spglib finds candidates; each is checked here against ``tolerance``, which spglib may widen by itself.

    Args:
        frame: the crystal.
        kinds: what tells atoms of one species apart, e.g. initial magnetic moments, (N,).
        tolerance: A.

    Raises:
        ValueError: ``kinds`` of another length than the frame.
    """
    if kinds is not None and len(kinds) != len(frame):
        raise ValueError(f"kinds has {len(kinds)} entries for {len(frame)} atoms")
    labels = list(zip(frame.species, [None] * len(frame) if kinds is None else kinds, strict=True))
    numbers = np.array([labels.index(label) for label in labels])
    coordinates = frame.positions @ np.linalg.inv(frame.cell)
    try:
        crystal = (frame.cell.tolist(), coordinates.tolist(), numbers.tolist())
        found = spglib.get_symmetry(crystal, symprec=tolerance)
    except spglib.SpglibError:
        found = None
    rotations, translations = (found["rotations"], found["translations"]) if found else ([], [])
    sites = KDTree(coordinates % 1 % 1, boxsize=1)
    operations = [Operation(np.eye(3), np.zeros(3), np.arange(len(frame)), np.eye(3, dtype=int), np.zeros(3))]
    for rotation, translation in zip(rotations, translations, strict=True):
        operation = _operation(frame.cell, coordinates, sites, numbers, rotation, translation, tolerance)
        if operation is not None and not _is_identity(operation):
            operations.append(operation)
    return tuple(
        sorted(operations, key=lambda o: (not _is_identity(o), round(float(np.linalg.norm(o.translation)), 6)))
    )


def finite_field_operations(
    operations: Sequence[Operation],
    kpoints: tuple[int, int, int],
    *,
    field: Sequence[float] = (0.0, 0.0, 0.0),
    strings: bool = True,
    fft_grid: tuple[int, int, int] | None = None,
) -> tuple[Operation, ...]:
    """Those operations that a calculation on a mesh, about a base field, keeps too.

    Args:
        operations: from ``space_group``.
        kpoints: mesh along b_1, b_2, b_3 that includes Gamma.
        field: base field of the stencil, V/A: an operation must leave it as it is.
        strings: the lines along b_i on which Berry phases are taken must be kept; False for codes that take none.
        fft_grid: points of the density grid along the lattice vectors. Operations that keep it are marked and come
            first, as they are the more exact ones.
    """
    base, mesh = np.array(field, dtype=float), np.array(kpoints)
    kept = []
    for operation in operations:
        # Reciprocal coordinates go with the inverse transpose: k'_i = sum_j turn_ij k_j.
        turn = np.rint(np.linalg.inv(operation.lattice_rotation)).T
        keeps_mesh = _is_whole(turn * mesh[:, None] / mesh[None, :])
        keeps_strings = (np.abs(turn).sum(0) == 1).all()
        keeps_field = np.abs(operation.rotation @ base - base).max() <= _SAME_FIELD * np.abs(base).max()
        if keeps_mesh and keeps_field and (keeps_strings or not strings):
            kept.append(replace(operation, keeps_grid=fft_grid is not None and _keeps_grid(operation, fft_grid)))
    return tuple(sorted(kept, key=lambda o: not o.keeps_grid))


def irreducible_points(stencil: Stencil, operations: Sequence[Operation]) -> dict[str, tuple[Image, ...]]:
    """The points of a stencil to compute, each with the points that follow from it by rotation.

    The zero point is its own: the operations leave the base field as it is.

    Args:
        stencil: field points.
        operations: from ``finite_field_operations`` with the stencil's base field; earlier ones are preferred.

    Returns:
        Images by representative. The weakest fields and positive directions come first, as runs start from each other
        in that order.
    """
    fields = stencil.points()
    distance = {name: np.linalg.norm(field - fields[ZERO]) for name, field in fields.items()}
    remaining = sorted(fields, key=lambda name: (round(distance[name] / stencil.step), name.startswith("-")))
    orbits = {}
    while remaining:
        representative = remaining.pop(0)
        images = []
        for name in list(remaining) if representative != ZERO else []:
            for operation in operations:
                missed = operation.rotation @ fields[representative] - fields[name]
                if np.abs(missed).max() < _SAME_FIELD * stencil.step:
                    images.append(Image(name, operation))
                    remaining.remove(name)
                    break
        orbits[representative] = tuple(images)
    return orbits


def rotate_point(point: FieldPoint, operation: Operation, zero: FieldPoint, *, name: str) -> FieldPoint:
    """The point at field R E from the point at E, on the branch of the zero point.

    P is not simply rotated: the crystal that comes out of R r + t is the same crystal,
    but with other images of its atoms and of its electrons counted, so that

        P(R E) = R P(E) + Q,    Q a constant combination of quanta,

    where the translation drops out as the cell is neutral. Along one branch Q does not depend on the field. The base
    field is its own image, which gives Q = P0 - R P0 (primitive AlAs has P0 = e (a_1 + a_2 + a_3)/4, which the
    rotations of Td move by quanta). With U = integral of -P dE from the base field E0 = R E0,

        P(R E) = P0 + R (P(E) - P0)
        U(R E) = U(E) + P0 . (E - R E)

    so U - U0 + P0 . (E - E0) is what the rotation keeps. The force of a quantum, dQ/dr, is zero. Forces
    are rotated and permuted: as they are where the operation keeps the density grid, else their change from F0, as the
    error on the grid is the same at all fields (AlAs at 12 Ry, origin off the grid: 0.02 e in Z* without this, noise
    with it). The first is better where it is right, since the SCF noise of F0 does not enter.

    Args:
        point: at the field E.
        operation: leaves the base field as it is.
        zero: the point at the base field, from a run that did not symmetrize its forces.
        name: of the point at R E.

    Returns:
        The point at R E; no SCF was run for it, and its improper stress is left out as it moves with the branch.
    """
    field = operation.rotation @ point.field
    common = np.zeros_like(zero.forces) if operation.keeps_grid else zero.forces
    return FieldPoint(
        name=name,
        rotated_from=point.name,
        field=field,
        enthalpy=point.enthalpy + float(zero.polarization @ (point.field - field)),
        forces=common + operation.rotate_vectors(point.forces - common),
        polarization=zero.polarization + operation.rotation @ (point.polarization - zero.polarization),
        scf_accuracy=point.scf_accuracy,
        polarization_accuracy=point.polarization_accuracy,
        magnetization=point.magnetization,
        absolute_magnetization=point.absolute_magnetization,
    )


def full_stencil(
    computed: Mapping[str, FieldPoint], stencil: Stencil, operations: Sequence[Operation]
) -> dict[str, FieldPoint]:
    """All points of a stencil from those of ``irreducible_points``, in the stencil's order.

    Points that were computed although they need not be are kept as computed.

    Raises:
        ValueError: a representative is missing.
    """
    orbits, fields = irreducible_points(stencil, operations), stencil.points()
    if missing := [name for name in orbits if name not in computed]:
        raise ValueError(f"no point {', '.join(missing)}; symmetry leaves {', '.join(orbits)} to compute")
    points = {}
    for representative, images in orbits.items():
        points[representative] = computed[representative]
        for name, operation in images:
            rotated = rotate_point(computed[representative], operation, computed[ZERO], name=name)
            # The exact field of the stencil, free of rounding.
            points[name] = computed.get(name) or rotated.model_copy(update={"field": fields[name]})
    return {name: points[name] for name in fields}


def asymmetry(zero: FieldPoint, operations: Sequence[Operation], quanta: np.ndarray) -> tuple[float, float]:
    """How far the state at the base field is from having the symmetry of its crystal; large where charge or spin order.

    Only a state that has the symmetry may be rotated. Forces must be their own image, and P modulo quanta.

    Args:
        zero: the point at the base field.
        operations: that leave the base field as it is.
        quanta: lattice of quanta of P, rows in e A, (3, 3).

    Returns:
        Largest violations of F0 = R F0 in eV/A and of P0 = R P0 in e A.
    """
    forces, dipoles = [0.0], [0.0]
    for operation in operations:
        forces.append(np.abs(operation.rotate_vectors(zero.forces) - zero.forces).max())
        dipoles.append(np.abs(fold(operation.rotation @ zero.polarization - zero.polarization, quanta)).max())
    return float(max(forces)), float(max(dipoles))


def symmetrized(response: ElectricResponse, operations: Sequence[Operation]) -> ElectricResponse:
    """The part of a response that the operations leave as it is: forces, Z*, alpha, and stress at zero field.

    It is the mean over the group. For tables of a crystal's properties; labels stay as computed. P is left as it is,
    known modulo quanta only, and so is a stress in a field, which moves with the branch of P.

    Args:
        response: of the crystal.
        operations: a group that keeps the field of the response.
    """
    update = {}
    if response.forces is not None:
        update["forces"] = np.mean([o.rotate_vectors(response.forces) for o in operations], axis=0)
    if response.born_effective_charges is not None:
        charges = response.born_effective_charges
        update["born_effective_charges"] = np.mean([o.rotate_matrices(charges) for o in operations], axis=0)
    if response.polarizability is not None:
        update["polarizability"] = np.mean([o.rotate_matrix(response.polarizability) for o in operations], axis=0)
    if response.stress is not None and not response.field.any():
        update["stress"] = np.mean([o.rotate_matrix(response.stress) for o in operations], axis=0)
    return response.model_copy(update=update)


def _operation(
    cell: np.ndarray,
    coordinates: np.ndarray,
    sites: KDTree,
    numbers: np.ndarray,
    rotation: np.ndarray,
    translation: np.ndarray,
    tolerance: float,
) -> Operation | None:
    """An operation from lattice coordinates; None where the crystal has it only to less than the tolerance."""
    cartesian = cell.T @ rotation @ np.linalg.inv(cell.T)
    left, _, right = np.linalg.svd(cartesian)
    orthogonal = left @ right
    # A strain that the operation does not keep would move the far corner of the cell by this much.
    if np.abs((cartesian - orthogonal) @ cell.T).max() > tolerance:
        return None
    mapped = coordinates @ rotation.T + translation
    permutation = np.asarray(sites.query(mapped % 1 % 1)[1])  # twice: -1e-17 % 1 is 1
    difference = mapped - coordinates[permutation]
    distance = np.linalg.norm((difference - np.rint(difference)) @ cell, axis=-1)
    onto_its_kind = (numbers == numbers[permutation]).all() and len(np.unique(permutation)) == len(permutation)
    if distance.max() > tolerance or not onto_its_kind:
        return None
    wrapped = translation - np.rint(translation)
    return Operation(orthogonal, wrapped @ cell, permutation, np.array(rotation, dtype=int), wrapped)


def _keeps_grid(operation: Operation, fft_grid: tuple[int, int, int]) -> bool:
    grid = np.array(fft_grid)
    shift = operation.lattice_translation * grid
    mapped = operation.lattice_rotation * grid[:, None] / grid[None, :]
    return _is_whole(mapped) and bool(np.abs(shift - np.rint(shift)).max() < _ON_GRID)


def _is_identity(operation: Operation) -> bool:
    return bool(
        (operation.lattice_rotation == np.eye(3)).all()
        and (operation.permutation == np.arange(len(operation.permutation))).all()
    )


def _is_whole(values: np.ndarray) -> bool:
    return bool(np.abs(values - np.rint(values)).max() < _WHOLE)
