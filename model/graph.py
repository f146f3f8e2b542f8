"""A batch of structures in fields as tensors: what every enthalpy model takes.

Neighbours are stored padded, (N, K), instead of as an edge list: environments become plain sums, the tensor product
a batched matrix product, and results do not depend on the order of a scatter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor
from vesin import NeighborList

from ..dft_inputs.records import Frame


@dataclass(frozen=True)
class Environments:
    """The surroundings of N atoms: all that a strictly local model sees of a system.

    Attributes:
        vectors: from each atom to its neighbours, A, (N, K, 3); unit vectors along x where masked.
        mask: True for real neighbours, (N, K).
        species: index into the model's species, (N,).
        neighbour_species: (N, K).
        field: V/A, (B, 3).
        structure: row of ``field`` that each atom is in, (N,).
    """

    vectors: Tensor
    mask: Tensor
    species: Tensor
    neighbour_species: Tensor
    field: Tensor
    structure: Tensor


@dataclass(frozen=True)
class Graph:
    """B structures with N atoms in all and at most K neighbours per atom.

    The geometry may be of higher precision than the model: it is rounded after differences are taken.

    Attributes:
        positions: A, (N, 3), unwrapped.
        cell: lattice vectors as rows, A, (B, 3, 3).
        field: V/A, (B, 3).
        species: index into the model's species, (N,).
        structure: index of the structure of each atom, (N,).
        neighbours: index of each neighbour, (N, K); any valid index where masked.
        shifts: lattice translation of each neighbour in units of the cell vectors, (N, K, 3), of any type.
        mask: True for real neighbours, (N, K).
    """

    positions: Tensor
    cell: Tensor
    field: Tensor
    species: Tensor
    structure: Tensor
    neighbours: Tensor
    shifts: Tensor
    mask: Tensor

    @property
    def n_structures(self) -> int:
        """Number of structures, B."""
        return self.cell.shape[0]

    @property
    def n_atoms(self) -> int:
        """Number of atoms of all structures, N."""
        return self.positions.shape[0]

    def vectors(self) -> Tensor:
        """Vectors from each atom to its neighbours, A, (N, K, 3); masked entries are unit vectors along x."""
        return self._vectors(self.positions, self.neighbours, self.shifts, self.mask, self.structure)

    def vectors_of(self, atoms: slice) -> Tensor:
        """The vectors of some of the atoms, (n, K, 3)."""
        return self._vectors(
            self.positions[atoms], self.neighbours[atoms], self.shifts[atoms], self.mask[atoms], self.structure[atoms]
        )

    def environments(self, dtype: torch.dtype) -> Environments:
        """What a local model of a floating type sees."""
        return Environments(
            vectors=self.vectors().to(dtype),
            mask=self.mask,
            species=self.species,
            neighbour_species=self.species[self.neighbours],
            field=self.field.to(dtype),
            structure=self.structure,
        )

    def environments_of(self, atoms: Tensor, width: int, dtype: torch.dtype) -> Environments:
        """What a local model sees of n atoms whose neighbours are in the first ``width`` columns, each in its field."""
        structure, neighbours = self.structure[atoms], self.neighbours[atoms, :width]
        mask, shifts = self.mask[atoms, :width], self.shifts[atoms, :width]
        return Environments(
            vectors=self._vectors(self.positions[atoms], neighbours, shifts, mask, structure).to(dtype),
            mask=mask,
            species=self.species[atoms],
            neighbour_species=self.species[neighbours],
            field=self.field[structure].to(dtype),
            structure=torch.arange(len(structure), device=structure.device),
        )

    def _vectors(self, centres: Tensor, neighbours: Tensor, shifts: Tensor, mask: Tensor, structure: Tensor) -> Tensor:
        offsets = torch.einsum("nkc,ncx->nkx", shifts.to(self.cell.dtype), self.cell[structure])
        vectors = self.positions[neighbours] - centres[:, None, :] + offsets
        padding = vectors.new_tensor([1.0, 0.0, 0.0])
        return torch.where(mask[..., None], vectors, padding)

    def sum_structures(self, per_atom: Tensor) -> Tensor:
        """Sum (N, ...) over the atoms of each structure, (B, ...)."""
        out = per_atom.new_zeros((self.n_structures, *per_atom.shape[1:]))
        return out.index_add(0, self.structure, per_atom)

    def volume(self) -> Tensor:
        """Cell volumes, A^3, (B,)."""
        return torch.linalg.det(self.cell).abs()

    def replace(self, **changes: Tensor) -> Graph:
        """A copy with other positions, cells or fields."""
        return replace(self, **changes)

    def to(self, device: torch.device | str) -> Graph:
        """The same batch on another device."""
        return Graph(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def build_graph(
    frames: Sequence[Frame],
    species: Sequence[str],
    cutoff: float,
    fields_v_per_a: np.ndarray | None = None,
    dtype: torch.dtype = torch.float64,
) -> Graph:
    """Neighbour lists (vesin) of frames as one batch.

    Args:
        frames: the geometries.
        species: chemical symbols in the order of the model.
        cutoff: A. Cells thinner than the cutoff are handled by periodic images.
        fields_v_per_a: field of each frame, V/A, (B, 3); zero where not given.
        dtype: of the floating tensors.

    Raises:
        ValueError: a species that the model does not know, or no frame.
    """
    if not frames:
        raise ValueError("a batch needs at least one frame")
    index = species_index(frames, species)
    lists = [padded_neighbours(frame.positions, frame.cell, frame.pbc, cutoff) for frame in frames]
    width = max(neighbours.shape[1] for neighbours, _, _ in lists)
    counts = [len(frame) for frame in frames]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])

    def pad(array: np.ndarray) -> np.ndarray:
        return np.pad(array, [(0, 0), (0, width - array.shape[1])] + [(0, 0)] * (array.ndim - 2))

    field = np.zeros((len(frames), 3)) if fields_v_per_a is None else np.broadcast_to(fields_v_per_a, (len(frames), 3))

    def floating(arrays: list[np.ndarray] | np.ndarray) -> Tensor:
        return torch.tensor(np.ascontiguousarray(arrays), dtype=dtype)

    return Graph(
        positions=floating(np.concatenate([frame.positions for frame in frames])),
        cell=floating(np.stack([frame.cell for frame in frames])),
        field=floating(field),
        species=torch.tensor([index[s] for frame in frames for s in frame.species]),
        structure=torch.tensor(np.repeat(np.arange(len(frames)), counts)),
        neighbours=torch.tensor(np.concatenate([pad(n) + s for (n, _, _), s in zip(lists, starts, strict=True)])),
        shifts=floating(np.concatenate([pad(shifts) for _, shifts, _ in lists])),
        mask=torch.tensor(np.concatenate([pad(mask) for _, _, mask in lists])),
    )


def species_index(frames: Sequence[Frame], species: Sequence[str]) -> dict[str, int]:
    """Index of each species of a model.

    Raises:
        ValueError: a species of the frames that the model does not know.
    """
    unknown = sorted({symbol for frame in frames for symbol in frame.species} - set(species))
    if unknown:
        raise ValueError(
            f"the model knows {', '.join(species)}, not {', '.join(unknown)}: train it on these species first"
        )
    return {symbol: i for i, symbol in enumerate(species)}


def padded_neighbours(
    positions: np.ndarray, cell: np.ndarray, pbc: Sequence[bool], cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Full neighbour list, padded to the largest number of neighbours.

    Returns:
        Neighbour indices (N, K), cell shifts (N, K, 3) and mask (N, K), with K at least 1.
    """
    finder = NeighborList(cutoff=cutoff, full_list=True, sorted=True)
    i, j, shift = finder.compute(points=positions, box=cell, periodic=np.array(pbc), quantities="ijS")
    i, j = np.asarray(i, dtype=np.int64), np.asarray(j, dtype=np.int64)
    n_atoms = len(positions)
    counts = np.bincount(i, minlength=n_atoms)
    column = np.arange(len(i)) - np.repeat(np.cumsum(counts) - counts, counts)
    width = max(1, int(counts.max(initial=0)))
    neighbours = np.zeros((n_atoms, width), dtype=np.int64)
    shifts = np.zeros((n_atoms, width, 3))
    mask = np.zeros((n_atoms, width), dtype=bool)
    neighbours[i, column] = j
    shifts[i, column] = shift
    mask[i, column] = True
    return neighbours, shifts, mask
