"""The cell as a body that moves: Martyna, Tobias and Klein's equations, isotropic or in several directions.

With W the velocity gradient of the cell (``rate``), M its mass and f the degrees of freedom of the atoms:

    dr/dt = v + W r        dh/dt = h W^T        m dv/dt = F - m (W + Tr W / f) v
    M dW/dt = sum m v v - V sigma - p V + (2 K / f)

conserves K + U + p V + M Tr(W^T W) / 2 exactly and, with a thermostat, samples the isobaric ensemble (G. J. Martyna,
D. J. Tobias, M. L. Klein, J. Chem. Phys. 101, 4177 (1994)). The field enters through the stress at what is held alone.
Without a bath it is deterministic and reversible in time, so that what is conserved tests the stress in a field.
W stays symmetric: the cell does not turn, also where a fixed Cartesian field would turn it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...dft_inputs.units import BOLTZMANN
from .particles import Particles
from .settings import CellMotion
from .state import cell_volume

_DEGREES: dict[str, int] = {"isotropic": 1, "anisotropic": 3, "flexible": 6}


class Barostat:
    """Moving cells of B replicas.

    Attributes:
        degrees: degrees of freedom of a cell.
        mass: M, eV fs^2, (B,): (f + 3) k_B T tau^2 / 3.
        pressure: that of the surroundings, eV/A^3.
    """

    def __init__(
        self, motion: CellMotion, pressure: float, particles: Particles, temperatures: Tensor, time: float
    ) -> None:
        """Prepare.

        Args:
            motion: which strains are free.
            pressure: eV/A^3.
            particles: the atoms.
            temperatures: of each replica, K, (B,), above zero.
            time: tau, the time in which the cell responds, fs.
        """
        self.degrees = _DEGREES[motion]
        self.mass = (particles.degrees + 3) * BOLTZMANN * temperatures * time**2 / 3
        self.pressure = pressure
        self._particles = particles
        self._identity = torch.eye(3, dtype=temperatures.dtype, device=temperatures.device)

    def allowed(self, matrix: Tensor) -> Tensor:
        """The part of matrices (B, 3, 3) along the free strains: an orthogonal projection."""
        if self.degrees == 1:
            return matrix.diagonal(dim1=1, dim2=2).mean(-1)[:, None, None] * self._identity
        return matrix * self._identity if self.degrees == 3 else (matrix + matrix.transpose(1, 2)) / 2

    def energy(self, rate: Tensor, cell: Tensor) -> Tensor:
        """Kinetic energy of the cells and p V, eV, (B,)."""
        return self.kinetic_energy(rate) + self.pressure * cell_volume(cell)

    def kinetic_energy(self, rate: Tensor) -> Tensor:
        """Kinetic energy of the cells, eV, (B,)."""
        return 0.5 * self.mass * (rate**2).sum((1, 2))

    def internal_pressure(self, velocities: Tensor, stress: Tensor, cell: Tensor) -> Tensor:
        """Pressure of atoms in motion, eV/A^3, (B,)."""
        kinetic = self._particles.kinetic_energy(velocities)
        return 2 * kinetic / (3 * cell_volume(cell)) - stress.diagonal(dim1=1, dim2=2).mean(-1)

    def push(self, rate: Tensor, velocities: Tensor, stress: Tensor, cell: Tensor, time: float) -> Tensor:
        """The rate after the forces on the cell have acted for a time."""
        volume = cell_volume(cell)
        outwards = 2 * self._particles.kinetic_energy(velocities) / self._particles.degrees - self.pressure * volume
        force = self._particles.kinetic_stress(velocities) - volume[:, None, None] * stress
        force = force + outwards[:, None, None] * self._identity
        return rate + time * self.allowed(force) / self.mass[:, None, None]

    def slow(self, velocities: Tensor, rate: Tensor, time: float) -> Tensor:
        """Velocities after the cell's motion has acted on them for a time."""
        trace = rate.diagonal(dim1=1, dim2=2).sum(-1) / self._particles.degrees
        return self._applied(-time * (rate + trace[:, None, None] * self._identity), velocities)

    def drift(
        self, positions: Tensor, cell: Tensor, velocities: Tensor, rate: Tensor, time: float
    ) -> tuple[Tensor, Tensor]:
        """Positions and cells after a time."""
        half = torch.linalg.matrix_exp(rate * time / 2)
        structure = self._particles.structure
        moved = _applied(half, positions, structure) + time * velocities
        return _applied(half, moved, structure), cell @ (half @ half).transpose(1, 2)

    def _applied(self, exponents: Tensor, vectors: Tensor) -> Tensor:
        return _applied(torch.linalg.matrix_exp(exponents), vectors, self._particles.structure)


def _applied(matrices: Tensor, vectors: Tensor, structure: Tensor) -> Tensor:
    """The matrix (B, 3, 3) of its replica times each vector (N, 3)."""
    return (matrices[structure] @ vectors[:, :, None])[:, :, 0]
