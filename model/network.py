"""The enthalpy network: local, E(3)-equivariant, with the electric field in every layer's environment.

U(R, h, E) = sum_i [ e_ref(s_i) - 1/2 a_ref(s_i) E^2 + sum_j e_net(ij) + e_rep(ij) ] - E . sum_i q_i r_i
             + on request: sum_i u_ref(pairs, triples, quadruples of i, E) + U_long(R, h)

Edges carry scalars and tensors as in Allegro (Musaelian et al., Nat. Commun. 14, 579 (2023)). The environment of an
atom is the sum over its neighbours plus the solid harmonics of the field. Reference charges q_i (oxidation numbers)
carry the formal part of P, which a local invariant network cannot.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .graph import Environments, Graph
from .interface import LocalModel
from .layers.coupling import Coupling, DegreeLinear, Tensors
from .layers.harmonics import field_harmonics, solid_harmonics
from .layers.many_body import ManyBody
from .layers.operations import concatenate, row_products
from .layers.perceptron import Perceptron, linear
from .layers.radial import BesselBasis, polynomial_envelope
from .layers.repulsion import Repulsion
from .long_range import screened_energy
from .settings import ActivationScales, NetworkConfig

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


class EnthalpyNetwork(LocalModel):
    """The network. ``energy_reference``, ``polarizability_reference`` and ``many_body`` are set by ``fit_references``.

    Args:
        config: the architecture.
        seed: of the initial weights.

    Raises:
        ValueError: ``long_range`` without charges.
    """

    charges: Tensor
    energy_reference: Tensor
    polarizability_reference: Tensor
    energy_scale: Tensor
    screened_charges: Tensor
    normalization: Tensor
    embedding_scale: Tensor

    def __init__(self, config: NetworkConfig, seed: int = 0) -> None:
        super().__init__()
        if config.long_range and config.screened_charges is None:
            raise ValueError("a network with long_range needs screened_charges: initial_network measures them")
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
                self.register_buffer("normalization", torch.tensor(config.neighbours**0.5), persistent=False)
                scales = config.scales or ActivationScales.ones(config.layers, config.l_max)
                kept = config.scales is not None
                self.register_buffer("embedding_scale", torch.tensor(scales.embedding), persistent=kept)
                self.bessel = BesselBasis(config.radial, config.cutoff)
                self.embedding = Perceptron(2 * n_species + config.radial, width, width)
                self.edge_weights = nn.Parameter(torch.randn(width, channels * (config.l_max + 1)))
                self.layers = nn.ModuleList(_Layer(config, scales, layer) for layer in range(config.layers))
                self.readout = Perceptron(width, width, 1)
                self.repulsion = Repulsion(config.species) if config.repulsion else None
                wanted = config.reference == "many_body"
                self.many_body = ManyBody(n_species, config.cutoff, config.l_max) if wanted else None
                screened = config.screened_charges or {}
                self.register_buffer(
                    "screened_charges", torch.tensor([screened.get(s, 0.0) for s in config.species]), persistent=False
                )
        finally:
            torch.set_default_dtype(default)

    @property
    def strictly_local(self) -> bool:
        """Are there no charges that interact beyond the cutoff?"""
        return self.config.screened_charges is None

    def long_range(self, graph: Graph) -> Tensor:
        """Interaction of the screened charges, eV, (B,)."""
        return screened_energy(graph, self.screened_charges[graph.species], self.cutoff)

    @property
    def floats_per_edge(self) -> int:
        """Arrays of tensors and of scalars in each layer, forward and backward."""
        config = self.config
        return config.layers * (6 * config.tensors * (config.l_max + 1) ** 2 + 24 * config.scalars)

    def local_enthalpy(self, environments: Environments) -> Tensor:
        """Enthalpy of each atom without the reference charges, eV, (N,)."""
        return self.learned_enthalpy(environments) + self.known_enthalpy(environments)

    def learned_enthalpy(self, environments: Environments) -> Tensor:
        """The part that depends on the weights, eV, (N,)."""
        scalars, envelope, r = self._edges(environments)
        per_edge = self.energy_scale * self.readout(scalars).view_as(r) * envelope / self.normalization
        return per_edge.sum(1)

    def known_enthalpy(self, environments: Environments) -> Tensor:
        """The part that is not trained, references and repulsion, eV, (N,)."""
        species, field = environments.species, environments.field[environments.structure]
        enthalpy = self.energy_reference[species] - 0.5 * self.polarizability_reference[species] * field.square().sum(
            -1
        )
        around = (environments.vectors, environments.mask, species, environments.neighbour_species)
        if self.repulsion is not None:
            enthalpy = enthalpy + self.repulsion(*around)
        if self.many_body is not None:
            enthalpy = enthalpy + self.many_body(*around, field)
        return enthalpy

    def descriptors(self, graph: Graph) -> Tensor:
        """Learned descriptor of each atom, (N, scalars): its edges' last scalars, summed with the envelope."""
        scalars, envelope, _ = self._edges(graph.environments(self.dtype))
        return (scalars.view(-1, *envelope.shape) * envelope).sum(2).T / self.normalization

    def _edges(self, environments: Environments) -> tuple[Tensor, Tensor, Tensor]:
        """Edge scalars after all layers (S, N K), envelopes (N, K) and distances (N, K)."""
        config = self.config
        vectors, species = environments.vectors, environments.species
        r = vectors.square().sum(-1).sqrt()
        envelope = torch.where(environments.mask, polynomial_envelope(r, config.cutoff), 0.0)
        directions = (vectors / r[..., None]).transpose(1, 2)
        harmonics = solid_harmonics(directions, config.l_max) * envelope[:, None]
        field = field_harmonics(environments.field / config.field_scale, config.l_max)[environments.structure]

        kinds = torch.arange(len(config.species), device=r.device)[:, None, None]
        centre = (species[:, None] == kinds).to(r.dtype).expand(-1, -1, r.shape[1])
        neighbour = (environments.neighbour_species == kinds).to(r.dtype)
        radial = self.bessel(r).movedim(-1, 0) * envelope
        scalars = self.embedding(torch.cat([centre, neighbour, radial]).flatten(1)) * self.embedding_scale

        weights = linear(scalars, self.edge_weights).view(config.tensors, config.l_max + 1, *r.shape)
        tensors = _weighted(weights, harmonics)
        to_sum, mix = harmonics / self.normalization, None
        for layer in self.layers:
            scalars, tensors = layer(scalars, tensors, mix, to_sum, field, species)
            mix = layer.mix
        return scalars, envelope, r


class _Layer(nn.Module):
    """One coupling of every edge with the environment of its centre, then an update of the edge's scalars."""

    environment_scale: Tensor
    coupling_scale: Tensor
    update_scale: Tensor

    def __init__(self, config: NetworkConfig, scales: ActivationScales, layer: int) -> None:
        super().__init__()
        channels, width = config.tensors, config.scalars
        inputs, outputs = _tensors_after(config, layer - 1), _tensors_after(config, layer)
        # Where there are any, a checkpoint holds those that its weights were trained with.
        kept = config.scales is not None
        self.register_buffer("environment_scale", torch.tensor(scales.environment[layer]), persistent=kept)
        self.register_buffer("coupling_scale", torch.tensor(scales.coupling[layer]), persistent=kept)
        self.register_buffer("update_scale", torch.tensor(scales.update[layer]), persistent=kept)
        self.environment_weights = nn.Parameter(torch.randn(width, channels * (config.l_max + 1)))
        self.field_weights = nn.Parameter(torch.randn(len(config.species), channels, config.l_max + 1))
        self.coupling = Coupling(channels, config.l_max, inputs, outputs)
        self.update = Perceptron(width + channels, width, width)
        self.mix = DegreeLinear(channels, outputs) if outputs.l_max else None

    def forward(
        self,
        scalars: Tensor,
        tensors: Tensor,
        mix: DegreeLinear | None,
        harmonics: Tensor,
        field: Tensor,
        species: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Update scalars (S, N K) and tensors (N, U, D, K), on which ``mix`` of the layer before has yet to act."""
        n, u, _, k = tensors.shape
        scaled = self.environment_weights * self.environment_scale.repeat(u)
        weights = linear(scalars, scaled).view(-1, n, k).transpose(0, 1)
        products = row_products(weights, harmonics).view(n, u, self.coupling.degree_mask.shape[0], -1)
        from_field = self.field_weights[species][..., None] * field[:, None, None]
        environment = ((products + from_field) * self.coupling.degree_mask).sum(2)
        if self.mix is None and mix is not None:
            tensors = self.coupling(tensors, environment, self.coupling_scale, mix.weights)
        else:
            tensors = self.coupling(tensors if mix is None else mix(tensors), environment, self.coupling_scale)
        invariants = tensors[:, :, 0].transpose(0, 1).reshape(u, -1)
        update = self.update(concatenate([scalars, invariants], dim=0)) * self.update_scale
        return (scalars + update) / 2**0.5, tensors


def _weighted(weights: Tensor, harmonics: Tensor) -> Tensor:
    """Harmonics (N, D, K) times a weight per channel and degree (U, l_max + 1, N, K), (N, U, D, K)."""
    degrees = [2 * degree + 1 for degree in range(weights.shape[1])]
    blocks = zip(weights.transpose(0, 2).unbind(1), harmonics.split(degrees, 1), strict=True)
    return concatenate([weight[:, :, None] * block[:, None] for weight, block in blocks], dim=2)


def _tensors_after(config: NetworkConfig, layer: int) -> Tensors:
    """What an edge carries after a layer (-1: before the first): only what can still reach the energy.

    The last layer's tensors are invariants. They come from natural parity alone, as the environment has no other: the
    other parity is of use as an intermediate, made in one layer and undone in a later one that is not the last.
    """
    last = config.layers - 1
    return Tensors(0 if layer == last else config.l_max, config.parity == "both" and 0 <= layer < last - 1)
