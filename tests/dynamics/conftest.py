"""A small charged, polarizable Morse crystal whose responses are all non-trivial, and frames for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fieldloop.dft_inputs.records import Frame
from fieldloop.model.graph import Graph
from fieldloop.model.interface import EnthalpyModel
from torch import nn


class PolarizableMorse(EnthalpyModel):
    """Morse pairs w(r) D ((1 - e^{-a (r - r0)})^2 - 1), charges -E . sum_i q_i r_i, bonds -1/2 alpha(R) E^2.

    The bonds have -1/2 w(r) (a0 E^2 + a1 (u_ij . E)^2); w = (1 - (r/rc)^2)^3 vanishes at the cutoff with two
    derivatives. U is even under inversion of structure and field.
    """

    species = ("Al", "As")

    def __init__(self, cutoff: float = 5.0, charge: float = 1.0) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.depth = nn.Parameter(torch.tensor(1.1, dtype=torch.float64))
        self.register_buffer("charges", torch.tensor([charge, -charge], dtype=torch.float64))

    def forward(self, graph: Graph) -> torch.Tensor:
        vectors = graph.vectors()
        square = (vectors**2).sum(-1)
        r = square.sqrt()
        envelope = torch.where(graph.mask, (1 - square / self.cutoff**2) ** 3, torch.zeros_like(r))
        unlike = graph.species[:, None] != graph.species[graph.neighbours]
        r0 = torch.where(unlike, 2.45, 4.0).to(r.dtype)
        pair = self.depth * ((1 - torch.exp(-1.4 * (r - r0))) ** 2 - 1)
        field = graph.field[graph.structure]
        along = torch.einsum("nkx,nx->nk", vectors, field) / r
        polarizable = 0.4 * (field**2).sum(-1, keepdim=True) + 0.6 * along**2
        per_atom = (envelope * (pair - polarizable) / 2).sum(1)
        per_atom = per_atom - self.charges[graph.species] * (graph.positions * field).sum(-1)
        return graph.sum_structures(per_atom)


class Oscillators(EnthalpyModel):
    """Independent charged oscillators about the multiples of 10 A: U = sum_i 1/2 k (r_i - s_i)^2 - q E.r_i."""

    species = ("Al", "As")
    cutoff = 3.0

    def __init__(self, stiffness: float = 2.0, charge: float = 1.0) -> None:
        super().__init__()
        self.stiffness = nn.Parameter(torch.tensor(stiffness, dtype=torch.float64))
        self.charge = charge

    def forward(self, graph: Graph) -> torch.Tensor:
        r = graph.positions
        displaced = r - 10.0 * torch.round(r.detach() / 10.0)
        energy = 0.5 * self.stiffness * (displaced**2).sum(-1)
        return graph.sum_structures(energy - self.charge * (r * graph.field[graph.structure]).sum(-1))


def zincblende(a: float = 5.66, rattle: float = 0.0, seed: int = 0, repeat: tuple[int, int, int] = (1, 1, 1)) -> Frame:
    """The conventional AlAs cell, rattled."""
    from ase.build import bulk

    atoms = bulk("AlAs", "zincblende", a=a, cubic=True) * repeat
    atoms.positions += rattle * np.random.default_rng(seed).normal(size=atoms.positions.shape)
    return Frame.from_atoms(atoms)


@pytest.fixture
def morse() -> PolarizableMorse:
    return PolarizableMorse()


@pytest.fixture
def oscillators() -> Oscillators:
    return Oscillators()


@pytest.fixture
def crystal():
    """Maker of frames."""
    return zincblende


@pytest.fixture
def sites() -> Frame:
    """64 isolated atoms on the sites of the oscillators."""
    grid = 10.0 * np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    return Frame(species=("Al",) * 64, positions=grid, cell=40 * np.eye(3), pbc=(False, False, False))
