"""Which examples enter which step: the order depends on (seed, epoch) alone, so a resumed run takes the same steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..dft_inputs.records import LabelledFrame
from .data import LabelledBatch, label_tensors, make_batch
from .examples import Example, example_of, field_examples
from .losses import DIRECTIONAL
from .member import copy_of
from .network import EnthalpyNetwork
from .parts import KnownPart
from .responses import compute_responses
from .settings import TrainingSettings
from .stack import repeat_batch

_MOST_CACHED = 10_000_000
"""Places for neighbours, of 33 bytes, in the batches that are kept."""


Directions = tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class StepPlan:
    """Examples of one step on one device, by index.

    ``directions`` are those of the field along which Z* and alpha are trained, None for all. ``counts`` is False where
    the examples only keep the device busy.
    """

    examples: tuple[int, ...]
    directions: Directions | None = None
    counts: bool = True


@dataclass(frozen=True)
class Step:
    """The batches of one step on one device: first those that need Z* or alpha, then those that do not.

    Labels are what is left to learn (``StepData``).

    ``directions`` as in the plan, (D, 3) or None.
    """

    batches: tuple[LabelledBatch, ...]
    directions: Tensor | None
    counts: bool

    def to(self, device: object) -> Step:
        """The same step on another device."""
        batches = tuple(batch.to(device) for batch in self.batches)  # type: ignore[arg-type]
        directions = None if self.directions is None else self.directions.to(device)  # type: ignore[call-overload]
        return Step(batches, directions, self.counts)


class ExampleSet:
    """New frames, replayed frames and their field points in one list.

    Attributes:
        examples: all of them.
        new, old: indices of frames to learn, and of an earlier training set.
        points: indices of the field points of each frame.
    """

    def __init__(self, training: Sequence[LabelledFrame], replay: Sequence[LabelledFrame], field_points: bool) -> None:
        labels = [*training, *replay]
        self.examples: list[Example] = [example_of(label) for label in labels]
        self.new = np.arange(len(training))
        self.old = np.arange(len(training), len(labels))
        self.points: list[range] = []
        for label in labels:
            more = field_examples(label) if field_points else ()
            self.points.append(range(len(self.examples), len(self.examples) + len(more)))
            self.examples += more


class StepSampler(Sampler[StepPlan]):
    """The steps of an epoch on one device.

    A batch of ``batch_size`` frames is dealt to the devices in turn. A device left without a frame computes one that
    does not count, as all devices must take part in each step.

    Args:
        examples: what there is.
        settings: batch size, shares of replay and of field points.
        seed: of the order.
        device, devices: number of this device, and how many there are.
    """

    def __init__(self, examples: ExampleSet, settings: TrainingSettings, seed: int, device: int = 0, devices: int = 1):
        self.examples, self.settings, self.seed = examples, settings, seed
        self.device, self.devices = device, devices
        self.epoch = 0
        share = settings.replay if len(examples.old) else 0.0
        self.replayed = round(len(examples.new) * share / (1 - share))

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil((len(self.examples.new) + self.replayed) / self.settings.batch_size)

    def __iter__(self) -> Iterator[StepPlan]:
        random = np.random.default_rng([self.seed, self.epoch])
        order = self.examples.new
        if self.replayed:
            # As often each as the share allows, and never one twice before all others.
            rounds = [random.permutation(self.examples.old) for _ in range(-(-self.replayed // len(self.examples.old)))]
            order = np.concatenate([order, np.concatenate(rounds)[: self.replayed]])
        order = random.permutation(order)
        for start in range(0, len(order), self.settings.batch_size):
            frames = order[start : start + self.settings.batch_size]
            own = frames[self.device :: self.devices]
            points = [self._point(frame, random) for frame in frames][self.device :: self.devices]
            plan = [int(frame) for frame in own] + [point for point in points if point is not None]
            directions = self._directions(random)
            yield StepPlan(tuple(plan) or (int(frames[0]),), directions, counts=bool(plan))

    def _directions(self, random: np.random.Generator) -> Directions | None:
        """Orthogonal, evenly distributed: mean squared errors along them are those of whole tensors on average."""
        if self.settings.field_directions == 3:
            return None
        rows, _ = np.linalg.qr(random.standard_normal((3, 3)))
        return tuple(tuple(row) for row in rows[: self.settings.field_directions].tolist())

    def _point(self, frame: int, random: np.random.Generator) -> int | None:
        """A field point that the frame brings along, or none."""
        points = self.examples.points[frame]
        if not points or random.random() >= self.settings.field_points:
            return None
        return points[int(random.integers(len(points)))]


class StepData(Dataset[Step]):
    """Steps as batches of tensors: copies for each network, with the labels less what it knew before it learned.

    Args:
        examples: what there is.
        networks: those that are trained together.
        used: labels that enter the loss.
    """

    def __init__(self, examples: ExampleSet, networks: Sequence[EnthalpyNetwork], used: Sequence[str]) -> None:
        self.examples, self.networks = examples, networks
        self.dear = [name for name in DIRECTIONAL if name in used]
        # The sums of energies are large: what is left of them deserves double precision.
        self._known = [KnownPart(copy_of(network).double()) for network in networks]
        self._rest: dict[int, list[dict[str, Tensor]]] = {}
        self._cache: dict[int, LabelledBatch] = {}
        self._cached = 0

    def __getitem__(self, plan: StepPlan) -> Step:  # type: ignore[override]
        dear = [i for i in plan.examples if self._is_dear(i)]
        cheap = [i for i in plan.examples if not self._is_dear(i)]
        dtype = self.networks[0].dtype
        directions = None if plan.directions is None else torch.tensor(plan.directions, dtype=dtype)
        return Step(tuple(self._batch(part) for part in (dear, cheap) if part), directions, plan.counts)

    def _is_dear(self, index: int) -> bool:
        response = self.examples.examples[index].response
        return any(getattr(response, name) is not None for name in self.dear)

    def _batch(self, indices: list[int]) -> LabelledBatch:
        batch = repeat_batch(self._labelled(indices), len(self.networks))
        rest = [self._labels_left(index) for index in indices]
        labels = {
            name: torch.cat([one[member][name] for member in range(len(self.networks)) for one in rest])
            for name in batch.labels
        }
        return replace(batch, labels={name: value.to(batch.quanta) for name, value in labels.items()})

    def _labelled(self, indices: list[int]) -> LabelledBatch:
        examples, network = self.examples.examples, self.networks[0]
        if len(indices) > 1:
            return make_batch([examples[i] for i in indices], network)
        (index,) = indices
        if index in self._cache:
            return self._cache[index]
        batch = make_batch([examples[index]], network)
        size = batch.graph.mask.numel()
        if self._cached + size <= _MOST_CACHED:
            self._cache[index] = batch
            self._cached += size
        return batch

    def _labels_left(self, index: int) -> list[dict[str, Tensor]]:
        """Labels of an example less what each network knew, float64."""
        if index not in self._rest:
            example = self.examples.examples[index]
            labels = label_tensors([example])
            dear = self._is_dear(index)
            graph = make_batch([example], self._known[0].network).graph
            left = []
            for part in self._known:
                known = compute_responses(part, graph, stress=example.response.stress is not None, born=dear)
                explained = {name: getattr(known, name) for name in labels}
                left.append({n: v if explained[n] is None else v - explained[n] for n, v in labels.items()})
            self._rest[index] = left
        return self._rest[index]


def step_loader(data: StepData, sampler: StepSampler) -> DataLoader[Step]:
    """The steps of an epoch, one after the other, made in this process."""
    return DataLoader(data, batch_size=None, sampler=sampler)
