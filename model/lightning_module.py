"""Training of a network, or of a committee in one pass, as a LightningModule, and what ends an epoch.

Everything that a checkpoint needs beside weights and optimizer (averaged weights, running norm of the gradient,
learning curve) is part of the module's state, so Lightning's own checkpoints resume bitwise on a CPU. They hold
tensors, numbers and texts alone and are read with ``weights_only=True``.
"""

from __future__ import annotations

import logging
import math
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .blocks import responses_in_blocks
from .compiled import CompiledModel
from .data import LabelledBatch
from .losses import DIRECTIONAL, SquaredErrors, evaluate, loss_sums, residuals
from .member import Member
from .network import EnthalpyNetwork
from .parts import LearnedPart
from .responses import Responses
from .settings import EpochRecord, TrainingSettings
from .stack import NetworkStack
from .steps import Step, StepData, StepSampler, step_loader

VALIDATION = "validation"
"""Metric that early stopping watches: ``losses.score`` of the averaged weights, mean over the members."""

Rows = tuple[EpochRecord, ...]
"""One row of the learning curve of each member."""


class EnthalpyTraining(LightningModule):
    """An optimizer with an exponential moving average of the weights, for one network or several in one pass.

    Args:
        networks: one, or a committee of one architecture, trained in place; all see the same frames in each step.
        settings: how.
        data: the steps.
        validation: batches that judge the averaged weights.
        seed: of the order of the frames.
    """

    def __init__(
        self,
        networks: Sequence[EnthalpyNetwork],
        settings: TrainingSettings,
        data: StepData,
        validation: Sequence[LabelledBatch],
        seed: int,
    ) -> None:
        super().__init__()
        self.settings = settings
        self._members = [Member(network, settings) for network in networks]
        self.members = nn.ModuleList(self._members)
        # In tuples, lest the networks be submodules twice.
        learned = [LearnedPart(network) for network in networks]
        self._learned = (CompiledModel(learned[0]) if settings.compile else NetworkStack(learned),)
        self._data, self._validation, self._seed = data, validation, seed
        self._steps_per_epoch = len(StepSampler(data.examples, settings, seed))
        self._epoch_started = self._started = 0.0
        self._steps = 0

    def results(self) -> list[EnthalpyNetwork]:
        """What each network became."""
        return [member.result() for member in self._members]

    def curves(self) -> list[tuple[EpochRecord, ...]]:
        """The learning curve of each network."""
        return [tuple(member.curve) for member in self._members]

    def setup(self, stage: str) -> None:
        """Lightning greets and warns in every process of its own, of which only this hook runs before the training."""
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module="lightning.*")
        warnings.filterwarnings("ignore", message="Grad strides do not match")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The learning rate is set before each step."""
        rate, trained = self.settings.learning_rate, [p for member in self._members for p in member.trained]
        if self.settings.optimizer == "adam":
            return torch.optim.Adam(trained, lr=rate, betas=(0.9, 0.99))
        from pytorch_optimizer import SOAP  # noqa: PLC0415  (a second to import)

        return SOAP(trained, lr=rate, betas=(0.95, 0.95), weight_decay=0.0)

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
        size = len(self._members)
        parts = [residuals(self._predict(batch, step.directions), batch, step.directions) for batch in step.batches]
        sums, counts = loss_sums(parts, self.settings, size)
        if not step.counts:
            sums, counts = {name: 0 * value for name, value in sums.items()}, dict.fromkeys(counts, 0)
        totals = self._totals(counts)
        terms = {name: value / max(totals[name], 1) for name, value in sums.items()}
        value = torch.stack([*terms.values()]).sum()
        self._take_note(terms)
        # Lightning's DDP takes the mean of the gradients, and this is a part of a sum.
        return value * self.trainer.world_size

    def _predict(self, batch: LabelledBatch, directions: Tensor | None) -> Responses:
        """The learned part of the responses that the loss needs, and no dearer ones."""
        used = self.settings.tolerances.used()

        def needed(*names: str) -> bool:
            return any(name in used and batch.holds(name) for name in names)

        return responses_in_blocks(
            self._learned[0],
            batch.graph,
            stress=needed("stress"),
            born=needed(*DIRECTIONAL),
            directions=directions,
            create_graph=True,
            block=batch.graph.n_atoms,
        )

    def _totals(self, counts: dict[str, int]) -> dict[str, int]:
        """Components of each label on all devices together."""
        if self.trainer.world_size == 1:
            return counts
        names = self.settings.tolerances.used()
        numbers = torch.tensor([counts.get(name, 0) for name in names], device=self.device)
        torch.distributed.all_reduce(numbers)
        return dict(zip(names, numbers.tolist(), strict=True))

    def _take_note(self, terms: dict[str, Tensor]) -> None:
        """Add a step's terms up; each member has its own.

        Raises:
            FloatingPointError: a loss is not finite.
        """
        numbers = {name: term.detach().tolist() for name, term in terms.items()}
        for place, member in enumerate(self._members):
            value = math.fsum(of_members[place] for of_members in numbers.values())
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"the loss is {value} at step {self.global_step}: lower the learning rate or check the labels"
                )
            for name, of_members in numbers.items():
                member.terms[name] = member.terms.get(name, 0.0) + of_members[place]
        self._steps += 1

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        """Called right before the optimizer's step."""
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate(self.global_step)
        for member in self._members:
            member.clip(self.settings.gradient_clip)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Move the averages."""
        step = self.global_step - 1
        decay = min(self.settings.ema_decay, (1 + step) / (10 + step))
        for member in self._members:
            member.follow(decay)

    def transfer_batch_to_device(self, batch: Step, device: torch.device, dataloader_idx: int) -> Step:
        """Steps are frozen dataclasses, which Lightning does not move by itself."""
        return batch if device.type == "cpu" else batch.to(device)

    def on_train_start(self) -> None:
        """Time goes on from where a resumed run stood."""
        curve = self._members[0].curve
        self._started = time.monotonic() - (curve[-1].seconds if curve else 0.0)

    def on_train_epoch_start(self) -> None:
        """Begin a row of the learning curves."""
        self._epoch_started = time.monotonic()
        self._steps = 0
        for member in self._members:
            member.terms = {}

    def on_train_epoch_end(self) -> None:
        """Validate where it is due, and add a row to the learning curves."""
        settings, epoch = self.settings, self.current_epoch + 1
        seconds = time.monotonic() - self._epoch_started
        due = bool(self._validation) and (epoch % settings.validate_every == 0 or epoch == settings.epochs)
        for member in self._members:
            errors = self._validate(member) if due else {}
            terms = self._mean_terms(member)
            member.curve.append(
                EpochRecord(
                    epoch=epoch,
                    seconds=time.monotonic() - self._started,
                    loss=math.fsum(terms.values()),
                    terms=terms,
                    validation=errors,
                    learning_rate=self.learning_rate(self.global_step - 1),
                    steps_per_second=self._steps / max(seconds, 1e-9),
                )
            )
        # The last known score, as early stopping looks at every epoch.
        scores = [member.last_score(settings.tolerances) for member in self._members]
        self.log(VALIDATION, statistics.fmean(scores), sync_dist=self.trainer.world_size > 1)
        if self.logger is not None:
            self.logger.log_metrics(self._metrics(), step=epoch)

    def _metrics(self) -> dict[str, float]:
        """The last row of each member, for a logger."""
        metrics = {}
        for place, member in enumerate(self._members):
            row, prefix = member.curve[-1], f"{place}/" if len(self._members) > 1 else ""
            metrics |= {f"{prefix}loss": row.loss, **{f"{prefix}rmse/{k}": v for k, v in row.validation.items()}}
        return metrics

    def _validate(self, member: Member) -> dict[str, float]:
        """RMSE by label of the averaged weights; each device takes its share of the batches."""
        share = self._validation[self.global_rank :: self.trainer.world_size]
        total = evaluate(member.average, share)
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, total)
            total = sum(gathered, SquaredErrors({}, {}))
        errors = total.rmse()
        member.judged(errors, self.settings.tolerances)
        return errors

    def _mean_terms(self, member: Member) -> dict[str, float]:
        """Mean over the steps of what each label adds to the loss; each device has its part of the sum."""
        names = self.settings.tolerances.used()
        sums = torch.tensor([member.terms.get(name, 0.0) for name in names], dtype=torch.float64, device=self.device)
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(sums)
        return {name: value / self._steps for name, value in zip(names, sums.tolist(), strict=True) if value}


class EpochEnd(Checkpoint):
    """Writes the checkpoint where it is due, then tells of the epoch.

    Args:
        path: of the checkpoint; None for none.
        progress: called with the last row of each learning curve.
    """

    best_model_path = ""
    """Lightning asks for it where the run was in processes of its own."""

    def __init__(self, path: Path | None, progress: Callable[[Rows], None] | None) -> None:
        self.path, self.progress = path, progress

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After the module's own."""
        assert isinstance(pl_module, EnthalpyTraining)  # noqa: S101
        rows = tuple(curve[-1] for curve in pl_module.curves())
        if self.path is not None and rows[0].epoch % pl_module.settings.checkpoint_every == 0:
            part = self.path.with_name(f".{self.path.name}.part")
            trainer.save_checkpoint(part)
            if trainer.is_global_zero:
                part.replace(self.path)
        if self.progress is not None and trainer.is_global_zero:
            self.progress(rows)
