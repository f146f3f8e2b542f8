"""What is known before a network learns: references of species, many-body functions, and the size of the rest."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..dft_inputs.records import LABELS, ElectricResponse, LabelledFrame
from .graph import Graph, build_graph
from .many_body_equations import Unexplained
from .many_body_fit import fit_many_body
from .network import EnthalpyNetwork
from .parts import KnownPart
from .responses import compute_responses

_LEAST_SCALES = {"species": 0.1, "many_body": 1e-3}
"""Of the energy, eV. Forces of symmetric crystals vanish and tell nothing; what many-body functions leave is small."""
_UNEXPLAINED = {
    "enthalpy": "energy",
    "forces": "forces",
    "stress": "virial",
    "born_effective_charges": "born_effective_charges",
    "polarizability": "polarizability",
}
"""Attribute of ``Unexplained`` for each label."""


def fit_references(
    models: Sequence[EnthalpyNetwork],
    frames: Sequence[LabelledFrame],
    labels: Collection[str] = LABELS,
    draws: Sequence[int] | None = None,
) -> None:
    """Set the references of networks of one architecture from training frames by least squares.

    Energy per species from the enthalpies, on-site polarizability per species from the traces of alpha, many-body
    functions where the models have them, and the energy scale from what is left of the forces. What repulsion and
    long-range charges explain is taken off first. Minimum-norm solutions serve where the composition does not vary.

    Args:
        models: whose references are set.
        frames: training frames.
        labels: those that many-body functions are fitted to.
        draws: a seed for each model, as of ``ManyBodyFit.put_into``.

    Raises:
        ValueError: no frame has an enthalpy or forces.
    """
    if all(item.response.enthalpy is None and item.response.forces is None for item in frames):
        raise ValueError("no training frame has an enthalpy or forces: nothing to fit")
    for model in models:
        _clear(model)
    rest = [_rest(models[0], item) for item in frames]
    fit = None
    if models[0].many_body is not None:
        left_out = {_UNEXPLAINED[name]: None for name in LABELS if name not in labels and name in _UNEXPLAINED}
        unexplained = [replace(one.unexplained, **left_out) for one in _without_species(rest)]
        fit = fit_many_body(models[0].many_body, unexplained)
    for place, model in enumerate(models):
        if fit is not None and model.many_body is not None:
            fit.put_into(model.many_body, None if draws is None else draws[place])
            rest = [_rest(model, item) for item in frames]
        _add_species(model, rest)
        forces = [np.square(one.unexplained.forces).mean() for one in rest if one.unexplained.forces is not None]
        least = _LEAST_SCALES[model.config.reference]
        model.energy_scale.fill_(max(float(np.sqrt(np.mean(forces))), least) if forces else 1.0)


def _clear(model: EnthalpyNetwork) -> None:
    with torch.no_grad():
        for reference in (model.energy_reference, model.polarizability_reference):
            reference.fill_(0.0)
        if model.many_body is not None:
            model.many_body.clear()


@dataclass(frozen=True)
class _Rest:
    """Labels of a frame less what a model explains.

    Attributes:
        counts: atoms of each species.
        trace: a third of that of alpha, at any field.
        at_zero_field: is the energy known there? Not in a field where P or alpha is missing.
        unexplained: all labels, at zero field.
    """

    counts: np.ndarray
    trace: float | None
    at_zero_field: bool
    unexplained: Unexplained


def _rest(model: EnthalpyNetwork, item: LabelledFrame) -> _Rest:
    """Forces and enthalpies at a field are taken to zero field; stress, Z* and alpha count at zero field alone."""
    response = item.response
    graph = build_graph([item.frame], model.species, model.cutoff, dtype=model.dtype)
    fitted = model.many_body is not None
    known = compute_responses(KnownPart(model), graph, stress=fitted, born=fitted)
    quiet = not response.field.any()

    def less(label: np.ndarray | float | None, explained: Tensor | None, count: bool = True) -> np.ndarray | None:
        if label is None or not count:
            return None
        return np.asarray(label) - (0.0 if explained is None else explained.double().numpy())

    stress = less(response.stress, None if known.stress is None else known.stress[0], quiet)
    alpha = less(response.polarizability, None if known.polarizability is None else known.polarizability[0])
    energy = less(_at_zero_field(response), known.enthalpy[0])
    unexplained = Unexplained(
        graph=_double(graph),
        energy=None if energy is None else float(energy),
        forces=less(_forces_at_zero_field(response), known.forces),
        virial=None if stress is None else item.frame.volume * stress,
        born_effective_charges=less(response.born_effective_charges, known.born_effective_charges, quiet),
        polarizability=alpha if quiet else None,
    )
    counts = np.array([item.frame.species.count(symbol) for symbol in model.species], dtype=float)
    complete = quiet or (response.polarization is not None and response.polarizability is not None)
    return _Rest(counts, None if alpha is None else float(np.trace(alpha)) / 3, complete, unexplained)


def _without_species(rest: Sequence[_Rest]) -> list[_Rest]:
    """With what species explain taken off, on which a ridge must not pull: energies of DFT are far from zero."""
    energies = [(one.counts, one.unexplained.energy) for one in rest if one.unexplained.energy is not None]
    traces = [(one.counts, one.trace) for one in rest if one.trace is not None]
    of_energy = _least_squares(energies).numpy() if energies else None
    of_trace = _least_squares(traces).numpy() if traces else None
    found = []
    for one in rest:
        energy, alpha = one.unexplained.energy, one.unexplained.polarizability
        if energy is not None and of_energy is not None:
            energy = energy - float(one.counts @ of_energy) if one.at_zero_field else None
        if alpha is not None and of_trace is not None:
            alpha = alpha - float(one.counts @ of_trace) * np.eye(3)
        found.append(replace(one, unexplained=replace(one.unexplained, energy=energy, polarizability=alpha)))
    return found


def _add_species(model: EnthalpyNetwork, rest: Sequence[_Rest]) -> None:
    """Add what species explain of the rest to their references."""
    energies = [(one.counts, one.unexplained.energy) for one in rest if one.unexplained.energy is not None]
    traces = [(one.counts, one.trace) for one in rest if one.trace is not None]
    if energies:
        model.energy_reference.add_(_least_squares(energies).to(model.dtype))
    if traces:
        model.polarizability_reference.add_(_least_squares(traces).to(model.dtype))


def _double(graph: Graph) -> Graph:
    return graph.replace(positions=graph.positions.double(), cell=graph.cell.double(), field=graph.field.double())


def _at_zero_field(response: ElectricResponse) -> float | None:
    """The enthalpy less its field terms, as far as P and alpha tell them: U(0) = U + E.P - 1/2 E.alpha.E.

    On any branch of P, as enthalpy and P move together.
    """
    if response.enthalpy is None:
        return None
    field, energy = response.field, float(response.enthalpy)
    if response.polarization is not None:
        energy += float(field @ response.polarization)
        if response.polarizability is not None:
            energy -= 0.5 * float(field @ response.polarizability @ field)
    return energy


def _forces_at_zero_field(response: ElectricResponse) -> np.ndarray | None:
    """F(0) = F - E.Z*; None where Z* is missing in a field."""
    if response.forces is None or not response.field.any():
        return response.forces
    if response.born_effective_charges is None:
        return None
    return response.forces - np.einsum("a,nab->nb", response.field, response.born_effective_charges)


def _least_squares(pairs: Sequence[tuple[np.ndarray, float]]) -> Tensor:
    counts, values = np.array([c for c, _ in pairs]), np.array([v for _, v in pairs])
    return torch.tensor(np.linalg.lstsq(counts, values, rcond=None)[0])
