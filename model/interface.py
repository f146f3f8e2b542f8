"""What every enthalpy model offers: one scalar U(R, h, E) per structure, of which all responses are derivatives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..dft_inputs.records import Frame
from .derivatives import Derivatives, differentiate
from .graph import Environments, Graph


class EnthalpyModel(nn.Module, ABC):
    """A differentiable electric enthalpy.

    Attributes:
        species: chemical symbols in the order of the species index.
        cutoff: range of the neighbour list it needs, A.
    """

    species: tuple[str, ...]
    cutoff: float

    @abstractmethod
    def forward(self, graph: Graph) -> Tensor:
        """Electric enthalpy of each structure, eV, (B,)."""

    @property
    def plain(self) -> EnthalpyModel:
        """The model itself, where this one evaluates another by other means."""
        return self

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the parameters."""
        return next((p.dtype for p in (*self.parameters(), *self.buffers()) if p.is_floating_point()), torch.float64)

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next((p.device for p in (*self.parameters(), *self.buffers())), torch.device("cpu"))


class LocalModel(EnthalpyModel):
    """A local enthalpy, U = sum_i u(environment of i, E) - E . sum_i q_i r_i, and beside it U_long(R, h) on request.

    Attributes:
        charges: reference charge of each species, e, (S,).
    """

    charges: Tensor

    @property
    def strictly_local(self) -> bool:
        """Is there no long-range part?"""
        return True

    def long_range(self, graph: Graph) -> Tensor:
        """The part that environments do not tell, eV, (B,); it does not depend on the field."""
        return graph.cell.new_zeros(graph.n_structures)

    @property
    def in_programs(self) -> bool:
        """Are derivatives taken by programs, which a system of a single block has to go through as well?"""
        return False

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """Where blocks of a system are evaluated."""
        return (self.device,)

    @property
    def workers(self) -> int:
        """Blocks of a system that may be at work at a time, each in a thread."""
        return torch.get_num_threads() if self.device.type == "cpu" else 1

    @property
    def floats_per_edge(self) -> int:
        """About how many numbers an evaluation of U, F and P holds for each edge: blocks are sized by it."""
        return 8192

    def block_size(self, atoms: int) -> int:
        """The size of blocks to use where so many atoms would fit."""
        return atoms

    def is_new(self, atoms: int, columns: int, directions: Tensor | None, create_graph: bool) -> bool:
        """Must ``prepare`` be called for such a block, while no other thread evaluates, before ``derivatives``?"""
        return False

    def prepare(self, environments: Environments, directions: Tensor | None, create_graph: bool) -> None:
        """Do what is done once for blocks of this size."""

    @abstractmethod
    def local_enthalpy(self, environments: Environments) -> Tensor:
        """Enthalpy of each atom without the reference charges, eV, (N,): invariant, a function of its environment."""

    def derivatives(
        self, environments: Environments, directions: Tensor | None = None, *, create_graph: bool = False
    ) -> Derivatives:
        """Derivatives of the enthalpies of atoms each in a field of its own; see ``differentiate``."""
        return differentiate(self.local_enthalpy, environments, directions, create_graph=create_graph)

    def forward(self, graph: Graph) -> Tensor:
        """Electric enthalpy of each structure, eV, (B,)."""
        enthalpy = self.local_part(graph)
        return enthalpy if self.strictly_local else enthalpy + self.long_range(graph)

    def local_part(self, graph: Graph) -> Tensor:
        """The enthalpy without its long-range part, eV, (B,)."""
        charge_dipole = graph.sum_structures(self.charges[graph.species, None] * graph.positions)
        local = self.local_enthalpy(graph.environments(self.dtype)).to(graph.positions.dtype)
        return graph.sum_structures(local) - (graph.field * charge_dipole).sum(-1)


def refuse_open_boundaries(model: EnthalpyModel, frames: Sequence[Frame]) -> None:
    """Charges that interact beyond the cutoff do so in crystals alone.

    Raises:
        ValueError: the model has a long-range part, and a frame is not periodic in three directions.
    """
    far = isinstance(model, LocalModel) and not model.strictly_local
    if far and any(not all(frame.pbc) for frame in frames):
        raise ValueError(
            "the model has a long-range part, which takes crystals, periodic in three directions: "
            "train one without network.long_range"
        )
