"""A network's two parts: what was known before it learned, and what it learns.

Training looks at the learned part alone, with labels from which the known part is taken off once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .graph import Environments, Graph
from .interface import LocalModel
from .network import EnthalpyNetwork
from .settings import NetworkConfig


class KnownPart(LocalModel):
    """References, repulsion, reference charges and the long-range part of a network.

    Args:
        network: whose part it is.
    """

    def __init__(self, network: EnthalpyNetwork) -> None:
        super().__init__()
        self.network, self.species, self.cutoff = network, network.species, network.cutoff
        self.charges = network.charges

    @property
    def strictly_local(self) -> bool:
        """As of the network."""
        return self.network.strictly_local

    def long_range(self, graph: Graph) -> Tensor:
        """That of the network."""
        return self.network.long_range(graph)

    def local_enthalpy(self, environments: Environments) -> Tensor:
        """Enthalpy of each atom, eV, (N,)."""
        return self.network.known_enthalpy(environments)


class LearnedPart(LocalModel):
    """What depends on a network's weights.

    Args:
        network: whose part it is.
    """

    def __init__(self, network: EnthalpyNetwork) -> None:
        super().__init__()
        self.network, self.species, self.cutoff = network, network.species, network.cutoff

    @property
    def charges(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """None: those of the network are known."""
        return torch.zeros_like(self.network.charges)

    @property
    def config(self) -> NetworkConfig:
        """That of the network."""
        return self.network.config

    @property
    def floats_per_edge(self) -> int:
        """That of the network."""
        return self.network.floats_per_edge

    def local_enthalpy(self, environments: Environments) -> Tensor:
        """Enthalpy of each atom, eV, (N,)."""
        return self.network.learned_enthalpy(environments)
