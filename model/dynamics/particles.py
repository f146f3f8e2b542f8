"""The atoms of a batch of replicas: masses, kinetic energy, and velocities to start from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...dft_inputs.units import AMU_SQUARE_ANGSTROM_PER_SQUARE_FS_IN_EV, BOLTZMANN


@dataclass(frozen=True)
class Particles:
    """What does not move in a batch of B replicas with N atoms in all.

    Attributes:
        masses: eV fs^2/A^2, (N,).
        structure: replica of each atom, (N,).
        degrees: degrees of freedom of the atoms of each replica, float64, (B,).
    """

    masses: Tensor
    structure: Tensor
    degrees: Tensor

    @property
    def n_replicas(self) -> int:
        """Number of replicas, B."""
        return len(self.degrees)

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

    def kinetic_stress(self, velocities: Tensor) -> Tensor:
        """Sum of m v v of each replica, eV, (B, 3, 3)."""
        momenta = self.masses[:, None] * velocities
        return self.sum_replicas(momenta[:, :, None] * velocities[:, None, :])

    def temperature(self, kinetic: Tensor) -> Tensor:
        """2 K / (f k_B) of each replica, K, (B,)."""
        return 2 * kinetic / (self.degrees * BOLTZMANN)


def degrees_of_freedom(counts: Tensor, *, momentum_conserved: bool) -> Tensor:
    """Degrees of freedom of replicas with these numbers of atoms, float64, (B,).

    3 N where a bath acts on every atom; 3 N - 3 where the total momentum stays zero. A single atom has 3.
    """
    degrees = 3.0 * counts.double()
    return torch.where(counts > 1, degrees - 3.0, degrees) if momentum_conserved else degrees


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
