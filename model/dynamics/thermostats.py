"""Thermostats: each maps the momenta of a batch over one timestep, between the two half drifts of the integrator.

A replica has one body, its atoms, or two, where the cell moves as well: each has a bath of its own. What they exchange
with it is known, so that every ensemble has a conserved quantity.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ...dft_inputs.units import BOLTZMANN
from .barostat import Barostat
from .noise import Noise
from .particles import Particles
from .state import State

CHAIN = 3
"""Length of a Nose-Hoover chain."""

_SUZUKI_YOSHIDA = (1 / (2 - 2 ** (1 / 3)), 1 - 2 / (2 - 2 ** (1 / 3)), 1 / (2 - 2 ** (1 / 3)))
"""Weights of three substeps that make a symmetric product formula one of fourth order."""


@dataclass(frozen=True)
class Momenta:
    """What a thermostat acts on.

    Attributes:
        velocities: A/fs, (N, 3).
        rate: of the cell, 1/fs, (B, 3, 3).
        chain: Nose-Hoover chains of each body, positions and velocities, (B, bodies, 2, M).
    """

    velocities: Tensor
    rate: Tensor
    chain: Tensor

    def scaled(self, factors: Tensor, structure: Tensor) -> Momenta:
        """The momenta of each body times its factor, (B, bodies)."""
        velocities = factors[structure, :1] * self.velocities
        rate = self.rate if factors.shape[1] == 1 else factors[:, 1, None, None] * self.rate
        return replace(self, velocities=velocities, rate=rate)


class Thermostat(Protocol):
    """A thermostat."""

    def __call__(self, momenta: Momenta, kinetic: Tensor, noise: Noise) -> Momenta:
        """Momenta one timestep later.

        Args:
            momenta: before.
            kinetic: their kinetic energies, eV, (B, bodies).
            noise: of this step.
        """
        ...

    def energy(self, state: State) -> Tensor:
        """Energy of the bath, up to a constant, eV, (B,)."""
        ...


class Langevin:
    """The Ornstein-Uhlenbeck step v -> c v + sqrt((1 - c^2) k_B T / m) xi with c = exp(-friction timestep)."""

    def __init__(
        self,
        particles: Particles,
        barostat: Barostat | None,
        temperatures: Tensor,
        friction: float,
        timestep: float,
    ) -> None:
        """Prepare the coefficients.

        Args:
            particles: the atoms.
            barostat: the cell, where it moves.
            temperatures: of each replica, K, (B,).
            friction: 1/fs.
            timestep: fs.
        """
        self._barostat = barostat
        self._damping = float(torch.exp(torch.tensor(-friction * timestep, dtype=torch.float64)))
        squares = (1 - self._damping**2) * BOLTZMANN * temperatures
        self._spread = torch.sqrt(squares[particles.structure] / particles.masses)[:, None]
        if barostat is not None:
            self._cell_spread = torch.sqrt(squares / barostat.mass)[:, None, None]

    def __call__(self, momenta: Momenta, kinetic: Tensor, noise: Noise) -> Momenta:
        """Momenta after the step."""
        velocities = self._damping * momenta.velocities + self._spread * noise.atoms
        rate = momenta.rate
        if self._barostat is not None:
            rate = self._damping * rate + self._cell_spread * self._barostat.allowed(noise.cell)
        return replace(momenta, velocities=velocities, rate=rate)

    def energy(self, state: State) -> Tensor:
        """What the bath has given is what it lacks."""
        return -state.heat


class StochasticRescaling:
    """CSVR: all momenta of a body are scaled so that its kinetic energy walks in the canonical distribution.

    G. Bussi, D. Donadio, M. Parrinello, J. Chem. Phys. 126, 014101 (2007), eq. A7.
    """

    def __init__(
        self,
        particles: Particles,
        barostat: Barostat | None,
        temperatures: Tensor,
        time: float,
        timestep: float,
    ) -> None:
        """Prepare the coefficients.

        Args:
            particles: the atoms.
            barostat: the cell, where it moves.
            temperatures: of each replica, K, (B,).
            time: relaxation time of the kinetic energy, fs.
            timestep: fs.
        """
        self._particles, self._barostat = particles, barostat
        self._decay = float(torch.exp(torch.tensor(-timestep / time, dtype=torch.float64)))
        self._mean = 0.5 * BOLTZMANN * temperatures[:, None]
        # As many squares of the noise as there are degrees of freedom but one, which is along the momenta.
        counts = 3 * particles.sum_replicas(torch.ones_like(particles.masses))
        starts = torch.cumsum(counts, 0) - counts
        place = torch.arange(3 * len(particles.masses), device=counts.device).view(-1, 3)
        place = place - starts[particles.structure, None]
        self._used = (place < particles.degrees[particles.structure, None] - 1).double()

    def __call__(self, momenta: Momenta, kinetic: Tensor, noise: Noise) -> Momenta:
        """Momenta after the step."""
        flat = noise.cell.flatten(1)
        along, squares = flat[:, :1], self._particles.sum_replicas((noise.atoms**2 * self._used).sum(-1))[:, None]
        if self._barostat is not None:
            along = flat[:, :2]
            of_cell = (flat[:, 2 : 1 + self._barostat.degrees] ** 2).sum(-1, keepdim=True)
            squares = torch.cat([squares, of_cell], 1)
        c = self._decay
        root = torch.sqrt((1 - c) * self._mean / kinetic.clamp(min=1e-30))
        square = c + root**2 * (along**2 + squares) + 2 * c**0.5 * root * along
        sign = torch.where(c**0.5 + root * along < 0, -1.0, 1.0)
        return momenta.scaled(sign * square.clamp(min=0).sqrt(), self._particles.structure)

    def energy(self, state: State) -> Tensor:
        """What the bath has given is what it lacks."""
        return -state.heat


class NoseHoover:
    """A chain of thermostats for each body, deterministic and reversible in time.

    G. J. Martyna, M. L. Klein, M. Tuckerman, J. Chem. Phys. 97, 2635 (1992); integrated by the Suzuki-Yoshida
    factorization of G. J. Martyna, M. E. Tuckerman, D. J. Tobias, M. L. Klein, Mol. Phys. 87, 1117 (1996). Masses are
    Q_1 = f k_B T tau^2 and Q_j = k_B T tau^2.
    """

    def __init__(
        self,
        particles: Particles,
        barostat: Barostat | None,
        temperatures: Tensor,
        time: float,
        timestep: float,
    ) -> None:
        """Prepare the masses.

        Args:
            particles: the atoms.
            barostat: the cell, where it moves.
            temperatures: of each replica, K, (B,), above zero.
            time: tau, fs.
            timestep: fs.
        """
        self._structure = particles.structure
        self._timestep = timestep
        self._kt = BOLTZMANN * temperatures[:, None]
        degrees = [particles.degrees]
        if barostat is not None:
            degrees.append(torch.full_like(particles.degrees, barostat.degrees))
        self._target = torch.stack(degrees, 1) * self._kt
        first = self._target * time**2
        self._masses = torch.stack([first, *[torch.ones_like(first) * self._kt * time**2] * (CHAIN - 1)], -1)

    def __call__(self, momenta: Momenta, kinetic: Tensor, noise: Noise) -> Momenta:
        """Momenta after the step."""
        position, rates = momenta.chain.unbind(2)
        velocity = list(rates.unbind(-1))
        factor = torch.ones_like(kinetic)
        for weight in _SUZUKI_YOSHIDA:
            time = weight * self._timestep
            self._push(velocity, kinetic * factor**2, time / 2, inwards=True)
            factor = factor * torch.exp(-time * velocity[0])
            position = position + time * torch.stack(velocity, -1)
            self._push(velocity, kinetic * factor**2, time / 2, inwards=False)
        chain = torch.stack([position, torch.stack(velocity, -1)], 2)
        return replace(momenta, chain=chain).scaled(factor, self._structure)

    def energy(self, state: State) -> Tensor:
        """Sum over the bodies of sum Q_j v_j^2 / 2 + f k_B T eta_1 + sum k_B T eta_j."""
        position, velocity = state.chain.unbind(2)
        kinetic = 0.5 * (self._masses * velocity**2).sum(-1)
        return (kinetic + self._target * position[..., 0] + self._kt * position[..., 1:].sum(-1)).sum(-1)

    def _push(self, velocity: list[Tensor], kinetic: Tensor, time: float, *, inwards: bool) -> None:
        """Velocities of the chain over a time, from its end to the body or back; in place."""
        places = range(CHAIN)
        for j in reversed(places) if inwards else places:
            drag = torch.exp(-time / 2 * velocity[j + 1]) if j + 1 < CHAIN else 1.0
            pulled = (
                2 * kinetic - self._target if j == 0 else self._masses[..., j - 1] * velocity[j - 1] ** 2 - self._kt
            )
            velocity[j] = (velocity[j] * drag + time * pulled / self._masses[..., j]) * drag
