"""The active replicas of a run: their atoms, neighbours, model and integrator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from ase.data import atomic_masses, atomic_numbers, covalent_radii
from torch import Tensor

from ...dft_inputs.records import Frame
from ..blocks import plan_blocks, responses_in_blocks
from ..graph import Graph
from ..interface import EnthalpyModel
from ..responses import Responses
from .ensembles import make_electrics, make_integrator
from .limits import Limits
from .neighbours import SkinNeighbours
from .particles import Particles, degrees_of_freedom, masses_in_internal_units
from .settings import DynamicsSettings
from .state import State


class Batch:
    """Replicas that move together.

    Attributes:
        particles: masses and replicas.
        neighbours: the list in use.
        integrator: moves the replicas.
        limits: beyond which a replica has exploded.
        graph: of the last evaluation.
        blocks: how the batch is divided to bound its memory, in words; empty before the first evaluation.
    """

    graph: Graph
    blocks: str = ""

    def __init__(
        self,
        model: EnthalpyModel,
        starts: Sequence[Frame],
        temperatures: np.ndarray,
        settings: DynamicsSettings,
        reference: tuple[Tensor, Tensor],
    ) -> None:
        """Make the batch.

        Args:
            model: the enthalpy.
            starts: where each replica started.
            temperatures: K, (A,).
            settings: of the run.
            reference: positions (N, 3) and cells (A, 3, 3) at which to list the neighbours, A.
        """
        self.model, self._moving_cell = model, settings.moving_cell
        device = model.device
        counts = torch.tensor([len(frame) for frame in starts], device=device)
        numbers = np.array([atomic_numbers[symbol] for frame in starts for symbol in frame.species])
        structure = torch.repeat_interleave(torch.arange(len(starts), device=device), counts)
        degrees = degrees_of_freedom(counts, momentum_conserved=settings.bath != "langevin")
        masses = masses_in_internal_units(torch.tensor(atomic_masses[numbers], device=device))
        self.particles = Particles(masses, structure, degrees)
        self.neighbours = SkinNeighbours(model, starts, settings.skin, *reference)
        cells = torch.tensor(np.stack([frame.cell for frame in starts]), device=device)
        radii = torch.tensor(covalent_radii[numbers], device=device)
        self.limits = Limits(settings, self.particles, radii, cells)
        electrics = make_electrics(
            settings, cells, self._with_polarizability, single_precision=model.dtype != torch.float64
        )
        kelvin = torch.tensor(temperatures, device=device)
        self.integrator = make_integrator(settings, self.particles, kelvin, self._evaluate, electrics)

    def graph_at(self, positions: Tensor, cell: Tensor, field: Tensor) -> Graph:
        """The batch as the model sees it."""
        return self.neighbours.graph(positions, field, cell if self._moving_cell else None)

    def electric_responses(self, state: State) -> Responses:
        """Responses of a state with Born effective charges and polarizability."""
        graph = self.graph_at(state.positions, state.cell, state.field)
        return responses_in_blocks(self.model, graph, born=True)

    def _evaluate(self, positions: Tensor, cell: Tensor, field: Tensor) -> Responses:
        self.graph = self.graph_at(positions, cell, field)
        self.blocks = self.blocks or str(plan_blocks(self.model, self.graph))
        return responses_in_blocks(self.model, self.graph, stress=self._moving_cell)

    def _with_polarizability(self, positions: Tensor, cell: Tensor, field: Tensor) -> Responses:
        return responses_in_blocks(self.model, self.graph_at(positions, cell, field), born=True)


def sees_the_field(model: EnthalpyModel, frame: Frame) -> bool:
    """Has the model a field as input? Tried on the first atom of a frame."""
    atom = Frame(species=frame.species[:1], positions=frame.positions[:1], cell=frame.cell, pbc=frame.pbc)
    neighbours = SkinNeighbours(model, [atom], 0.1, torch.tensor(atom.positions, device=model.device))
    field = torch.full((1, 3), 0.01, dtype=torch.float64, device=model.device)
    graph = neighbours.graph(torch.tensor(atom.positions, device=model.device), field)
    with torch.enable_grad():
        probe = graph.field.detach().requires_grad_()
        enthalpy = model(replace(graph, field=probe)).sum()
        if not enthalpy.requires_grad:
            return False
        return torch.autograd.grad(enthalpy, probe, allow_unused=True)[0] is not None
