"""The few operations that the network is made of, each closed under differentiation.

Training differentiates three times (responses, Z* and alpha, weights). PyTorch's own rules then multiply small matrices
in transposed layouts, fill large arrays with zeros to add a slice to them, and take the derivatives of SiLU apart into
a dozen passes over memory. The derivatives of these operations are again these operations, on contiguous rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def matrix_product(a: Tensor, b: Tensor) -> Tensor:
    """a b for batches of matrices (B, i, j) and (B, j, k)."""
    return _Product.apply(a, b)  # type: ignore[no-any-return]


def row_products(a: Tensor, b: Tensor) -> Tensor:
    """a b^T for batches of matrices (B, i, k) and (B, j, k): scalar products of their rows."""
    return _RowProducts.apply(a, b)  # type: ignore[no-any-return]


def concatenate(parts: list[Tensor], dim: int) -> Tensor:
    """``torch.cat`` whose derivative is one split, not one zero-filled array for each part. ``dim`` counts from 0."""
    return _Concatenate.apply(dim, *parts)  # type: ignore[no-any-return]


def silu(x: Tensor) -> Tensor:
    """x/(1 + exp(-x)); its first and second derivative are evaluated in closed form."""
    return _Silu.apply(x)  # type: ignore[no-any-return]


class _Product(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        return torch.bmm(a, b)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (gradient,) = gradients
        a, b = ctx.saved_tensors
        for_a, for_b = ctx.needs_input_grad
        return (
            row_products(gradient, b) if for_a else None,
            matrix_product(a.transpose(1, 2), gradient) if for_b else None,
        )


class _RowProducts(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        return torch.bmm(a, b.transpose(1, 2))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (gradient,) = gradients
        a, b = ctx.saved_tensors
        for_a, for_b = ctx.needs_input_grad
        return (
            matrix_product(gradient, b) if for_a else None,
            matrix_product(gradient.transpose(1, 2), a) if for_b else None,
        )


class _Concatenate(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(dim: int, *parts: Tensor) -> Tensor:
        return torch.cat(parts, dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        dim, *parts = inputs
        ctx.dim, ctx.sizes = dim, [part.shape[dim] for part in parts]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *gradients[0].split(ctx.sizes, ctx.dim)


class _Silu(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return nn.functional.silu(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        slope = _SiluSlopes.apply(x)[0] if torch.is_grad_enabled() else _slopes(x)[0]
        return gradients[0] * slope


class _SiluSlopes(torch.autograd.Function):
    """First and second derivative; the second is evaluated once for all directions in which the first is asked for."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        return _slopes(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs[0], output[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Tensor | None:
        for_first, for_second = gradients
        x, second = ctx.saved_tensors
        gradient = None if for_first is None else for_first * second
        if for_second is None:
            return gradient
        sigma = torch.sigmoid(x)
        drop = sigma * (1 - sigma)
        third = drop * (3 * (1 - 2 * sigma) + x * (1 - 6 * drop))
        return for_second * third if gradient is None else torch.addcmul(gradient, for_second, third)


def _slopes(x: Tensor) -> tuple[Tensor, Tensor]:
    sigma = torch.sigmoid(x)
    drop = sigma * (1 - sigma)
    return torch.addcmul(sigma, x, drop), drop * (2 + x * (1 - 2 * sigma))
