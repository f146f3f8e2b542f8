"""The tensor product of an edge with the environment of its centre, coupling coefficients first.

The coefficients and path weights are contracted with the environment into one small matrix per atom and channel;
each edge then costs one (D x D) product, with D = (l_max + 1)^2, instead of one product per coupling path.
Neighbours are the last axis: the products are matrix products over all neighbours of an atom.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from e3nn import o3
from torch import Tensor, nn

from .operations import concatenate, matrix_product


class Irrep(NamedTuple):
    """A degree, of natural parity (-1)^l or of the other one."""

    degree: int
    other_parity: bool = False


@dataclass(frozen=True)
class Tensors:
    """What one channel of an edge carries: degrees 0..l_max of natural parity, and on request of the other one."""

    l_max: int
    both_parities: bool = False

    @property
    def dimension(self) -> int:
        """Number of components."""
        return (self.l_max + 1) ** 2 * (2 if self.both_parities else 1)

    def irreps(self) -> list[Irrep]:
        """In the order of the components."""
        parities = (False, True) if self.both_parities else (False,)
        return [Irrep(degree, other) for other in parities for degree in range(self.l_max + 1)]

    def place(self, irrep: Irrep) -> slice:
        """Its components."""
        start = irrep.degree**2 + (self.l_max + 1) ** 2 * irrep.other_parity
        return slice(start, start + 2 * irrep.degree + 1)


class Coupling(nn.Module):
    """V'[k] = sum_paths w_path C_path[i, j, k] V[i] A[j], channel by channel.

    The environment has natural parity, (-1)^l; tensors may also have the other one. Only paths that keep parity exist,
    which makes the network O(3)-equivariant.

    Args:
        channels: number of tensor channels U.
        l_max: highest degree of the environment.
        inputs, outputs: the tensors coupled and made; scalars alone in the last layer.
    """

    coefficients: Tensor
    degree_mask: Tensor

    def __init__(self, channels: int, l_max: int, inputs: Tensors, outputs: Tensors) -> None:
        super().__init__()
        tensors = [
            _packed_coupling(one, l2, other, l_max, inputs, outputs)
            for other in outputs.irreps()
            for one in inputs.irreps()
            for l2 in range(l_max + 1)
            if abs(one.degree - l2) <= other.degree <= one.degree + l2
            and (one.degree + l2 + other.degree + one.other_parity + other.other_parity) % 2 == 0
        ]
        paths_to = torch.tensor([float(sum(bool(t[..., k].any()) for t in tensors)) for k in range(outputs.dimension)])
        stacked = torch.stack(tensors) / paths_to.clamp(min=1).sqrt()  # no path leads to a first pseudoscalar
        self.register_buffer("coefficients", stacked.to(torch.get_default_dtype()))
        self.register_buffer("degree_mask", degree_mask(l_max), persistent=False)
        self.path_weights = nn.Parameter(torch.randn(channels, len(tensors)))

    def forward(self, edges: Tensor, environment: Tensor, scale: Tensor, mix: Tensor | None = None) -> Tensor:
        """Couple edges with the environment of their centre.

        Args:
            edges: (N, U, D_in, K).
            environment: (N, U, D).
            scale: factor of the result.
            mix: weights of a ``DegreeLinear``, (l_max + 1, U, U), that the edges are to pass first. For scalar output
                alone, where both are one matrix product for each atom.

        Returns:
            (N, U, D_out, K).
        """
        n, u, d, k = edges.shape
        matrices = self.matrices(environment, scale)
        if mix is None:
            return matrix_product(matrices.reshape(n * u, -1, d), edges.view(n * u, d, k)).view(n, u, -1, k)
        by_component = mix.permute(1, 2, 0) @ (self.degree_mask / u**0.5)
        mixed = (matrices * by_component).view(n, u, u * d)
        return matrix_product(mixed, edges.view(n, u * d, k)).view(n, u, 1, k)

    def matrices(self, environment: Tensor, scale: Tensor) -> Tensor:
        """One matrix per atom and channel, from components of the edge to those of the output, (N, U, D_out, D_in)."""
        n, u, d = environment.shape
        kernel = torch.einsum("up,pijk->ujki", self.path_weights * scale, self.coefficients)
        products = matrix_product(environment.transpose(0, 1), kernel.reshape(u, d, -1))
        return products.transpose(0, 1).reshape(n, u, *kernel.shape[2:])


def _packed_coupling(one: Irrep, l2: int, other: Irrep, l_max: int, inputs: Tensors, outputs: Tensors) -> Tensor:
    """Wigner 3j symbols of one path, scaled so that unit inputs give unit outputs, within the packed components."""
    packed = torch.zeros(inputs.dimension, (l_max + 1) ** 2, outputs.dimension, dtype=torch.float64)
    symbols = o3.wigner_3j(one.degree, l2, other.degree, dtype=torch.float64)
    packed[inputs.place(one), l2**2 : (l2 + 1) ** 2, outputs.place(other)] = symbols * (2 * other.degree + 1) ** 0.5
    return packed


class DegreeLinear(nn.Module):
    """Mix channels with one matrix per degree and parity."""

    def __init__(self, channels: int, tensors: Tensors) -> None:
        super().__init__()
        self.widths = [2 * irrep.degree + 1 for irrep in tensors.irreps()]
        self.weights = nn.Parameter(torch.randn(len(self.widths), channels, channels))

    def forward(self, tensors: Tensor) -> Tensor:
        """(N, U, D, K) to (N, U, D, K)."""
        n, u, _, k = tensors.shape
        weights = (self.weights / u**0.5).unbind()
        mixed = [
            matrix_product(weight.expand(n, u, u), block.reshape(n, u, -1)).view(n, u, -1, k)
            for weight, block in zip(weights, tensors.split(self.widths, 2), strict=True)
        ]
        return concatenate(mixed, dim=2)


def degree_mask(l_max: int) -> Tensor:
    """1 where a packed component is of a degree, (l_max + 1, (l_max + 1)^2)."""
    degrees = torch.arange(l_max + 1)
    return (degrees[:, None] == degrees.repeat_interleave(2 * degrees + 1)).to(torch.get_default_dtype())
