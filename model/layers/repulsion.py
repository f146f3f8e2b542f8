"""Short-range repulsion that guards dynamics where no training frame has been: the universal ZBL potential."""

from __future__ import annotations

import torch
from ase.data import atomic_numbers, covalent_radii
from torch import Tensor, nn

from .radial import polynomial_envelope

_COULOMB = 14.399645
"""e^2/(4 pi eps0) in eV A."""


class Repulsion(nn.Module):
    """Ziegler-Biersack-Littmark screened nuclear repulsion, switched off at a fraction of the bond length.

    J. F. Ziegler, J. P. Biersack, U. Littmark, The Stopping and Range of Ions in Solids (1985). The switch lies below
    the distances met in sane frames, so the labels are the network's to explain.

    Args:
        species: chemical symbols in the order of the model.
        reach: cutoff over the sum of covalent radii.
    """

    charges: Tensor
    radii: Tensor

    def __init__(self, species: tuple[str, ...], reach: float = 0.9) -> None:
        super().__init__()
        numbers = [atomic_numbers[symbol] for symbol in species]
        dtype = torch.get_default_dtype()
        self.reach = reach
        self.register_buffer("charges", torch.tensor([float(z) for z in numbers], dtype=dtype))
        self.register_buffer("radii", torch.tensor([covalent_radii[z] for z in numbers], dtype=dtype))

    def forward(self, vectors: Tensor, mask: Tensor, species: Tensor, neighbour_species: Tensor) -> Tensor:
        """Energy of each atom, half of its bonds', eV, (N,).

        Args:
            vectors: to its neighbours, A, (N, K, 3).
            mask: True for real neighbours, (N, K).
            species: (N,).
            neighbour_species: (N, K).
        """
        r, centre, neighbour = vectors.square().sum(-1).sqrt(), species[:, None], neighbour_species
        z_i, z_j = self.charges[centre], self.charges[neighbour]
        x = r * (z_i**0.23 + z_j**0.23) / 0.46850
        screening = (
            0.18175 * torch.exp(-3.19980 * x)
            + 0.50986 * torch.exp(-0.94229 * x)
            + 0.28022 * torch.exp(-0.40290 * x)
            + 0.02817 * torch.exp(-0.20162 * x)
        )
        cutoff = self.reach * (self.radii[centre] + self.radii[neighbour])
        inside = (r / cutoff).clamp(max=1.0)
        pairs = 0.5 * _COULOMB * z_i * z_j / r * screening * polynomial_envelope(inside, 1.0)
        return torch.where(mask, pairs, 0.0).sum(1)
