"""Masked losses over any subset of labels, in units of the error that one is willing to accept.

loss = sum_labels mean( ((prediction - label)/tolerance)^2 ): the tolerance of each label, a physical number, is its
weight. Where the noise of a label is known, that is the natural tolerance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from ..dft_inputs.records import LABELS
from .data import LabelledBatch, branch_shift
from .responses import Responses


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

    model_config = ConfigDict(frozen=True, extra="forbid")

    enthalpy: float | None = Field(default=2e-3, gt=0)
    forces: float | None = Field(default=0.03, gt=0)
    stress: float | None = Field(default=3e-3, gt=0)
    polarization: float | None = Field(default=0.02, gt=0)
    born_effective_charges: float | None = Field(default=0.02, gt=0)
    polarizability: float | None = Field(default=0.05, gt=0)

    def used(self) -> tuple[str, ...]:
        """Names of the labels that enter the loss."""
        return tuple(name for name in LABELS if getattr(self, name) is not None)


@dataclass(frozen=True)
class SquaredErrors:
    """Sums of squared errors and numbers of components by label; sums may carry gradients."""

    sums: dict[str, Tensor]
    counts: dict[str, int]

    def rmse(self) -> dict[str, float]:
        """Root-mean-square error of each label present, in its unit (enthalpy per atom)."""
        return {n: float(s.detach() / self.counts[n]) ** 0.5 for n, s in self.sums.items() if self.counts[n]}

    def __add__(self, other: SquaredErrors) -> SquaredErrors:
        names = {*self.sums, *other.sums}
        zero = torch.zeros(())
        return SquaredErrors(
            {n: self.sums.get(n, zero) + other.sums.get(n, zero) for n in names},
            {n: self.counts.get(n, 0) + other.counts.get(n, 0) for n in names},
        )


def squared_errors(predicted: Responses, batch: LabelledBatch) -> SquaredErrors:
    """Errors of every label that is both predicted and present. P is folded by the closest lattice vector.

    The enthalpy is taken per atom, on the branch of the predicted P.
    """
    sums, counts = {}, {}
    shift = branch_shift(predicted.polarization, batch)
    for name in LABELS:
        prediction = getattr(predicted, name)
        if prediction is None:
            continue
        error = prediction - batch.labels[name]
        if name == "polarization":
            error = error - shift
        elif name == "enthalpy":
            error = (error + (batch.graph.field * shift).sum(-1)) / batch.atoms
        mask = batch.entry_mask(name)
        selected = error[mask]
        sums[name] = selected.square().sum()
        counts[name] = selected.numel()
    return SquaredErrors(sums, counts)


def loss(errors: SquaredErrors, tolerances: Tolerances) -> Tensor:
    """Sum over labels of the mean squared error in units of its tolerance."""
    terms = [
        errors.sums[name] / errors.counts[name] / getattr(tolerances, name) ** 2
        for name in tolerances.used()
        if errors.counts.get(name)
    ]
    if not terms:
        raise ValueError("no label enters the loss: the frames have none of those with a tolerance")
    return torch.stack(terms).sum()
