"""An energy linear in its coefficients: functions of pairs and triples, fitted by least squares before a network learns.

The first two orders of the atomic cluster expansion (Drautz, Phys. Rev. B 99, 014104 (2019)). With the density of
neighbours of species s about atom i, A_i[s n, lm] = sum_(j of s) b_n(r_ij) Y_lm(r_ij),

    u_i = sum_(s n) p[s_i, s n] A_i[s n, 00] + sum_l sum_(c c') M_l[s_i, c, c'] sum_m A_i[c, lm] A_i[c', lm]

Pairs have more radial functions than triples.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .harmonics import solid_harmonics
from .operations import matrix_product, row_products
from .radial import BesselBasis, polynomial_envelope

PAIR_RADIAL, TRIPLE_RADIAL = 16, 5
"""Radial functions of pairs and of triples."""


class ThreeBody(nn.Module):
    """The energy. Its coefficients are no parameters: ``references`` sets them.

    Args:
        n_species: number of species.
        cutoff: A.
        l_max: highest degree of the angles in triples.
    """

    pairs: Tensor
    triples: Tensor

    def __init__(self, n_species: int, cutoff: float, l_max: int) -> None:
        super().__init__()
        self.n_species, self.cutoff, self.l_max = n_species, cutoff, l_max
        self.channels = n_species * TRIPLE_RADIAL
        self.bessel = BesselBasis(PAIR_RADIAL, cutoff)
        self.register_buffer("pairs", torch.zeros(n_species, n_species * PAIR_RADIAL))
        self.register_buffer("triples", torch.zeros(n_species, l_max + 1, self.channels, self.channels))

    def edges(self, vectors: Tensor, mask: Tensor, neighbour_species: Tensor) -> tuple[Tensor, Tensor]:
        """What each neighbour adds to the densities: radial functions (N, S PAIR_RADIAL, K) and harmonics (N, D, K)."""
        r = vectors.square().sum(-1).sqrt()
        envelope = torch.where(mask, polynomial_envelope(r, self.cutoff), 0.0)
        radial = (self.bessel(r) * envelope[..., None]).transpose(1, 2)
        of_species = neighbour_species[:, None] == torch.arange(self.n_species, device=r.device)[:, None]
        weights = (of_species.to(r.dtype)[:, :, None] * radial[:, None]).flatten(1, 2)
        return weights, solid_harmonics((vectors / r[..., None]).transpose(1, 2), self.l_max)

    def triple_channels(self, weights: Tensor) -> Tensor:
        """The radial functions that triples have, (N, C, K)."""
        return weights.unflatten(1, (self.n_species, PAIR_RADIAL))[:, :, :TRIPLE_RADIAL].flatten(1, 2)

    def forward(self, vectors: Tensor, mask: Tensor, species: Tensor, neighbour_species: Tensor) -> Tensor:
        """Energy of each atom, eV, (N,).

        Args:
            vectors: to its neighbours, A, (N, K, 3).
            mask: True for real neighbours, (N, K).
            species: (N,).
            neighbour_species: (N, K).
        """
        weights, harmonics = self.edges(vectors, mask, neighbour_species)
        energy = (self.pairs[species] * weights.sum(2)).sum(1)
        density = row_products(self.triple_channels(weights).contiguous(), harmonics.contiguous())
        widths = [2 * degree + 1 for degree in range(self.l_max + 1)]
        for degree, block in enumerate(density.split(widths, 2)):
            coupled = matrix_product(self.triples[species, degree], block.contiguous())
            energy = energy + (coupled * block).sum((1, 2))
        return energy
