"""The tensor product of an edge with the environment of its centre, coupling coefficients first.

The coefficients and path weights are contracted with the environment into one small matrix per atom and channel;
each edge then costs one (D x D) product, with D = (l_max + 1)^2, instead of one product per coupling path.
"""

from __future__ import annotations

import torch
from e3nn import o3
from torch import Tensor, nn


class Coupling(nn.Module):
    """V'[k] = sum_paths w_path C_path[i, j, k] V[i] A[j], channel by channel.

    Only paths that keep natural parity (l1 + l2 + l3 even) exist, which makes the network O(3)-equivariant.

    Args:
        channels: number of tensor channels U.
        l_max: highest degree of both inputs.
        l_out: highest degree of the output; 0 in the last layer, which needs scalars only.
    """

    coefficients: Tensor

    def __init__(self, channels: int, l_max: int, l_out: int) -> None:
        super().__init__()
        tensors = [
            _packed_coupling(l1, l2, l3, l_max, l_out)
            for l3 in range(l_out + 1)
            for l1 in range(l_max + 1)
            for l2 in range(l_max + 1)
            if abs(l1 - l2) <= l3 <= l1 + l2 and (l1 + l2 + l3) % 2 == 0
        ]
        paths_to = torch.tensor([float(sum(bool(t[..., k].any()) for t in tensors)) for k in range((l_out + 1) ** 2)])
        stacked = torch.stack(tensors) / paths_to.sqrt()
        self.register_buffer("coefficients", stacked.to(torch.get_default_dtype()))
        self.path_weights = nn.Parameter(torch.randn(channels, len(tensors)))

    def forward(self, edges: Tensor, environment: Tensor) -> Tensor:
        """Couple edges with the environment of their centre.

        Args:
            edges: (N, U, K, D).
            environment: (N, U, D).

        Returns:
            (N, U, K, D_out).
        """
        n, u, d = environment.shape
        kernel = torch.einsum("up,pijk->ujik", self.path_weights, self.coefficients).reshape(u, d, -1)
        matrices = torch.bmm(environment.transpose(0, 1), kernel).reshape(u, n, d, -1).transpose(0, 1)
        return torch.matmul(edges, matrices)


def _packed_coupling(l1: int, l2: int, l3: int, l_max: int, l_out: int) -> Tensor:
    """Wigner 3j symbols of one path, scaled so that unit inputs give unit outputs, within the packed components."""
    packed = torch.zeros((l_max + 1) ** 2, (l_max + 1) ** 2, (l_out + 1) ** 2, dtype=torch.float64)
    block = o3.wigner_3j(l1, l2, l3, dtype=torch.float64) * (2 * l3 + 1) ** 0.5
    packed[l1**2 : (l1 + 1) ** 2, l2**2 : (l2 + 1) ** 2, l3**2 : (l3 + 1) ** 2] = block
    return packed


class DegreeLinear(nn.Module):
    """Mix channels with one matrix per degree."""

    def __init__(self, channels: int, l_max: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(l_max + 1, channels, channels))

    def forward(self, tensors: Tensor) -> Tensor:
        """(N, U, K, D) to (N, U, K, D)."""
        n, u, k, _ = tensors.shape
        weights = self.weights / u**0.5
        blocks = []
        for degree, weight in enumerate(weights):
            block = tensors[..., degree**2 : (degree + 1) ** 2]
            blocks.append((weight @ block.reshape(n, u, -1)).reshape(n, u, k, -1))
        return torch.cat(blocks, dim=-1)
