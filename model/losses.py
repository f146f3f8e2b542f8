"""Masked losses over any subset of labels, in units of the error that one is willing to accept.

loss = sum_labels mean( rho((prediction - label)/tolerance) ), rho(x) = x^2 or Huber's. The tolerance of each label, a
physical number, is its weight: the error that the network is wanted to reach. The noise of a label adds to it in
quadrature, so a label noisier than that counts less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..dft_inputs.records import LABELS
from .data import LabelledBatch, branch_shift
from .network import EnthalpyNetwork
from .responses import Responses, compute_responses
from .settings import Tolerances, TrainingSettings

DIRECTIONAL = ("born_effective_charges", "polarizability")
"""Labels whose first Cartesian index is the field's, and which cost further derivatives."""


@dataclass(frozen=True)
class Residual:
    """Errors of one label over a batch.

    Attributes:
        error: prediction minus label in the label's unit (enthalpy per atom), (n, ...).
        noise: of the labels, (n,).
    """

    error: Tensor
    noise: Tensor


@dataclass(frozen=True)
class SquaredErrors:
    """Sums of squared errors and numbers of components by label."""

    sums: dict[str, float]
    counts: dict[str, int]

    def rmse(self) -> dict[str, float]:
        """Root-mean-square error of each label present, in its unit (enthalpy per atom)."""
        return {n: (s / self.counts[n]) ** 0.5 for n, s in self.sums.items() if self.counts[n]}

    def __add__(self, other: SquaredErrors) -> SquaredErrors:
        names = {*self.sums, *other.sums}
        return SquaredErrors(
            {n: self.sums.get(n, 0.0) + other.sums.get(n, 0.0) for n in names},
            {n: self.counts.get(n, 0) + other.counts.get(n, 0) for n in names},
        )


def residuals(predicted: Responses, batch: LabelledBatch, directions: Tensor | None = None) -> dict[str, Residual]:
    """Errors of every label that is both predicted and present. P is folded by the closest lattice vector.

    The enthalpy is taken per atom, on the branch of the predicted P. Z* and alpha are compared along the directions
    of the field in which they were predicted, (D, 3), or in full.
    """
    found = {}
    shift = branch_shift(predicted.polarization, batch)
    for name in LABELS:
        prediction = getattr(predicted, name)
        if prediction is None or not batch.holds(name):
            continue
        label = batch.labels[name]
        if directions is not None and name in DIRECTIONAL:
            label = directions.to(label) @ label
        error = prediction - label
        if name == "polarization":
            error = error - shift
        elif name == "enthalpy":
            error = (error + (batch.graph.field * shift).sum(-1)) / batch.atoms
        mask = batch.entry_mask(name)
        found[name] = Residual(error[mask], batch.entry_noise(name)[mask])
    return found


def squared_errors(predicted: Responses, batch: LabelledBatch) -> SquaredErrors:
    """Sums over a batch, without gradients."""
    errors = {name: item.error.detach() for name, item in residuals(predicted, batch).items()}
    return SquaredErrors(
        {name: float(error.double().square().sum()) for name, error in errors.items()},
        {name: error.numel() for name, error in errors.items()},
    )


def evaluate(model: EnthalpyNetwork, batches: Sequence[LabelledBatch]) -> SquaredErrors:
    """Squared errors of a model on batches, all labels, no gradients kept."""
    total = SquaredErrors({}, {})
    for batch in batches:
        here = batch.to(model.device)
        total = total + squared_errors(compute_responses(model, here.graph, stress=True, born=True), here)
    return total


def loss_sums(
    parts: Sequence[Mapping[str, Residual]], settings: TrainingSettings, members: int = 1
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Sum of rho over the components of each label that enters the loss, and their number, over several batches.

    Batches of several members hold their copies one after the other: sums are by member, (members,), numbers are those
    of one.
    """
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    for name in settings.tolerances.used():
        for part in parts:
            if name in part:
                rho = _rho(part[name], getattr(settings.tolerances, name), settings)
                value = rho.reshape(members, -1).sum(1)
                sums[name] = sums[name] + value if name in sums else value
                counts[name] = counts.get(name, 0) + part[name].error.numel() // members
    if not sums:
        raise ValueError("no label enters the loss: the frames have none of those with a tolerance")
    return sums, counts


def loss(predicted: Responses, batch: LabelledBatch, settings: TrainingSettings, members: int = 1) -> Tensor:
    """The loss of one batch; of several members, the sum of their losses."""
    sums, counts = loss_sums([residuals(predicted, batch)], settings, members)
    return torch.stack([value / counts[name] for name, value in sums.items()]).sum()


def score(rmse: Mapping[str, float], tolerances: Tolerances) -> float:
    """One number for errors on a validation set: the sum over labels of squared RMSE in units of the tolerance."""
    return sum((rmse[name] / getattr(tolerances, name)) ** 2 for name in tolerances.used() if name in rmse)


def _rho(item: Residual, tolerance: float, settings: TrainingSettings) -> Tensor:
    if settings.label_noise:
        scale = (item.noise.square() + tolerance**2).sqrt()
        x = item.error / scale.reshape(-1, *[1] * (item.error.dim() - 1))
    else:
        x = item.error / tolerance
    if settings.loss == "mse":
        return x.square()
    # Twice the usual form, which equals x^2 for small x.
    return 2 * torch.nn.functional.huber_loss(x, torch.zeros_like(x), reduction="none", delta=settings.huber_delta)
