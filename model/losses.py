"""Masked losses over any subset of labels, in units of the error that one is willing to accept.

loss = sum_labels mean( ((prediction - label)/tolerance)^2 ): the tolerance of each label, a physical number, is its
weight. Where the noise of a label is known, that is the natural tolerance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..dft_inputs.records import LABELS
from .data import LabelledBatch, branch_shift
from .responses import Responses
from .settings import Tolerances


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
