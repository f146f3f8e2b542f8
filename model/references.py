"""What is known before a network learns: energies, polarizabilities, pairs and triples by least squares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.func import jacfwd, vmap

from ..dft_inputs.records import ElectricResponse, LabelledFrame
from .graph import Graph, build_graph
from .layers.three_body import PAIR_RADIAL, TRIPLE_RADIAL, ThreeBody
from .network import EnthalpyNetwork
from .responses import compute_responses

_LEAST_SCALE = 0.1
"""Of the energy, eV."""
_FOLDS = 4
"""Parts that the frames are divided into to choose the ridge."""
_RIDGES = tuple(10.0**n for n in range(-9, 0))
"""Tried; in units of the mean square of a function."""
_CENTRES = 24
"""Atoms whose triples are differentiated at a time."""


def fit_references(model: EnthalpyNetwork, frames: Sequence[LabelledFrame]) -> None:
    """Set the model's references from training frames by least squares.

    Energy per species from the enthalpies, on-site polarizability per species from the traces of alpha, pairs and
    triples from forces, stresses and enthalpies, and the energy scale from what is left of the forces. What repulsion
    and long-range charges explain is taken off first. Minimum-norm solutions serve where the composition does not
    vary.

    Raises:
        ValueError: no frame has an enthalpy or forces.
    """
    counts = np.array([[item.frame.species.count(s) for s in model.species] for item in frames], dtype=float)
    if all(item.response.enthalpy is None and item.response.forces is None for item in frames):
        raise ValueError("no training frame has an enthalpy or forces: nothing to fit")
    alphas = [
        (c, np.trace(item.response.polarizability) / 3)
        for c, item in zip(counts, frames, strict=True)
        if item.response.polarizability is not None
    ]
    with torch.no_grad():
        model.energy_scale.fill_(0.0)
        model.energy_reference.fill_(0.0)
        if model.three_body is not None:
            model.three_body.pairs.fill_(0.0)
            model.three_body.triples.fill_(0.0)
        if alphas:
            model.polarizability_reference.copy_(_least_squares(alphas))
    left = [_left(model, item) for item in frames]
    if model.three_body is not None:
        fit_three_body(model.three_body, left, model.species)
        left = [_left(model, item) for item in frames]
    energies = [(c, one.energy) for c, one in zip(counts, left, strict=True) if one.energy is not None]
    forces = [np.square(one.forces).mean() for one in left if one.forces is not None]
    with torch.no_grad():
        if energies:
            model.energy_reference.copy_(_least_squares(energies))
        model.energy_scale.fill_(max(float(np.sqrt(np.mean(forces))), _LEAST_SCALE) if forces else 1.0)


@dataclass(frozen=True)
class Labels:
    """What is to be explained of one frame at zero field.

    Attributes:
        frame: labelled.
        energy: eV; None where there is none.
        forces: eV/A, (N, 3).
        virial: V sigma, eV, (3, 3).
    """

    frame: LabelledFrame
    energy: float | None
    forces: np.ndarray | None
    virial: np.ndarray | None


def _left(model: EnthalpyNetwork, item: LabelledFrame) -> Labels:
    """The labels at zero field less what the model explains already. Only forces at zero field, or with Z*, count."""
    response = item.response
    graph = build_graph([item.frame], model.species, model.cutoff, dtype=model.dtype)
    known = compute_responses(model, graph, stress=True)
    forces, stress = _forces_at_zero_field(response), None if response.field.any() else response.stress
    return Labels(
        item,
        None if response.enthalpy is None else _at_zero_field(response) - float(known.enthalpy),
        None if forces is None else forces - known.forces.double().numpy(),
        None
        if stress is None or known.stress is None
        else item.frame.volume * (stress - known.stress[0].double().numpy()),
    )


def _at_zero_field(response: ElectricResponse) -> float:
    """The enthalpy less its field terms, as far as P and alpha tell them: U(0) = U + E.P - 1/2 E.alpha.E.

    On any branch of P, as enthalpy and P move together.
    """
    field, energy = response.field, float(response.enthalpy or 0.0)
    if response.polarization is not None:
        energy += float(field @ response.polarization)
        if response.polarizability is not None:
            energy -= 0.5 * float(field @ response.polarizability @ field)
    return energy


def _forces_at_zero_field(response: ElectricResponse) -> np.ndarray | None:
    """F(0) = F - E.Z*."""
    if response.forces is None or not response.field.any():
        return response.forces
    if response.born_effective_charges is None:
        return None
    return response.forces - np.einsum("a,nab->nb", response.field, response.born_effective_charges)


def _least_squares(pairs: Sequence[tuple[np.ndarray, float]]) -> Tensor:
    counts, values = np.array([c for c, _ in pairs]), np.array([v for _, v in pairs])
    return torch.tensor(np.linalg.lstsq(counts, values, rcond=None)[0])


def fit_three_body(three_body: ThreeBody, labels: Sequence[Labels], species: Sequence[str]) -> None:
    """Ridge regression on forces, virials and energies (over the square root of the number of atoms).

    The ridge is the one with the least error on frames left out, in four parts of the training frames, if there are as
    many; energies count as deviations from a least-squares fit to the composition.

    Args:
        three_body: its coefficients are set.
        labels: of the training frames.
        species: of the model.
    """
    if not labels:
        return
    basis = deepcopy(three_body).double()
    atoms = [np.array([one.frame.frame.species.count(s) for s in species], dtype=float) for one in labels]
    known = [(c, one.energy) for c, one in zip(atoms, labels, strict=True) if one.energy is not None]
    of_species = _least_squares(known).numpy() if known else np.zeros(len(species))
    parts = [_Normal.empty(_size(basis) + len(species)) for _ in range(min(_FOLDS, len(labels)))]
    for place, (one, counts) in enumerate(zip(labels, atoms, strict=True)):
        # A ridge would pull on energies that are not near zero.
        energy = None if one.energy is None else one.energy - float(counts @ of_species)
        rows, values = _rows(basis, replace(one, energy=energy), counts, species)
        parts[place % len(parts)].add(rows, values)
    total = parts[0].plus(*parts[1:])
    ridge = min(_RIDGES, key=lambda value: _error_left_out(total, parts, value)) if len(parts) > 1 else _RIDGES[3]
    _set_coefficients(three_body, total.solve(ridge)[: _size(basis)])


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
        sizes = np.sqrt(np.maximum(self.matrix.diagonal(), 0.0) / max(self.count, 1))
        inverse = np.where(sizes > 0, 1 / np.maximum(sizes, 1e-300), 0.0)
        scaled = self.matrix * np.outer(inverse, inverse)
        scaled[np.diag_indices_from(scaled)] += ridge * self.count
        return inverse * np.linalg.solve(scaled, inverse * self.vector)

    def error(self, coefficients: np.ndarray) -> float:
        """Sum of squares that coefficients leave."""
        return self.square - 2 * self.vector @ coefficients + coefficients @ self.matrix @ coefficients


def _error_left_out(total: _Normal, parts: Sequence[_Normal], ridge: float) -> float:
    return sum(part.error(total.minus(part).solve(ridge)) for part in parts)


def _size(basis: ThreeBody) -> int:
    """Number of coefficients."""
    pairs = basis.n_species * PAIR_RADIAL
    triples = (basis.l_max + 1) * basis.channels * (basis.channels + 1) // 2
    return basis.n_species * (pairs + triples)


def _set_coefficients(three_body: ThreeBody, found: np.ndarray) -> None:
    """Put coefficients in the order of ``_functions`` into the symmetric matrices of the layer."""
    per_species = torch.tensor(found).view(three_body.n_species, -1)
    size, channels = three_body.n_species * PAIR_RADIAL, three_body.channels
    upper, triples = torch.triu_indices(channels, channels), torch.zeros(three_body.triples.shape, dtype=torch.float64)
    half = 0.5 * per_species[:, size:].view(three_body.n_species, three_body.l_max + 1, -1)
    triples[:, :, upper[0], upper[1]] += half
    triples[:, :, upper[1], upper[0]] += half
    three_body.pairs.copy_(per_species[:, :size])
    three_body.triples.copy_(triples)


def _rows(basis: ThreeBody, one: Labels, counts: np.ndarray, species: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Equations of one frame, the energies of the species last, and what they should give."""
    size, n = _size(basis), len(one.frame.frame)
    rows, values = [np.zeros((0, size + len(species)))], [np.zeros(0)]
    design = _design(basis, build_graph([one.frame.frame], species, basis.cutoff))

    def add(block: np.ndarray, wanted: np.ndarray, weight: float) -> None:
        block = block.reshape(-1, size)
        constant = counts[None] if wanted.ndim == 0 else np.zeros((len(block), len(species)))
        rows.append(weight * np.hstack([block, constant]))
        values.append(weight * wanted.reshape(-1))

    if one.forces is not None:
        add(design.forces, one.forces, 1.0)
    if one.virial is not None:
        add(design.virial, one.virial, n**-0.5)
    if one.energy is not None:
        add(design.energy, np.array(one.energy), n**-0.5)
    return np.vstack(rows), np.concatenate(values)


@dataclass(frozen=True)
class _Design:
    """What each function of the basis gives: energy (F,), forces (N, 3, F) and virial (3, 3, F)."""

    energy: np.ndarray
    forces: np.ndarray
    virial: np.ndarray


def _design(basis: ThreeBody, graph: Graph) -> _Design:
    """The functions and their derivatives by positions and strain, of one structure, float64."""
    size, n = _size(basis), graph.n_atoms
    per_species = size // basis.n_species
    energy, forces, virial = torch.zeros(size), torch.zeros(n, 3, size), torch.zeros(3, 3, size)
    energy, forces, virial = energy.double(), forces.double(), virial.double()
    for centres, pairs in _centres(graph):
        values, by_vector = _functions(basis, graph, centres, pairs)
        species = graph.species[centres]
        for kind in range(basis.n_species):
            columns = slice(kind * per_species, (kind + 1) * per_species)
            energy[columns] += values[species == kind].sum(0)
            some = species[pairs.row] == kind
            slope = by_vector[some]
            forces[:, :, columns].index_add_(0, centres[pairs.row[some]], slope)
            forces[:, :, columns].index_add_(0, pairs.neighbour[some], -slope)
            virial[:, :, columns] += torch.einsum("ea,ebf->abf", pairs.vector[some], slope)
    return _Design(energy.numpy(), forces.numpy(), virial.numpy())


@dataclass(frozen=True)
class _Pairs:
    """Real neighbours of some atoms: row of the centre among them, column, index of the neighbour, vector."""

    row: Tensor
    column: Tensor
    neighbour: Tensor
    vector: Tensor


def _centres(graph: Graph) -> Iterator[tuple[Tensor, _Pairs]]:
    vectors = graph.vectors()
    for centres in torch.arange(graph.n_atoms).split(_CENTRES):
        row, column = graph.mask[centres].nonzero(as_tuple=True)
        yield centres, _Pairs(row, column, graph.neighbours[centres][row, column], vectors[centres][row, column])


def _functions(basis: ThreeBody, graph: Graph, centres: Tensor, pairs: _Pairs) -> tuple[Tensor, Tensor]:
    """Functions of each centre, (n, F per species), and their derivatives by each vector, (E, 3, F per species)."""

    def one(vector: Tensor, kind: Tensor) -> tuple[Tensor, Tensor]:
        here = torch.ones(1, 1, dtype=torch.bool)
        weights, harmonics = basis.edges(vector[None, None], here, kind[None, None])
        triple = basis.triple_channels(weights)
        return weights[0, :, 0], (triple[0, :, 0, None] * harmonics[0, None, :, 0])

    kinds = graph.species[pairs.neighbour]
    weights, terms = vmap(one)(pairs.vector, kinds)
    by_weights, by_terms = vmap(jacfwd(one))(pairs.vector, kinds)  # (E, S R, 3), (E, C, D, 3)
    pair_values = weights.new_zeros(len(centres), weights.shape[1]).index_add_(0, pairs.row, weights)
    density = terms.new_zeros(len(centres), *terms.shape[1:]).index_add_(0, pairs.row, terms)
    upper = torch.triu_indices(basis.channels, basis.channels)
    widths = [2 * degree + 1 for degree in range(basis.l_max + 1)]
    values, slopes = [pair_values], [by_weights.transpose(1, 2)]
    for block, slope in zip(density.split(widths, 2), by_terms.split(widths, 2), strict=True):
        products = block @ block.transpose(1, 2)
        values.append(products[:, upper[0], upper[1]])
        half = torch.einsum("ecm,edmx->excd", block[pairs.row], slope)
        slopes.append((half + half.transpose(2, 3))[:, :, upper[0], upper[1]])
    return torch.cat(values, 1), torch.cat(slopes, 2)
