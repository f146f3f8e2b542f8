"""A strictly local model on several devices: blocks of centre atoms are evaluated where one is free."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from queue import SimpleQueue
from typing import TypeVar

import torch
from torch import Tensor, nn

from .derivatives import Derivatives
from .graph import Environments, Graph
from .interface import EnthalpyModel, LocalModel

_Tensors = TypeVar("_Tensors", Environments, Derivatives)


class SpreadModel(LocalModel):
    """Copies of a model, one on each device, that share the blocks of a system or of a batch of replicas.

    A block needs no other, so what devices exchange is what goes into a block and what comes out. Sums are taken on
    the first device in the order of the blocks: results do not depend on which device was free.

    Args:
        model: a local model, compiled or not. The copies keep the weights that it has now.
        devices: one for each copy; the first is the model's device to the outside.

    Raises:
        ValueError: no device, or a copy that cannot be placed there.
    """

    def __init__(self, model: LocalModel, devices: Sequence[torch.device | str]) -> None:
        super().__init__()
        if not devices:
            raise ValueError("devices: name at least one")
        self.species, self.cutoff = model.species, model.cutoff
        self.copies = nn.ModuleList(_placed(model, device) for device in devices)
        self._free: SimpleQueue[LocalModel] = SimpleQueue()
        for one in self._locals:
            self._free.put(one)

    @property
    def plain(self) -> EnthalpyModel:
        """The first copy."""
        return self._first.plain

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """Where the copies are."""
        return tuple(one.device for one in self._locals)

    @property
    def workers(self) -> int:
        """Blocks that may be at work at a time."""
        return len(self.copies)

    @property
    def charges(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Those of the model."""
        return self._first.charges

    @property
    def strictly_local(self) -> bool:
        """As of the model."""
        return self._first.strictly_local

    def long_range(self, graph: Graph) -> Tensor:
        """That of the first copy."""
        return self._first.long_range(graph)

    @property
    def floats_per_edge(self) -> int:
        """That of the model."""
        return self._first.floats_per_edge

    @property
    def in_programs(self) -> bool:
        """As of the model."""
        return self._first.in_programs

    def block_size(self, atoms: int) -> int:
        """As of the model."""
        return self._first.block_size(atoms)

    def is_new(self, atoms: int, columns: int, directions: Tensor | None, create_graph: bool) -> bool:
        """Is such a block new to any copy?"""
        return any(one.is_new(atoms, columns, directions, create_graph) for one in self._locals)

    def prepare(self, environments: Environments, directions: Tensor | None, create_graph: bool) -> None:
        """Prepare every copy."""
        for one in self._locals:
            one.prepare(_moved(environments, one.device), _on(directions, one.device), create_graph)

    def local_enthalpy(self, environments: Environments) -> Tensor:
        """That of the first copy."""
        return self._first.local_enthalpy(environments)

    def derivatives(
        self, environments: Environments, directions: Tensor | None = None, *, create_graph: bool = False
    ) -> Derivatives:
        """By a copy that is free; the result is on the first device."""
        with self._taken() as one:
            found = one.derivatives(
                _moved(environments, one.device), _on(directions, one.device), create_graph=create_graph
            )
            return _moved(found, self.device)

    @property
    def _locals(self) -> tuple[LocalModel, ...]:
        return tuple(one for one in self.copies if isinstance(one, LocalModel))

    @property
    def _first(self) -> LocalModel:
        return self._locals[0]

    @contextmanager
    def _taken(self) -> Iterator[LocalModel]:
        one = self._free.get()
        try:
            yield one
        finally:
            self._free.put(one)


def _placed(model: LocalModel, device: torch.device | str) -> LocalModel:
    try:
        return copy.deepcopy(model).to(torch.device(device)).requires_grad_(False)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"devices: {device} cannot be used: {str(error).splitlines()[0]}") from error


def _on(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device)


def _moved(tensors: _Tensors, device: torch.device) -> _Tensors:
    """All tensors of a record on a device."""
    return replace(tensors, **{entry.name: _on(getattr(tensors, entry.name), device) for entry in fields(tensors)})
