"""Training on Lightning, of one network or of a committee: any labels, several devices, bitwise resume on a CPU."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any
from zipfile import is_zipfile

import numpy as np
import torch

from ..dft_inputs.records import LABELS, LabelledFrame
from .calibration import measured_scales
from .checks import TrainingDataError, check_frames
from .data import LabelledBatch, make_batch, mean_neighbours
from .examples import example_of
from .long_range import measured_charges
from .losses import evaluate
from .network import EnthalpyNetwork
from .references import fit_references
from .responses import compute_responses
from .settings import EpochRecord, NetworkConfig, TrainingSettings
from .stack import NetworkStack
from .steps import ExampleSet, StepData

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

_MEASURED = 8
"""Frames on which a fresh network is measured."""
_FIRST_FORCES = 0.3
"""Forces of a fresh network, in units of those of the labels."""
_LEAST_FORCES = 0.1
"""Of a network whose output has size one, eV/A: those of symmetric crystals vanish, and tell nothing."""
_EVALUATED = 8
"""Frames in a batch where no gradients are kept."""


@dataclass(frozen=True)
class TrainingResult:
    """A trained network (averaged weights), its learning curve and the RMSE by label on both sets.

    Attributes:
        model: with the averaged weights, or the best ones where training stopped early.
        curve: a row for each epoch.
        training: RMSE by label on the training frames, in the label's unit.
        validation: the same on the validation frames; empty where there are none.
        seconds: wall time of the training, over all its parts, s.
    """

    model: EnthalpyNetwork
    curve: tuple[EpochRecord, ...]
    training: dict[str, float]
    validation: dict[str, float]
    seconds: float


def initial_network(
    config: NetworkConfig, frames: Sequence[LabelledFrame], seed: int, labels: Collection[str] = LABELS
) -> EnthalpyNetwork:
    """A fresh network normalized to training frames: neighbours, activations, references by least squares.

    Args:
        config: the architecture.
        frames: those it is to be trained on.
        seed: of the weights.
        labels: those it is to be trained on.

    Raises:
        TrainingDataError: frames that cannot be trained on.
    """
    return _initial(config, frames, [seed], labels, draws=None)[0]


def initial_committee(
    config: NetworkConfig, frames: Sequence[LabelledFrame], seeds: Sequence[int], labels: Collection[str] = LABELS
) -> list[EnthalpyNetwork]:
    """As ``initial_network``, one for each seed.

    Their many-body functions differ as far as the labels leave them free.
    """
    return _initial(config, frames, seeds, labels, draws=seeds)


def _initial(
    config: NetworkConfig,
    frames: Sequence[LabelledFrame],
    seeds: Sequence[int],
    labels: Collection[str],
    draws: Sequence[int] | None,
) -> list[EnthalpyNetwork]:
    check_frames(frames, "training", config.species, config.reference_charges)
    neighbours = mean_neighbours(frames, config.species, config.cutoff)
    config = config.model_copy(update={"neighbours": neighbours})
    if config.long_range and config.screened_charges is None:
        config = config.model_copy(update={"screened_charges": _charges(config, frames)})
    few = [frames[i] for i in np.linspace(0, len(frames) - 1, min(_MEASURED, len(frames))).round().astype(int)]
    models = [EnthalpyNetwork(_scaled(config, few, seed), seed) for seed in seeds]
    fit_references(models, frames, labels, draws)
    for model in models:
        if config.unit_activations:
            _start_small(model, few)
        if model.many_body is not None:
            # What is known is better than anything a fresh network adds to it.
            model.readout.silence()
    return models


def _scaled(config: NetworkConfig, frames: Sequence[LabelledFrame], seed: int) -> NetworkConfig:
    """With the sizes of activations that a network of this seed has, where they are wanted."""
    if not config.unit_activations:
        return config
    scales = measured_scales(EnthalpyNetwork(config, seed), [item.frame for item in frames])
    return config.model_copy(update={"scales": scales})


def _charges(config: NetworkConfig, frames: Sequence[LabelledFrame]) -> dict[str, float]:
    try:
        return measured_charges(frames, config.species)
    except ValueError as error:
        raise TrainingDataError(str(error)) from error


def _start_small(model: EnthalpyNetwork, frames: Sequence[LabelledFrame]) -> None:
    """Scale the output so that the first forces are well below the labels, for which ``energy_scale`` stands."""
    graph, wanted = make_batch(frames, model).graph, _FIRST_FORCES * float(model.energy_scale)
    model.energy_scale.fill_(1.0)
    forces = compute_responses(model, graph).forces
    model.energy_scale.fill_(0.0)
    forces = forces - compute_responses(model, graph).forces  # of what needs no training
    size = float(forces.double().square().mean().sqrt())
    model.energy_scale.fill_(wanted / max(size, _LEAST_FORCES))


def train(
    model: EnthalpyNetwork,
    training: Sequence[LabelledFrame],
    validation: Sequence[LabelledFrame],
    settings: TrainingSettings,
    *,
    seed: int = 0,
    replay: Sequence[LabelledFrame] = (),
    checkpoint: Path | None = None,
    progress: Callable[[EpochRecord], None] | None = None,
) -> TrainingResult:
    """Train a network in place.

    Args:
        model: the start, fresh from ``initial_network`` or an earlier model (warm start).
        training: frames to fit; each may have any subset of labels, at any field.
        validation: frames that only judge; may be empty.
        settings: how.
        seed: order of the frames.
        replay: frames of an earlier training set, mixed in so that what they taught is not forgotten.
        checkpoint: file to resume from where it exists, and to write to.
        progress: called after every epoch; on several devices in another process, so it must pickle.

    Raises:
        TrainingDataError: frames that cannot be trained on, or that are in two sets; a checkpoint that is none.
        FloatingPointError: the loss is not finite.
    """
    told = None if progress is None else partial(_tell_first, progress)
    return train_committee(
        [model], training, validation, settings, seed=seed, replay=replay, checkpoint=checkpoint, progress=told
    )[0]


def train_committee(
    members: Sequence[EnthalpyNetwork],
    training: Sequence[LabelledFrame],
    validation: Sequence[LabelledFrame],
    settings: TrainingSettings,
    *,
    seed: int = 0,
    replay: Sequence[LabelledFrame] = (),
    checkpoint: Path | None = None,
    progress: Callable[[tuple[EpochRecord, ...]], None] | None = None,
) -> list[TrainingResult]:
    """Train networks of one architecture together, in place: one pass for all of them, the same frames in each step.

    Every network takes the steps that it would take alone with the same seed, up to rounding. With ``early_stop``,
    training ends when the mean of their validations has not become better; each keeps its own best weights. Errors
    are those of ``train``.

    Args:
        members: the start of each.
        training: as of ``train``, like those that follow.
        validation: frames that only judge; may be empty.
        settings: how.
        seed: order of the frames.
        replay: frames of an earlier training set.
        checkpoint: file to resume from where it exists, and to write to.
        progress: called after every epoch with a row for each member.

    Raises:
        ValueError: no member, members of different architectures, or several that are to be compiled.
    """
    NetworkStack(members)  # refuses those that cannot be one
    if settings.compile and len(members) > 1:
        raise ValueError("compile: true is for networks that are trained one by one, not together")
    config = members[0].config
    check_frames(training, "training", config.species, config.reference_charges)
    for frames, what in ((validation, "validation"), (replay, "replay")):
        if frames:
            check_frames(frames, what, config.species, config.reference_charges)
    for one, what in ((training, "training"), (replay, "replay")):
        shared = {f.frame.frame_id for f in one} & {f.frame.frame_id for f in validation}
        if shared:
            raise TrainingDataError(f"{len(shared)} frames are both in the {what} and the validation set")
    judges = _batches(members[0], validation)
    fit = _fit(members, training, judges, settings, seed, replay, checkpoint, progress)
    known = _batches(members[0], training)
    return [
        TrainingResult(
            model=model,
            curve=curve,
            training=evaluate(model, known).rmse(),
            validation=evaluate(model, judges).rmse(),
            seconds=curve[-1].seconds,
        )
        for model, curve in zip(fit.models, fit.curves, strict=True)
    ]


def _tell_first(progress: Callable[[EpochRecord], None], rows: tuple[EpochRecord, ...]) -> None:
    progress(rows[0])


@dataclass(frozen=True)
class _Fit:
    models: list[EnthalpyNetwork]
    curves: list[tuple[EpochRecord, ...]]


def _fit(
    networks: Sequence[EnthalpyNetwork],
    training: Sequence[LabelledFrame],
    validation: Sequence[LabelledBatch],
    settings: TrainingSettings,
    seed: int,
    replay: Sequence[LabelledFrame],
    checkpoint: Path | None,
    progress: Callable[[tuple[EpochRecord, ...]], None] | None,
) -> _Fit:
    from .lightning_module import EnthalpyTraining  # noqa: PLC0415  (Lightning takes seconds to import)

    examples = ExampleSet(training, replay, settings.field_points > 0)
    data = StepData(examples, networks, settings.tolerances.used())
    module = EnthalpyTraining(networks, settings, data, validation, seed)
    resumed = checkpoint if checkpoint is not None and checkpoint.exists() else None
    unreadable = TrainingDataError(f"{resumed} cannot be read as a checkpoint: remove it to start anew")
    if resumed is not None and not is_zipfile(resumed):
        raise unreadable
    with _as_a_guest():
        trainer = _trainer(settings, checkpoint, progress)
        try:
            trainer.fit(module, ckpt_path=resumed, weights_only=True)
        except (UnpicklingError, KeyError, RuntimeError) as error:
            foreign = not isinstance(error, RuntimeError) or "loading state_dict" in str(error)
            if resumed is None or not foreign:
                raise
            raise unreadable from error
    return _Fit([model.to("cpu") for model in module.results()], module.curves())


def _trainer(
    settings: TrainingSettings,
    checkpoint: Path | None,
    progress: Callable[[tuple[EpochRecord, ...]], None] | None,
) -> Trainer:
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment  # noqa: PLC0415
    from lightning.pytorch import Trainer  # noqa: PLC0415
    from lightning.pytorch.callbacks import Callback, EarlyStopping  # noqa: PLC0415
    from lightning.pytorch.loggers import TensorBoardLogger  # noqa: PLC0415

    from .lightning_module import VALIDATION, EpochEnd  # noqa: PLC0415

    folder = checkpoint.parent if checkpoint is not None else Path.cwd()
    callbacks: list[Callback] = [EpochEnd(checkpoint, progress)]
    if settings.early_stop is not None:
        callbacks.append(EarlyStopping(VALIDATION, patience=settings.early_stop, check_finite=False))
    return Trainer(
        accelerator=_accelerator(settings),
        devices=settings.devices,
        strategy=_strategy(settings),
        # Processes of our own on this machine, whatever batch system this job runs in.
        plugins=[LightningEnvironment()],
        max_epochs=settings.epochs,
        callbacks=callbacks,
        logger=TensorBoardLogger(folder, name="tensorboard", version="") if settings.tensorboard else False,
        default_root_dir=folder,
        use_distributed_sampler=False,
        deterministic="warn" if _accelerator(settings) == "gpu" else False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _accelerator(settings: TrainingSettings) -> str:
    """CUDA or the CPU: Apple's GPUs know no float64, in which the network and its sums are.

    Raises:
        TrainingDataError: a GPU is wanted where there is none.
    """
    if settings.accelerator == "gpu" and not torch.cuda.is_available():
        raise TrainingDataError("training.accelerator: gpu, but no CUDA device is to be seen: use auto or cpu")
    return "gpu" if settings.accelerator != "cpu" and torch.cuda.is_available() else "cpu"


def _strategy(settings: TrainingSettings) -> Any:
    """One process, or DDP in processes of its own; never a second run of the command that called."""
    if settings.devices == 1:
        return "auto"
    from lightning.pytorch.strategies import DDPStrategy  # noqa: PLC0415

    return DDPStrategy(start_method="spawn")


@contextmanager
def _as_a_guest() -> Iterator[None]:
    """Lightning greets, turns Ctrl-C into an exit that leaves Ctrl-C ignored, and SIGTERM into an exit with code 0.

    Here all three stay as they are.
    """
    from lightning.pytorch.utilities.exceptions import SIGTERMException  # noqa: PLC0415

    log = logging.getLogger("lightning.pytorch")
    level, handler, on_term = log.level, signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning.*")
            yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        if isinstance(error, SIGTERMException):
            signal.signal(signal.SIGTERM, on_term)
            signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        log.setLevel(level)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


def _batches(model: EnthalpyNetwork, frames: Sequence[LabelledFrame]) -> list[LabelledBatch]:
    return [
        make_batch([example_of(label) for label in frames[k : k + _EVALUATED]], model)
        for k in range(0, len(frames), _EVALUATED)
    ]
