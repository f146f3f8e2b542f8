"""What fixes a network and its training. Plain pydantic models: reading a configuration does not import torch."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from ..dft_inputs.records import LABELS


class ActivationScales(BaseModel):
    """Factors that bring the activations of a fresh network to unit size on its training frames.

    A sum over neighbours of vectors that point everywhere is small, and a product of such sums smaller: without the
    factors many-body terms enter the first perceptrons at a hundredth of the size of distances, and are learned as
    slowly.

    Attributes:
        embedding: of an edge's first scalars.
        environment: of each layer's sum over neighbours, by degree.
        coupling: of each layer's couplings of edge and environment.
        update: of each layer's update of the scalars.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    embedding: float
    environment: tuple[tuple[float, ...], ...]
    coupling: tuple[float, ...]
    update: tuple[float, ...]

    @classmethod
    def ones(cls, layers: int, l_max: int) -> ActivationScales:
        """No factors."""
        each = (1.0,) * layers
        return cls(embedding=1.0, environment=((1.0,) * (l_max + 1),) * layers, coupling=each, update=each)


_LATER = ("parity", "scales", "unit_activations", "reference", "long_range", "screened_charges")
"""Settings of a network that came after the first models."""


class NetworkConfig(BaseModel):
    """Everything that fixes the architecture.

    Attributes:
        species: chemical symbols.
        reference_charges: oxidation number of each species, e; the cell must be neutral. Empty for none.
        cutoff: A.
        l_max: highest degree of the tensors.
        layers: number of couplings; two or more let alpha depend on the environment.
        scalars: width of the edge scalars and perceptrons.
        tensors: number of tensor channels.
        radial: number of Bessel functions.
        neighbours: mean number of neighbours, for normalization; ``initial_network`` puts in that of the training set.
        unit_activations: measure the sizes of the activations on the training set and divide by them. Learns twice as
            fast from thousands of atoms in thermal motion; from a hundred it learns by heart.
        scales: what was measured; ``initial_network`` puts it in.
        reference: what is fitted by least squares before the network learns the rest: an energy for each ``species``,
            or for ``many_body`` also functions of pairs, triples and quadruples (``layers.many_body``).
        long_range: add the Coulomb interaction of screened charges, Z*/sqrt(eps_inf), beyond the cutoff
            (``long_range``); needs labels of Z* and alpha, and periodic crystals.
        screened_charges: e; ``initial_network`` puts in those of the training set.
        field_scale: field that counts as one in the network, V/A.
        repulsion: add the ZBL repulsion.
        parity: of the tensors: ``natural``, (-1)^l, or ``both``. Up to two layers the two are the same: a pseudotensor
            must be made in one layer and used in another before the last.
        dtype: ``float32`` or ``float64``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    species: tuple[str, ...] = Field(min_length=1)
    reference_charges: dict[str, int] = {}
    cutoff: float = Field(default=5.0, gt=0)
    l_max: int = Field(default=2, ge=1, le=4)
    layers: int = Field(default=2, ge=1, le=4)
    scalars: int = Field(default=32, ge=1)
    tensors: int = Field(default=16, ge=1)
    radial: int = Field(default=8, ge=1)
    neighbours: float = Field(default=20.0, gt=0)
    unit_activations: bool = False
    scales: ActivationScales | None = None
    reference: Literal["species", "many_body"] = "species"
    long_range: bool = False
    screened_charges: dict[str, float] | None = None
    field_scale: float = Field(default=1.0, gt=0)
    repulsion: bool = True
    parity: Literal["natural", "both"] = "natural"
    dtype: Literal["float32", "float64"] = "float64"

    @model_validator(mode="after")
    def _consistent(self) -> NetworkConfig:
        if len(set(self.species)) != len(self.species):
            raise ValueError(f"species are named twice: {', '.join(self.species)}")
        if self.reference_charges and set(self.reference_charges) != set(self.species):
            raise ValueError("reference_charges must name every species, or none")
        if self.screened_charges is not None and set(self.screened_charges) != set(self.species):
            raise ValueError("screened_charges must name every species, or be left out to be measured")
        if self.screened_charges is not None and not self.long_range:
            raise ValueError("screened_charges are those of long_range: true")
        scales = self.scales
        if scales is not None and (
            {len(scales.environment), len(scales.coupling), len(scales.update)} != {self.layers}
            or any(len(row) != self.l_max + 1 for row in scales.environment)
        ):
            raise ValueError("scales must have a factor for every layer and degree")
        return self

    @model_serializer(mode="wrap")
    def _older_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A setting that came later appears where it differs from its default only: older models keep their names."""
        data = handler(self)
        for name in _LATER:
            if getattr(self, name) == type(self).model_fields[name].default:
                data.pop(name, None)
        return data


class Tolerances(BaseModel):
    """The error of each label that counts as one in the loss; null leaves the label out.

    Attributes:
        enthalpy: eV/atom.
        forces: eV/A.
        stress: eV/A^3.
        polarization: e A.
        born_effective_charges: e.
        polarizability: e^2 A^2/eV.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    enthalpy: float | None = Field(default=2e-3, gt=0)
    forces: float | None = Field(default=0.03, gt=0)
    stress: float | None = Field(default=3e-3, gt=0)
    polarization: float | None = Field(default=0.02, gt=0)
    born_effective_charges: float | None = Field(default=0.02, gt=0)
    polarizability: float | None = Field(default=0.05, gt=0)

    @model_validator(mode="after")
    def _something_to_learn(self) -> Tolerances:
        if not self.used():
            raise ValueError(f"every label is left out: give a tolerance for at least one of {', '.join(LABELS)}")
        return self

    def used(self) -> tuple[str, ...]:
        """Names of the labels that enter the loss."""
        return tuple(name for name in LABELS if getattr(self, name) is not None)


class TrainingSettings(BaseModel):
    """How a network is trained.

    Attributes:
        epochs: passes over the training frames.
        batch_size: frames per step, of all devices together.
        optimizer: ``soap`` (Adam in the eigenbasis of Shampoo's preconditioner, arXiv:2409.11321) or ``adam``.
        learning_rate: at the start, after the warm-up.
        final_learning_rate: at the end; the rate falls to it along a cosine.
        warmup: share of the steps over which the learning rate rises from zero.
        ema_decay: of the moving average of the weights that is kept.
        gradient_clip: largest norm of the gradient, in units of its running mean.
        tolerances: error of each label that counts as one.
        label_noise: add the noise of each label, as its checks tell it, to its tolerance in quadrature.
        loss: of an error in units of its tolerance: its square, or Huber's, linear beyond ``huber_delta``.
        huber_delta: tolerances.
        field_directions: directions of the field, drawn anew for each step, along which Z* and alpha are trained; 3 for
            all of both tensors in each step. One costs a third of their derivatives and weighs the same on average.
        field_points: share of the frames of a step that bring one of the field points of their label along, an example
            of its own at its field; true for all of them.
        replay: share of the frames of an epoch that come from an earlier training set, where there is one.
        early_stop: epochs without a better validation after which training ends, with the best weights; None for never.
        checkpoint_every: epochs between checkpoints.
        validate_every: epochs between validations.
        accelerator: ``cpu``, ``gpu``, or whichever there is.
        devices: processes that share a step; at most ``batch_size``.
        compile: compile the derivatives of the network (``CompiledModel``), which takes minutes for each size of frame
            and makes the steps faster; for networks that are trained one by one.
        tensorboard: write logs for TensorBoard too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: int = Field(default=200, ge=1)
    batch_size: int = Field(default=2, ge=1)
    optimizer: Literal["soap", "adam"] = "soap"
    learning_rate: float = Field(default=2e-2, gt=0)
    final_learning_rate: float = Field(default=1e-5, gt=0)
    warmup: float = Field(default=0.02, ge=0, lt=1)
    ema_decay: float = Field(default=0.99, ge=0, lt=1)
    gradient_clip: float = Field(default=5.0, gt=0)
    tolerances: Tolerances = Tolerances()
    label_noise: bool = True
    loss: Literal["mse", "huber"] = "mse"
    huber_delta: float = Field(default=3.0, gt=0)
    field_directions: Literal[1, 2, 3] = 1
    field_points: float = Field(default=0.0, ge=0, le=1)
    replay: float = Field(default=0.5, ge=0, lt=1)
    early_stop: int | None = Field(default=None, ge=1)
    checkpoint_every: int = Field(default=10, ge=1)
    validate_every: int = Field(default=10, ge=1)
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = Field(default=1, ge=1)
    compile: bool = False
    tensorboard: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> TrainingSettings:
        if self.devices > self.batch_size:
            raise ValueError(f"{self.devices} devices share a step of {self.batch_size} frames: make batch_size larger")
        if self.tensorboard and find_spec("tensorboard") is None:
            raise ValueError("tensorboard: true needs a package that is missing: pip install tensorboard")
        if self.early_stop is not None and self.early_stop < self.validate_every:
            raise ValueError(f"early_stop ({self.early_stop}) must be at least validate_every ({self.validate_every})")
        return self

    def identity(self) -> dict[str, Any]:
        """What determines the weights, for content keys.

        How a step is computed and shared among devices and what is logged change nothing but the rounding. Settings
        that came later enter where they differ from what was done before, so that earlier trainings keep their keys.
        """
        as_before = {name for name, value in _BEFORE.items() if getattr(self, name) == value}
        return self.model_dump(exclude={*as_before, "accelerator", "compile", "devices", "tensorboard"})


_BEFORE = {
    "label_noise": True,
    "loss": "mse",
    "huber_delta": 3.0,
    "field_points": 0.0,
    "replay": 0.5,
    "early_stop": None,
    "optimizer": "adam",
    "field_directions": 3,
}
"""Settings that came later, and what was done before there were any."""


class EpochRecord(BaseModel):
    """One row of the learning curve.

    Attributes:
        epoch: number of epochs done.
        seconds: wall time since the start, validation included.
        loss: mean over the steps; ``terms``, the part of each label in the steps that had it.
        validation: RMSE by label, of the averaged weights on the validation frames.
        learning_rate: of the last step.
        steps_per_second: of this epoch, without validation.
    """

    epoch: int
    seconds: float
    loss: float
    terms: dict[str, float] = {}
    validation: dict[str, float] = {}
    learning_rate: float | None = None
    steps_per_second: float | None = None
