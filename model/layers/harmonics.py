"""Spherical harmonics of directions and solid harmonics of fields, packed over l = 0..l_max ((l_max + 1)^2 components).

Parities are the natural ones, (-1)^l, so the field, a polar vector, couples to displacements as physics asks.
"""

from __future__ import annotations

from functools import cache

import torch
from e3nn import o3
from torch import Tensor


def solid_harmonics(vectors: Tensor, l_max: int) -> Tensor:
    """|v|^l Y_lm(v/|v|) for l = 0..l_max, component normalization: polynomials, smooth at v = 0.

    Y_l comes from Y_(l-1) and Y_1 by their Clebsch-Gordan product.

    Args:
        vectors: x, y, z in the next to last axis, (..., 3, K).
        l_max: highest degree.

    Returns:
        (..., (l_max + 1)^2, K).
    """
    first = 3**0.5 * vectors.roll(-1, dims=-2)
    blocks = [torch.ones_like(vectors[..., :1, :]), first]
    for degree in range(2, l_max + 1):
        products = (blocks[-1].unsqueeze(-2) * first.unsqueeze(-3)).flatten(-3, -2)
        blocks.append(_raising(degree).to(vectors) @ products)
    return torch.cat(blocks, dim=-2)


def field_harmonics(field: Tensor, l_max: int) -> Tensor:
    """Solid harmonics of the field (B, 3), with |E|^2 in the l = 0 place, where a constant would carry nothing.

    Args:
        field: in units of the network's field scale, (B, 3).
        l_max: highest degree.

    Returns:
        (B, (l_max + 1)^2).
    """
    solid = solid_harmonics(field[..., None], l_max)[..., 0]
    return torch.cat([field.square().sum(-1, keepdim=True), solid[..., 1:]], dim=-1)


@cache
def _raising(degree: int) -> Tensor:
    """Matrix from the products Y_(l-1) Y_1 to Y_l, (2 l + 1, 3 (2 l - 1)), float64."""
    coupling = o3.wigner_3j(degree, degree - 1, 1, dtype=torch.float64).reshape(2 * degree + 1, -1)
    probe = torch.tensor([0.36, 0.48, 0.8], dtype=torch.float64)
    lower, first, wanted = (
        o3.spherical_harmonics(n, probe[[1, 2, 0]], normalize=False, normalization="component")
        for n in (degree - 1, 1, degree)
    )
    raw = coupling @ torch.outer(lower, first).flatten()
    return coupling * (wanted @ raw / (raw @ raw))
