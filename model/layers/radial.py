"""Radial functions: Bessel basis and a polynomial envelope that vanishes smoothly at the cutoff."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def polynomial_envelope(r: Tensor, cutoff: float, power: int = 6) -> Tensor:
    """1 at r = 0, and 0 with ``power`` - 4 = 2 continuous derivatives at the cutoff.

    DimeNet, arXiv:2003.03123, eq. 8.
    """
    x = (r / cutoff).clamp(max=1.0)
    p = power
    return 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)


class BesselBasis(nn.Module):
    """sqrt(2/c) sin(n pi r/c)/r for n = 1..size (DimeNet, arXiv:2003.03123, eq. 7)."""

    frequencies: Tensor

    def __init__(self, size: int, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.register_buffer(
            "frequencies", math.pi * torch.arange(1, size + 1, dtype=torch.get_default_dtype()) / cutoff
        )

    def forward(self, r: Tensor) -> Tensor:
        """Distances (...) in A to (..., size)."""
        return math.sqrt(2 / self.cutoff) * torch.sin(r[..., None] * self.frequencies) / r[..., None]
