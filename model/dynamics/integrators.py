"""Integrators for a batch of replicas in a field that may depend on time.

``nve`` is velocity Verlet; ``langevin`` is BAOAB (Leimkuhler and Matthews, Appl. Math. Res. Express 2013, 34):
half kick, half drift, exact Ornstein-Uhlenbeck step, half drift, half kick, one force evaluation per step. Positions
and velocities are float64 whatever the model's precision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...dft_inputs.units import AMU_SQUARE_ANGSTROM_PER_SQUARE_FS_IN_EV, BOLTZMANN
from ..responses import Responses

NOISE_BLOCK = 16
"""Steps of noise drawn at once, so that a batch of many replicas does not wait for as many small draws."""


@dataclass(frozen=True)
class Particles:
    """What does not move in a batch of B replicas with N atoms in all.

    Attributes:
        masses: eV fs^2/A^2, (N,).
        structure: replica of each atom, (N,).
        n_replicas: B.
    """

    masses: Tensor
    structure: Tensor
    n_replicas: int

    def sum_replicas(self, per_atom: Tensor) -> Tensor:
        """Sum (N, ...) over the atoms of each replica, (B, ...)."""
        out = per_atom.new_zeros((self.n_replicas, *per_atom.shape[1:]))
        return out.index_add(0, self.structure, per_atom)

    def max_replicas(self, per_atom: Tensor) -> Tensor:
        """Largest of (N,) over the atoms of each replica, (B,); not below zero."""
        out = per_atom.new_zeros(self.n_replicas)
        return out.scatter_reduce(0, self.structure, per_atom, "amax")

    def kinetic_energy(self, velocities: Tensor) -> Tensor:
        """Kinetic energy of each replica, eV, (B,)."""
        return self.sum_replicas(0.5 * self.masses * (velocities**2).sum(-1))

    def kinetic_temperature(self, velocities: Tensor) -> Tensor:
        """2 K / (3 N k_B) of each replica, K, (B,)."""
        degrees = 3 * self.sum_replicas(torch.ones_like(self.masses))
        return 2 * self.kinetic_energy(velocities) / (degrees * BOLTZMANN)


@dataclass(frozen=True)
class State:
    """A moment of a batch of replicas. All tensors are float64.

    Attributes:
        step: steps done.
        positions: unwrapped, A, (N, 3).
        velocities: A/fs, (N, 3).
        forces: eV/A, (N, 3).
        field: V/A, (B, 3).
        enthalpy: eV, (B,).
        polarization: cell dipole, e A, (B, 3).
        work: integral of P.dE since the start (trapezoid), eV, (B,).
        heat: energy taken up from the bath since the start, eV, (B,).
    """

    step: int
    positions: Tensor
    velocities: Tensor
    forces: Tensor
    field: Tensor
    enthalpy: Tensor
    polarization: Tensor
    work: Tensor
    heat: Tensor

    def conserved(self, particles: Particles) -> Tensor:
        """K + U + integral P.dE - heat, eV, (B,): constant up to the error of the integrator in every ensemble.

        At fixed E the forces conserve K + U(R, E); a changing field adds dU = -P.dE.
        """
        return particles.kinetic_energy(self.velocities) + self.enthalpy + self.work - self.heat


Evaluate = Callable[[Tensor, Tensor], Responses]
"""(positions (N, 3), field (B, 3)) -> responses."""

Thermostat = Callable[[Tensor], Tensor]
"""velocities (N, 3) -> velocities (N, 3)."""


def initial_state(positions: Tensor, velocities: Tensor, field: Tensor, evaluate: Evaluate) -> State:
    """The state at step 0."""
    out = evaluate(positions, field)
    enthalpy = out.enthalpy.double()
    zero = torch.zeros_like(enthalpy)
    return State(0, positions, velocities, out.forces.double(), field, enthalpy, out.polarization.double(), zero, zero)


def advance(
    state: State,
    field: Tensor,
    evaluate: Evaluate,
    particles: Particles,
    timestep: float,
    thermostat: Thermostat | None = None,
) -> State:
    """One step: velocity Verlet, or BAOAB with a thermostat between the two half drifts.

    Args:
        state: where the step starts.
        field: at the end of the step, V/A, (B, 3).
        evaluate: enthalpy, forces and polarization.
        particles: masses and replicas.
        timestep: fs.
        thermostat: the Ornstein-Uhlenbeck step of the velocities.
    """
    half_kick = timestep / 2 / particles.masses[:, None]
    velocities = state.velocities + half_kick * state.forces
    positions = state.positions + timestep / 2 * velocities
    heat = state.heat
    if thermostat is not None:
        before = particles.kinetic_energy(velocities)
        velocities = thermostat(velocities)
        heat = heat + particles.kinetic_energy(velocities) - before
    positions = positions + timestep / 2 * velocities
    out = evaluate(positions, field)
    forces, polarization = out.forces.double(), out.polarization.double()
    work = state.work + 0.5 * ((state.polarization + polarization) * (field - state.field)).sum(-1)
    return replace(
        state,
        step=state.step + 1,
        positions=positions,
        velocities=velocities + half_kick * forces,
        forces=forces,
        field=field,
        enthalpy=out.enthalpy.double(),
        polarization=polarization,
        work=work,
        heat=heat,
    )


class Langevin:
    """The Ornstein-Uhlenbeck step v -> c v + sqrt((1 - c^2) k_B T / m) xi with c = exp(-friction timestep)."""

    def __init__(self, masses: Tensor, temperatures: Tensor, friction: float, timestep: float) -> None:
        """Prepare the coefficients.

        Args:
            masses: eV fs^2/A^2, (N,).
            temperatures: K, (N,).
            friction: 1/fs.
            timestep: fs.
        """
        self._damping = float(torch.exp(torch.tensor(-friction * timestep, dtype=torch.float64)))
        self._spread = torch.sqrt((1 - self._damping**2) * BOLTZMANN * temperatures / masses)[:, None]

    def __call__(self, velocities: Tensor, noise: Tensor) -> Tensor:
        """Velocities after the step, (N, 3), from standard normal noise, (N, 3)."""
        return self._damping * velocities + self._spread * noise


class NoiseStream:
    """Standard normal numbers for each step, from one generator per replica.

    What a replica draws does not depend on which others share its batch, and the stream is resumable: ``states``
    and ``block`` give it back.

    Attributes:
        states: state of each generator before the block in use, as bytes.
        block: number of the block in use; -1 before the first.
    """

    def __init__(self, generators: Sequence[torch.Generator], counts: Sequence[int]) -> None:
        """Start a stream.

        Args:
            generators: one per replica; they are used up by the stream.
            counts: atoms of each replica.
        """
        self.block = -1
        self.states = [generator.get_state() for generator in generators]
        self._generators = list(generators)
        self._counts = list(counts)
        self._rows = torch.empty(0)

    @classmethod
    def resumed(
        cls, states: Sequence[Tensor], block: int, counts: Sequence[int], device: torch.device | str
    ) -> NoiseStream:
        """Continue the stream that had these ``states`` and this ``block``."""
        generators = [torch.Generator(device=device) for _ in states]
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        stream = cls(generators, counts)
        if block >= 0:
            stream.block = block - 1
            stream._draw()
        return stream

    def at(self, step: int) -> Tensor:
        """Noise of a step, (N, 3), float64. Steps are asked for in ascending order."""
        while self.block < step // NOISE_BLOCK:
            self._draw()
        return self._rows[step % NOISE_BLOCK]

    def keep(self, replicas: Sequence[int]) -> NoiseStream:
        """The stream of some of the replicas."""
        device = self._generators[0].device
        counts = [self._counts[i] for i in replicas]
        return NoiseStream.resumed([self.states[i] for i in replicas], self.block, counts, device)

    def _draw(self) -> None:
        self.states = [generator.get_state() for generator in self._generators]
        draws = [
            torch.randn((NOISE_BLOCK, count, 3), generator=generator, device=generator.device, dtype=torch.float64)
            for generator, count in zip(self._generators, self._counts, strict=True)
        ]
        self._rows = torch.cat(draws, dim=1)
        self.block += 1


def masses_in_internal_units(masses_u: Tensor) -> Tensor:
    """Masses in eV fs^2/A^2 from atomic mass units."""
    return masses_u * AMU_SQUARE_ANGSTROM_PER_SQUARE_FS_IN_EV


def maxwell_boltzmann(masses: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Velocities of one replica at a temperature with zero total momentum, A/fs, (N, 3).

    Args:
        masses: eV fs^2/A^2, (N,).
        temperature: K.
        generator: source of the random numbers, on the device of the masses.
    """
    noise = torch.randn((len(masses), 3), generator=generator, device=masses.device, dtype=torch.float64)
    velocities = torch.sqrt(BOLTZMANN * temperature / masses)[:, None] * noise
    if len(masses) == 1:
        return velocities
    return velocities - (masses[:, None] * velocities).sum(0) / masses.sum()
