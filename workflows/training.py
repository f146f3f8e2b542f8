"""Training a committee as jobs: one job a member, so that members train side by side, or one job for all of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from jobflow.core.flow import Flow
from jobflow.core.job import Job, job
from jobflow.core.maker import Maker

from ..dft_inputs.consistency import check_one_level
from ..dft_inputs.records import LabelledFrame
from ..model.label_range import LabelRange, label_range
from ..model.settings import EpochRecord, NetworkConfig, TrainingSettings
from .keys import content_job, content_key
from .paths import located, recorded
from .records import TrainedModel

if TYPE_CHECKING:
    from ..model.training import TrainingResult


@dataclass
class TrainMaker(Maker):
    """Train a committee of enthalpy networks.

    Attributes:
        network: the architecture; the members differ by their seeds.
        training: of a fresh committee.
        retraining_epochs: of a committee that starts from an earlier one.
        retraining_learning_rate: of such a committee; that of ``training`` where not given.
        members: size of the committee.
        together: train the members in one job and one pass, on the same frames in each step.
        seed: of the first member.
    """

    network: NetworkConfig
    name: str = "train"  # pyright: ignore[reportIncompatibleMethodOverride]
    training: TrainingSettings = field(default_factory=TrainingSettings)
    retraining_epochs: int = 60
    retraining_learning_rate: float | None = None
    members: int = 3
    together: bool = False
    seed: int = 0

    def make(
        self,
        labels: Sequence[LabelledFrame],
        validation_ids: Collection[str] = (),
        generation: int = 0,
        start: Sequence[TrainedModel] = (),
    ) -> Flow:
        """One job for each member or one for all; the flow's output is the list of ``TrainedModel``.

        Args:
            labels: all labelled frames, failed and flagged ones too: those are left out.
            validation_ids: ``label_id`` of the frames that only judge.
            generation: its number, for the records.
            start: the committee to go on from, one model a member; not used with many-body references.

        Raises:
            ValueError: no trainable frame is left.
            MixedLabelsError: labels of different levels of theory.
        """
        usable = [self.trained_part(label) for label in labels if label.trainable]
        check_one_level(usable)
        training = [label for label in usable if label.label_id not in validation_ids]
        validation = [label for label in usable if label.label_id in validation_ids]
        if self.network.reference == "many_body":
            # Least squares of all frames tell more than weights that learned what fewer frames left.
            start = ()
        if not training:
            reasons = sorted(
                {label.failure or ", ".join(label.quality.flags) for label in labels if not label.trainable}
            )
            raise ValueError(f"none of {len(labels)} labelled frames can be trained on: {'; '.join(reasons)}")
        trained_on = {label.label_id for label in training}
        reach = label_range(label for label in labels if label.label_id in trained_on)
        if self.together:
            job = self._committee(training, validation, generation, start, reach)
            return Flow([job], output=job.output, name=self.name)
        jobs = [self._member(training, validation, generation, member, start, reach) for member in range(self.members)]
        return Flow([*jobs], output=[job.output for job in jobs], name=self.name)

    @property
    def jobs(self) -> int:
        """How many train a committee."""
        return 1 if self.together else self.members

    def trained_part(self, label: LabelledFrame) -> LabelledFrame:
        """A label without its field points where they are not trained on."""
        return label if self.training.field_points else label.model_copy(update={"field_points": ()})

    def _retraining(self) -> TrainingSettings:
        rate = self.retraining_learning_rate or self.training.learning_rate
        return self.training.model_copy(update={"epochs": self.retraining_epochs, "learning_rate": rate})

    def _member(
        self,
        training: list[LabelledFrame],
        validation: list[LabelledFrame],
        generation: int,
        member: int,
        start: Sequence[TrainedModel],
        reach: LabelRange,
    ) -> Job:
        settings = self._retraining() if start else self.training
        before = start[member] if start else None
        key = self._key(
            "train", training, validation, settings, self.seed + member, before.model_id if before else None
        )
        training_job = train_member(
            training, validation, self.network, settings, self.seed + member, generation, member, before, reach
        )
        training_job.name = f"{self.name} {generation}.{member}"
        return content_job(training_job, key, f"training/{key[:16]}")

    def _committee(
        self,
        training: list[LabelledFrame],
        validation: list[LabelledFrame],
        generation: int,
        start: Sequence[TrainedModel],
        reach: LabelRange,
    ) -> Job:
        settings = self._retraining() if start else self.training
        before = [model.model_id for model in start]
        key = self._key("train together", training, validation, settings, [self.seed, self.members], before)
        seeds = [self.seed + member for member in range(self.members)]
        job = train_together(training, validation, self.network, settings, seeds, generation, list(start), reach)
        job.name = f"{self.name} {generation}.all"
        return content_job(job, key, f"training/{key[:16]}")

    def _key(
        self,
        kind: str,
        training: list[LabelledFrame],
        validation: list[LabelledFrame],
        settings: TrainingSettings,
        seeds: object,
        before: object,
    ) -> str:
        return content_key(
            kind,
            [label.label_id for label in training],
            [label.label_id for label in validation],
            self.network,
            settings.identity(),
            seeds,
            before,
        )


@dataclass(frozen=True)
class _TrainingLog:
    """Appends rows of learning curves to a file. It pickles, as training on several devices asks."""

    path: Path

    def __call__(self, rows: EpochRecord | tuple[EpochRecord, ...]) -> None:
        with self.path.open("a") as log:
            for row in rows if isinstance(rows, tuple) else (rows,):
                print(row.model_dump_json(), file=log)


@job
def train_member(
    training: list[LabelledFrame],
    validation: list[LabelledFrame],
    network: NetworkConfig,
    settings: TrainingSettings,
    seed: int,
    generation: int,
    member: int,
    start: TrainedModel | None,
    reach: LabelRange,
) -> TrainedModel:
    """Train one network in the current directory, going on from its checkpoint where there is one."""
    from ..model.files import load_model  # noqa: PLC0415  (torch is imported by the worker alone)
    from ..model.training import initial_committee, train  # noqa: PLC0415

    here = Path.cwd()
    labels = settings.tolerances.used()
    model = load_model(located(start.directory)) if start else initial_committee(network, training, [seed], labels)[0]
    log = _TrainingLog(here / "training.log")
    result = train(model, training, validation, settings, seed=seed, checkpoint=here / "checkpoint.pt", progress=log)
    return _recorded(result, here / "model", reach, settings, generation, member, start, training, validation)


@job
def train_together(
    training: list[LabelledFrame],
    validation: list[LabelledFrame],
    network: NetworkConfig,
    settings: TrainingSettings,
    seeds: list[int],
    generation: int,
    start: list[TrainedModel],
    reach: LabelRange,
) -> list[TrainedModel]:
    """Train a committee in one pass in the current directory, going on from its checkpoint where there is one."""
    from ..model.files import load_model  # noqa: PLC0415  (torch is imported by the worker alone)
    from ..model.training import initial_committee, train_committee  # noqa: PLC0415

    here = Path.cwd()
    befores, labels = start or [None] * len(seeds), settings.tolerances.used()
    models = (
        [load_model(located(before.directory)) for before in start]
        if start
        else initial_committee(network, training, seeds, labels)
    )
    log = _TrainingLog(here / "training.log")
    results = train_committee(
        models, training, validation, settings, seed=seeds[0], checkpoint=here / "checkpoint.pt", progress=log
    )
    return [
        _recorded(result, here / f"model_{i}", reach, settings, generation, i, before, training, validation)
        for i, (result, before) in enumerate(zip(results, befores, strict=True))
    ]


def _recorded(
    result: TrainingResult,
    directory: Path,
    reach: LabelRange,
    settings: TrainingSettings,
    generation: int,
    member: int,
    start: TrainedModel | None,
    training: list[LabelledFrame],
    validation: list[LabelledFrame],
) -> TrainedModel:
    """Save a trained network; its record."""
    from ..model.files import save_model  # noqa: PLC0415

    return TrainedModel(
        model_id=save_model(result.model, directory, reach),
        directory=recorded(directory),
        generation=generation,
        member=member,
        start_model_id=start.model_id if start else None,
        training_ids=tuple(label.label_id for label in training),
        validation_ids=tuple(label.label_id for label in validation),
        training=result.training,
        validation=result.validation,
        curve=tuple(row for row in result.curve if row.validation or row.epoch == settings.epochs),
        seconds=result.seconds,
    )
