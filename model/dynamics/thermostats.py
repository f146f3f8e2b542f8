"""Thermostats: each maps the momenta of a batch over one timestep, between the two half drifts of the integrator.

They act on the atoms and, where the cell moves, on its rate as well. What they exchange with the bath is known, so that
every ensemble has a conserved quantity.
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
        chain: Nose-Hoover chain, (B, 2, M).
    """

    velocities: Tensor
    rate: Tensor
    chain: Tensor

    def scaled(self, factor: Tensor, structure: Tensor) -> Momenta:
        """All momenta of each replica times a factor (B,)."""
        return replace(
            self, velocities=factor[structure, None] * self.velocities, rate=factor[:, None, None] * self.rate
        )


class Thermostat(Protocol):
    """A thermostat."""

    def __call__(self, momenta: Momenta, kinetic: Tensor, noise: Noise) -> Momenta:
        """Momenta one timestep later.

        Args:
            momenta: before.
            kinetic: their kinetic energy, cell included, eV, (B,).
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
    """CSVR: all momenta are scaled so that the kinetic energy walks in its canonical distribution.

    G. Bussi, D. Donadio, M. Parrinello, J. Chem. Phys. 126, 014101 (2007), eq. A7; with the cell as in G. Bussi,
    T. Zykova-Timan, M. Parrinello, J. Chem. Phys. 130, 074101 (2009).
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
        self._particles = particles
        self._decay = float(torch.exp(torch.tensor(-timestep / time, dtype=torch.float64)))
        self._mean = 0.5 * BOLTZMANN * temperatures
        # The first number of the cell's noise is the one along the momenta; the rest of the chi square comes from the
        # noise of the atoms and, where these are too few, from the cell's.
        rest = _degrees(particles, barostat) - 1
        counts = 3 * particles.sum_replicas(torch.ones_like(particles.masses))
        ends = torch.cumsum(counts, 0) - counts
        place = (
            torch.arange(3 * len(particles.masses), device=rest.device).view(-1, 3) - ends[particles.structure, None]
        )
        self._atoms_used = (place < rest[particles.structure, None]).double()
        self._cell_used = (torch.arange(1, 9, device=rest.device) <= (rest - counts)[:, None]).double()

    def __call__(self, momenta: Momenta, kinetic: Tensor, noise: Noise) -> Momenta:
        """Momenta after the step."""
        flat = noise.cell.flatten(1)
        first = flat[:, 0]
        others = self._particles.sum_replicas((noise.atoms**2 * self._atoms_used).sum(-1))
        squares = first**2 + others + (flat[:, 1:] ** 2 * self._cell_used).sum(-1)
        c, share = self._decay, self._mean / kinetic.clamp(min=1e-30)
        root = torch.sqrt((1 - c) * share)
        square = c + root**2 * squares + 2 * c**0.5 * root * first
        sign = torch.where(c**0.5 + root * first < 0, -1.0, 1.0)
        return momenta.scaled(sign * square.clamp(min=0).sqrt(), self._particles.structure)

    def energy(self, state: State) -> Tensor:
        """What the bath has given is what it lacks."""
        return -state.heat


class NoseHoover:
    """A chain of thermostats, deterministic and reversible in time.

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
        self._kt = BOLTZMANN * temperatures
        self._target = _degrees(particles, barostat) * self._kt
        masses = (self._kt * time**2)[:, None].repeat(1, CHAIN)
        masses[:, 0] = self._target * time**2
        self._masses = masses

    def __call__(self, momenta: Momenta, kinetic: Tensor, noise: Noise) -> Momenta:
        """Momenta after the step."""
        position, velocity = (list(part.unbind(1)) for part in momenta.chain.unbind(1))
        factor = torch.ones_like(kinetic)
        for weight in _SUZUKI_YOSHIDA:
            time = weight * self._timestep
            self._push(velocity, kinetic * factor**2, time / 2, inwards=True)
            factor = factor * torch.exp(-time * velocity[0])
            position = [p + time * v for p, v in zip(position, velocity, strict=True)]
            self._push(velocity, kinetic * factor**2, time / 2, inwards=False)
        chain = torch.stack([torch.stack(position, 1), torch.stack(velocity, 1)], 1)
        return replace(momenta, chain=chain).scaled(factor, self._structure)

    def energy(self, state: State) -> Tensor:
        """Sum of Q_j v_j^2 / 2 + f k_B T eta_1 + sum of k_B T eta_j."""
        position, velocity = state.chain.unbind(1)
        return (
            0.5 * (self._masses * velocity**2).sum(-1)
            + self._target * position[:, 0]
            + self._kt * position[:, 1:].sum(-1)
        )

    def _push(self, velocity: list[Tensor], kinetic: Tensor, time: float, *, inwards: bool) -> None:
        """Velocities of the chain over a time, from its end to the particles or back; in place."""
        places = range(CHAIN)
        for j in reversed(places) if inwards else places:
            drag = torch.exp(-time / 2 * velocity[j + 1]) if j + 1 < CHAIN else 1.0
            pulled = 2 * kinetic - self._target if j == 0 else self._masses[:, j - 1] * velocity[j - 1] ** 2 - self._kt
            velocity[j] = (velocity[j] * drag + time * pulled / self._masses[:, j]) * drag


def _degrees(particles: Particles, barostat: Barostat | None) -> Tensor:
    """Degrees of freedom of atoms and cell, (B,)."""
    return particles.degrees if barostat is None else particles.degrees + barostat.degrees
