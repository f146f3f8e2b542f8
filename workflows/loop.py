"""The loop as a growing flow: label, train, explore, choose, predict, label, judge, until the criterion holds.

Every costly step is content-keyed, so running the same campaign again finds it finished. The steps that decide what
comes next are cheap and run again; they come to the same decisions, as they depend on stored results alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from ase import Atoms
from jobflow.core.flow import Flow
from jobflow.core.job import Job, JobConfig, Response, job
from jobflow.core.maker import Maker
from jobflow.core.reference import OnMissing
from pymatgen.core import Structure

from ..active_learning.criteria import GenerationScore, StopCriterion, decide
from ..active_learning.errors import honest_errors, pool_errors
from ..active_learning.sampling.frames import Sampled
from ..active_learning.sampling.seeds import SeedSettings, seed_frames
from ..active_learning.selection import SelectionSettings
from ..active_learning.uncertainty.committee import Spread
from ..dft_inputs.codes import CODES, settings_from_protocol
from ..dft_inputs.records import Frame, LabelledFrame
from .config import CampaignConfig, ConfigError, ProjectConfig
from .dynamics import DynamicsMaker
from .keys import content_key, content_uuid
from .labelling import LabelMaker, as_frame
from .records import Exploration, GenerationRecord, HonestPair, ParentCheck, SelectionRecord, TrainedModel
from .selection import selection_job
from .training import TrainMaker


@dataclass
class LoopMaker(Maker):
    """From a crystal to a potential in fields that its own honest errors say can be trusted.

    Attributes:
        train: makes the committee.
        selection: how frames are chosen.
        stop: when the loop ends.
        seeds: the first frames.
        label: makes the labels.
        explore: makes the dynamics.
        validation_every: every n-th first frame validates, and is never trained on.
        held_out: ``label_id`` of the frames that validate, once ``make`` has made them.
    """

    train: TrainMaker
    selection: SelectionSettings
    stop: StopCriterion
    name: str = "loop"  # pyright: ignore[reportIncompatibleMethodOverride]
    seeds: SeedSettings = field(default_factory=SeedSettings)
    label: LabelMaker = field(default_factory=LabelMaker)
    explore: DynamicsMaker = field(default_factory=DynamicsMaker)
    validation_every: int = 5
    held_out: tuple[str, ...] | None = None

    @classmethod
    def from_config(cls, config: CampaignConfig, species: Sequence[str]) -> LoopMaker:
        """The loop of a campaign file.

        Args:
            config: the campaign.
            species: chemical symbols of the parent crystal.

        Raises:
            ConfigError: a section that does not fit the crystal or the protocol.
        """
        committee, exploration = config.committee, config.exploration
        force_bound = config.selection.bounds.forces
        return cls(
            label=label_maker(config),
            train=TrainMaker(
                network=config.network(tuple(species)),
                training=committee.training,
                retraining_epochs=committee.retraining_epochs,
                retraining_learning_rate=committee.retraining_learning_rate,
                members=committee.members,
                together=committee.together,
                seed=committee.seed,
            ),
            explore=DynamicsMaker(
                temperatures=exploration.temperatures,
                fields=exploration.fields,
                replicas=exploration.replicas,
                timestep=exploration.timestep,
                duration=exploration.duration,
                friction=exploration.friction,
                candidate_every=exploration.candidate_every,
                stop_spread=exploration.stop_ratio * force_bound if force_bound else None,
                seed=exploration.seed,
            ),
            seeds=config.seeds,
            selection=config.selection,
            stop=config.stop,
            validation_every=committee.validation_every,
        )

    def make(self, structure: Frame | Atoms | Structure, first_frames: Sequence[Sampled] = ()) -> Flow:
        """The flow that grows into the campaign.

        Args:
            structure: the parent crystal.
            first_frames: what ``seeds`` make of it, where that is known already.
        """
        parent = as_frame(structure)
        frames = first_frames or seed_frames(parent, self.seeds)
        loop = replace(self, label=self.label.for_parent(parent))
        check = loop.label.make_check(parent, self.explore.fields)
        labels = [loop.label.make(frame, proposal, gap=check.output.gap) for frame, proposal in frames]
        # Later jobs need not make the frames again, which may take molecular dynamics.
        maker = replace(loop, held_out=loop._held_out([frame for frame, _ in frames]))
        first = plan(maker, parent, check.output, [job.output for job in labels], [], [])
        return Flow([check, *labels, _decision(first, 0, parent, lost_labels=True)], name=self.name)

    def validation_ids(self, parent: Frame) -> list[str]:
        """``label_id`` of the first frames held out: a matter of the seeds alone, whatever became of their labels."""
        if self.held_out is not None:
            return list(self.held_out)
        return list(self._held_out([frame for frame, _ in seed_frames(parent, self.seeds)]))

    def _held_out(self, frames: Sequence[Frame]) -> tuple[str, ...]:
        # The last of each n: the first frames are the parent and small rattles, which one wants to train on.
        held_out = frames[self.validation_every - 1 :: self.validation_every]
        return tuple(self.label.label_id(frame) for frame in held_out)


def label_maker(config: ProjectConfig) -> LabelMaker:
    """The labels of a campaign file, or of another with the same sections.

    Raises:
        ConfigError: unknown protocol, or settings that it does not have.
    """
    section = config.label
    try:
        settings = settings_from_protocol(section.code, section.protocol, **section.settings)
    except (ValueError, TypeError) as error:
        from .config import first_error  # noqa: PLC0415

        raise ConfigError(f"label.settings: {first_error(error)}") from error
    return LabelMaker(
        settings=settings,
        step=section.field_step
        if "field_step" in section.model_fields_set
        else CODES[section.code].engine.default_step,
        order=section.order,
        code=config.codes.program(section.code, section.pseudopotentials),
        split_fields=section.split_fields,
    )


@job
def plan(
    maker: LoopMaker,
    parent: Frame,
    check: ParentCheck,
    labels: list[LabelledFrame | None],
    models: list[TrainedModel],
    history: list[GenerationRecord],
) -> Response:
    """Train on all labels, then explore with the committee.

    Args:
        maker: the loop.
        parent: the crystal.
        check: its gap.
        labels: all so far; None where a job was lost.
        models: the committee before, to go on from.
        history: generations so far.
    """
    generation = len(history)
    known = [maker.train.trained_part(label) for label in labels if label is not None]
    training = maker.train.make(known, maker.validation_ids(parent), generation, models)
    walk = _decision(wander(maker, parent, check, known, training.output, history), generation, parent)
    return Response(addition=Flow([training, walk], name=f"generation {generation}"))


@job
def wander(
    maker: LoopMaker,
    parent: Frame,
    check: ParentCheck,
    labels: list[LabelledFrame],
    models: list[TrainedModel],
    history: list[GenerationRecord],
) -> Response:
    """Explore from the labelled frames, and choose from what was met once that is known."""
    starts = [parent, *(label.frame for label in labels if label.trainable and label.frame.frame_id != parent.frame_id)]
    exploration = maker.explore.make(models, starts, len(history))
    arguments = (maker, parent, check, labels, models, history, exploration.output)
    choose = _decision(pick(*arguments), len(history), parent)
    return Response(addition=Flow([exploration, choose], name=f"exploration {len(history)}"))


@job
def pick(
    maker: LoopMaker,
    parent: Frame,
    check: ParentCheck,
    labels: list[LabelledFrame],
    models: list[TrainedModel],
    history: list[GenerationRecord],
    exploration: Exploration,
) -> Response:
    """Choose frames; the journal of the choice is stored before any of them is labelled."""
    selection = selection_job(exploration, models, labels, maker.selection, history)
    arguments = (maker, parent, check, labels, models, history, selection.output)
    order = _decision(order_labels(*arguments), len(history), parent)
    return Response(addition=Flow([selection, order], name=f"selection {len(history)}"))


@job
def order_labels(
    maker: LoopMaker,
    parent: Frame,
    check: ParentCheck,
    known: list[LabelledFrame],
    models: list[TrainedModel],
    history: list[GenerationRecord],
    selection: SelectionRecord,
) -> Response:
    """Label the chosen frames, then judge the predictions."""
    jobs = [maker.label.make(chosen.frame, chosen.proposal, gap=check.gap) for chosen in selection.chosen]
    outputs = [job.output for job in jobs]
    arguments = (maker, parent, check, known, models, history, selection, outputs)
    verdict = _decision(judge(*arguments), len(history), parent, lost_labels=True)
    return Response(addition=Flow([*jobs, verdict], name=f"labels {len(history)}"))


@job
def judge(
    maker: LoopMaker,
    parent: Frame,
    check: ParentCheck,
    known: list[LabelledFrame],
    models: list[TrainedModel],
    history: list[GenerationRecord],
    selection: SelectionRecord,
    labels: list[LabelledFrame | None],
) -> Response[GenerationRecord]:
    """The honest errors of the generation, and whether to go on; at the end the last labels are trained on too."""
    new = [label for label in labels if label is not None]
    record = generation_record(maker.stop, models, history, selection, new)
    if not record.decision.stop:
        following = plan(maker, parent, check, [*known, *new], models, [*history, record])
        return Response(output=record, addition=_decision(following, record.generation + 1, parent))
    if not record.pairs:
        return Response(output=record)
    last = [*known, *(maker.train.trained_part(label) for label in new)]
    return Response(
        output=record, addition=maker.train.make(last, maker.validation_ids(parent), record.generation + 1, models)
    )


def generation_record(
    criterion: StopCriterion,
    models: Sequence[TrainedModel],
    history: Sequence[GenerationRecord],
    selection: SelectionRecord,
    labels: Sequence[LabelledFrame],
) -> GenerationRecord:
    """Compare the journaled predictions with their labels, and decide."""
    by_frame = {label.frame.frame_id: label for label in labels if label.trainable}
    pairs = tuple(
        HonestPair(
            label_id=label.label_id,
            uncertainty=selection.calibration.apply(Spread(**chosen.spread)),
            spread=chosen.spread,
            errors=honest_errors(chosen.prediction, label.response, len(label.frame)),
        )
        for chosen in selection.chosen
        if (label := by_frame.get(chosen.frame.frame_id)) is not None and _same_order(label.frame, chosen.frame)
    )
    score = GenerationScore(
        generation=selection.generation,
        errors=pool_errors(pair.errors for pair in pairs) if pairs else None,
        flagged_share=selection.flagged_share,
        frames=len(models[0].training_ids),
    )
    return GenerationRecord(
        generation=selection.generation,
        model_ids=tuple(model.model_id for model in models),
        pairs=pairs,
        failed=tuple(label.label_id for label in labels if not label.trainable),
        score=score,
        decision=decide([*(record.score for record in history), score], criterion),
    )


def _same_order(one: Frame, other: Frame) -> bool:
    """A label found from elsewhere may hold the same atoms in another order; such a pair is not compared."""
    return one.species == other.species and bool(np.allclose(one.positions, other.positions, rtol=0, atol=1e-5))


def _decision(step: Job, generation: int, parent: Frame, *, lost_labels: bool = False) -> Job:
    """Make a deciding step: the same uuid in every run of the campaign.

    Args:
        step: the job.
        generation: its place.
        parent: the crystal.
        lost_labels: run it even where a label's job raised; other steps need what they wait for.
    """
    step.set_uuid(content_uuid(content_key("decision", step.name, generation, parent.frame_id)))
    step.metadata["directory"] = f"decisions/{generation:03d}-{step.name}"
    if lost_labels:
        step.config = JobConfig(on_missing_references=OnMissing.NONE)
    return step
