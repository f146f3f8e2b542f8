"""Functions of pairs, triples and quadruples, linear in their coefficients: fitted before a network learns.

The first orders of the atomic cluster expansion (Drautz, Phys. Rev. B 99, 014104 (2019)), with the field as one more
density. With that of the neighbours of species s about atom i, A_i[s n, lm] = sum_(j of s) b_n(r_ij) Y_lm(r_ij), and
with f_lm(E) the solid harmonics of the field,

    u_i = sum_c p[c] A[c, 00] + sum_(l c c') M_l[c, c'] A[c, l] . A[c', l]                              energy
          - f_1 . ( sum_c d[c] A[c, 1] + sum_(l c c') D_l[c, c'] (A[c, l] x A[c', l + 1])_1 )           dipole
          - f_0 sum_c a_0[c] A[c, 0] - f_2 . sum_c a_2[c] A[c, 2]                                       polarizability

where all coefficients depend on the species of i. Functions of one neighbour have more radial functions. Products of
three densities, and those of two in the polarizability, are in ``products``.
"""

from __future__ import annotations

import torch
from e3nn import o3
from torch import Tensor, nn

from .harmonics import field_harmonics, solid_harmonics
from .operations import matrix_product, row_products
from .products import RandomProducts
from .radial import BesselBasis, polynomial_envelope

PAIR_RADIAL, DENSITY_RADIAL = 16, 5
"""Radial functions of pairs, and of the densities of triples and quadruples."""
DIPOLE_DEGREES = 2
"""Products of neighbouring degrees in the dipole of triples, at most."""


class ManyBody(nn.Module):
    """The energy in a field. Its coefficients are no parameters: ``references`` sets them.

    Args:
        n_species: number of species.
        cutoff: A.
        l_max: highest degree of the angles in triples.
    """

    pairs: Tensor
    energy_triples: Tensor
    dipole_triples: Tensor

    def __init__(self, n_species: int, cutoff: float, l_max: int) -> None:
        super().__init__()
        self.n_species, self.cutoff, self.l_max = n_species, cutoff, l_max
        self.channels = n_species * DENSITY_RADIAL
        self.bessel = BesselBasis(PAIR_RADIAL, cutoff)
        self.degrees = range(min(l_max, DIPOLE_DEGREES))
        # Rows: energy, dipole, and polarizability of degrees 0 and 2.
        self.register_buffer("pairs", torch.zeros(n_species, 4, n_species * PAIR_RADIAL))
        square = (self.channels, self.channels)
        self.register_buffer("energy_triples", torch.zeros(n_species, l_max + 1, *square))
        self.register_buffer("dipole_triples", torch.zeros(n_species, len(self.degrees), *square))
        for degree in self.degrees:
            symbols = o3.wigner_3j(degree, degree + 1, 1, dtype=torch.float64).to(torch.get_default_dtype())
            self.register_buffer(f"to_vector_{degree}", symbols, persistent=False)

        self.products = RandomProducts(n_species, DENSITY_RADIAL, l_max)

    def clear(self) -> None:
        """Set all coefficients to zero."""
        for coefficients in (self.pairs, self.energy_triples, self.dipole_triples, *self.products.coefficients):
            coefficients.zero_()

    def edges(self, vectors: Tensor, mask: Tensor, neighbour_species: Tensor) -> tuple[Tensor, Tensor]:
        """What each neighbour adds to the densities: radial functions (N, S PAIR_RADIAL, K) and harmonics (N, D, K)."""
        r = vectors.square().sum(-1).sqrt()
        envelope = torch.where(mask, polynomial_envelope(r, self.cutoff), 0.0)
        radial = (self.bessel(r) * envelope[..., None]).transpose(1, 2)
        of_species = neighbour_species[:, None] == torch.arange(self.n_species, device=r.device)[:, None]
        weights = (of_species.to(r.dtype)[:, :, None] * radial[:, None]).flatten(1, 2)
        return weights, solid_harmonics((vectors / r[..., None]).transpose(1, 2), max(self.l_max, 2))

    def of_densities(self, weights: Tensor) -> Tensor:
        """The radial functions that densities have, (N, C, K)."""
        return weights.unflatten(1, (self.n_species, PAIR_RADIAL))[:, :, :DENSITY_RADIAL].flatten(1, 2)

    def by_degree(self, density: Tensor, dim: int = 2) -> tuple[Tensor, ...]:
        """A density's components of each degree."""
        return density.narrow(dim, 0, (self.l_max + 1) ** 2).split([2 * n + 1 for n in range(self.l_max + 1)], dim)

    def vector_coupling(self, degree: int) -> Tensor:
        """(A_l x B_(l + 1))_1, (2 l + 1, 2 l + 3, 3), in the order of the harmonics."""
        symbols: Tensor = getattr(self, f"to_vector_{degree}")
        return symbols

    def forward(
        self, vectors: Tensor, mask: Tensor, species: Tensor, neighbour_species: Tensor, field: Tensor
    ) -> Tensor:
        """Energy of each atom, eV, (N,).

        Args:
            vectors: to its neighbours, A, (N, K, 3).
            mask: True for real neighbours, (N, K).
            species: (N,).
            neighbour_species: (N, K).
            field: at each atom, V/A, (N, 3).
        """
        weights, harmonics = self.edges(vectors, mask, neighbour_species)
        external = field_harmonics(field, 2)
        lone = matrix_product(self.pairs[species], weights.contiguous())
        towards = row_products(lone, harmonics[:, :9].contiguous())
        energy = towards[:, 0, 0] - (towards[:, 1, 1:4] * external[:, 1:4]).sum(1)
        energy = energy - towards[:, 2, 0] * external[:, 0] - (towards[:, 3, 4:] * external[:, 4:]).sum(1)
        blocks = self.by_degree(row_products(self.of_densities(weights).contiguous(), harmonics.contiguous()))
        for degree, block in enumerate(blocks):
            coupled = matrix_product(self.energy_triples[species, degree], block.contiguous())
            energy = energy + (coupled * block).sum((1, 2))
        for degree in self.degrees:
            along = torch.einsum("mna,ia->imn", self.vector_coupling(degree), external[:, 1:4])
            coupled = matrix_product(self.dipole_triples[species, degree], blocks[degree + 1].contiguous())
            energy = energy - (matrix_product(blocks[degree].contiguous(), along) * coupled).sum((1, 2))
        return energy + self.products(blocks, species, external)
