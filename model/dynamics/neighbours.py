"""A neighbour list with a Verlet skin for a batch of moving replicas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...dft_inputs.records import Frame
from ..graph import Graph, padded_neighbours, species_index
from ..interface import EnthalpyModel, refuse_open_boundaries

_AT_A_TIME = 16_384
"""Atoms whose distances are taken at a time, so that the vectors of a large system are never in memory at once."""


@dataclass
class _Listed:
    """The list of one replica: padded neighbours within cutoff + skin of the positions it was built at."""

    neighbours: np.ndarray
    shifts: np.ndarray
    mask: np.ndarray


class SkinNeighbours:
    """Graphs of replicas whose atoms and cells move.

    A replica is listed within cutoff + skin and listed again when one of its atoms has moved by more than half the
    skin. Every graph holds exactly the neighbours within the true cutoff, those that a fresh list would give: what the
    skin adds would cost a model of cutoff 5 A a third more with a skin of 0.5 A. Geometries stay float64.
    In a cell that changes, with F from the listed cell to the present one, a pair that was not listed is at least
    s (cutoff + skin) - 2 u apart: s is the smallest singular value of F, u the largest displacement from F r.

    Attributes:
        reference: positions at which each replica was listed, A, (N, 3); a list built from them is the same list.
        reference_cell: cells at which each replica was listed, A, (B, 3, 3).
        rebuilds: how often a replica was listed.
    """

    def __init__(
        self,
        model: EnthalpyModel,
        frames: Sequence[Frame],
        skin: float,
        reference: Tensor,
        reference_cell: Tensor | None = None,
    ) -> None:
        """List every replica.

        Args:
            model: gives cutoff, species, device and floating type.
            frames: cell, periodicity and species of each replica.
            skin: A.
            reference: positions to list at, A, (N, 3).
            reference_cell: cells to list at, A, (B, 3, 3); those of the frames where not given.
        """
        self.cutoff = model.cutoff
        self.skin = skin
        self.rebuilds = 0
        self.reference = reference.clone()
        self._device = model.device
        self._frames = tuple(frames)
        index = species_index(frames, model.species)
        refuse_open_boundaries(model, frames)
        counts = [len(frame) for frame in frames]
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self._species = torch.tensor([index[s] for frame in frames for s in frame.species], device=self._device)
        self._structure = torch.tensor(np.repeat(np.arange(len(frames)), counts), device=self._device)
        if reference_cell is None:
            reference_cell = torch.tensor(np.stack([f.cell for f in frames]), device=self._device)
        self.reference_cell = reference_cell.clone()
        self._lists = [self._list(replica) for replica in range(len(frames))]
        self._collect()

    def graph(self, positions: Tensor, field: Tensor, cell: Tensor | None = None) -> Graph:
        """The batch at new positions, listed again where needed.

        Args:
            positions: unwrapped, A, (N, 3), finite.
            field: V/A, (B, 3).
            cell: lattice vectors as rows, A, (B, 3, 3), float64; those listed at where not given.
        """
        moved = self._moved(positions, cell)
        if bool(moved.any()):
            for replica in torch.unique(self._structure[moved]).tolist():
                atoms = slice(self._starts[replica], self._starts[replica + 1])
                self.reference[atoms] = positions[atoms]
                if cell is not None:
                    self.reference_cell[replica] = cell[replica]
                self._lists[replica] = self._list(replica)
            self._collect()
        listed = Graph(
            positions=positions,
            cell=self.reference_cell if cell is None else cell,
            field=field,
            species=self._species,
            structure=self._structure,
            neighbours=self._neighbours,
            shifts=self._shifts,
            mask=self._mask,
        )
        return _compacted(listed, self.cutoff)

    def _moved(self, positions: Tensor, cell: Tensor | None) -> Tensor:
        """Which atoms make their replica's list void, (N,)."""
        if cell is None:
            return ((positions - self.reference) ** 2).sum(-1) > (self.skin / 2) ** 2
        deformation = torch.linalg.solve(self.reference_cell, cell)
        change = (deformation - torch.eye(3, dtype=cell.dtype, device=cell.device)).flatten(1).norm(dim=1)
        # 1 - |F - 1| is a lower bound of the smallest singular value of F.
        allowed = ((1 - change) * (self.cutoff + self.skin) - self.cutoff) / 2
        carried = (self.reference[:, None] @ deformation[self._structure])[:, 0]
        return (positions - carried).norm(dim=-1) > allowed[self._structure]

    def _list(self, replica: int) -> _Listed:
        frame, cell = self._frames[replica], self.reference_cell[replica].cpu().numpy()
        positions = self.reference[self._starts[replica] : self._starts[replica + 1]].cpu().numpy()
        self.rebuilds += 1
        return _Listed(*padded_neighbours(positions, cell, frame.pbc, self.cutoff + self.skin))

    def _collect(self) -> None:
        n_atoms = len(self._structure)
        width = max(listed.mask.shape[1] for listed in self._lists)
        neighbours = np.zeros((n_atoms, width), dtype=np.int64)
        shifts = np.zeros((n_atoms, width, 3), dtype=np.int16)
        mask = np.zeros((n_atoms, width), dtype=bool)
        for listed, start, end in zip(self._lists, self._starts[:-1], self._starts[1:], strict=True):
            filled = slice(start, end), slice(listed.mask.shape[1])
            neighbours[start:end] = start
            neighbours[filled] = listed.neighbours + start
            shifts[filled] = listed.shifts
            mask[filled] = listed.mask
        self._neighbours = torch.tensor(neighbours, device=self._device)
        self._shifts = torch.tensor(shifts, device=self._device)
        self._mask = torch.tensor(mask, device=self._device)


def _compacted(listed: Graph, cutoff: float) -> Graph:
    """The neighbours within the cutoff alone, in the order of the list; padding points to the atom itself."""
    starts = range(0, listed.n_atoms, _AT_A_TIME)
    squares = [listed.vectors_of(slice(start, start + _AT_A_TIME)).square().sum(-1) for start in starts]
    within = listed.mask & (torch.cat(squares) < cutoff**2)
    counts = within.sum(1)
    width = max(int(counts.max()), 1)
    atoms = torch.arange(listed.n_atoms, device=counts.device)[:, None]
    places = (atoms * width + within.cumsum(1) - 1)[within]
    neighbours = atoms.repeat(1, width)
    shifts = listed.shifts.new_zeros((listed.n_atoms, width, 3))
    neighbours.view(-1)[places] = listed.neighbours[within]
    shifts.view(-1, 3)[places] = listed.shifts[within]
    mask = torch.arange(width, device=counts.device) < counts[:, None]
    return listed.replace(neighbours=neighbours, shifts=shifts, mask=mask)
