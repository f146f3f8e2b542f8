"""A plain multilayer perceptron whose activations keep unit variance, features first."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from .operations import silu

_SILU_GAIN = 1.6790  # 1/sqrt(E[silu(x)^2]) for standard normal x


class Perceptron(nn.Module):
    """SiLU layers without biases, so that a zero input stays zero where a factor vanishes at the cutoff.

    Args:
        sizes: width of input, hidden layers and output.
    """

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(a, b)) for a, b in pairwise(sizes)])

    def silence(self) -> None:
        """Make the output zero: pairs of equal hidden units enter it with opposite signs.

        Zeros in the last layer would do as well, but leave the layers below without a gradient, for long.
        """
        hidden, last = self.weights[-2], self.weights[-1]
        half = len(last) // 2
        with torch.no_grad():
            hidden[:, half : 2 * half] = hidden[:, :half]
            last[half : 2 * half] = -last[:half]
            last[2 * half :] = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """(sizes[0], E) to (sizes[-1], E)."""
        for layer, weight in enumerate(self.weights):
            gain = _SILU_GAIN if layer else 1.0
            x = linear(silu(x) if layer else x, weight, gain)
        return x


def linear(x: Tensor, weight: Tensor, gain: float = 1.0) -> Tensor:
    """Features (S, E) to (T, E) with a weight (S, T), scaled to keep the variance."""
    return (weight * (gain / weight.shape[0] ** 0.5)).T @ x
