"""One integrator for all ensembles: half kick, half drift, thermostat, half drift, half kick (BAOAB).

Without a thermostat this is velocity Verlet; with Langevin's it is the BAOAB scheme of B. Leimkuhler and C. Matthews,
Appl. Math. Res. Express 2013, 34; a cell that moves takes part in kicks and drifts (``barostat``). Every part is
symmetric in time, so is the whole, and there is one force evaluation per step. Positions and velocities are float64
whatever the model's precision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .barostat import Barostat
from .electrics import Electrics, Evaluate
from .noise import Noise
from .particles import Particles
from .state import State
from .thermostats import Momenta, Thermostat


@dataclass(frozen=True)
class Integrator:
    """What moves a batch of replicas from one step to the next.

    Attributes:
        particles: masses and replicas.
        evaluate: the model.
        electrics: what is held.
        timestep: fs.
        thermostat: None for none.
        barostat: None in fixed cells.
        chain_length: of a Nose-Hoover chain; 0 without one.
    """

    particles: Particles
    evaluate: Evaluate
    electrics: Electrics
    timestep: float
    thermostat: Thermostat | None = None
    barostat: Barostat | None = None
    chain_length: int = 0

    def start(self, positions: Tensor, velocities: Tensor, cell: Tensor, control: Tensor) -> State:
        """The state at step 0, the cell and the chain at rest.

        Args:
            positions: A, (N, 3).
            velocities: A/fs, (N, 3).
            cell: A, (B, 3, 3).
            control: what is held, V/A, (B, 3).
        """
        out = self.electrics.solve(self.evaluate, positions, cell, control, None)
        zero = torch.zeros_like(out.enthalpy)
        return State(
            step=0,
            positions=positions,
            velocities=velocities,
            forces=out.forces,
            cell=cell,
            rate=torch.zeros_like(cell),
            stress=out.stress,
            control=control,
            field=out.field,
            enthalpy=out.enthalpy,
            polarization=out.polarization,
            work=zero,
            heat=zero,
            chain=zero.new_zeros((len(zero), 1 if self.barostat is None else 2, 2, self.chain_length)),
            origin=out.origin,
            field_change=torch.zeros_like(out.field),
            polarizability=out.polarizability,
        )

    def step(self, state: State, control: Tensor, draw: Callable[[int], Noise]) -> State:
        """The state one timestep later.

        Args:
            state: where the step starts.
            control: what is held, at the end of the step, V/A, (B, 3).
            draw: gives the noise of a step; called where there is a thermostat.
        """
        velocities, rate = self._first_kick(state)
        positions, cell = self._drift(state.positions, state.cell, velocities, rate)
        chain, heat = state.chain, state.heat
        if self.thermostat is not None:
            before = self.kinetic_energies(velocities, rate)
            after = self.thermostat(Momenta(velocities, rate, chain), before, draw(state.step))
            velocities, rate, chain = after.velocities, after.rate, after.chain
            heat = heat + (self.kinetic_energies(velocities, rate) - before).sum(-1)
        positions, cell = self._drift(positions, cell, velocities, rate)
        out = self.electrics.solve(self.evaluate, positions, cell, control, state)
        velocities, rate = self._last_kick(velocities, rate, out.forces, out.stress, cell)
        conjugate = self.electrics.conjugate(state.field, state.polarization, state.cell)
        conjugate = conjugate + self.electrics.conjugate(out.field, out.polarization, cell)
        return State(
            step=state.step + 1,
            positions=positions,
            velocities=velocities,
            forces=out.forces,
            cell=cell,
            rate=rate,
            stress=out.stress,
            control=control,
            field=out.field,
            enthalpy=out.enthalpy,
            polarization=out.polarization,
            work=state.work + 0.5 * (conjugate * (control - state.control)).sum(-1),
            heat=heat,
            chain=chain,
            origin=out.origin,
            field_change=out.field - state.field,
            polarizability=out.polarizability,
        )

    def kinetic_energies(self, velocities: Tensor, rate: Tensor) -> Tensor:
        """Of the bodies, atoms and a cell that moves, eV, (B, bodies)."""
        energies = [self.particles.kinetic_energy(velocities)]
        if self.barostat is not None:
            energies.append(self.barostat.kinetic_energy(rate))
        return torch.stack(energies, 1)

    def conserved(self, state: State) -> Tensor:
        """K + U + integral P.dE + energies of bath and cell, eV, (B,): constant up to the error of the integrator.

        At fixed voltage and fixed displacement, U and the integral are those of ``electrics``.
        """
        total = self.particles.kinetic_energy(state.velocities) + self.electrics.potential(state) + state.work
        if self.thermostat is not None:
            total = total + self.thermostat.energy(state)
        return total if self.barostat is None else total + self.barostat.energy(state.rate, state.cell)

    def _first_kick(self, state: State) -> tuple[Tensor, Tensor]:
        """Velocities and rate after half a step of the forces."""
        if self.barostat is None:
            return self._kick(state.velocities, state.forces), state.rate
        half = self.timestep / 2
        rate = self.barostat.push(state.rate, state.velocities, state.stress, state.cell, half)
        return self._damped_kick(self.barostat, state.velocities, rate, state.forces), rate

    def _last_kick(
        self, velocities: Tensor, rate: Tensor, forces: Tensor, stress: Tensor, cell: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The first kick in reverse order."""
        if self.barostat is None:
            return self._kick(velocities, forces), rate
        velocities = self._damped_kick(self.barostat, velocities, rate, forces)
        return velocities, self.barostat.push(rate, velocities, stress, cell, self.timestep / 2)

    def _kick(self, velocities: Tensor, forces: Tensor) -> Tensor:
        return velocities + self.timestep / 2 / self.particles.masses[:, None] * forces

    def _damped_kick(self, barostat: Barostat, velocities: Tensor, rate: Tensor, forces: Tensor) -> Tensor:
        quarter = self.timestep / 4
        return barostat.slow(self._kick(barostat.slow(velocities, rate, quarter), forces), rate, quarter)

    def _drift(self, positions: Tensor, cell: Tensor, velocities: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
        half = self.timestep / 2
        if self.barostat is None:
            return positions + half * velocities, cell
        return self.barostat.drift(positions, cell, velocities, rate, half)
