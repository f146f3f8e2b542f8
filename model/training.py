"""Training one network: Adam with an exponential moving average, checkpoints, bitwise resume on a CPU.

The order of frames depends on (seed, epoch) alone, so a run that was killed and started again takes the same steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch

from ..dft_inputs.records import LabelledFrame
from .data import LabelledBatch, fit_references, make_batch, mean_neighbours
from .files import write_atomically
from .losses import SquaredErrors, loss, squared_errors
from .network import EnthalpyNetwork
from .responses import Responses, compute_responses
from .settings import EpochRecord, NetworkConfig, Tolerances, TrainingSettings


@dataclass(frozen=True)
class TrainingResult:
    """A trained network (averaged weights), its learning curve and the RMSE by label on both sets."""

    model: EnthalpyNetwork
    curve: tuple[EpochRecord, ...]
    training: dict[str, float]
    validation: dict[str, float]
    seconds: float


def initial_network(config: NetworkConfig, frames: Sequence[LabelledFrame], seed: int) -> EnthalpyNetwork:
    """A fresh network normalized to training frames: mean neighbours and least-squares references."""
    _require(frames, "training")
    neighbours = mean_neighbours(frames, config.species, config.cutoff)
    model = EnthalpyNetwork(config.model_copy(update={"neighbours": neighbours}), seed)
    fit_references(model, frames)
    return model


def train(
    model: EnthalpyNetwork,
    training: Sequence[LabelledFrame],
    validation: Sequence[LabelledFrame],
    settings: TrainingSettings,
    *,
    seed: int = 0,
    checkpoint: Path | None = None,
    progress: Callable[[EpochRecord], None] | None = None,
) -> TrainingResult:
    """Train a network in place.

    Args:
        model: the start, fresh from ``initial_network`` or an earlier model (warm start).
        training: frames to fit; each may have any subset of labels.
        validation: frames that only judge; may be empty.
        settings: how.
        seed: order of the frames.
        checkpoint: file to resume from where it exists, and to write to.
        progress: called after every epoch.

    Raises:
        ValueError: no training frame, a frame that failed its checks, frames in both sets.
    """
    _require(training, "training")
    shared = {f.frame.frame_id for f in training} & {f.frame.frame_id for f in validation}
    if shared:
        raise ValueError(f"{len(shared)} frames are both in the training and the validation set")
    run = _Run(model, training, settings, seed)
    curve: list[EpochRecord] = []
    validation_batches = _batches(model, validation)
    if checkpoint is not None and checkpoint.exists():
        curve = run.restore(checkpoint)
    started = time.monotonic() - (curve[-1].seconds if curve else 0.0)
    for epoch in range(len(curve), settings.epochs):
        mean_loss = run.epoch(epoch)
        errors = {}
        if validation and ((epoch + 1) % settings.validate_every == 0 or epoch + 1 == settings.epochs):
            errors = evaluate(run.averaged(), validation_batches).rmse()
        curve.append(
            EpochRecord(epoch=epoch + 1, seconds=time.monotonic() - started, loss=mean_loss, validation=errors)
        )
        if checkpoint is not None and (epoch + 1) % settings.checkpoint_every == 0:
            run.save(checkpoint, curve)
        if progress is not None:
            progress(curve[-1])
    averaged = run.averaged()
    return TrainingResult(
        model=averaged,
        curve=tuple(curve),
        training=evaluate(averaged, _batches(model, training)).rmse(),
        validation=evaluate(averaged, validation_batches).rmse() if validation else {},
        seconds=curve[-1].seconds,
    )


def evaluate(model: EnthalpyNetwork, batches: Sequence[LabelledBatch]) -> SquaredErrors:
    """Squared errors of a model on batches, all labels, no gradients kept."""
    total = SquaredErrors({}, {})
    for batch in batches:
        predicted = compute_responses(model, batch.graph, stress=True, born=True)
        total = total + squared_errors(predicted, batch)
    return total


class _Run:
    """The state of a training run: model, optimizer, moving average."""

    def __init__(
        self, model: EnthalpyNetwork, frames: Sequence[LabelledFrame], settings: TrainingSettings, seed: int
    ) -> None:
        self.model, self.frames, self.settings, self.seed = model, list(frames), settings, seed
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=settings.learning_rate, betas=(0.9, 0.99))
        self.average = [p.detach().clone() for p in self.parameters]
        self.norm = 0.0
        self.steps_per_epoch = math.ceil(len(self.frames) / settings.batch_size)

    def epoch(self, epoch: int) -> float:
        """One pass over the frames in the order given by (seed, epoch); the mean loss."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.frames))
        size = self.settings.batch_size
        losses = [
            self.step(order[k : k + size], epoch * self.steps_per_epoch + k // size) for k in range(0, len(order), size)
        ]
        return sum(losses) / len(losses)

    def step(self, members: np.ndarray, step: int) -> float:
        """One optimizer step; the gradient is clipped against its running mean norm."""
        batch = make_batch([self.frames[i] for i in members], self.model)
        tolerances = self.settings.tolerances
        predicted = self.predict(batch, tolerances)
        value = loss(squared_errors(predicted, batch), tolerances)
        if not torch.isfinite(value):
            raise FloatingPointError(
                f"the loss is {value.item()} at step {step}: lower the learning rate or check the labels"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step)
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        limit = self.settings.gradient_clip * self.norm if self.norm else math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, limit))
        self.norm = 0.95 * self.norm + 0.05 * min(norm, limit) if self.norm else norm
        self.optimizer.step()
        decay = min(self.settings.ema_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for average, parameter in zip(self.average, self.parameters, strict=True):
                average.lerp_(parameter, 1 - decay)
        return float(value.detach())

    def predict(self, batch: LabelledBatch, tolerances: Tolerances) -> Responses:
        """The responses that the loss needs, and no dearer ones."""
        used = set(tolerances.used())

        def needed(*names: str) -> bool:
            return any(name in used and bool(batch.present[name].any()) for name in names)

        return compute_responses(
            self.model,
            batch.graph,
            stress=needed("stress"),
            born=needed("born_effective_charges", "polarizability"),
            create_graph=True,
        )

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then a cosine."""
        settings = self.settings
        total = settings.epochs * self.steps_per_epoch
        warmup = max(1, round(settings.warmup * total))
        if step < warmup:
            return settings.learning_rate * (step + 1) / warmup
        phase = (step - warmup) / max(1, total - warmup)
        low = min(settings.final_learning_rate, settings.learning_rate)
        return low + (settings.learning_rate - low) * 0.5 * (1 + math.cos(math.pi * phase))

    def averaged(self) -> EnthalpyNetwork:
        """A copy of the model with the averaged weights."""
        copy = EnthalpyNetwork(self.model.config)
        copy.load_state_dict(self.model.state_dict())
        with torch.no_grad():
            for target, average in zip((p for p in copy.parameters() if p.requires_grad), self.average, strict=True):
                target.copy_(average)
        return copy

    def save(self, path: Path, curve: Sequence[EpochRecord]) -> None:
        """Write the state; readable without unpickling anything but tensors and numbers."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "norm": self.norm,
            "curve": [row.model_dump_json() for row in curve],
        }
        buffer = BytesIO()
        torch.save(state, buffer)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getvalue())

    def restore(self, path: Path) -> list[EpochRecord]:
        """Read a state back; the learning curve so far."""
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = list(state["average"])
        self.norm = state["norm"]
        return [EpochRecord.model_validate_json(row) for row in state["curve"]]


def _batches(model: EnthalpyNetwork, frames: Sequence[LabelledFrame], size: int = 8) -> list[LabelledBatch]:
    return [make_batch(frames[k : k + size], model) for k in range(0, len(frames), size)]


def _require(frames: Sequence[LabelledFrame], what: str) -> None:
    if not frames:
        raise ValueError(f"the {what} set is empty")
    bad = [f.label_id for f in frames if not f.trainable]
    if bad:
        raise ValueError(f"{len(bad)} {what} frames failed or are flagged (first: {bad[0]}): leave them out")
