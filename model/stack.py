"""Several networks of one architecture as one model: their weights stacked, every operation done once for all of them.

A stack sees K copies of a batch, one for each member, so responses, losses and masks work on it as on one network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from .data import LabelledBatch
from .graph import Graph
from .interface import EnthalpyModel
from .network import EnthalpyNetwork
from .parts import LearnedPart
from .responses import Responses, compute_responses
from .settings import NetworkConfig


class NetworkStack(EnthalpyModel):
    """K networks that differ in their weights, references and normalization only.

    Its parameters are its members' own, each a leaf of its own: what trains the stack trains the members, and an
    optimizer that looks at whole weights (SOAP) sees those of one network at a time.

    Args:
        members: networks on one device, or what they learn.

    Raises:
        ValueError: no member, or members of different architectures.
    """

    def __init__(self, members: Sequence[EnthalpyNetwork | LearnedPart]) -> None:
        super().__init__()
        if not members:
            raise ValueError("a committee needs at least one member")
        if len({architecture(member.config) for member in members}) > 1:
            raise ValueError("networks of different architectures cannot be stacked: give members of one architecture")
        self.species, self.cutoff = members[0].species, members[0].cutoff
        self.networks = list(members)
        self.members = nn.ModuleList(members)

    def __len__(self) -> int:
        return len(self.members)

    def forward(self, graph: Graph) -> Tensor:
        """Enthalpies of a graph made by ``repeat_graph``, eV, (K B,)."""
        size = len(self)
        if size == 1:
            return self.members[0](graph)
        n, b = graph.n_atoms // size, graph.n_structures // size
        shared = (graph.species[:n], graph.structure[:n], graph.neighbours[:n], graph.shifts[:n], graph.mask[:n])

        first = _LocalPart(self.networks[0])

        def one(state: dict[str, Tensor], positions: Tensor, cell: Tensor, field: Tensor) -> Tensor:
            return functional_call(first, state, (Graph(positions, cell, field, *shared),))

        geometry = (graph.positions.view(size, n, 3), graph.cell.view(size, b, 3, 3), graph.field.view(size, b, 3))
        enthalpy = vmap(one)(self._stacked(), *geometry).flatten()
        if self.networks[0].strictly_local:
            return enthalpy
        copies = [Graph(*each, *shared) for each in zip(*geometry, strict=True)]
        far = [network.long_range(copy) for network, copy in zip(self.networks, copies, strict=True)]
        return enthalpy + torch.cat(far)

    def _stacked(self) -> dict[str, Tensor]:
        """Weights and buffers of the members by their name in ``_LocalPart``, with a leading axis K."""
        states = [dict(chain(member.named_parameters(), member.named_buffers())) for member in self.members]
        return {f"network.{name}": torch.stack([state[name] for state in states]) for name in states[0]}


class _LocalPart(nn.Module):
    """The part of a network that several can share a pass for."""

    def __init__(self, network: EnthalpyNetwork | LearnedPart) -> None:
        super().__init__()
        self.network = network

    def forward(self, graph: Graph) -> Tensor:
        return self.network.local_part(graph)


def architecture(config: NetworkConfig) -> str:
    """What members of a stack must have in common."""
    return config.model_copy(update={"neighbours": 1.0, "scales": None, "screened_charges": None}).model_dump_json()


def repeat_graph(graph: Graph, copies: int) -> Graph:
    """K copies of a batch, one after the other; of one, the batch itself."""
    if copies == 1:
        return graph

    def repeated(tensor: Tensor) -> Tensor:
        return tensor.repeat(copies, *[1] * (tensor.dim() - 1))

    def shifted(tensor: Tensor, step: int) -> Tensor:
        return torch.cat([tensor + copy * step for copy in range(copies)])

    return Graph(
        positions=repeated(graph.positions),
        cell=repeated(graph.cell),
        field=repeated(graph.field),
        species=repeated(graph.species),
        structure=shifted(graph.structure, graph.n_structures),
        neighbours=shifted(graph.neighbours, graph.n_atoms),
        shifts=repeated(graph.shifts),
        mask=repeated(graph.mask),
    )


def stack_responses(stack: NetworkStack, graph: Graph, *, stress: bool = False, born: bool = False) -> Responses:
    """Responses of every member to one batch: those of ``compute_responses`` with a leading axis K."""
    size = len(stack)
    out = compute_responses(stack, repeat_graph(graph, size), stress=stress, born=born)
    values = (getattr(out, name) for name in Responses.__dataclass_fields__)
    return Responses(*(None if value is None else value.unflatten(0, (size, -1)) for value in values))  # type: ignore[arg-type]


def repeat_batch(batch: LabelledBatch, copies: int) -> LabelledBatch:
    """K copies of a labelled batch, one after the other; of one, the batch itself."""
    if copies == 1:
        return batch

    def repeated(tensor: Tensor) -> Tensor:
        return tensor.repeat(copies, *[1] * (tensor.dim() - 1))

    def all_repeated(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: repeated(value) for name, value in tensors.items()}

    return replace(
        batch,
        graph=repeat_graph(batch.graph, copies),
        labels=all_repeated(batch.labels),
        present=all_repeated(batch.present),
        noise=all_repeated(batch.noise),
        quanta=repeated(batch.quanta),
        atoms=repeated(batch.atoms),
    )
