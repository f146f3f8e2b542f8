"""The few operations that the network is made of, each closed under differentiation.

Training differentiates three times (responses, Z* and alpha, weights). PyTorch's own rules then multiply small matrices
in transposed layouts, fill large arrays with zeros to add a slice to them, and take the derivatives of SiLU apart into
a dozen passes over memory. The derivatives of these operations are again these operations, on contiguous rows. Under
``vmap`` those of several networks become one larger operation.
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

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Tensor) -> tuple[Tensor, int]:
        folded = (_members_first(x, dim, info.batch_size).flatten(0, 1) for x, dim in zip(args, in_dims, strict=True))
        return _Product.apply(*folded).unflatten(0, (info.batch_size, -1)), 0


class _RowProducts(torch.autograd.Function):
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

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Tensor) -> tuple[Tensor, int]:
        folded = (_members_first(x, dim, info.batch_size).flatten(0, 1) for x, dim in zip(args, in_dims, strict=True))
        return _RowProducts.apply(*folded).unflatten(0, (info.batch_size, -1)), 0


class _Concatenate(torch.autograd.Function):
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

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        dim, *parts = args
        stacked = [_members_first(x, d, info.batch_size) for x, d in zip(parts, in_dims[1:], strict=True)]
        return _Concatenate.apply(dim + 1, *stacked), 0


class _Silu(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return nn.functional.silu(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        slope = _SiluSlopes.apply(x)[0] if torch.is_grad_enabled() else _slope(x)
        return gradients[0] * slope

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None], *args: Tensor) -> tuple[Tensor, int | None]:
        return _Silu.apply(*args), in_dims[0]


class _SiluSlopes(torch.autograd.Function):
    """First and second derivative; the second is evaluated once for all directions in which the first is asked for."""

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


def _members_first(x: Tensor, dim: int | None, size: int) -> Tensor:
    return x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)


def _slope(x: Tensor) -> Tensor:
    sigma = torch.sigmoid(x)
    return torch.addcmul(sigma, x, sigma * (1 - sigma))


def _slopes(x: Tensor) -> tuple[Tensor, Tensor]:
    sigma = torch.sigmoid(x)
    drop = sigma * (1 - sigma)
    return torch.addcmul(sigma, x, drop), drop * (2 + x * (1 - 2 * sigma))
