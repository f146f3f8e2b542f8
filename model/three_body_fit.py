"""Coefficients of pairs and triples by ridge regression, one problem each for energy, dipole and polarizability."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.func import hessian, jacfwd, vmap

from .graph import Graph
from .layers.harmonics import field_harmonics
from .layers.three_body import PAIR_RADIAL, ThreeBody

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
_CENTRES = 16
"""Atoms whose functions are differentiated at a time."""


@dataclass(frozen=True)
class Unexplained:
    """Labels of a structure at zero field less what other parts of a model explain; None where there are none.

    Attributes:
        graph: one structure, float64, with at least the neighbours of the basis.
        energy: eV.
        forces: eV/A, (N, 3).
        virial: V sigma, eV, (3, 3).
        born_effective_charges: e, (N, 3, 3).
        polarizability: e^2 A^2/eV, (3, 3).
    """

    graph: Graph
    energy: float | None
    forces: np.ndarray | None
    virial: np.ndarray | None
    born_effective_charges: np.ndarray | None
    polarizability: np.ndarray | None


def fit_three_body(three_body: ThreeBody, frames: Sequence[Unexplained], draw: int | None = None) -> None:
    """Fit and set the coefficients; those without labels become zero.

    Energies are fitted to forces, virials and energies (the latter two over the square root of the number of atoms),
    dipoles to Z*, polarizabilities to alpha. The ridge of each problem is the one with the least error on frames left
    out, in four parts of the training frames where there are as many.

    Args:
        three_body: of the model.
        frames: what is to be fitted.
        draw: seed of a draw from the posterior of the coefficients (Bayesian ridge regression, whose noise is the mean
            square error on frames left out), so that members of a committee differ where the labels leave them free;
            the most probable ones where not given.

    Raises:
        ValueError: more coefficients than memory is likely to hold the equations of.
    """
    largest = max(_energy_columns(three_body), _dipole_columns(three_body))
    if largest > _MOST_COLUMNS:
        raise ValueError(
            f"network.reference: three_body would have {largest:,} coefficients for {three_body.n_species} species: "
            "lower l_max, or leave it at species"
        )
    three_body.clear()
    noise = None if draw is None else np.random.default_rng(draw)
    basis = deepcopy(three_body).double()
    n_species, pairs = basis.n_species, basis.n_species * PAIR_RADIAL
    found = _regression(frames, lambda one: _energy_equations(basis, one), noise, n_species, n_species)
    if found is not None:
        three_body.pairs[:, 0] = found[:, :pairs].to(three_body.pairs)
        three_body.energy_triples.copy_(_symmetric(basis, found[:, pairs:]))
    found = _regression(frames, lambda one: _dipole_equations(basis, one), noise, n_species)
    if found is not None:
        three_body.pairs[:, 1] = found[:, :pairs].to(three_body.pairs)
        three_body.dipole_triples.copy_(found[:, pairs:].view(three_body.dipole_triples.shape))
    found = _regression(frames, lambda one: _polarizability_equations(basis, one), noise, n_species, n_species)
    if found is not None:
        three_body.pairs[:, 2:] = found.view(basis.n_species, 2, pairs).to(three_body.pairs)


Equations = tuple[np.ndarray, np.ndarray]
"""Rows (n, S F + constants) and the values they should give, (n,)."""


def _regression(
    frames: Sequence[Unexplained],
    equations: Callable[[Unexplained], Equations | None],
    noise: np.random.Generator | None,
    n_species: int,
    constants: int = 0,
) -> Tensor | None:
    """Coefficients by species of the centre, (S, F), without the constants at the end; None without equations."""
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
    errors = np.zeros(len(_RIDGES))
    for part in parts if len(parts) > 1 else ():
        others = total.minus(part)
        errors += [part.error(others.solve(ridge)) for ridge in _RIDGES]
    ridge = _RIDGES[int(np.argmin(errors))] if len(parts) > 1 else _RIDGES[-3]
    solution = total.solve(ridge)
    if noise is not None:
        left = float(errors.min()) if len(parts) > 1 else total.error(solution)
        solution = solution + total.spread(ridge, max(left, 0.0) / total.count, noise)
    return torch.tensor(solution[: len(solution) - constants]).view(n_species, -1)


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
        return inverse * np.linalg.solve(scaled, inverse * self.vector)

    def spread(self, ridge: float, variance: float, noise: np.random.Generator) -> np.ndarray:
        """How far a draw from the posterior is from its mean, where the equations have this variance."""
        inverse, scaled = self._scaled(ridge)
        normal = noise.standard_normal(len(inverse))
        return inverse * variance**0.5 * np.linalg.solve(np.linalg.cholesky(scaled).T, normal)

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


def _symmetric(basis: ThreeBody, upper: Tensor) -> Tensor:
    """Coefficients of products c <= c' as symmetric matrices, (S, l_max + 1, C, C)."""
    rows, columns = torch.triu_indices(basis.channels, basis.channels)
    out = torch.zeros(basis.energy_triples.shape, dtype=torch.float64)
    half = 0.5 * upper.view(basis.n_species, basis.l_max + 1, -1)
    out[:, :, rows, columns] += half
    out[:, :, columns, rows] += half
    return out


def _energy_equations(basis: ThreeBody, one: Unexplained) -> Equations | None:
    """Of forces, virial and energy; energies of the species are the constants."""
    if one.forces is None and one.virial is None and one.energy is None:
        return None
    graph, n = one.graph, one.graph.n_atoms
    size = _energy_columns(basis)
    energy, forces, virial = (torch.zeros(*shape, size, dtype=torch.float64) for shape in ((), (n, 3), (3, 3)))
    for part in _parts(basis, graph):
        values, slopes = _energy_functions(basis, part)
        for place, columns in part.by_species(size):
            here = part.kind[part.row] == place
            energy[columns] += values[part.kind == place].sum(0)
            forces[..., columns].index_add_(0, part.centre[here], slopes[here])
            forces[..., columns].index_add_(0, part.neighbour[here], -slopes[here])
            virial[..., columns] += torch.einsum("ea,ebf->abf", part.vector[here], slopes[here])
    counts = torch.bincount(graph.species, minlength=basis.n_species).double().numpy()
    rows, values = [np.zeros((0, size + basis.n_species))], [np.zeros(0)]
    for found, label, weight in (
        (forces, one.forces, 1.0),
        (virial, one.virial, n**-0.5),
        (energy, one.energy, n**-0.5),
    ):
        if label is not None:
            block = found.view(-1, size).numpy()
            constant = np.tile(counts * (found is energy), (len(block), 1))
            rows.append(weight * np.hstack([block, constant]))
            values.append(weight * np.asarray(label).reshape(-1))
    return np.vstack(rows), np.concatenate(values)


def _dipole_equations(basis: ThreeBody, one: Unexplained) -> Equations | None:
    """Of Z*[i, a, b] = dP_a/dr_ib."""
    if one.born_effective_charges is None:
        return None
    size = _dipole_columns(basis)
    born = torch.zeros(one.graph.n_atoms, 3, 3, size, dtype=torch.float64)
    for part in _parts(basis, one.graph):
        slopes = _dipole_slopes(basis, part)
        for place, columns in part.by_species(size):
            here = part.kind[part.row] == place
            born[..., columns].index_add_(0, part.centre[here], -slopes[here])
            born[..., columns].index_add_(0, part.neighbour[here], slopes[here])
    return born.view(-1, size).numpy(), one.born_effective_charges.reshape(-1)


def _polarizability_equations(basis: ThreeBody, one: Unexplained) -> Equations | None:
    """Of alpha; on-site polarizabilities of the species are the constants."""
    if one.polarizability is None:
        return None
    n_species, pairs = basis.n_species, basis.n_species * PAIR_RADIAL
    rows = torch.zeros(3, 3, 2 * n_species * pairs + n_species, dtype=torch.float64)
    curvature = hessian(lambda field: field_harmonics(field[None], 2)[0])(torch.zeros(3, dtype=torch.float64))
    by_component = rows[..., : 2 * n_species * pairs].view(3, 3, n_species, 2, pairs)
    for part in _parts(basis, one.graph):
        density = part.sum_neighbours(part.weights[:, :, None] * part.harmonics[:, None, :9])
        for place in range(n_species):
            total = density[part.kind == place].sum(0)
            by_component[:, :, place, 0] += curvature[0, :, :, None] * total[:, 0]
            by_component[:, :, place, 1] += torch.einsum("mab,cm->abc", curvature[4:], total[:, 4:])
    counts = torch.bincount(one.graph.species, minlength=n_species).double()
    rows[..., 2 * n_species * pairs :] = torch.eye(3, dtype=torch.float64)[:, :, None] * counts
    return rows.view(9, -1).numpy(), one.polarizability.reshape(-1)


def _energy_columns(basis: ThreeBody) -> int:
    triples = (basis.l_max + 1) * basis.channels * (basis.channels + 1) // 2
    return basis.n_species * (basis.n_species * PAIR_RADIAL + triples)


def _dipole_columns(basis: ThreeBody) -> int:
    return basis.n_species * (basis.n_species * PAIR_RADIAL + basis.channels**2 * len(basis.degrees))


@dataclass(frozen=True)
class _Part:
    """Some atoms of a structure with their E real neighbours.

    Attributes:
        kind: species of each atom.
        row: which of the atoms each neighbour is of, (E,).
        centre, neighbour: index of both in the structure, (E,).
        vector: between them, A, (E, 3).
        weights, harmonics: of each neighbour, (E, S R) and (E, D).
        weight_slopes, harmonic_slopes: their derivatives by the vector, a last axis more.
    """

    kind: Tensor
    row: Tensor
    centre: Tensor
    neighbour: Tensor
    vector: Tensor
    weights: Tensor
    harmonics: Tensor
    weight_slopes: Tensor
    harmonic_slopes: Tensor
    n_species: int

    def by_species(self, size: int) -> Iterator[tuple[int, slice]]:
        """Species of centres, and the columns of their functions."""
        width = size // self.n_species
        yield from ((place, slice(place * width, (place + 1) * width)) for place in range(self.n_species))

    def sum_neighbours(self, values: Tensor) -> Tensor:
        """Sums (E, ...) over the neighbours of each atom."""
        return values.new_zeros(len(self.kind), *values.shape[1:]).index_add_(0, self.row, values)


def _parts(basis: ThreeBody, graph: Graph) -> Iterator[_Part]:
    def one(vector: Tensor, kind: Tensor) -> tuple[Tensor, Tensor]:
        weights, harmonics = basis.edges(vector[None, None], torch.ones(1, 1, dtype=torch.bool), kind[None, None])
        return weights[0, :, 0], harmonics[0, :, 0]

    vectors = graph.vectors()
    for atoms in torch.arange(graph.n_atoms).split(_CENTRES):
        row, column = graph.mask[atoms].nonzero(as_tuple=True)
        neighbour, vector = graph.neighbours[atoms][row, column], vectors[atoms][row, column]
        kinds = graph.species[neighbour]
        yield _Part(
            graph.species[atoms],
            row,
            atoms[row],
            neighbour,
            vector,
            *vmap(one)(vector, kinds),
            *vmap(jacfwd(one))(vector, kinds),
            n_species=basis.n_species,
        )


def _triple_terms(basis: ThreeBody, part: _Part) -> tuple[Tensor, Tensor]:
    """What each neighbour adds to the density of triples, (E, C, D), and its derivative, (E, C, D, 3)."""
    weights = basis.of_triples(part.weights[..., None])[..., 0]
    slopes = basis.of_triples(part.weight_slopes)
    terms = weights[:, :, None] * part.harmonics[:, None]
    by_vector = slopes[:, :, None] * part.harmonics[:, None, :, None]
    return terms, by_vector + weights[:, :, None, None] * part.harmonic_slopes[:, None]


def _energy_functions(basis: ThreeBody, part: _Part) -> tuple[Tensor, Tensor]:
    """Values for each atom, (n, F), and derivatives by each vector, (E, 3, F)."""
    terms, slopes = _triple_terms(basis, part)
    density = part.sum_neighbours(terms)
    rows, columns = torch.triu_indices(basis.channels, basis.channels)
    values, by_vector = [part.sum_neighbours(part.weights)], [part.weight_slopes.transpose(1, 2)]
    for block, slope in zip(basis.by_degree(density), basis.by_degree(slopes), strict=True):
        values.append((block @ block.transpose(1, 2))[:, rows, columns])
        half = torch.einsum("ecm,edmx->excd", block[part.row], slope)
        by_vector.append((half + half.transpose(2, 3))[:, :, rows, columns])
    return torch.cat(values, 1), torch.cat(by_vector, 2)


def _dipole_slopes(basis: ThreeBody, part: _Part) -> Tensor:
    """Derivatives of the dipole of each vector's centre by the vector, e, (E, 3, 3, F)."""
    # f_1 = 3^(1/2) (E_y, E_z, E_x).
    order, factor = [2, 0, 1], 3**0.5
    vector, vector_slope = part.harmonics[:, 1:4][:, order], part.harmonic_slopes[:, 1:4][:, order]
    pairs = torch.einsum("ecb,ea->eabc", part.weight_slopes, vector)
    found = [pairs + torch.einsum("ec,eab->eabc", part.weights, vector_slope)]
    terms, slopes = _triple_terms(basis, part)
    blocks, by_vector = basis.by_degree(part.sum_neighbours(terms)), basis.by_degree(slopes)
    for degree in basis.degrees:
        coupling = basis.vector_coupling(degree)[..., order]
        low = torch.einsum("edn,mna->edma", blocks[degree + 1][part.row], coupling)
        high = torch.einsum("ecm,mna->ecna", blocks[degree][part.row], coupling)
        both = torch.einsum("ecmb,edma->eabcd", by_vector[degree], low)
        found.append((both + torch.einsum("ecna,ednb->eabcd", high, by_vector[degree + 1])).flatten(3))
    return factor * torch.cat(found, 3)
