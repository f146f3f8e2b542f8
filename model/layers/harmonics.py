"""Spherical harmonics of directions and solid harmonics of fields, packed over l = 0..l_max ((l_max + 1)^2 components).

Parities are the natural ones, (-1)^l, so the field, a polar vector, couples to displacements as physics asks.
"""

from __future__ import annotations

import torch
from e3nn import o3
from torch import Tensor


def edge_harmonics(directions: Tensor, l_max: int) -> Tensor:
    """Spherical harmonics, component normalization, of unit vectors (..., 3) in x, y, z order."""
    return _harmonics(directions, l_max)


def field_harmonics(field: Tensor, l_max: int) -> Tensor:
    """Solid harmonics |E|^l Y_lm(E/|E|), smooth at E = 0, with |E|^2 in the l = 0 place.

    A constant there would carry nothing.

    Args:
        field: in units of the network's field scale, (..., 3).
        l_max: highest degree.
    """
    solid = _harmonics(field, l_max)
    return torch.cat([field.square().sum(-1, keepdim=True), solid[..., 1:]], dim=-1)


def _harmonics(vectors: Tensor, l_max: int) -> Tensor:
    return o3.spherical_harmonics(
        list(range(l_max + 1)), vectors[..., [1, 2, 0]], normalize=False, normalization="component"
    )
