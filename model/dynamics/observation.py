"""What others see of a run while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ...dft_inputs.records import Frame
from ..graph import Graph
from .state import State


@dataclass(frozen=True)
class Observation:
    """A moment of the active replicas, as an observer sees it.

    Attributes:
        step: steps done.
        time: fs.
        replicas: index of each active replica, in the order of the graph's structures.
        graph: the batch at this moment, ready for another model with the same species and cutoff.
        state: positions, velocities and responses.
        temperatures: of the thermostats, K, (A,).
        starts: the frame each active replica started from.
    """

    step: int
    time: float
    replicas: tuple[int, ...]
    graph: Graph
    state: State
    temperatures: np.ndarray
    starts: tuple[Frame, ...]

    @property
    def frames(self) -> list[Frame]:
        """Geometry of each active replica."""
        return frames_at(self.starts, self.state.positions, self.state.cell)

    @property
    def fields(self) -> np.ndarray:
        """Field of each active replica, V/A, (A, 3)."""
        return self.state.field.cpu().numpy()


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        step: steps that are done.
        steps: of the run in all.
        active: replicas that go on.
        ns_per_day: of simulated time per replica.
        atom_steps_per_second: over the batch.
        blocks: how the batch is divided to bound its memory, in words.
    """

    step: int
    steps: int
    active: int
    ns_per_day: float
    atom_steps_per_second: float
    blocks: str


Observer = Callable[[int, Observation], Sequence[bool] | np.ndarray | Tensor | None]
"""Called with (step, observation); may return which of the active replicas to stop."""

ProgressCallback = Callable[[Progress], None]


def frames_at(starts: Sequence[Frame], positions: Tensor, cells: Tensor) -> list[Frame]:
    """Replicas that started from these frames at positions (N, 3) and in cells (A, 3, 3)."""
    arrays = positions.cpu().split([len(start) for start in starts])
    return [
        Frame(species=start.species, positions=array.numpy(), cell=cell.numpy(), pbc=start.pbc)
        for start, array, cell in zip(starts, arrays, cells.cpu(), strict=True)
    ]
