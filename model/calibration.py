"""Activations of unit size: the factors that a fresh network is built with, measured on its training frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..dft_inputs.records import Frame
from .graph import Graph, build_graph
from .network import EnthalpyNetwork
from .settings import ActivationScales

_SMALLEST = 1e-6
"""A smaller activation stays as it is: it vanishes by symmetry (vectors about the sites of a perfect crystal)."""
_LARGEST = 100.0
"""Of the factors: in a nearly perfect crystal more would blow up what a warm one brings."""


def measured_scales(network: EnthalpyNetwork, frames: Sequence[Frame]) -> ActivationScales:
    """The factors that give every activation of the network unit root mean square on the frames, without a field.

    In the spirit of layer-sequential unit variance (Mishkin and Matas, arXiv:1511.06422). A factor changes what comes
    after it, so each round puts at least one more of them right.

    Args:
        network: fresh; it is left as it is.
        frames: a few of its training set.
    """
    config = network.config.model_copy(update={"dtype": "float64"})  # rounding is no activation
    scales = config.scales or ActivationScales.ones(config.layers, config.l_max)
    graph = build_graph(frames, config.species, config.cutoff, dtype=torch.float64)
    for _ in range(3 * config.layers + 1):
        trial = EnthalpyNetwork(config.model_copy(update={"scales": scales}))
        trial.load_state_dict(dict(network.named_parameters()), strict=False)
        scales = _one_more_right(trial, scales, graph)
    return scales


def _one_more_right(trial: EnthalpyNetwork, scales: ActivationScales, graph: Graph) -> ActivationScales:
    """Every factor divided by the size of its activation in a network that has the factors."""
    seen = _Activations(graph.mask)
    layers: list[Any] = list(trial.layers)
    hooks = [trial.embedding.register_forward_hook(seen.edge_scalars)]
    for layer in layers:
        hooks.append(layer.coupling.register_forward_hook(seen.coupling))
        hooks.append(layer.update.register_forward_hook(seen.edge_scalars))
    with torch.no_grad():
        trial(graph)
    for hook in hooks:
        hook.remove()
    first, *updates = seen.scalars
    return ActivationScales(
        embedding=_divided(1.0, first),
        environment=tuple(
            tuple(_divided(*pair) for pair in zip(*rows, strict=True))
            for rows in zip(scales.environment, seen.environments, strict=True)
        ),
        coupling=tuple(_divided(*pair) for pair in zip(scales.coupling, seen.couplings, strict=True)),
        update=tuple(_divided(1.0, size) for size in updates),
    )


class _Activations:
    """Root mean squares met in a forward pass, in the order of the layers."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask
        self.scalars: list[float] = []
        self.environments: list[list[float]] = []
        self.couplings: list[float] = []

    def edge_scalars(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Of a perceptron, (S, N K)."""
        self.scalars.append(_size(output[:, self.mask.flatten()]))

    def coupling(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Of the environment, (N, U, D), by degree, and of the invariants that come out, (N, U, D', K)."""
        environment = inputs[1]
        l_max = round(environment.shape[2] ** 0.5) - 1
        degrees = environment.split([2 * degree + 1 for degree in range(l_max + 1)], 2)
        self.environments.append([_size(block) for block in degrees])
        self.couplings.append(_size(output[:, :, 0].transpose(1, 2)[self.mask]))


def _size(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt()) if values.numel() else 0.0


def _divided(factor: float, size: float) -> float:
    return min(factor / size, _LARGEST) if size > _SMALLEST else factor
