"""A network in training: its weights, their moving average, the best average so far, and its learning curve."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .losses import score
from .network import EnthalpyNetwork
from .settings import EpochRecord, Tolerances, TrainingSettings


class Member(nn.Module):
    """One network of those that are trained together. What a checkpoint needs beside weights is part of its state.

    Args:
        network: trained in place.
        settings: how.
    """

    norm: Tensor

    def __init__(self, network: EnthalpyNetwork, settings: TrainingSettings) -> None:
        super().__init__()
        self.network = network
        self.average = copy_of(network).requires_grad_(False)
        self.best = copy_of(network).requires_grad_(False) if settings.early_stop else None
        self.best_score = math.inf
        self.register_buffer("norm", torch.zeros((), dtype=torch.float64))
        self.curve: list[EpochRecord] = []
        self.terms: dict[str, float] = {}
        self.trained: list[Tensor] = [p for p in network.parameters() if p.requires_grad]
        pairs = zip(self.average.parameters(), network.parameters(), strict=True)
        self._averaged: list[Tensor] = [average for average, p in pairs if p.requires_grad]

    def result(self) -> EnthalpyNetwork:
        """The averaged weights: the last ones, or the best ones where training may stop early."""
        return self.best if self.best is not None and math.isfinite(self.best_score) else self.average

    def clip(self, times: float) -> None:
        """Clip the gradient to so many times the running mean of its norm."""
        before = float(self.norm)
        limit = times * before if before else math.inf
        norm = float(nn.utils.clip_grad_norm_(self.trained, limit))
        self.norm.fill_(0.95 * before + 0.05 * min(norm, limit) if before else norm)

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Move the average towards the weights."""
        torch._foreach_lerp_(self._averaged, self.trained, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    def judged(self, errors: dict[str, float], tolerances: Tolerances) -> None:
        """Keep the averaged weights where no earlier ones were better on the validation frames."""
        if self.best is not None and (value := score(errors, tolerances)) < self.best_score:
            self.best_score = value
            self.best.load_state_dict(self.average.state_dict())

    def last_score(self, tolerances: Tolerances) -> float:
        """Of the last validation."""
        last = next((row.validation for row in reversed(self.curve) if row.validation), None)
        return math.inf if last is None else score(last, tolerances)

    def get_extra_state(self) -> dict[str, Any]:
        """What is no tensor."""
        return {"best_score": self.best_score, "curve": [row.model_dump() for row in self.curve]}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """The counterpart."""
        self.best_score = state["best_score"]
        self.curve = [EpochRecord(**row) for row in state["curve"]]


def copy_of(network: EnthalpyNetwork) -> EnthalpyNetwork:
    """A network of its own with the same weights."""
    copy = EnthalpyNetwork(network.config)
    copy.load_state_dict(network.state_dict())
    return copy.to(network.device)
