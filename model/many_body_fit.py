"""Coefficients of pairs, triples and quadruples by ridge regression: for energy, dipole and polarizability each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from torch import Tensor

from .layers.many_body import ManyBody
from .many_body_equations import (
    Equations,
    Unexplained,
    dipole_equations,
    dipole_widths,
    energy_equations,
    energy_widths,
    polarizability_equations,
    polarizability_widths,
)

_FOLDS = 4
"""Parts that the frames are divided into to choose the ridge."""
_RIDGES = tuple(10.0**n for n in range(-9, 1))
"""Tried, in units of the mean square of a function."""
_ENOUGH = 40
"""Equations for each coefficient; further frames, in random order, are left to the network."""
_MOST_COLUMNS = 16_000
"""Coefficients of one problem: some matrices of their square are held, 2 GB each."""
_LEAST_SIZE = 1e-8
"""Root mean square of a function over the largest, below which it is none."""


def fit_many_body(many_body: ManyBody, frames: Sequence[Unexplained]) -> ManyBodyFit:
    """Fit the coefficients.

    Energies are fitted to forces, virials and energies (the latter two over the square root of the number of atoms),
    dipoles to Z*, polarizabilities to alpha. The ridge of each problem is the one with the least error on frames left
    out, in four parts of the training frames where there are as many.

    Args:
        many_body: whose functions they are.
        frames: what is to be fitted.

    Raises:
        ValueError: more coefficients than memory is likely to hold the equations of.
    """
    basis = deepcopy(many_body).double()
    largest = basis.n_species * max(sum(energy_widths(basis)), sum(dipole_widths(basis)))
    if largest > _MOST_COLUMNS:
        raise ValueError(
            f"network.reference: many_body would have {largest:,} coefficients for {basis.n_species} species: "
            "lower l_max, or set it to species"
        )
    return ManyBodyFit(
        energy=_posterior(frames, lambda one: energy_equations(basis, one)),
        dipole=_posterior(frames, lambda one: dipole_equations(basis, one)),
        polarizability=_posterior(frames, lambda one: polarizability_equations(basis, one)),
    )


@dataclass(frozen=True)
class ManyBodyFit:
    """What labels tell of the coefficients; None for parts without labels."""

    energy: _Posterior | None
    dipole: _Posterior | None
    polarizability: _Posterior | None

    def put_into(self, many_body: ManyBody, draw: int | None = None) -> None:
        """Set the coefficients; those without labels become zero.

        Args:
            many_body: of the model.
            draw: seed of a draw from the posterior, so that members of a committee differ where the labels leave them
                free; the most probable ones where not given.
        """
        many_body.clear()
        noise = None if draw is None else np.random.default_rng(draw)
        products = many_body.products
        if self.energy is not None:
            found = self.energy.coefficients(many_body.n_species, energy_widths(many_body), noise)
            many_body.pairs[:, 0] = found[0].to(many_body.pairs)
            many_body.energy_triples.copy_(_symmetric(many_body, found[1]))
            products.energy.copy_(found[2].view(products.energy.shape))
        if self.dipole is not None:
            found = self.dipole.coefficients(many_body.n_species, dipole_widths(many_body), noise)
            many_body.pairs[:, 1] = found[0].to(many_body.pairs)
            many_body.dipole_triples.copy_(found[1].view(many_body.dipole_triples.shape))
            products.dipole.copy_(found[2].view(products.dipole.shape))
        if self.polarizability is not None:
            found = self.polarizability.coefficients(many_body.n_species, polarizability_widths(many_body), noise)
            many_body.pairs[:, 2:] = found[0].view(many_body.pairs[:, 2:].shape).to(many_body.pairs)
            products.isotropic.copy_(found[1].view(products.isotropic.shape))
            products.anisotropic.copy_(found[2].view(products.anisotropic.shape))


@dataclass(frozen=True)
class _Posterior:
    """Of the coefficients of one problem, by Bayesian ridge regression.

    Attributes:
        equations: all of them.
        ridge: in units of the mean square of a function.
        variance: mean square error of an equation on frames left out.
    """

    equations: _Normal
    ridge: float
    variance: float

    def coefficients(self, n_species: int, widths: Sequence[int], noise: np.random.Generator | None) -> list[Tensor]:
        """By species of the centre, (S, width) for each kind of function: the most probable ones, or a draw."""
        solution = self.equations.solve(self.ridge)
        if noise is not None:
            solution = solution + self.equations.spread(self.ridge, self.variance, noise)
        return list(torch.tensor(solution[: n_species * sum(widths)]).view(n_species, -1).split(list(widths), 1))


def _posterior(
    frames: Sequence[Unexplained], equations: Callable[[Unexplained], Equations | None]
) -> _Posterior | None:
    """The equations of as many frames as are needed, and the ridge that is best for them; None without equations."""
    parts: list[_Normal] = []
    shuffled = (frames[place] for place in np.random.default_rng(0).permutation(len(frames)))
    for place, (rows, values) in enumerate(found for one in shuffled if (found := equations(one)) is not None):
        if place < _FOLDS:
            parts.append(_Normal.empty(rows.shape[1]))
        parts[place % _FOLDS].add(rows, values)
        if sum(part.count for part in parts) > _ENOUGH * rows.shape[1]:
            break
    if not parts:
        return None
    total = parts[0].plus(*parts[1:])
    if len(parts) == 1:
        ridge = _RIDGES[-3]
        left = total.error(total.solve(ridge))
    else:
        errors = np.zeros(len(_RIDGES))
        for part in parts:
            others = total.minus(part)
            errors += [part.error(others.solve(ridge)) for ridge in _RIDGES]
        ridge, left = _RIDGES[int(np.argmin(errors))], float(errors.min())
    return _Posterior(total, ridge, max(left, 0.0) / total.count)


@dataclass
class _Normal:
    """Normal equations of a least-squares problem."""

    matrix: np.ndarray
    vector: np.ndarray
    square: float
    count: int

    @classmethod
    def empty(cls, size: int) -> _Normal:
        return cls(np.zeros((size, size)), np.zeros(size), 0.0, 0)

    def add(self, rows: np.ndarray, values: np.ndarray) -> None:
        self.matrix += rows.T @ rows
        self.vector += rows.T @ values
        self.square += float(values @ values)
        self.count += len(values)

    def plus(self, *others: _Normal) -> _Normal:
        out = _Normal(self.matrix.copy(), self.vector.copy(), self.square, self.count)
        for other in others:
            out.matrix += other.matrix
            out.vector += other.vector
            out.square += other.square
            out.count += other.count
        return out

    def minus(self, other: _Normal) -> _Normal:
        return self.plus(_Normal(-other.matrix, -other.vector, -other.square, -other.count))

    def solve(self, ridge: float) -> np.ndarray:
        """Coefficients, with a ridge in units of the mean square of each function."""
        inverse, scaled = self._scaled(ridge)
        return inverse * cho_solve(cho_factor(scaled), inverse * self.vector)  # type: ignore[no-any-return]

    def spread(self, ridge: float, variance: float, noise: np.random.Generator) -> np.ndarray:
        """How far a draw from the posterior is from its mean, where the equations have this variance."""
        inverse, scaled = self._scaled(ridge)
        normal = noise.standard_normal(len(inverse))
        return inverse * variance**0.5 * solve_triangular(np.linalg.cholesky(scaled), normal, lower=True, trans=1)

    def _scaled(self, ridge: float) -> tuple[np.ndarray, np.ndarray]:
        """Inverse sizes of the functions, and the matrix with its ridge where all have size one."""
        sizes = np.sqrt(np.maximum(self.matrix.diagonal(), 0.0) / max(self.count, 1))
        # Some vanish by symmetry, up to rounding: the dipoles of pairs of one species.
        inverse = np.where(sizes > _LEAST_SIZE * sizes.max(initial=0.0), 1 / np.maximum(sizes, 1e-300), 0.0)
        scaled = self.matrix * np.outer(inverse, inverse)
        scaled[np.diag_indices_from(scaled)] += ridge * self.count
        return inverse, scaled

    def error(self, coefficients: np.ndarray) -> float:
        """Sum of squares that coefficients leave."""
        return float(self.square - 2 * self.vector @ coefficients + coefficients @ self.matrix @ coefficients)


def _symmetric(basis: ManyBody, upper: Tensor) -> Tensor:
    """Coefficients of products c <= c' as symmetric matrices, (S, l_max + 1, C, C)."""
    rows, columns = torch.triu_indices(basis.channels, basis.channels)
    out = torch.zeros(basis.energy_triples.shape, dtype=torch.float64)
    half = 0.5 * upper.view(basis.n_species, basis.l_max + 1, -1)
    out[:, :, rows, columns] += half
    out[:, :, columns, rows] += half
    return out
