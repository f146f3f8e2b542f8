"""When a replica has exploded: not finite, too hot, too fast, or with atoms on top of each other."""

from __future__ import annotations

import torch
from torch import Tensor

from ..graph import Graph
from .integrators import Particles, State
from .settings import DynamicsSettings


def exploded(
    state: State, previous: State | None, graph: Graph, particles: Particles, radii: Tensor, settings: DynamicsSettings
) -> dict[int, str]:
    """The replicas of a batch that passed a limit, with the reason.

    Args:
        state: the batch.
        previous: one step earlier, where there is one.
        graph: neighbours at the positions of the state.
        particles: masses and replicas.
        radii: covalent radii, A, (N,).
        settings: the limits.
    """
    n = particles.n_replicas
    atomic = torch.stack([state.positions, state.velocities, state.forces]).isfinite().all(-1).all(0)
    broken = particles.max_replicas((~atomic).double()) > 0
    broken |= ~(state.enthalpy.isfinite() & state.polarization.isfinite().all(-1))
    temperature = particles.kinetic_temperature(state.velocities)
    moved = torch.zeros(n, dtype=torch.float64, device=state.positions.device)
    if previous is not None:
        moved = particles.max_replicas((state.positions - previous.positions).norm(dim=-1))
    overlap = particles.max_replicas(_overlap(graph, radii))
    hot, fast = temperature > settings.max_temperature, moved > settings.max_displacement
    close = overlap * settings.min_distance_ratio > 1
    failed = broken | hot | fast | close
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
        else:
            reasons[replica] = f"kinetic temperature {temperature[replica]:.0f} K"
    return reasons


def _overlap(graph: Graph, radii: Tensor) -> Tensor:
    """Sum of covalent radii over distance, largest of the neighbours of each atom, (N,)."""
    distances = graph.vectors().double().norm(dim=-1)
    sums = radii[:, None] + radii[graph.neighbours]
    return torch.where(graph.mask, sums / distances, torch.zeros_like(sums)).amax(dim=1)
