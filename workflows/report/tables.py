"""Tables of the report: what the template prints, as plain records with text already in units for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...active_learning.criteria import StopCriterion
from ...active_learning.errors import LabelErrors
from ...dft_inputs.records import LABELS, LabelledFrame
from ..queries import Campaign
from .style import QUANTITIES, significant


@dataclass(frozen=True)
class Card:
    """A number of the headline; ``mood`` is ``good``, ``bad`` or empty."""

    title: str
    value: str
    unit: str = ""
    text: str = ""
    mood: str = ""


@dataclass(frozen=True)
class Headline:
    """What the campaign is, how far it is and what it cost."""

    what: str
    state: str
    mood: str
    reason: str
    cards: tuple[Card, ...]
    errors: tuple[Card, ...]


@dataclass(frozen=True)
class GenerationRow:
    """One generation in numbers."""

    generation: int
    trained: int
    chosen: str
    failed: int
    flagged_share: str
    errors: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class GenerationCost:
    """Cost of one generation; times are wall times of the jobs, s."""

    generation: int
    labels: int
    failed: int
    scf_count: int
    scf_iterations: int
    dft_seconds: float
    training_seconds: float
    exploration_seconds: float

    @property
    def seconds(self) -> float:
        """Of all jobs."""
        return self.dft_seconds + self.training_seconds + self.exploration_seconds


@dataclass(frozen=True)
class FrameRow:
    """Provenance of one frame. ``uncertainty`` and ``error`` are text by label; the ``_sort`` twins are numbers."""

    label: LabelledFrame
    state: str
    uncertainty: tuple[str, ...]
    uncertainty_sort: float
    error: tuple[str, ...]
    error_sort: float
    use: str


@dataclass(frozen=True)
class FlagRow:
    """A frame that failed, was flagged or was repaired."""

    label_id: str
    generation: int
    state: str
    text: str


@dataclass(frozen=True)
class RunRow:
    """One replica of an exploration."""

    generation: int
    temperature: float
    field: str
    steps: int
    drift: float
    stopped: str


def headline(campaign: Campaign, criterion: StopCriterion | None = None) -> Headline:
    """The first thing to read."""
    labels = campaign.labels
    failed = sum(label.status == "failed" for label in labels)
    flagged = sum(label.status == "done" and not label.quality.passed for label in labels)
    costs = generation_costs(campaign)
    cards = (
        Card("Labels", str(len(labels) - failed), "", f"{flagged} flagged, {failed} failed", "bad" if failed else ""),
        Card("SCFs", str(sum(c.scf_count for c in costs)), "", f"{sum(c.scf_iterations for c in costs)} iterations"),
        _time_card("DFT", sum(c.dft_seconds for c in costs), "wall time of all runs"),
        _time_card("Training", sum(c.training_seconds for c in costs), f"{len(campaign.models)} networks"),
        _time_card("Dynamics", sum(c.exploration_seconds for c in costs), f"{_replicas(campaign)} replicas"),
    )
    state, mood, reason = _verdict(campaign)
    return Headline(_what(campaign), state, mood, reason, cards, _error_cards(campaign, criterion))


def _time_card(title: str, seconds: float, text: str) -> Card:
    value, unit = duration(seconds).split(" ")
    return Card(title, value, unit, text)


def _replicas(campaign: Campaign) -> int:
    return sum(len(exploration.replicas) for exploration in campaign.explorations)


def _what(campaign: Campaign) -> str:
    labels = campaign.labels
    if not labels:
        return "No frame has been labelled yet."
    formulas = Counter(label.frame.formula for label in labels)
    codes = sorted({f"{label.provenance.code} {label.provenance.code_version}".strip() for label in labels})
    protocols = sorted({label.provenance.protocol for label in labels} - {""})
    text = f"{', '.join(f'{n} frames of {formula}' for formula, n in formulas.most_common(5))}, by {', '.join(codes)}"
    return f"{text} ({', '.join(protocols)})." if protocols else f"{text}."


def _verdict(campaign: Campaign) -> tuple[str, str, str]:
    if not campaign.generations:
        stage = "the first networks are trained" if campaign.models else "first frames are being labelled"
        return (
            "Under way",
            "",
            f"No generation is finished yet; {stage}." if campaign.labels else "Nothing has run yet.",
        )
    decision = campaign.generations[-1].decision
    if decision.converged:
        return "Converged", "good", decision.reason
    if decision.stop:
        return "Stopped, not converged", "bad", decision.reason
    return "Under way", "", decision.reason


def _error_cards(campaign: Campaign, criterion: StopCriterion | None) -> tuple[Card, ...]:
    last = next((g for g in reversed(campaign.generations) if g.score.errors is not None), None)
    if last is None or last.score.errors is None:
        return ()
    bounds = {} if criterion is None else criterion.bounds
    cards = []
    for name, quantity in QUANTITIES.items():
        error = getattr(last.score.errors, name, None)
        if error is not None:
            bound = bounds.get(name)
            mood = "" if bound is None else "good" if error <= bound else "bad"
            text = "" if bound is None else f"bound {quantity.error_scale * bound:g} {quantity.error_unit}"
            value = significant(quantity.error_scale * error)
            cards.append(Card(quantity.name, value, quantity.error_unit, text, mood))
    limit = None if criterion is None else criterion.max_flagged_share
    share = last.score.flagged_share
    mood = "" if limit is None else "good" if share <= limit else "bad"
    text = "" if limit is None else f"bound {100 * limit:g} %"
    cards.append(Card("Flagged share", f"{100 * share:.1f}", "%", text, mood))
    return tuple(cards)


def generation_rows(campaign: Campaign) -> tuple[GenerationRow, ...]:
    """One row for each finished generation."""
    chosen = {selection.generation: len(selection.chosen) for selection in campaign.selections}
    return tuple(
        GenerationRow(
            generation=record.generation,
            trained=record.score.frames,
            chosen=str(chosen.get(record.generation, "–")),
            failed=len(record.failed),
            flagged_share=f"{100 * record.score.flagged_share:.1f} %",
            errors=tuple(_error_text(record.score.errors, name) for name in error_columns()),
            reason=record.decision.reason,
        )
        for record in campaign.generations
    )


def error_columns() -> tuple[str, ...]:
    """Labels that have an honest error."""
    return tuple(name for name in LABELS if name in LabelErrors.model_fields)


def _error_text(errors: LabelErrors | None, name: str) -> str:
    value = None if errors is None else getattr(errors, name)
    return "–" if value is None else significant(QUANTITIES[name].error_scale * value)


def generation_costs(campaign: Campaign) -> tuple[GenerationCost, ...]:
    """Cost by generation; labels count for the generation that proposed them."""
    numbers = {label.proposal.generation for label in campaign.labels}
    numbers |= {record.generation for record in (*campaign.models, *campaign.explorations)}
    costs = []
    for g in sorted(numbers):
        labels = [label for label in campaign.labels if label.proposal.generation == g]
        costs.append(
            GenerationCost(
                generation=g,
                labels=len(labels),
                failed=sum(label.status == "failed" for label in labels),
                scf_count=sum(label.provenance.scf_count for label in labels),
                scf_iterations=sum(label.provenance.scf_iterations for label in labels),
                dft_seconds=sum(label.provenance.seconds for label in labels),
                training_seconds=sum(model.seconds for model in campaign.models if model.generation == g),
                exploration_seconds=sum(e.seconds for e in campaign.explorations if e.generation == g),
            )
        )
    return tuple(costs)


def frame_rows(campaign: Campaign) -> tuple[FrameRow, ...]:
    """Provenance of every frame."""
    errors = {pair.label_id: pair.errors for generation in campaign.generations for pair in generation.pairs}
    last = max((model.generation for model in campaign.models), default=-1)
    now = [model for model in campaign.models if model.generation == last]
    training = {label_id for model in now for label_id in model.training_ids}
    validation = {label_id for model in now for label_id in model.validation_ids} - training
    rows = []
    for label in campaign.labels:
        honest = errors.get(label.label_id)
        by_label = {} if honest is None else {name: getattr(honest, name) for name in error_columns()}
        known = {name: value for name, value in by_label.items() if value is not None}
        use = "training" if label.label_id in training else "validation" if label.label_id in validation else ""
        rows.append(
            FrameRow(
                label=label,
                state="failed" if label.status == "failed" else "done" if label.quality.passed else "flagged",
                uncertainty=_by_label(label.proposal.uncertainty),
                uncertainty_sort=label.proposal.uncertainty.get("forces", -1.0),
                error=_by_label(known),
                error_sort=known.get("forces", -1.0),
                use=use,
            )
        )
    return tuple(rows)


def _by_label(values: Mapping[str, float]) -> tuple[str, ...]:
    """``F 83.1 meV/Å`` and so on, in the order of the labels."""
    return tuple(f"{q.symbol} {q.error(values[name])}" for name, q in QUANTITIES.items() if name in values)


def flag_rows(campaign: Campaign) -> tuple[FlagRow, ...]:
    """Failures, failed checks and repairs, one line each."""
    rows = []
    for label in campaign.labels:
        lines = [("repaired", text) for text in label.quality.repairs]
        lines += [("flagged", text) for text in label.quality.flags]
        if label.status == "failed":
            lines.append(("failed", label.failure or "no reason was recorded"))
        rows += [FlagRow(label.label_id, label.proposal.generation, state, text) for state, text in lines]
    return tuple(rows)


def run_rows(campaign: Campaign) -> tuple[RunRow, ...]:
    """One row for each replica of each exploration."""
    return tuple(
        RunRow(
            generation=exploration.generation,
            temperature=replica.temperature,
            field=vector(replica.field),
            steps=replica.steps,
            drift=replica.drift,
            stopped=replica.stopped or "",
        )
        for exploration in campaign.explorations
        for replica in exploration.replicas
    )


def vector(values: np.ndarray) -> str:
    """``(0, 0, 0.02)``."""
    return "({:.3g}, {:.3g}, {:.3g})".format(*values)


def duration(seconds: float) -> str:
    """``48 s``, ``3.2 min``, ``5.1 h``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
