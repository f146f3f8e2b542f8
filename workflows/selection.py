"""Choosing frames as a job, and journaling the choice with the predictions made before any label is known."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from jobflow.core.job import Job, job

from ..active_learning.errors import honest_errors
from ..active_learning.selection import Candidate, SelectionSettings, select
from ..active_learning.uncertainty.calibration import Pair, fit_calibration, pairs_of
from ..active_learning.uncertainty.committee import Spread
from ..dft_inputs.records import LabelledFrame
from .dynamics import read_candidates, spread_of
from .keys import content_job, content_key
from .paths import located
from .records import Exploration, GenerationRecord, SelectedFrame, SelectionRecord, TrainedModel


def selection_job(
    exploration: Exploration,
    models: Sequence[TrainedModel],
    labels: Sequence[LabelledFrame],
    settings: SelectionSettings,
    history: Sequence[GenerationRecord],
) -> Job:
    """A job whose output is the ``SelectionRecord``.

    Args:
        exploration: what was met.
        models: the committee that explored.
        labels: all labelled frames so far, failed ones too: they are not tried again.
        settings: how to choose.
        history: earlier generations, whose honest errors calibrate the uncertainties.
    """
    key = content_key(
        "select",
        exploration.directory,
        exploration.model_ids,
        [label.label_id for label in labels],
        settings,
        [pair for record in history for pair in record.pairs],
    )
    chosen = choose(exploration, list(models), list(labels), settings, list(history))
    chosen.name = f"select {exploration.generation}"
    return content_job(chosen, key, f"selection/{key[:16]}")


@job
def choose(
    exploration: Exploration,
    models: list[TrainedModel],
    labels: list[LabelledFrame],
    settings: SelectionSettings,
    history: list[GenerationRecord],
) -> SelectionRecord:
    """Calibrate, choose, and predict the chosen frames at zero field, where they will be labelled."""
    from ..model.committee import load_committee, predict  # noqa: PLC0415  (torch is imported by the worker alone)

    members = load_committee([located(model.directory) for model in models])
    done = [label for label in labels if label.status == "done"]
    known = predict(members, [label.frame for label in done])
    validation_ids = set(models[0].validation_ids)
    pairs = [
        pair
        for label, prediction in zip(done, known, strict=True)
        if label.label_id in validation_ids
        for pair in pairs_of(
            Spread(**spread_of(prediction, label.frame)),
            honest_errors(prediction.mean(), label.response, len(label.frame)).as_spread(),
        )
    ]
    calibration = fit_calibration([*pairs, *_honest_pairs(history)])
    candidates = read_candidates(exploration)
    pool = [
        Candidate(
            frame, proposal, descriptor, calibration.apply(Spread(**{n: v[i] for n, v in candidates.spreads.items()}))
        )
        for i, (frame, proposal, descriptor) in enumerate(
            zip(candidates.frames, candidates.proposals, candidates.descriptors, strict=True)
        )
    ]
    if not pool:
        return SelectionRecord(
            generation=exploration.generation,
            chosen=(),
            refused={"every replica stopped before its first candidate": len(exploration.replicas)},
            candidates=0,
            flagged_share=1.0,
            calibration=calibration,
        )
    selection = select(
        pool,
        settings,
        known_ids={label.frame.frame_id for label in labels},
        known_descriptors=[prediction.descriptor for prediction in known],  # type: ignore[arg-type]
    )
    frames = [choice.frame for choice in selection.chosen]
    predictions = predict(members, frames) if frames else []
    return SelectionRecord(
        generation=exploration.generation,
        chosen=tuple(
            SelectedFrame(
                frame=choice.frame,
                proposal=choice.proposal,
                prediction=prediction.mean(),
                spread=spread_of(prediction, choice.frame),
            )
            for choice, prediction in zip(selection.chosen, predictions, strict=True)
        ),
        refused=dict(Counter(_kind(refused.reason) for refused in selection.refused)),
        candidates=selection.pool,
        flagged_share=selection.flagged_share,
        calibration=calibration,
    )


def _honest_pairs(history: Sequence[GenerationRecord]) -> list[Pair]:
    return [
        pair
        for record in history
        for honest in record.pairs
        for pair in pairs_of(Spread(**honest.spread), honest.errors.as_spread())
    ]


def _kind(reason: str) -> str:
    """A refusal without the numbers of its frame, for counting."""
    return re.split(r"[:,]| of the chosen| of a labelled", reason)[0].strip()
