"""Physics that every enthalpy model must obey, as functions to be called for each architecture and precision."""

from collections.abc import Callable

import numpy as np
import torch
from fieldloop.model.graph import Graph
from fieldloop.model.interface import EnthalpyModel
from fieldloop.model.responses import compute_responses, strain_derivative
from torch import Tensor


def central_difference(function: Callable[[Tensor], Tensor], at: Tensor, step: float = 2e-3) -> Tensor:
    """d(function)/d(at) by fourth-order central differences, output shape first."""
    rows = []
    for index in np.ndindex(*at.shape):
        unit = torch.zeros_like(at)
        unit[index] = step
        near = function(at + unit) - function(at - unit)
        far = function(at + 2 * unit) - function(at - 2 * unit)
        rows.append((8 * near - far) / (12 * step))
    stacked = torch.stack(rows, dim=-1)
    return stacked.reshape(*stacked.shape[:-1], *at.shape)


def assert_close(actual: Tensor, expected: Tensor, relative: float) -> None:
    """Largest deviation against the largest entry."""
    scale = max(float(expected.abs().max()), 1e-3)
    deviation = float((actual - expected).abs().max())
    assert deviation <= relative * scale, f"deviation {deviation:.2e}, scale {scale:.2e}"


def check_first_derivatives(model: EnthalpyModel, graph: Graph) -> None:
    """F, P and stress equal central differences of U."""
    responses = compute_responses(model, graph, stress=True)

    def enthalpy(**changes: Tensor) -> Tensor:
        return model(graph.replace(**changes)).detach().sum()

    forces = -central_difference(lambda r: enthalpy(positions=r), graph.positions)
    polarization = -central_difference(lambda e: enthalpy(field=e), graph.field)
    assert_close(responses.forces, forces, 1e-6)
    assert_close(responses.polarization, polarization, 1e-6)

    def strained(strain: Tensor) -> Tensor:
        total = torch.zeros((), dtype=strain.dtype)
        deformation = torch.eye(3, dtype=strain.dtype) + (strain + strain.T) / 2
        total = enthalpy(positions=graph.positions @ deformation.T, cell=graph.cell @ deformation.T)
        return total

    stress = central_difference(strained, torch.zeros(3, 3, dtype=graph.cell.dtype), step=5e-4)
    assert responses.stress is not None
    assert_close((responses.stress * graph.volume()[:, None, None]).sum(0), stress, 1e-6)


def check_second_derivatives(model: EnthalpyModel, graph: Graph) -> None:
    """Z* = dF/dE = dP/dr and alpha = dP/dE, by differences of two different first derivatives."""
    responses = compute_responses(model, graph, born=True)
    assert responses.born_effective_charges is not None
    assert responses.polarizability is not None

    def first(**changes: Tensor):
        return compute_responses(model, graph.replace(**changes))

    from_forces = central_difference(lambda e: first(field=e.expand_as(graph.field)).forces, graph.field[:1])[:, :, 0]
    assert_close(responses.born_effective_charges, from_forces.transpose(1, 2), 1e-6)
    from_polarization = central_difference(lambda r: first(positions=r).polarization.sum(0), graph.positions)
    assert_close(responses.born_effective_charges, from_polarization.permute(1, 0, 2), 1e-6)
    alpha = central_difference(lambda e: first(field=e).polarization.sum(0), graph.field)
    assert_close(responses.polarizability, alpha.transpose(0, 1), 1e-6)


def check_rotation(model: EnthalpyModel, graph: Graph, rotation: Tensor, tolerance: float = 1e-10) -> None:
    """U is invariant and every response turns with the structure and the field, for proper and improper rotations."""
    turned = graph.replace(
        positions=graph.positions @ rotation.T, cell=graph.cell @ rotation.T, field=graph.field @ rotation.T
    )
    before = compute_responses(model, graph, stress=True, born=True)
    after = compute_responses(model, turned, stress=True, born=True)
    assert before.stress is not None
    assert before.born_effective_charges is not None
    assert before.polarizability is not None
    assert_close(after.enthalpy, before.enthalpy, tolerance)
    assert_close(after.forces, before.forces @ rotation.T, tolerance)
    assert_close(after.polarization, before.polarization @ rotation.T, tolerance)
    for name in ("stress", "born_effective_charges", "polarizability"):
        assert_close(getattr(after, name), rotation @ getattr(before, name) @ rotation.T, tolerance)


def check_translation(model: EnthalpyModel, graph: Graph) -> None:
    """A common shift changes nothing in a neutral cell, and Z* adds up to zero."""
    before = compute_responses(model, graph, born=True)
    after = compute_responses(
        model, graph.replace(positions=graph.positions + torch.tensor([0.3, -1.1, 7.9])), born=True
    )
    for name in ("enthalpy", "forces", "polarization", "born_effective_charges", "polarizability"):
        assert_close(getattr(after, name), getattr(before, name), 1e-10)
    assert before.born_effective_charges is not None
    total = graph.sum_structures(before.born_effective_charges)
    assert float(total.abs().max()) < 1e-10


def check_torque(model: EnthalpyModel, graph: Graph) -> None:
    """The antisymmetric part of the raw strain derivative is the field torque."""
    raw = strain_derivative(model, graph)
    polarization = compute_responses(model, graph).polarization
    torque = torch.einsum("ba,bc->bac", polarization, graph.field)
    torque = torque - torque.transpose(1, 2)
    assert_close(raw - raw.transpose(1, 2), torque, 1e-10)
