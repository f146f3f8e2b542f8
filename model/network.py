"""The enthalpy network: strictly local, E(3)-equivariant, with the electric field in every layer's environment.

U(R, h, E) = sum_i [ e_ref(s_i) - 1/2 a_ref(s_i) E^2 + sum_j e_net(ij) + e_rep(ij) ] - E . sum_i q_i r_i

Edges carry scalars and tensors as in Allegro (Musaelian et al., Nat. Commun. 14, 579 (2023)). The environment of an
atom is the sum over its neighbours plus the solid harmonics of the field. Reference charges q_i (oxidation numbers)
carry the formal part of P, which a local invariant network cannot.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .graph import Graph
from .interface import EnthalpyModel
from .layers.coupling import Coupling, DegreeLinear
from .layers.harmonics import edge_harmonics, field_harmonics
from .layers.perceptron import Perceptron
from .layers.radial import BesselBasis, polynomial_envelope
from .layers.repulsion import Repulsion
from .settings import NetworkConfig

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


class EnthalpyNetwork(EnthalpyModel):
    """The network. ``energy_reference`` and ``polarizability_reference`` are set by ``fit_references``.

    Args:
        config: the architecture.
        seed: of the initial weights.
    """

    charges: Tensor
    energy_reference: Tensor
    polarizability_reference: Tensor
    energy_scale: Tensor

    def __init__(self, config: NetworkConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.species = config.species
        self.cutoff = config.cutoff
        n_species, width, channels = len(config.species), config.scalars, config.tensors
        default = torch.get_default_dtype()
        torch.set_default_dtype(_DTYPES[config.dtype])
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                charges = [float(config.reference_charges.get(symbol, 0)) for symbol in config.species]
                self.register_buffer("charges", torch.tensor(charges))
                self.register_buffer("energy_reference", torch.zeros(n_species))
                self.register_buffer("polarizability_reference", torch.zeros(n_species))
                self.register_buffer("energy_scale", torch.ones(()))
                self.bessel = BesselBasis(config.radial, config.cutoff)
                self.embedding = Perceptron(2 * n_species + config.radial, width, width)
                self.edge_weights = nn.Parameter(torch.randn(width, channels * (config.l_max + 1)))
                self.layers = nn.ModuleList(
                    _Layer(config, last=layer == config.layers - 1) for layer in range(config.layers)
                )
                self.readout = Perceptron(width, width, 1)
                self.repulsion = Repulsion(config.species) if config.repulsion else None
        finally:
            torch.set_default_dtype(default)

    def forward(self, graph: Graph) -> Tensor:
        """Electric enthalpy of each structure, eV, (B,)."""
        charge_dipole = graph.sum_structures(self.charges[graph.species, None] * graph.positions)
        return graph.sum_structures(self.local_enthalpy(graph)) - (graph.field * charge_dipole).sum(-1)

    def local_enthalpy(self, graph: Graph) -> Tensor:
        """Enthalpy of each atom without the reference charges, eV, (N,): strictly local, invariant."""
        scalars, envelope, r = self._edges(graph)
        per_edge = self.energy_scale * self.readout(scalars)[..., 0] * envelope / self.config.neighbours**0.5
        if self.repulsion is not None:
            pair = self.repulsion(r, graph.species[:, None], graph.species[graph.neighbours])
            per_edge = per_edge + torch.where(graph.mask, pair, 0.0)
        energy = self.energy_reference[graph.species]
        squared_field = graph.field.square().sum(-1)[graph.structure]
        return per_edge.sum(1) + energy - 0.5 * self.polarizability_reference[graph.species] * squared_field

    def descriptors(self, graph: Graph) -> Tensor:
        """Learned descriptor of each atom, (N, scalars): its edges' last scalars, summed with the envelope."""
        scalars, envelope, _ = self._edges(graph)
        return (scalars * envelope[..., None]).sum(1) / self.config.neighbours**0.5

    def _edges(self, graph: Graph) -> tuple[Tensor, Tensor, Tensor]:
        """Edge scalars after all layers (N, K, S), envelopes (N, K) and distances (N, K)."""
        config = self.config
        vectors = graph.vectors()
        r = vectors.square().sum(-1).sqrt()
        envelope = torch.where(graph.mask, polynomial_envelope(r, config.cutoff), 0.0)
        directions = edge_harmonics(vectors / r[..., None], config.l_max)
        field = field_harmonics(graph.field / config.field_scale, config.l_max)[graph.structure]

        one_hot = nn.functional.one_hot(graph.species, len(config.species)).to(r.dtype)
        centre = one_hot[:, None, :].expand(-1, graph.neighbours.shape[1], -1)
        pair = torch.cat([centre, one_hot[graph.neighbours], self.bessel(r) * envelope[..., None]], dim=-1)
        scalars = self.embedding(pair)

        tensors = _weighted(scalars @ (self.edge_weights / config.scalars**0.5), directions, envelope, config)
        for layer in self.layers:
            scalars, tensors = layer(scalars, tensors, directions, envelope, field, graph.species)
        return scalars, envelope, r


class _Layer(nn.Module):
    """One coupling of every edge with the environment of its centre, then an update of the edge's scalars."""

    def __init__(self, config: NetworkConfig, last: bool) -> None:
        super().__init__()
        self.config = config
        channels, width, l_out = config.tensors, config.scalars, 0 if last else config.l_max
        self.environment_weights = nn.Parameter(torch.randn(width, channels * (config.l_max + 1)))
        self.field_weights = nn.Parameter(torch.randn(len(config.species), channels, config.l_max + 1))
        self.coupling = Coupling(channels, config.l_max, l_out)
        self.update = Perceptron(width + channels, width, width)
        self.mix = None if last else DegreeLinear(channels, config.l_max)

    def forward(
        self, scalars: Tensor, tensors: Tensor, directions: Tensor, envelope: Tensor, field: Tensor, species: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Update scalars (N, K, S) and tensors (N, U, K, D)."""
        config = self.config
        weights = scalars @ (self.environment_weights / config.scalars**0.5)
        environment = _weighted(weights, directions, envelope, config).sum(2) / config.neighbours**0.5
        environment = environment + _scaled(self.field_weights[species], field[:, None])
        tensors = self.coupling(tensors, environment)
        invariants = tensors[..., 0].transpose(1, 2)
        scalars = (scalars + self.update(torch.cat([scalars, invariants], dim=-1))) / 2**0.5
        return scalars, tensors if self.mix is None else self.mix(tensors)


def _weighted(weights: Tensor, harmonics: Tensor, envelope: Tensor, config: NetworkConfig) -> Tensor:
    """Harmonics (N, K, D) times a weight per channel and degree (N, K, U (l_max + 1)), (N, U, K, D)."""
    n, k, _ = weights.shape
    weights = (weights * envelope[..., None]).reshape(n, k, config.tensors, config.l_max + 1).transpose(1, 2)
    return _scaled(weights, harmonics[:, None])


def _scaled(weights: Tensor, harmonics: Tensor) -> Tensor:
    """Packed harmonics (..., D) times one weight per degree (..., l_max + 1)."""
    degrees = range(weights.shape[-1])
    return torch.cat([weights[..., n : n + 1] * harmonics[..., n**2 : (n + 1) ** 2] for n in degrees], dim=-1)
