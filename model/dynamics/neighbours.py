"""A neighbour list with a Verlet skin for a batch of moving replicas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...dft_inputs.records import Frame
from ..graph import Graph, padded_neighbours, species_index
from ..interface import EnthalpyModel


@dataclass
class _Listed:
    """The list of one replica: padded neighbours within cutoff + skin of the positions it was built at."""

    neighbours: np.ndarray
    shifts: np.ndarray
    mask: np.ndarray


class SkinNeighbours:
    """Graphs of replicas whose atoms move.

    A replica is listed within cutoff + skin and listed again when one of its atoms has moved by more than half the
    skin. Every graph is masked by the true cutoff, so it holds exactly the neighbours that a fresh list would give.

    Attributes:
        reference: positions at which each replica was listed, A, (N, 3); a list built from them is the same list.
        rebuilds: how often a replica was listed.
    """

    def __init__(self, model: EnthalpyModel, frames: Sequence[Frame], skin: float, reference: Tensor) -> None:
        """List every replica.

        Args:
            model: gives cutoff, species, device and floating type.
            frames: cell, periodicity and species of each replica.
            skin: A.
            reference: positions to list at, A, (N, 3).
        """
        self.cutoff = model.cutoff
        self.skin = skin
        self.rebuilds = 0
        self.reference = reference.clone()
        self._dtype, self._device = model.dtype, model.device
        self._frames = tuple(frames)
        index = species_index(frames, model.species)
        counts = [len(frame) for frame in frames]
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self._species = torch.tensor([index[s] for frame in frames for s in frame.species], device=self._device)
        self._structure = torch.tensor(np.repeat(np.arange(len(frames)), counts), device=self._device)
        self._cell = torch.tensor(np.stack([f.cell for f in frames]), dtype=self._dtype, device=self._device)
        self._lists = [self._list(replica) for replica in range(len(frames))]
        self._collect()

    def graph(self, positions: Tensor, field: Tensor) -> Graph:
        """The batch at new positions, listed again where needed.

        Args:
            positions: unwrapped, A, (N, 3), finite.
            field: V/A, (B, 3).
        """
        moved = ((positions - self.reference) ** 2).sum(-1) > (self.skin / 2) ** 2
        if bool(moved.any()):
            for replica in torch.unique(self._structure[moved]).tolist():
                atoms = slice(self._starts[replica], self._starts[replica + 1])
                self.reference[atoms] = positions[atoms]
                self._lists[replica] = self._list(replica)
            self._collect()
        listed = Graph(
            positions=positions.to(self._dtype),
            cell=self._cell,
            field=field.to(self._dtype),
            species=self._species,
            structure=self._structure,
            neighbours=self._neighbours,
            shifts=self._shifts,
            mask=self._mask,
        )
        within = (listed.vectors() ** 2).sum(-1) < self.cutoff**2
        return listed.replace(mask=self._mask & within)

    def _list(self, replica: int) -> _Listed:
        frame = self._frames[replica]
        positions = self.reference[self._starts[replica] : self._starts[replica + 1]].cpu().numpy()
        self.rebuilds += 1
        return _Listed(*padded_neighbours(positions, frame.cell, frame.pbc, self.cutoff + self.skin))

    def _collect(self) -> None:
        n_atoms = len(self._structure)
        width = max(listed.mask.shape[1] for listed in self._lists)
        neighbours = np.zeros((n_atoms, width), dtype=np.int64)
        shifts = np.zeros((n_atoms, width, 3))
        mask = np.zeros((n_atoms, width), dtype=bool)
        for listed, start, end in zip(self._lists, self._starts[:-1], self._starts[1:], strict=True):
            filled = slice(start, end), slice(listed.mask.shape[1])
            neighbours[start:end] = start
            neighbours[filled] = listed.neighbours + start
            shifts[filled] = listed.shifts
            mask[filled] = listed.mask
        self._neighbours = torch.tensor(neighbours, device=self._device)
        self._shifts = torch.tensor(shifts, dtype=self._dtype, device=self._device)
        self._mask = torch.tensor(mask, device=self._device)
