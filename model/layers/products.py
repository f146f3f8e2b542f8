"""Products of two and three densities, in random combinations of their channels.

The products of all channels are as many as the cube of their number. Random combinations span what labels can tell
with far fewer (Darby et al., Phys. Rev. Lett. 131, 028001 (2023)). With a[k, l] = sum_c W_l[k, c] A[c, l],

    u_i = sum_(k, l l' l'') q[l l' l'', k] (a[k, l] x a[k, l'])_l'' . a[k, l'']                           energy
          - f_1 . sum_(k, l) ( v[l, k] a[k, 0] (a[k, l - 1] x a[k, l])_1 + w[l, k] |a[k, l]|^2 a[k, 1] )  dipole
          - f_0 sum_(k, l) s[l, k] |a[k, l]|^2 - f_2 . sum_(k, l l') t[l l', k] (a[k, l] x a[k, l'])_2    polarizability

where f_l are the harmonics of the field, and the coefficients depend on the species of i.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement

import torch
from e3nn import o3
from torch import Tensor, nn

COMBINATIONS = 128
"""Random combinations of channels for energy and dipole."""
POLARIZABILITY_COMBINATIONS = 32
"""Those of them that the polarizability has: a frame tells six numbers of it."""
_SEED = 0


class RandomProducts(nn.Module):
    """The energy in a field. Its coefficients are no parameters.

    Args:
        n_species: number of species.
        radial: radial functions of the densities, for each species of neighbour.
        l_max: highest degree.
    """

    mixing: Tensor
    energy: Tensor
    dipole: Tensor
    isotropic: Tensor
    anisotropic: Tensor

    def __init__(self, n_species: int, radial: int, l_max: int) -> None:
        super().__init__()
        self.l_max = l_max
        triples = combinations_with_replacement(range(l_max + 1), 3)
        self.paths = [(a, b, c) for a, b, c in triples if c <= a + b and (a + b + c) % 2 == 0]
        pairs = combinations_with_replacement(range(l_max + 1), 2)
        self.tensor_paths = [(a, b) for a, b in pairs if b - a <= 2 <= a + b and (a + b) % 2 == 0]
        generator = torch.Generator().manual_seed(_SEED)
        mixing = torch.randn(l_max + 1, COMBINATIONS, n_species * radial, generator=generator, dtype=torch.float64)
        # What varies slowly with distance matters most.
        smooth = 1 / torch.arange(1.0, radial + 1, dtype=torch.float64).repeat(n_species)
        self.register_buffer("mixing", (mixing * smooth).to(torch.get_default_dtype()))
        self.register_buffer("energy", torch.zeros(n_species, len(self.paths), COMBINATIONS))
        self.register_buffer("dipole", torch.zeros(n_species, 2 * l_max, COMBINATIONS))
        few = POLARIZABILITY_COMBINATIONS
        self.register_buffer("isotropic", torch.zeros(n_species, l_max + 1, few))
        self.register_buffer("anisotropic", torch.zeros(n_species, len(self.tensor_paths), few))
        vectors = [(degree - 1, degree, 1) for degree in range(1, l_max + 1)]
        for path in {*self.paths, *vectors, *((a, b, 2) for a, b in self.tensor_paths)}:
            self.register_buffer(_name(path), _symbols(*path), persistent=False)

    @property
    def coefficients(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of energy, dipole, and polarizability of degrees 0 and 2, (S, paths, combinations) each."""
        return self.energy, self.dipole, self.isotropic, self.anisotropic

    def combine(self, densities: Sequence[Tensor]) -> list[Tensor]:
        """Random combinations (N, K, 2 l + 1) of densities (N, C, 2 l + 1) of each degree."""
        return [torch.matmul(mixing, density) for mixing, density in zip(self.mixing, densities, strict=True)]

    def scalars(self, combined: Sequence[Tensor]) -> list[Tensor]:
        """Products of three without direction, (N, K) each."""
        return [(self._product(combined, a, b, c) * combined[c]).sum(-1) for a, b, c in self.paths]

    def vectors(self, combined: Sequence[Tensor]) -> list[Tensor]:
        """Products of three that are vectors, (N, K, 3) each, in the order of the harmonics."""
        degrees = range(1, self.l_max + 1)
        turned = [combined[0] * self._product(combined, degree - 1, degree, 1) for degree in degrees]
        return turned + [combined[degree].square().sum(-1, keepdim=True) * combined[1] for degree in degrees]

    def squares(self, combined: Sequence[Tensor]) -> list[Tensor]:
        """Products of two without direction, (N, K') each."""
        return [block[:, :POLARIZABILITY_COMBINATIONS].square().sum(-1) for block in combined]

    def tensors(self, combined: Sequence[Tensor]) -> list[Tensor]:
        """Products of two of degree 2, (N, K', 5) each."""
        few = [block[:, :POLARIZABILITY_COMBINATIONS] for block in combined]
        return [self._product(few, a, b, 2) for a, b in self.tensor_paths]

    def forward(self, densities: Sequence[Tensor], species: Tensor, field: Tensor) -> Tensor:
        """Energy of each atom, eV, (N,).

        Args:
            densities: of each degree, (N, C, 2 l + 1).
            species: (N,).
            field: harmonics of the field, (N, 9).
        """
        combined = self.combine(densities)
        energy, dipole, isotropic, anisotropic = (coefficients[species] for coefficients in self.coefficients)
        total = (torch.stack(self.scalars(combined), 1) * energy).sum((1, 2))
        total = total - (_along(self.vectors(combined), field[:, 1:4]) * dipole).sum((1, 2))
        total = total - (torch.stack(self.squares(combined), 1) * isotropic).sum((1, 2)) * field[:, 0]
        return total - (_along(self.tensors(combined), field[:, 4:]) * anisotropic).sum((1, 2))

    def _product(self, combined: Sequence[Tensor], a: int, b: int, c: int) -> Tensor:
        """(a_a x a_b)_c, (N, K, 2 c + 1)."""
        symbols: Tensor = getattr(self, _name((a, b, c)))
        pairs = combined[a][..., :, None] * combined[b][..., None, :]
        return pairs.flatten(-2) @ symbols


def _along(products: Sequence[Tensor], field: Tensor) -> Tensor:
    """Components of products (N, K, m) along harmonics of the field (N, m), (N, paths, K)."""
    return torch.stack([product @ field[:, :, None] for product in products], 1)[..., 0]


def _name(path: tuple[int, int, int]) -> str:
    return "to_{}_{}_{}".format(*path)


def _symbols(a: int, b: int, c: int) -> Tensor:
    """Matrix from products of degrees a and b to degree c, ((2 a + 1)(2 b + 1), 2 c + 1)."""
    symbols = o3.wigner_3j(a, b, c, dtype=torch.float64).flatten(0, 1)
    return symbols.to(torch.get_default_dtype())
