"""Physics that every enthalpy model must obey, as functions to be called for each architecture and precision.

Checks that compare two evaluations hold to ``rounding(model)``; those against finite differences need double precision.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from fieldloop.dft_inputs.records import Frame
from fieldloop.model.data import PER_ATOM
from fieldloop.model.files import load_model, model_id, save_model
from fieldloop.model.graph import Graph, build_graph
from fieldloop.model.interface import EnthalpyModel
from fieldloop.model.network import EnthalpyNetwork
from fieldloop.model.responses import Responses, compute_responses, strain_derivative
from torch import Tensor

Field = tuple[float, float, float]


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


def rounding(model: EnthalpyModel) -> float:
    """How far two ways to the same number may differ, relative to the largest entry."""
    return 1e-10 if model.dtype == torch.float64 else 1e-3


def check_rotation(model: EnthalpyModel, graph: Graph, rotation: Tensor) -> None:
    """U is invariant and every response turns with the structure and the field, for proper and improper rotations."""
    tolerance, rotation = rounding(model), rotation.to(graph.positions)
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
    shift = torch.tensor([0.3, -1.1, 7.9], dtype=model.dtype)
    before = compute_responses(model, graph, born=True)
    after = compute_responses(model, graph.replace(positions=graph.positions + shift), born=True)
    for name in ("enthalpy", "forces", "polarization", "born_effective_charges", "polarizability"):
        assert_close(getattr(after, name), getattr(before, name), rounding(model))
    assert before.born_effective_charges is not None
    total = graph.sum_structures(before.born_effective_charges)
    assert float(total.abs().max()) < rounding(model)


def check_torque(model: EnthalpyModel, graph: Graph) -> None:
    """The antisymmetric part of the raw strain derivative is the field torque."""
    raw = strain_derivative(model, graph)
    polarization = compute_responses(model, graph).polarization
    torque = torch.einsum("ba,bc->bac", polarization, graph.field)
    torque = torque - torque.transpose(1, 2)
    assert_close(raw - raw.transpose(1, 2), torque, rounding(model))


def check_permutation(model: EnthalpyModel, frame: Frame, field: Field) -> None:
    """The order of the atoms does not matter."""
    order = np.random.default_rng(0).permutation(len(frame))
    shuffled = Frame(species=tuple(frame.species[i] for i in order), positions=frame.positions[order], cell=frame.cell)
    before, after = (compute_responses(model, graph_of(model, f, field=field), born=True) for f in (frame, shuffled))
    assert before.born_effective_charges is not None
    assert_close(after.enthalpy, before.enthalpy, rounding(model))
    assert_close(after.forces, before.forces[order], rounding(model))
    assert_close(after.born_effective_charges, before.born_effective_charges[order], rounding(model))


def check_batch_independence(model: EnthalpyModel, frames: Sequence[Frame], field: Field) -> None:
    """A structure has the same responses alone and beside others."""
    together = compute_responses(model, graph_of(model, *frames, field=field), stress=True, born=True)
    ends = np.cumsum([len(frame) for frame in frames])
    for b, (frame, end) in enumerate(zip(frames, ends, strict=True)):
        alone = compute_responses(model, graph_of(model, frame, field=field), stress=True, born=True)
        for name in Responses.__dataclass_fields__:
            part = slice(end - len(frame), end) if name in PER_ATOM else slice(b, b + 1)
            assert_close(getattr(together, name)[part], getattr(alone, name), rounding(model))


def check_locality(model: EnthalpyModel, field: Field) -> None:
    """An atom beyond the cutoff leaves a local energy unchanged; beyond twice the cutoff also F and Z*. To the bit."""
    c = model.cutoff
    chain = (0.0, 0.6 * c, 1.3 * c, 1.9 * c, 2.55 * c)
    moved = [line_of(model, field, *chain[:2], x, *chain[3:]) for x in (1.3 * c, 1.2 * c)]
    local = [model.local_enthalpy(graph.environments(model.dtype)).detach()[0] for graph in moved]  # type: ignore[operator]
    assert float(local[0]) == float(local[1])
    far, near = (compute_responses(model, line_of(model, field, *chain[:4], x), born=True) for x in (2.55 * c, 2.3 * c))
    assert far.born_effective_charges is not None
    assert near.born_effective_charges is not None
    assert torch.equal(far.forces[0], near.forces[0])
    assert torch.equal(far.born_effective_charges[0], near.born_effective_charges[0])
    assert not torch.equal(far.forces[3], near.forces[3])


def check_smooth_at_the_cutoff(model: EnthalpyModel, field: Field) -> None:
    """Forces vanish at least quadratically as a neighbour leaves the cutoff: U has two continuous derivatives."""

    def force(distance: float) -> float:
        graph = line_of(model, field, -2.1, 0.0, distance, species=("As", "Al", "As"))
        responses = compute_responses(model, graph)
        return float((responses.forces[2] - charge_force(model, graph, 2)).abs().max())

    outside, gaps = force(model.cutoff + 1e-4), [force(model.cutoff - d) for d in (1e-2, 1e-3)]
    assert outside == 0
    assert 0 <= gaps[1] < 0.02 * gaps[0] < 2e-4


def check_save_and_load(model: EnthalpyNetwork, graph: Graph, directory: Path) -> None:
    """A model read back has the same name and the same enthalpies, to the bit."""
    name = save_model(model, directory)
    loaded = load_model(directory)
    assert torch.equal(model(graph), loaded(graph))
    assert model_id(loaded) == name


def graph_of(model: EnthalpyModel, *frames: Frame, field: Field) -> Graph:
    """A batch at one field."""
    return build_graph(frames, model.species, model.cutoff, np.array(field), model.dtype)


def line_of(model: EnthalpyModel, field: Field, *xs: float, species: tuple[str, ...] | None = None) -> Graph:
    """Atoms of alternating species at these x, each a little off the axis, free in space."""
    species = species or tuple(model.species[i % 2] for i in range(len(xs)))
    positions = np.array([[x, 0.1 * i, 0.0] for i, x in enumerate(xs)])
    return graph_of(
        model, Frame(species=species, positions=positions, cell=np.eye(3) * 100, pbc=(False,) * 3), field=field
    )


def charge_force(model: EnthalpyModel, graph: Graph, atom: int) -> Tensor:
    """q E, the force of the field on a reference charge."""
    charges: Tensor = model.charges  # type: ignore[assignment]
    return charges[graph.species[atom]] * graph.field[0]
