"""The training of one network as a LightningModule, and what happens at the end of an epoch.

Everything that a checkpoint needs beside weights and optimizer (averaged weights, running norm of the gradient,
learning curve) is part of the module's state, so Lightning's own checkpoints resume bitwise on a CPU. They hold
tensors, numbers and texts alone and are read with ``weights_only=True``.
"""

from __future__ import annotations

import json
import logging
import math
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor
from torch.utils.data import DataLoader

from .data import LabelledBatch
from .losses import DIRECTIONAL, SquaredErrors, evaluate, loss_sums, residuals, score
from .network import EnthalpyNetwork
from .responses import Responses, compute_responses
from .settings import EpochRecord, TrainingSettings
from .steps import Step, StepData, StepSampler, step_loader

VALIDATION = "validation"
"""Metric that early stopping watches: ``losses.score`` of the averaged weights."""


class EnthalpyTraining(LightningModule):
    """An optimizer with an exponential moving average of the weights.

    Args:
        network: trained in place.
        settings: how.
        data: the steps.
        validation: batches that judge the averaged weights.
        seed: of the order of the frames.
    """

    norm: Tensor

    def __init__(
        self,
        network: EnthalpyNetwork,
        settings: TrainingSettings,
        data: StepData,
        validation: Sequence[LabelledBatch],
        seed: int,
    ) -> None:
        super().__init__()
        self.network, self.settings = network, settings
        self.average = copy_of(network).requires_grad_(False)
        self.best = copy_of(network).requires_grad_(False) if settings.early_stop else None
        self.best_score = math.inf
        self.register_buffer("norm", torch.zeros((), dtype=torch.float64))
        self.curve: list[EpochRecord] = []
        self._data, self._validation, self._seed = data, validation, seed
        self._steps_per_epoch = len(StepSampler(data.examples, settings, seed))
        self._epoch_started = self._started = 0.0
        self._steps = 0
        self._terms: dict[str, float] = {}
        self._trained: list[Tensor] = [p for p in network.parameters() if p.requires_grad]
        pairs = zip(self.average.parameters(), network.parameters(), strict=True)
        self._averaged: list[Tensor] = [average for average, p in pairs if p.requires_grad]

    def result(self) -> EnthalpyNetwork:
        """The averaged weights: the last ones, or the best ones where training may stop early."""
        return self.best if self.best is not None and math.isfinite(self.best_score) else self.average

    def setup(self, stage: str) -> None:
        """Lightning greets and warns in every process of its own, of which only this hook runs before the training."""
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module="lightning.*")
        warnings.filterwarnings("ignore", message="Grad strides do not match")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The learning rate is set before each step."""
        rate = self.settings.learning_rate
        if self.settings.optimizer == "adam":
            return torch.optim.Adam(self._trained, lr=rate, betas=(0.9, 0.99))
        from pytorch_optimizer import SOAP  # noqa: PLC0415  (a second to import)

        return SOAP(self._trained, lr=rate, betas=(0.95, 0.95), weight_decay=0.0)

    def train_dataloader(self) -> DataLoader[Step]:
        """The steps of this device."""
        sampler = StepSampler(
            self._data.examples, self.settings, self._seed, device=self.global_rank, devices=self.trainer.world_size
        )
        return step_loader(self._data, sampler)

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then a cosine."""
        settings = self.settings
        total = settings.epochs * self._steps_per_epoch
        warmup = max(1, round(settings.warmup * total))
        if step < warmup:
            return settings.learning_rate * (step + 1) / warmup
        phase = (step - warmup) / max(1, total - warmup)
        low = min(settings.final_learning_rate, settings.learning_rate)
        return low + (settings.learning_rate - low) * 0.5 * (1 + math.cos(math.pi * phase))

    def training_step(self, step: Step, _: int) -> Tensor:
        """The loss of a step. On several devices its gradient adds up to that of all their frames in one batch."""
        parts = [residuals(self._predict(batch, step.directions), batch, step.directions) for batch in step.batches]
        sums, counts = loss_sums(parts, self.settings)
        if not step.counts:
            sums, counts = {name: 0 * value for name, value in sums.items()}, dict.fromkeys(counts, 0)
        totals = self._totals(counts)
        terms = {name: value / max(totals[name], 1) for name, value in sums.items()}
        value = torch.stack([*terms.values()]).sum()
        self._take_note(value, terms)
        # Lightning's DDP takes the mean of the gradients, and this is a part of a sum.
        return value * self.trainer.world_size

    def _predict(self, batch: LabelledBatch, directions: Tensor | None) -> Responses:
        """The responses that the loss needs, and no dearer ones."""
        used = self.settings.tolerances.used()

        def needed(*names: str) -> bool:
            return any(name in used and batch.holds(name) for name in names)

        return compute_responses(
            self.network,
            batch.graph,
            stress=needed("stress"),
            born=needed(*DIRECTIONAL),
            directions=directions,
            create_graph=True,
        )

    def _totals(self, counts: dict[str, int]) -> dict[str, int]:
        """Components of each label on all devices together."""
        if self.trainer.world_size == 1:
            return counts
        names = self.settings.tolerances.used()
        numbers = torch.tensor([counts.get(name, 0) for name in names], device=self.device)
        torch.distributed.all_reduce(numbers)
        return dict(zip(names, numbers.tolist(), strict=True))

    def _take_note(self, value: Tensor, terms: dict[str, Tensor]) -> None:
        number = float(value.detach())
        if not math.isfinite(number):
            raise FloatingPointError(
                f"the loss is {number} at step {self.global_step}: lower the learning rate or check the labels"
            )
        self._steps += 1
        for name, term in terms.items():
            self._terms[name] = self._terms.get(name, 0.0) + float(term.detach())

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        """Clip against the running mean of the gradient's norm; called right before the optimizer's step."""
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate(self.global_step)
        before = float(self.norm)
        limit = self.settings.gradient_clip * before if before else math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self._trained, limit))
        self.norm.fill_(0.95 * before + 0.05 * min(norm, limit) if before else norm)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Move the average towards the weights."""
        step = self.global_step - 1
        decay = min(self.settings.ema_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(self._averaged, self._trained, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    def transfer_batch_to_device(self, batch: Step, device: torch.device, dataloader_idx: int) -> Step:
        """Steps are frozen dataclasses, which Lightning does not move by itself."""
        return batch if device.type == "cpu" else batch.to(device)

    def on_train_start(self) -> None:
        """Time goes on from where a resumed run stood."""
        self._started = time.monotonic() - (self.curve[-1].seconds if self.curve else 0.0)

    def on_train_epoch_start(self) -> None:
        """Begin a row of the learning curve."""
        self._epoch_started = time.monotonic()
        self._steps, self._terms = 0, {}

    def on_train_epoch_end(self) -> None:
        """Validate where it is due, and add a row to the learning curve."""
        settings, epoch = self.settings, self.current_epoch + 1
        seconds = time.monotonic() - self._epoch_started
        errors: dict[str, float] = {}
        if self._validation and (epoch % settings.validate_every == 0 or epoch == settings.epochs):
            errors = self._validate()
        terms = self._mean_terms()
        row = EpochRecord(
            epoch=epoch,
            seconds=time.monotonic() - self._started,
            loss=math.fsum(terms.values()),
            terms=terms,
            validation=errors,
            learning_rate=self.learning_rate(self.global_step - 1),
            steps_per_second=self._steps / max(seconds, 1e-9),
        )
        self.curve.append(row)
        # The last known score, as early stopping looks at every epoch.
        self.log(VALIDATION, self._last_score(), sync_dist=self.trainer.world_size > 1)
        if self.logger is not None:
            self.logger.log_metrics({"loss": row.loss, **{f"rmse/{k}": v for k, v in errors.items()}}, step=epoch)

    def _last_score(self) -> float:
        last = next((row.validation for row in reversed(self.curve) if row.validation), None)
        return math.inf if last is None else score(last, self.settings.tolerances)

    def _validate(self) -> dict[str, float]:
        """RMSE by label of the averaged weights; each device takes its share of the batches."""
        share = self._validation[self.global_rank :: self.trainer.world_size]
        total = evaluate(self.average, share)
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, total)
            total = sum(gathered, SquaredErrors({}, {}))
        errors = total.rmse()
        if self.best is not None and (value := score(errors, self.settings.tolerances)) < self.best_score:
            self.best_score = value
            self.best.load_state_dict(self.average.state_dict())
        return errors

    def _mean_terms(self) -> dict[str, float]:
        """Mean over the steps of what each label adds to the loss; each device has its part of the sum."""
        names = self.settings.tolerances.used()
        sums = torch.tensor([self._terms.get(name, 0.0) for name in names], dtype=torch.float64, device=self.device)
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(sums)
        return {name: value / self._steps for name, value in zip(names, sums.tolist(), strict=True) if value}

    def get_extra_state(self) -> str:
        """What is no tensor, as text."""
        return json.dumps({"best_score": self.best_score, "curve": [row.model_dump() for row in self.curve]})

    def set_extra_state(self, state: str) -> None:
        """The counterpart."""
        read = json.loads(state)
        self.best_score = read["best_score"]
        self.curve = [EpochRecord(**row) for row in read["curve"]]


class EpochEnd(Checkpoint):
    """Writes the checkpoint where it is due, then tells of the epoch.

    Args:
        path: of the checkpoint; None for none.
        progress: called with each row of the learning curve.
    """

    best_model_path = ""
    """Lightning asks for it where the run was in processes of its own."""

    def __init__(self, path: Path | None, progress: Callable[[EpochRecord], None] | None) -> None:
        self.path, self.progress = path, progress

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After the module's own."""
        assert isinstance(pl_module, EnthalpyTraining)  # noqa: S101
        row = pl_module.curve[-1]
        if self.path is not None and row.epoch % pl_module.settings.checkpoint_every == 0:
            part = self.path.with_name(f".{self.path.name}.part")
            trainer.save_checkpoint(part)
            if trainer.is_global_zero:
                part.replace(self.path)
        if self.progress is not None and trainer.is_global_zero:
            self.progress(row)


def copy_of(network: EnthalpyNetwork) -> EnthalpyNetwork:
    """A network of its own with the same weights."""
    copy = EnthalpyNetwork(network.config)
    copy.load_state_dict(network.state_dict())
    return copy.to(network.device)
