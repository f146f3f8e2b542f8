"""Predictions of several networks for the same frames: their mean is the prediction, their spread the uncertainty."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..dft_inputs.records import ElectricResponse, Frame
from .files import load_model
from .graph import build_graph
from .interface import refuse_open_boundaries
from .network import EnthalpyNetwork
from .responses import Responses
from .stack import NetworkStack, architecture, stack_responses

_MOST_ATOMS = 1024
"""Atoms times members of one pass: about 2 GiB for a large network in float32."""


@dataclass(frozen=True)
class CommitteePrediction:
    """Responses of one frame by K members.

    Attributes:
        field: V/A, (3,).
        enthalpy: eV, (K,).
        forces: eV/A, (K, N, 3).
        stress: eV/A^3, (K, 3, 3).
        polarization: e A, (K, 3).
        born_effective_charges: e, (K, N, 3, 3).
        polarizability: e^2 A^2/eV, (K, 3, 3).
        descriptor: mean learned descriptor of each species in the first member, (species * scalars,).
    """

    field: np.ndarray
    enthalpy: np.ndarray
    forces: np.ndarray
    stress: np.ndarray
    polarization: np.ndarray
    born_effective_charges: np.ndarray
    polarizability: np.ndarray
    descriptor: np.ndarray

    def mean(self) -> ElectricResponse:
        """The committee's prediction."""
        return ElectricResponse(
            field=self.field,
            enthalpy=float(self.enthalpy.mean()),
            forces=self.forces.mean(0),
            stress=self.stress.mean(0),
            polarization=self.polarization.mean(0),
            born_effective_charges=self.born_effective_charges.mean(0),
            polarizability=self.polarizability.mean(0),
        )


def load_committee(directories: Sequence[Path]) -> list[EnthalpyNetwork]:
    """Read the members of a committee, onto the GPU where there is one.

    Args:
        directories: of their models.

    Raises:
        ModelFileError: as of ``load_model``.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return [load_model(directory).to(device) for directory in directories]


def predict(
    members: Sequence[EnthalpyNetwork], frames: Sequence[Frame], fields: np.ndarray | None = None, batch_size: int = 16
) -> list[CommitteePrediction]:
    """All responses of frames by every member.

    Args:
        members: networks of the same species.
        frames: geometries.
        fields: field of each frame, V/A, (B, 3) or (3,); zero where not given.
        batch_size: most frames at a time.

    Raises:
        ValueError: no member, members of different species, or frames that these do not take.
    """
    if not members:
        raise ValueError("a committee needs at least one member")
    if len({member.species for member in members}) > 1:
        raise ValueError("the members of a committee must know the same species in the same order")
    for member in members:
        refuse_open_boundaries(member, frames)
    fields = np.zeros((len(frames), 3)) if fields is None else np.broadcast_to(fields, (len(frames), 3))
    alike = len({architecture(member.config) for member in members}) == 1
    stacks = [NetworkStack(members)] if alike else [NetworkStack([member]) for member in members]
    predictions = []
    for part in _passes([len(frame) for frame in frames], batch_size, _MOST_ATOMS // len(members)):
        predictions += _predict_batch(members[0], stacks, frames[part], fields[part])
    return predictions


def _passes(sizes: Sequence[int], most_frames: int, most_atoms: int) -> Iterator[slice]:
    """Frames one after the other in parts that fit into memory."""
    start, atoms = 0, 0
    for index, size in enumerate(sizes):
        if index > start and (index - start == most_frames or atoms + size > most_atoms):
            yield slice(start, index)
            start, atoms = index, 0
        atoms += size
    if sizes:
        yield slice(start, len(sizes))


def _predict_batch(
    first: EnthalpyNetwork, stacks: Sequence[NetworkStack], frames: Sequence[Frame], fields: np.ndarray
) -> list[CommitteePrediction]:
    responses: list[Responses] = []
    for stack in stacks:
        graph = build_graph(frames, stack.species, stack.cutoff, fields, stack.dtype).to(stack.device)
        responses.append(stack_responses(stack, graph, stress=True, born=True))
    graph = build_graph(frames, first.species, first.cutoff, fields, first.dtype).to(first.device)
    with torch.no_grad():
        descriptors = first.descriptors(graph).cpu().double().numpy()
    stacked = {
        name: np.concatenate([getattr(response, name).cpu().double().numpy() for response in responses])
        for name in Responses.__dataclass_fields__
    }
    ends = np.cumsum([len(frame) for frame in frames])
    predictions = []
    for b, (frame, end) in enumerate(zip(frames, ends, strict=True)):
        atoms = slice(end - len(frame), end)
        predictions.append(
            CommitteePrediction(
                field=fields[b],
                enthalpy=stacked["enthalpy"][:, b],
                forces=stacked["forces"][:, atoms],
                stress=stacked["stress"][:, b],
                polarization=stacked["polarization"][:, b],
                born_effective_charges=stacked["born_effective_charges"][:, atoms],
                polarizability=stacked["polarizability"][:, b],
                descriptor=_by_species(descriptors[atoms], frame, first.species),
            )
        )
    return predictions


def _by_species(per_atom: np.ndarray, frame: Frame, species: Sequence[str]) -> np.ndarray:
    """Mean descriptor of the atoms of each species, one after the other; zeros where a species is absent."""
    symbols = np.array(frame.species)
    return np.concatenate(
        [per_atom[symbols == s].mean(0) if (symbols == s).any() else np.zeros(per_atom.shape[1]) for s in species]
    )
