"""The tensor product of an edge with the environment of its centre, coupling coefficients first.

The coefficients and path weights are contracted with the environment into one small matrix per atom and channel;
each edge then costs one (D x D) product, with D = (l_max + 1)^2, instead of one product per coupling path.
Neighbours are the last axis: the products are matrix products over all neighbours of an atom.
"""

from __future__ import annotations

import torch
from e3nn import o3
from torch import Tensor, nn

from .operations import concatenate, matrix_product


class Coupling(nn.Module):
    """V'[k] = sum_paths w_path C_path[i, j, k] V[i] A[j], channel by channel.

    Only paths that keep natural parity (l1 + l2 + l3 even) exist, which makes the network O(3)-equivariant.

    Args:
        channels: number of tensor channels U.
        l_max: highest degree of both inputs.
        l_out: highest degree of the output; 0 in the last layer, which needs scalars only.
    """

    coefficients: Tensor
    degree_mask: Tensor

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
        self.register_buffer("degree_mask", degree_mask(l_max), persistent=False)
        self.path_weights = nn.Parameter(torch.randn(channels, len(tensors)))

    def forward(self, edges: Tensor, environment: Tensor) -> Tensor:
        """Couple edges with the environment of their centre.

        Args:
            edges: (N, U, D, K).
            environment: (N, U, D).

        Returns:
            (N, U, D_out, K).
        """
        n, u, d, k = edges.shape
        matrices = self.matrices(environment).reshape(n * u, -1, d)
        return matrix_product(matrices, edges.view(n * u, d, k)).view(n, u, -1, k)

    def of_mixed(self, edges: Tensor, environment: Tensor, mix: Tensor) -> Tensor:
        """``forward(mixed(edges, mix), environment)`` for scalar output, in one matrix product per atom.

        Args:
            edges: (N, U, D, K), before mixing.
            environment: (N, U, D).
            mix: weights of ``mixed``, (l_max + 1, U, U).

        Returns:
            (N, U, 1, K).
        """
        n, u, d, k = edges.shape
        by_component = mix.permute(1, 2, 0) @ (self.degree_mask / u**0.5)
        matrices = (self.matrices(environment) * by_component).view(n, u, u * d)
        return matrix_product(matrices, edges.view(n, u * d, k)).view(n, u, 1, k)

    def matrices(self, environment: Tensor) -> Tensor:
        """One matrix per atom and channel, from components of the edge to those of the output, (N, U, D_out, D)."""
        n, u, d = environment.shape
        kernel = torch.einsum("up,pijk->ujki", self.path_weights, self.coefficients).reshape(u, d, -1)
        return matrix_product(environment.transpose(0, 1), kernel).transpose(0, 1).reshape(n, u, -1, d)


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
        """(N, U, D, K) to (N, U, D, K)."""
        n, u, _, k = tensors.shape
        weights = (self.weights / u**0.5).unbind()
        mixed = [
            matrix_product(weight.expand(n, u, u), block.reshape(n, u, -1)).view(n, u, -1, k)
            for weight, block in zip(weights, split_degrees(tensors, dim=2), strict=True)
        ]
        return concatenate(mixed, dim=2)


def split_degrees(packed: Tensor, dim: int) -> tuple[Tensor, ...]:
    """Views of l = 0, 1, 2, ... of packed components."""
    return packed.split([2 * degree + 1 for degree in range(round(packed.shape[dim] ** 0.5))], dim)


def degree_mask(l_max: int) -> Tensor:
    """1 where a packed component is of a degree, (l_max + 1, (l_max + 1)^2)."""
    degrees = torch.arange(l_max + 1)
    return (degrees[:, None] == degrees.repeat_interleave(2 * degrees + 1)).to(torch.get_default_dtype())
