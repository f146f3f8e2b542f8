"""Several networks of one architecture as one model: their weights stacked, every operation done once for all of them.

A stack sees K copies of a batch, one for each member, so responses, losses and masks work on it as on one network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from .data import LabelledBatch
from .graph import Graph
from .interface import EnthalpyModel
from .losses import loss
from .network import EnthalpyNetwork
from .responses import Responses, compute_responses
from .settings import NetworkConfig, TrainingSettings


class NetworkStack(EnthalpyModel):
    """K networks that differ in their weights, references and mean number of neighbours only.

    Its parameters are the members' with a leading axis K. It copies them: train the stack, then ask for ``members``.

    Args:
        members: networks on one device.

    Raises:
        ValueError: no member, or members of different architectures.
    """

    def __init__(self, members: Sequence[EnthalpyNetwork]) -> None:
        super().__init__()
        if not members:
            raise ValueError("a committee needs at least one member")
        if len({architecture(member.config) for member in members}) > 1:
            raise ValueError("networks of different architectures cannot be stacked: give members of one architecture")
        self.species, self.cutoff = members[0].species, members[0].cutoff
        self.configs = [member.config for member in members]
        parameters, buffers = stack_module_state(list[nn.Module](members))
        self._names = list(parameters)
        self.stacked = nn.ParameterList([nn.Parameter(value.detach()) for value in parameters.values()])
        self._buffer_names = list(buffers)
        for index, value in enumerate(buffers.values()):
            self.register_buffer(f"buffer_{index}", value)
        # A tuple keeps it from being a submodule: it lends its code, not its weights.
        self._template = (EnthalpyNetwork(members[0].config).to(members[0].device),)

    def __len__(self) -> int:
        return len(self.configs)

    def forward(self, graph: Graph) -> Tensor:
        """Enthalpies of a graph made by ``repeat_graph``, eV, (K B,)."""
        size = len(self)
        n, b = graph.n_atoms // size, graph.n_structures // size
        shared = (graph.species[:n], graph.structure[:n], graph.neighbours[:n], graph.shifts[:n], graph.mask[:n])

        def one(parameters: dict[str, Tensor], positions: Tensor, cell: Tensor, field: Tensor) -> Tensor:
            return functional_call(self._template[0], parameters, (Graph(positions, cell, field, *shared),))

        geometry = (graph.positions.view(size, n, 3), graph.cell.view(size, b, 3, 3), graph.field.view(size, b, 3))
        return vmap(one)(self._state(), *geometry).flatten()

    def members(self) -> list[EnthalpyNetwork]:
        """The networks, as copies."""
        networks = []
        for index, config in enumerate(self.configs):
            network = EnthalpyNetwork(config).to(self.device)
            state = {name: value[index].detach() for name, value in self._state().items()}
            network.load_state_dict({name: state[name] for name in network.state_dict()})
            networks.append(network)
        return networks

    def _state(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = dict(zip(self._names, self.stacked, strict=True))
        return state | {name: getattr(self, f"buffer_{i}") for i, name in enumerate(self._buffer_names)}


def architecture(config: NetworkConfig) -> str:
    """What members of a stack must have in common."""
    return config.model_copy(update={"neighbours": 1.0}).model_dump_json()


def repeat_graph(graph: Graph, copies: int) -> Graph:
    """K copies of a batch, one after the other."""

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


def stack_loss(stack: NetworkStack, batch: LabelledBatch, settings: TrainingSettings) -> Tensor:
    """The sum of the losses of all members on one batch: its gradient is that of every member's own loss.

    With an optimizer that treats each weight for itself (Adam), a step on it is K steps of K networks.
    """
    used = settings.tolerances.used()
    copies = _repeat_batch(batch, len(stack))
    predicted = compute_responses(
        stack,
        copies.graph,
        stress="stress" in used and batch.holds("stress"),
        born=any(name in used and batch.holds(name) for name in ("born_effective_charges", "polarizability")),
        create_graph=True,
    )
    return len(stack) * loss(predicted, copies, settings)


def _repeat_batch(batch: LabelledBatch, copies: int) -> LabelledBatch:
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
