"""When a replica has exploded: not finite, too hot, too fast, too large, or with atoms on top of each other."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...dft_inputs.units import BOLTZMANN
from ..graph import Graph
from .particles import Particles
from .settings import DynamicsSettings
from .state import State, cell_volume

_AT_ONCE = 1 << 14
"""Atoms whose distances are in memory at a time."""


class Limits:
    """The limits of a batch of replicas."""

    def __init__(self, settings: DynamicsSettings, particles: Particles, radii: Tensor, start: Tensor) -> None:
        """Prepare.

        Args:
            settings: the limits.
            particles: masses and replicas.
            radii: covalent radii, A, (N,).
            start: cells at the start, A, (B, 3, 3).
        """
        self._settings, self._particles, self._radii = settings, particles, radii
        self._volume = cell_volume(start)
        self._degrees = 3 * particles.sum_replicas(torch.ones_like(particles.masses))

    def exploded(self, state: State, previous: State | None, graph: Graph) -> dict[int, str]:
        """The replicas that passed a limit, with the reason.

        Args:
            state: the batch.
            previous: one step earlier, where there is one.
            graph: neighbours at the positions of the state.
        """
        settings, particles = self._settings, self._particles
        broken = particles.max_replicas((~_finite_atoms(state)).double()) > 0
        broken |= ~(state.enthalpy.isfinite() & state.polarization.isfinite().all(-1))
        temperature = 2 * particles.kinetic_energy(state.velocities) / (self._degrees * BOLTZMANN)
        moved = torch.zeros_like(state.enthalpy)
        if previous is not None:
            moved = particles.max_replicas((state.positions - previous.positions).norm(dim=-1))
        overlap = particles.max_replicas(_overlap(graph, self._radii))
        hot, fast = temperature > settings.max_temperature, moved > settings.max_displacement
        close = overlap * settings.min_distance_ratio > 1
        growth = state.volume / self._volume
        torn = growth.log().abs() > math.log(settings.max_expansion)
        failed = broken | hot | fast | close | torn
        if not bool(failed.any()):
            return {}
        reasons = {}
        for replica in torch.nonzero(failed).flatten().tolist():
            if broken[replica]:
                reasons[replica] = "enthalpy, forces or polarization are not finite"
            elif close[replica]:
                reasons[replica] = f"two atoms at {1 / overlap[replica]:.2f} of the sum of their covalent radii"
            elif fast[replica]:
                reasons[replica] = f"an atom moved {moved[replica]:.2f} A in one step"
            elif hot[replica]:
                reasons[replica] = f"kinetic temperature {temperature[replica]:.0f} K"
            else:
                reasons[replica] = f"the cell has {growth[replica]:.2f} of its volume at the start"
        return reasons


def _finite_atoms(state: State) -> Tensor:
    """Which atoms have finite positions, velocities and forces, (N,)."""
    return torch.stack([state.positions, state.velocities, state.forces]).isfinite().all(-1).all(0)


def _overlap(graph: Graph, radii: Tensor) -> Tensor:
    """Sum of covalent radii over distance, largest of the neighbours of each atom, (N,)."""
    return torch.cat([_overlap_of(graph, radii, slice(i, i + _AT_ONCE)) for i in range(0, graph.n_atoms, _AT_ONCE)])


def _overlap_of(graph: Graph, radii: Tensor, atoms: slice) -> Tensor:
    distances = graph.vectors_of(atoms).double().norm(dim=-1)
    sums = radii[atoms, None] + radii[graph.neighbours[atoms]]
    return torch.where(graph.mask[atoms], sums / distances, torch.zeros_like(sums)).amax(dim=1)
