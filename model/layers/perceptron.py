"""A plain multilayer perceptron whose activations keep unit variance."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

_SILU_GAIN = 1.6790  # 1/sqrt(E[silu(x)^2]) for standard normal x


class Perceptron(nn.Module):
    """SiLU layers without biases, so that a zero input stays zero where a factor vanishes at the cutoff.

    Args:
        sizes: width of input, hidden layers and output.
    """

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(a, b)) for a, b in pairwise(sizes)])

    def forward(self, x: Tensor) -> Tensor:
        """(..., sizes[0]) to (..., sizes[-1])."""
        for layer, weight in enumerate(self.weights):
            if layer:
                x = _SILU_GAIN * nn.functional.silu(x)
            x = x @ (weight / weight.shape[0] ** 0.5)
        return x
