"""A small charged, polarizable Morse crystal whose responses are all non-trivial, and frames for it."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from fieldloop.dft_inputs.records import Frame
from fieldloop.model.dynamics import DynamicsSettings
from fieldloop.model.dynamics.ensembles import make_electrics
from fieldloop.model.dynamics.ensembles import make_integrator as build_integrator
from fieldloop.model.dynamics.noise import Noise
from fieldloop.model.dynamics.particles import (
    Particles,
    degrees_of_freedom,
    masses_in_internal_units,
    maxwell_boltzmann,
)
from fieldloop.model.graph import Graph, build_graph
from fieldloop.model.interface import EnthalpyModel
from fieldloop.model.responses import compute_responses
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


class SoftCell(EnthalpyModel):
    """Crystals of n bound ions in an elastic, dielectric cell, whose thermodynamics is known.

    With u_i = r_i - s_i h - (the mean of these) the displacements from sites s_i and v the cell volume,
    U = sum_i (k u_i^2 / 2 + g u_i^4 / 4 - q_i E.u_i) + b (v - v0)^2 / 2 - chi v E^2 / 2.
    """

    species = ("Al", "As")
    cutoff = 1.0

    def __init__(self, stiffness: float = 2.0, quartic: float = 0.0, charge: float = 1.0, chi: float = 0.2) -> None:
        super().__init__()
        self.stiffness = nn.Parameter(torch.tensor(stiffness, dtype=torch.float64))
        self.quartic, self.charge, self.chi = quartic, charge, chi
        self.bulk, self.rest = 0.003, 125.0
        self.sites = torch.tensor(
            [[0.1, 0.1, 0.1], [0.6, 0.6, 0.1], [0.6, 0.1, 0.6], [0.1, 0.6, 0.6]], dtype=torch.float64
        )
        self.signs = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)

    def forward(self, graph: Graph) -> torch.Tensor:
        n = graph.n_atoms // graph.n_structures
        u = graph.positions.view(-1, n, 3) - self.sites[:n] @ graph.cell
        u = u - u.mean(1, keepdim=True)
        square = (u**2).sum(-1)
        along = (u * graph.field[:, None]).sum(-1)
        bound = self.stiffness / 2 * square + self.quartic / 4 * square**2 - self.charge * self.signs[:n] * along
        elastic = self.bulk / 2 * (graph.volume() - self.rest) ** 2
        return bound.sum(1) + elastic - self.chi / 2 * graph.volume() * (graph.field**2).sum(-1)

    def frame(self, n: int = 4) -> Frame:
        """n ions at rest."""
        cell = 5.0 * np.eye(3)
        return Frame(species=("Al", "As") * (n // 2), positions=self.sites[:n].numpy() @ cell, cell=cell)


def integrator_of(model: EnthalpyModel, frame: Frame, replicas: int, **settings):
    """An integrator of equal replicas, and where they start: velocities of half the temperature."""
    chosen = DynamicsSettings(steps=1, **settings)
    graph = build_graph([frame] * replicas, model.species, model.cutoff)
    counts = torch.full((replicas,), len(frame))
    degrees = degrees_of_freedom(counts, momentum_conserved=chosen.bath != "langevin")
    masses = masses_in_internal_units(torch.tensor([26.98, 74.92], dtype=torch.float64)[graph.species])
    particles = Particles(masses, graph.structure, degrees)

    def evaluate(positions, cell, field, born=False):
        now = graph.replace(positions=positions, cell=cell, field=field)
        return compute_responses(model, now, stress=chosen.moving_cell, born=born)

    temperatures = torch.tensor(chosen.temperatures_of(replicas))
    electrics = make_electrics(chosen, graph.cell, partial(evaluate, born=True), single_precision=False)
    integrator = build_integrator(chosen, particles, temperatures, evaluate, electrics)
    random = torch.Generator().manual_seed(1)
    half = float(temperatures[0]) / 2
    velocities = torch.cat([maxwell_boltzmann(m, half, random) for m in masses.split(len(frame))])
    control = torch.tensor(np.stack([field(0.0) for field in chosen.fields_of(replicas)]))

    def draw(step):
        atoms, cell = (
            torch.randn(shape, generator=random, dtype=torch.float64) for shape in (velocities.shape, graph.cell.shape)
        )
        return Noise(atoms, cell)

    return integrator, integrator.start(graph.positions, velocities, graph.cell, control), draw


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
def soft_cell():
    """Maker of soft cells."""
    return SoftCell


@pytest.fixture
def make_integrator():
    """Maker of the integrator of some replicas, without engine and neighbour list, and of their state at rest."""
    return integrator_of


@pytest.fixture
def crystal():
    """Maker of frames."""
    return zincblende


@pytest.fixture
def sites() -> Frame:
    """64 isolated atoms on the sites of the oscillators."""
    grid = 10.0 * np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    return Frame(species=("Al",) * 64, positions=grid, cell=40 * np.eye(3), pbc=(False, False, False))
