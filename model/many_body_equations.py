"""Equations of many-body functions: what the labels of a structure tell of their coefficients.

Columns: for each species of the centre the functions in the order of the widths, then the constants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.func import hessian, jacfwd, vmap

from .graph import Graph
from .layers.harmonics import field_harmonics
from .layers.many_body import PAIR_RADIAL, ManyBody

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


Equations = tuple[np.ndarray, np.ndarray]
"""Rows (n, S F + constants) and the values they should give, (n,)."""


def energy_equations(basis: ManyBody, one: Unexplained) -> Equations | None:
    """Of forces, virial and energy; energies of the species are the constants."""
    if one.forces is None and one.virial is None and one.energy is None:
        return None
    graph, n = one.graph, one.graph.n_atoms
    size = basis.n_species * sum(energy_widths(basis))
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


def dipole_equations(basis: ManyBody, one: Unexplained) -> Equations | None:
    """Of Z*[i, a, b] = dP_a/dr_ib."""
    if one.born_effective_charges is None:
        return None
    size = basis.n_species * sum(dipole_widths(basis))
    born = torch.zeros(one.graph.n_atoms, 3, 3, size, dtype=torch.float64)
    for part in _parts(basis, one.graph):
        slopes = _dipole_slopes(basis, part)
        for place, columns in part.by_species(size):
            here = part.kind[part.row] == place
            born[..., columns].index_add_(0, part.centre[here], -slopes[here])
            born[..., columns].index_add_(0, part.neighbour[here], slopes[here])
    return born.view(-1, size).numpy(), one.born_effective_charges.reshape(-1)


def polarizability_equations(basis: ManyBody, one: Unexplained) -> Equations | None:
    """Of alpha; on-site polarizabilities of the species are the constants."""
    if one.polarizability is None:
        return None
    size = basis.n_species * sum(polarizability_widths(basis))
    alpha = torch.zeros(3, 3, size, dtype=torch.float64)
    curvature = hessian(lambda field: field_harmonics(field[None], 2)[0])(torch.zeros(3, dtype=torch.float64))
    for part in _parts(basis, one.graph):
        isotropic, anisotropic = _polarizability_functions(basis, part)
        for place, columns in part.by_species(size):
            here = part.kind == place
            scalars = [curvature[0, :, :, None] * scalar[here].sum(0) for scalar in isotropic]
            tensors = [torch.einsum("mab,fm->abf", curvature[4:], tensor[here].sum(0)) for tensor in anisotropic]
            alpha[..., columns] += torch.cat([scalars[0], tensors[0], scalars[1], tensors[1]], 2)
    counts = torch.bincount(one.graph.species, minlength=basis.n_species).double()
    constants = torch.eye(3, dtype=torch.float64)[:, :, None] * counts
    return torch.cat([alpha, constants], 2).view(9, -1).numpy(), one.polarizability.reshape(-1)


def energy_widths(basis: ManyBody) -> list[int]:
    """Functions of pairs, of triples and of products of three densities, for each species of the centre."""
    triples = (basis.l_max + 1) * basis.channels * (basis.channels + 1) // 2
    return [basis.n_species * PAIR_RADIAL, triples, basis.products.energy[0].numel()]


def dipole_widths(basis: ManyBody) -> list[int]:
    """As ``energy_widths``."""
    return [
        basis.n_species * PAIR_RADIAL,
        basis.channels**2 * len(basis.degrees),
        basis.products.dipole[0].numel(),
    ]


def polarizability_widths(basis: ManyBody) -> list[int]:
    """Functions of pairs, of degrees 0 and 2, and of products of two densities of either."""
    products = basis.products
    return [2 * basis.n_species * PAIR_RADIAL, products.isotropic[0].numel(), products.anisotropic[0].numel()]


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


def _parts(basis: ManyBody, graph: Graph) -> Iterator[_Part]:
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


@dataclass(frozen=True)
class _Densities:
    """Densities about some atoms, of each degree.

    Attributes:
        totals: (n, C, 2 l + 1).
        slopes: derivatives of what each neighbour adds by its vector, (E, C, 2 l + 1, 3).
    """

    totals: tuple[Tensor, ...]
    slopes: tuple[Tensor, ...]


def _densities(basis: ManyBody, part: _Part) -> _Densities:
    weights = basis.of_densities(part.weights[..., None])[..., 0]
    by_weight = basis.of_densities(part.weight_slopes)[:, :, None] * part.harmonics[:, None, :, None]
    by_harmonic = weights[:, :, None, None] * part.harmonic_slopes[:, None]
    totals = part.sum_neighbours(weights[:, :, None] * part.harmonics[:, None])
    return _Densities(basis.by_degree(totals), basis.by_degree(by_weight + by_harmonic))


def _energy_functions(basis: ManyBody, part: _Part) -> tuple[Tensor, Tensor]:
    """Values for each atom, (n, F), and derivatives by each vector, (E, 3, F)."""
    densities = _densities(basis, part)
    rows, columns = torch.triu_indices(basis.channels, basis.channels)
    values, by_vector = [part.sum_neighbours(part.weights)], [part.weight_slopes.transpose(1, 2)]
    for block, slope in zip(densities.totals, densities.slopes, strict=True):
        values.append((block @ block.transpose(1, 2))[:, rows, columns])
        half = torch.einsum("ecm,edmx->excd", block[part.row], slope)
        by_vector.append((half + half.transpose(2, 3))[:, :, rows, columns])
    scalars, slopes = _of_products(basis, part, densities, basis.products.scalars)
    return torch.cat([*values, scalars[..., 0]], 1), torch.cat([*by_vector, slopes[:, 0]], 2)


def _dipole_slopes(basis: ManyBody, part: _Part) -> Tensor:
    """Derivatives of the dipole of each vector's centre by the vector, e, (E, 3, 3, F)."""
    # f_1 = 3^(1/2) (E_y, E_z, E_x).
    order, factor = [2, 0, 1], 3**0.5
    vector, vector_slope = part.harmonics[:, 1:4][:, order], part.harmonic_slopes[:, 1:4][:, order]
    pairs = torch.einsum("ecb,ea->eabc", part.weight_slopes, vector)
    found = [pairs + torch.einsum("ec,eab->eabc", part.weights, vector_slope)]
    densities = _densities(basis, part)
    for degree in basis.degrees:
        coupling = basis.vector_coupling(degree)[..., order]
        low = torch.einsum("edn,mna->edma", densities.totals[degree + 1][part.row], coupling)
        high = torch.einsum("ecm,mna->ecna", densities.totals[degree][part.row], coupling)
        both = torch.einsum("ecmb,edma->eabcd", densities.slopes[degree], low)
        found.append((both + torch.einsum("ecna,ednb->eabcd", high, densities.slopes[degree + 1])).flatten(3))
    _, slopes = _of_products(basis, part, densities, basis.products.vectors)
    return factor * torch.cat([*found, slopes[:, order]], 3)


def _polarizability_functions(basis: ManyBody, part: _Part) -> tuple[list[Tensor], list[Tensor]]:
    """Of pairs and of products: of degree 0, (n, F) each, and of degree 2, (n, F, 5) each."""
    lone = part.sum_neighbours(part.weights[:, :, None] * part.harmonics[:, None, :9])
    combined = basis.products.combine(_densities(basis, part).totals)
    squares, tensors = basis.products.squares(combined), basis.products.tensors(combined)
    return [lone[..., 0], torch.cat(squares, 1)], [lone[..., 4:], torch.cat(tensors, 1)]


def _of_products(
    basis: ManyBody, part: _Part, densities: _Densities, products: Callable[[list[Tensor]], list[Tensor]]
) -> tuple[Tensor, Tensor]:
    """Products of combined densities, (n, F, components), and derivatives by each vector, (E, components, 3, F).

    Scalars have one component.
    """
    combined = torch.cat(basis.products.combine(densities.totals), 2)
    mixed = zip(basis.products.mixing, densities.slopes, strict=True)
    added = torch.cat([torch.einsum("kc,ecmx->kmex", mixing, slope) for mixing, slope in mixed], 1)
    degrees = [2 * degree + 1 for degree in range(basis.l_max + 1)]

    def of_one(one: Tensor) -> Tensor:
        """Of one combination, (D,), to (paths, components)."""
        found = products([block[None, None] for block in one.split(degrees)])
        return torch.stack([product.reshape(-1) for product in found])

    values = vmap(vmap(of_one))(combined)
    jacobians = vmap(vmap(jacfwd(of_one)))(combined)
    _, k, paths, components = values.shape
    neighbours = part.row.bincount(minlength=len(values)).tolist()
    slopes = []
    for jacobian, edges in zip(jacobians, added.split(neighbours, 2), strict=True):
        product = jacobian.flatten(1, 2) @ edges.flatten(2)
        slopes.append(product.view(k, paths, components, -1, 3).permute(3, 2, 4, 1, 0).flatten(3))
    return values.permute(0, 2, 1, 3).flatten(1, 2), torch.cat(slopes)
