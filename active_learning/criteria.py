"""When the loop may stop: honest errors and the share of unsure frames under their bounds, for long enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from pydantic import Field, PositiveInt, model_validator

from ..dft_inputs.records import Record
from .errors import LabelErrors
from .labels import UNITS, LabelBounds


class StopCriterion(LabelBounds):
    """Bounds on the honest RMSE by label (see ``LabelBounds`` for units), on the flagged share, and for how long.

    Attributes:
        max_flagged_share: largest share of the explored frames that the model may be unsure of.
        consecutive: number of generations in a row that must pass.
        max_generations: stop after this many scored generations in any case.
    """

    max_flagged_share: float = Field(default=0.05, ge=0.0, le=1.0)
    consecutive: PositiveInt = 1
    max_generations: PositiveInt = 10

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.consecutive > self.max_generations:
            raise ValueError(
                f"consecutive ({self.consecutive}) cannot be met within max_generations ({self.max_generations})"
            )
        return self


class GenerationScore(Record):
    """How the model of a generation did on frames it had not been trained on.

    Attributes:
        generation: number of the generation that explored.
        errors: honest errors pooled over its newly labelled frames; None where none was labelled.
        flagged_share: share of the explored frames that the model was unsure of.
        frames: number of frames trained on.
    """

    generation: int = Field(ge=0)
    errors: LabelErrors | None = None
    flagged_share: float = Field(ge=0.0, le=1.0)
    frames: int = Field(default=0, ge=0)


class Decision(Record):
    """Whether to stop, and why in one line.

    Attributes:
        stop: True ends the loop.
        converged: True where the criterion is met; False for a stop by ``max_generations``.
        reason: what passed, or what still fails.
    """

    stop: bool
    converged: bool
    reason: str


def decide(history: Sequence[GenerationScore], criterion: StopCriterion) -> Decision:
    """Judge the last generations. One without an honest error of every bounded label never counts as passed.

    Args:
        history: a score for each generation that explored, in any order.
        criterion: the bounds.

    Raises:
        ValueError: two scores of the same generation.
    """
    scores = sorted(history, key=lambda score: score.generation)
    if len({score.generation for score in scores}) < len(scores):
        raise ValueError("the history scores a generation twice")
    if not scores:
        return Decision(stop=False, converged=False, reason="no generation has been scored yet")
    streak = _streak(scores, criterion)
    last = scores[-1]
    if streak >= criterion.consecutive:
        since = f"{streak} generations in a row" if streak > 1 else f"generation {last.generation}"
        return Decision(stop=True, converged=True, reason=f"{since} passed: {'; '.join(_passes(last, criterion))}")
    failing = _failures(last, criterion)
    reason = f"generation {last.generation} fails: {'; '.join(failing)}"
    if not failing:
        reason = f"{streak} of {criterion.consecutive} generations in a row passed"
    if len(scores) >= criterion.max_generations:
        return Decision(
            stop=True, converged=False, reason=f"max_generations ({criterion.max_generations}) reached; {reason}"
        )
    return Decision(stop=False, converged=False, reason=reason)


def _streak(scores: Sequence[GenerationScore], criterion: StopCriterion) -> int:
    """Number of generations at the end of the history, without a gap between them, that passed."""
    streak = 0
    for score in reversed(scores):
        if score.generation != scores[-1].generation - streak or _failures(score, criterion):
            break
        streak += 1
    return streak


def _failures(score: GenerationScore, criterion: StopCriterion) -> list[str]:
    failures = []
    for label, bound in criterion.bounds.items():
        error = _error(score, label)
        if error is None:
            failures.append(f"no honest error of {label}")
        elif not error <= bound:  # also for NaN
            failures.append(f"{label} {error:.3g} > {bound:g} {UNITS[label]}")
    if not score.flagged_share <= criterion.max_flagged_share:
        failures.append(f"flagged share {score.flagged_share:.1%} > {criterion.max_flagged_share:.1%}")
    return failures


def _passes(score: GenerationScore, criterion: StopCriterion) -> list[str]:
    errors = [
        f"{label} {_error(score, label):.3g} <= {bound:g} {UNITS[label]}" for label, bound in criterion.bounds.items()
    ]
    return [*errors, f"flagged share {score.flagged_share:.1%} <= {criterion.max_flagged_share:.1%}"]


def _error(score: GenerationScore, label: str) -> float | None:
    return getattr(score.errors, label) if score.errors is not None else None
