"""Labelled frames as tensors: batches with masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..dft_inputs.polarization import closest_lattice_vector
from ..dft_inputs.records import LABELS, LabelledFrame
from .examples import Example
from .graph import Graph, build_graph
from .interface import refuse_open_boundaries
from .network import EnthalpyNetwork

PER_ATOM = frozenset({"forces", "born_effective_charges"})
_SHAPES = {
    "enthalpy": (),
    "forces": (3,),
    "stress": (3, 3),
    "polarization": (3,),
    "born_effective_charges": (3, 3),
    "polarizability": (3, 3),
}


@dataclass(frozen=True)
class LabelledBatch:
    """A graph with its labels.

    Attributes:
        graph: the structures, at the field of their labels.
        labels: tensor of each label; per atom (N, ...) or per structure (B, ...). Masked entries are zero.
        present: whether each label is there, (B,) bool per label name.
        noise: standard deviation of each label, in its unit (enthalpy per atom), (B,) per label name.
        quanta: lattice of quanta of P, rows, e A, (B, 3, 3).
        atoms: number of atoms of each structure, (B,).
    """

    graph: Graph
    labels: dict[str, Tensor]
    present: dict[str, Tensor]
    noise: dict[str, Tensor]
    quanta: Tensor
    atoms: Tensor

    def holds(self, label: str) -> bool:
        """Does any structure have this label?"""
        return bool(self.present[label].any())

    def entry_mask(self, label: str) -> Tensor:
        """Mask of a label's leading axis: atoms for per-atom labels, structures for the others."""
        mask = self.present[label]
        return mask[self.graph.structure] if label in PER_ATOM else mask

    def entry_noise(self, label: str) -> Tensor:
        """Noise along a label's leading axis."""
        noise = self.noise[label]
        return noise[self.graph.structure] if label in PER_ATOM else noise

    def to(self, device: torch.device | str) -> LabelledBatch:
        """The same batch on another device."""

        def moved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: value.to(device) for name, value in tensors.items()}

        return LabelledBatch(
            graph=self.graph.to(device),
            labels=moved(self.labels),
            present=moved(self.present),
            noise=moved(self.noise),
            quanta=self.quanta.to(device),
            atoms=self.atoms.to(device),
        )


def make_batch(frames: Sequence[LabelledFrame | Example], model: EnthalpyNetwork) -> LabelledBatch:
    """Collate labelled frames or examples for a model; missing labels are masked. Frames count as free of noise.

    Raises:
        ValueError: a frame with unknown species, a charged cell under the model's reference charges, or one that is not
            periodic where the model has a long-range part.
    """
    geometries = [item.frame for item in frames]
    refuse_open_boundaries(model, geometries)
    fields = np.stack([item.response.field for item in frames])
    graph = build_graph(geometries, model.species, model.cutoff, fields, model.dtype)
    _check_neutral(graph, model, frames)
    present, noise = {}, {}
    for name in LABELS:
        present[name] = torch.tensor([getattr(item.response, name) is not None for item in frames])
        known = [item.noise.get(name, 0.0) if isinstance(item, Example) else 0.0 for item in frames]
        noise[name] = torch.tensor(known, dtype=model.dtype)
    quanta = [
        item.frame.cell if item.response.polarization_quanta is None else item.response.polarization_quanta
        for item in frames
    ]
    return LabelledBatch(
        graph=graph,
        labels={name: value.to(model.dtype) for name, value in label_tensors(frames).items()},
        present=present,
        noise=noise,
        quanta=torch.tensor(np.stack(quanta), dtype=model.dtype),
        atoms=torch.tensor([float(len(frame)) for frame in geometries], dtype=model.dtype),
    )


def label_tensors(frames: Sequence[LabelledFrame | Example]) -> dict[str, Tensor]:
    """The labels of ``LabelledBatch``, float64; missing ones are zero."""
    labels = {}
    for name in LABELS:
        rows = []
        for item in frames:
            value = getattr(item.response, name)
            shape = (len(item.frame), *_SHAPES[name]) if name in PER_ATOM else _SHAPES[name]
            rows.append(np.zeros(shape) if value is None else np.asarray(value, dtype=float))
        labels[name] = torch.tensor(np.concatenate(rows) if name in PER_ATOM else np.stack(rows))
    return labels


def branch_shift(predicted: Tensor, batch: LabelledBatch) -> Tensor:
    """The whole quanta n Q between label and prediction, (B, 3): label + n Q is closest to the prediction.

    The enthalpy label then moves by -E . n Q, as dU/dE = -P. Being an integer, the shift carries no gradient.
    """
    difference = (predicted - batch.labels["polarization"]).detach().cpu().double().numpy()
    difference *= batch.present["polarization"].cpu().numpy()[:, None]
    quanta = batch.quanta.cpu().double().numpy()
    # No lattice vector is shorter than the narrowest spacing of lattice planes: half of it is on the branch for sure.
    spacing = 1 / np.linalg.norm(np.linalg.inv(quanta), axis=1).max(axis=-1)
    if (np.linalg.norm(difference, axis=1) < 0.5 * spacing).all():
        return torch.zeros_like(predicted)
    shift = np.stack([closest_lattice_vector(d, q) for d, q in zip(difference, quanta, strict=True)])
    return torch.tensor(shift, dtype=predicted.dtype, device=predicted.device)


def mean_neighbours(frames: Sequence[LabelledFrame], species: Sequence[str], cutoff: float) -> float:
    """Mean number of neighbours per atom within the cutoff, the network's normalization."""
    graph = build_graph([item.frame for item in frames], species, cutoff)
    return max(1.0, float(graph.mask.sum() / graph.n_atoms))


def _check_neutral(graph: Graph, model: EnthalpyNetwork, frames: Sequence[LabelledFrame | Example]) -> None:
    charge = graph.sum_structures(model.charges[graph.species, None])[:, 0]
    for item, total in zip(frames, charge.tolist(), strict=True):
        if abs(total) > 1e-6 and any(item.frame.pbc):
            raise ValueError(
                f"reference charges of {item.frame.formula} add up to {total:+g} e: "
                "give oxidation numbers that make the cell neutral"
            )
