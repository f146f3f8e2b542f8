"""Where a campaign stands, in numbers."""

from __future__ import annotations

from collections import Counter

from ..active_learning.criteria import Decision
from ..active_learning.errors import LabelErrors
from ..dft_inputs.records import LabelledFrame, Record
from .campaign import driver_of
from .queries import Campaign


class GenerationStatus(Record):
    """One generation.

    Attributes:
        generation: its number; 0 begins with the first frames.
        done, failed, flagged: labels of the frames proposed for it; flagged ones are done, but not trained on.
        models: members of its committee.
        candidates: frames whose uncertainty its dynamics measured, or None.
        flagged_share: share of them that the committee was unsure of, or None.
        honest: errors on the frames it chose, predicted before they were labelled, or None.
        decision: to go on or to stop, or None.
    """

    generation: int
    done: int = 0
    failed: int = 0
    flagged: int = 0
    models: int = 0
    candidates: int | None = None
    flagged_share: float | None = None
    honest: LabelErrors | None = None
    decision: Decision | None = None


class Failure(Record):
    """A frame without a label."""

    label_id: str
    reason: str
    directory: str


class CampaignStatus(Record):
    """A campaign.

    Attributes:
        directory: where it lies.
        driver: the process at work on it now, as ``<pid> on <host>``, or None.
        scf_count, dft_seconds: cost of all labels; wall time summed over frames.
        training_seconds, exploration_seconds: wall times.
        generations: in order.
        failures: labels that DFT could not make.
        flags: number of labels by the check that they failed.
    """

    directory: str
    driver: str | None
    scf_count: int
    dft_seconds: float
    training_seconds: float
    exploration_seconds: float
    generations: tuple[GenerationStatus, ...]
    failures: tuple[Failure, ...]
    flags: dict[str, int]


def campaign_status(campaign: Campaign) -> CampaignStatus:
    """Count what a campaign has produced so far, and look whether somebody works on it."""
    labels = campaign.labels
    numbers = {label.proposal.generation for label in labels} | {model.generation for model in campaign.models}
    return CampaignStatus(
        directory=str(campaign.root),
        driver=driver_of(campaign.root),
        scf_count=sum(label.provenance.scf_count for label in labels),
        dft_seconds=sum(label.provenance.seconds for label in labels),
        training_seconds=sum(model.seconds for model in campaign.models),
        exploration_seconds=sum(exploration.seconds for exploration in campaign.explorations),
        generations=tuple(_generation(campaign, number) for number in sorted(numbers)),
        failures=tuple(_failure(label) for label in labels if label.status == "failed"),
        flags=dict(Counter(flag for label in labels for flag in label.quality.flags)),
    )


def _generation(campaign: Campaign, number: int) -> GenerationStatus:
    labels = [label for label in campaign.labels if label.proposal.generation == number]
    selection = next((record for record in campaign.selections if record.generation == number), None)
    end = next((record for record in campaign.generations if record.generation == number), None)
    return GenerationStatus(
        generation=number,
        done=sum(label.status == "done" for label in labels),
        failed=sum(label.status == "failed" for label in labels),
        flagged=sum(label.status == "done" and not label.quality.passed for label in labels),
        models=sum(model.generation == number for model in campaign.models),
        candidates=selection.candidates if selection else None,
        flagged_share=selection.flagged_share if selection else None,
        honest=end.score.errors if end else None,
        decision=end.decision if end else None,
    )


def _failure(label: LabelledFrame) -> Failure:
    return Failure(label_id=label.label_id, reason=label.failure or "unknown", directory=label.provenance.directory)
