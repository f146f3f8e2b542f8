"""Which frames met by the dynamics are worth a DFT calculation: unsure ones, different ones, and a few at random.

Uncertain frames make a shortlist, and farthest points in descriptor space are taken from it: without the first, effort
goes to what is known; without the second, to one region over and over. A share of random picks keeps an eye on where
the model is sure and wrong, and makes the honest errors a fairer sample.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt, computed_field
from scipy.spatial import KDTree

from ..dft_inputs.records import Frame, Proposal, Record
from .labels import UNITS, LabelBounds
from .plausibility import Plausibility, implausible
from .uncertainty.committee import UncertaintyError


class SelectionError(ValueError):
    """A pool nothing can be chosen from."""


class SelectionSettings(BaseModel):
    """How frames are chosen.

    Attributes:
        bounds: a frame is flagged where the uncertainty of any label exceeds its bound.
        count: number of frames to choose at most.
        minimum: number to choose even if fewer are flagged, so that every generation has an honest error.
        random_share: share of ``count`` drawn at random from frames not chosen otherwise; 1 is random selection, the
            control.
        min_distance: frames closer than this to a known or a chosen frame are near duplicates, in the unit of the
            descriptor; None for a tenth of the ``typical_distance`` of the known frames.
        plausibility: geometries to refuse.
        seed: of the random picks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bounds: LabelBounds
    count: PositiveInt = 6
    minimum: NonNegativeInt = 2
    random_share: float = Field(default=0.2, ge=0.0, le=1.0)
    min_distance: NonNegativeFloat | None = None
    plausibility: Plausibility = Plausibility()
    seed: NonNegativeInt = 0


@dataclass(frozen=True)
class Candidate:
    """A frame that may be labelled.

    Attributes:
        frame: the geometry.
        proposal: where it was met.
        descriptor: of the whole frame, (D,), the same D for all.
        uncertainty: calibrated, by label name, in the label's unit.
    """

    frame: Frame
    proposal: Proposal
    descriptor: np.ndarray
    uncertainty: Mapping[str, float]


class Chosen(Record):
    """A frame to label; ``proposal`` carries its uncertainty and the reason; ``score`` is uncertainty over bound."""

    frame: Frame
    proposal: Proposal
    score: float


class Refused(Record):
    """A candidate that was not chosen, and why."""

    frame_id: str
    reason: str


class Selection(Record):
    """What was chosen from a pool, in order of choice, and what was not.

    Attributes:
        chosen: frames to label.
        refused: all others, each with its reason.
        pool: number of candidates.
        flagged: number of those the model is unsure of; implausible frames count, as they came from its dynamics.
    """

    chosen: tuple[Chosen, ...]
    refused: tuple[Refused, ...]
    pool: int
    flagged: int

    @computed_field
    @property
    def flagged_share(self) -> float:
        """Share of the pool that the model is unsure of."""
        return self.flagged / self.pool


@dataclass(frozen=True)
class _Scored:
    """A candidate with its score, NaN if it has none, and for people the label that gives it."""

    candidate: Candidate
    score: float
    worst: str

    @property
    def frame_id(self) -> str:
        return self.candidate.frame.frame_id


def select(
    candidates: Sequence[Candidate],
    settings: SelectionSettings,
    *,
    known_ids: Collection[str] = (),
    known_descriptors: np.ndarray | None = None,
) -> Selection:
    """Choose frames to label. The result does not depend on the order of the candidates.

    Args:
        candidates: the pool.
        settings: bounds, numbers, seed.
        known_ids: ``frame_id`` of every frame already labelled or tried.
        known_descriptors: of the frames already labelled, (M, D).

    Raises:
        SelectionError: an empty pool, or descriptors of different lengths.
        UncertaintyError: no candidate has an uncertainty that says anything (all NaN, zero, or of unbounded labels).
    """
    if not candidates:
        raise SelectionError("the pool is empty: the exploration gave no frame to choose from")
    known = _known_descriptors(candidates, known_descriptors)
    pool = sorted(candidates, key=lambda c: (c.frame.frame_id, c.proposal.model_dump_json()))
    reasons, usable, flagged = _sift(pool, settings, set(known_ids))
    picker = _Picker(settings, known, usable)
    shortlist = [scored for scored in usable if scored.score > 1]
    randoms = round(settings.random_share * settings.count)
    picker.farthest(shortlist, settings.count - randoms)
    picker.top_up(min(settings.minimum, settings.count) - randoms)
    picker.random(randoms)
    return Selection(
        chosen=tuple(picker.chosen),
        refused=(*reasons, *picker.refusals()),
        pool=len(pool),
        flagged=flagged,
    )


def typical_distance(descriptors: np.ndarray) -> float:
    """Median distance of each descriptor to its nearest neighbour.

    Args:
        descriptors: (M, D). Fewer than two have no distance: 0.
    """
    if len(descriptors) < 2:
        return 0.0
    nearest, _ = KDTree(descriptors).query(descriptors, k=2)
    return float(np.median(nearest[:, 1]))


def _known_descriptors(candidates: Sequence[Candidate], known: np.ndarray | None) -> np.ndarray:
    lengths = {np.shape(candidate.descriptor) for candidate in candidates}
    if len(lengths) > 1 or len(next(iter(lengths))) != 1:
        raise SelectionError(f"descriptors of the pool must all have one shape (D,), not {sorted(lengths)}")
    (length,) = next(iter(lengths))
    known = np.empty((0, length)) if known is None or len(known) == 0 else np.asarray(known, dtype=float)
    if known.ndim != 2 or known.shape[1] != length:
        raise SelectionError(f"known descriptors have the shape {known.shape}, those of the pool ({length},)")
    if not np.isfinite(known).all():
        raise SelectionError("a known descriptor has NaN or infinite entries")
    return known


def _sift(
    pool: Sequence[Candidate], settings: SelectionSettings, known_ids: set[str]
) -> tuple[list[Refused], list[_Scored], int]:
    """Refusals, the usable rest with scores, and the number of frames the model is unsure of."""
    everything = [_score(candidate, settings.bounds) for candidate in pool]
    if all(np.isnan(scored.score) for scored in everything):
        raise UncertaintyError(f"no uncertainty in the pool says anything: {everything[0].worst}")
    refused: list[Refused] = []
    usable: dict[str, _Scored] = {}
    flagged = 0
    for scored in everything:
        reason = _defect(scored, settings)
        flagged += reason is not None or scored.score > 1
        if reason is None and scored.frame_id in known_ids:
            reason = "already labelled"
        elif reason is None and scored.frame_id in usable:
            reason = "a duplicate within the pool"
        if reason is None:
            usable[scored.frame_id] = scored
        else:
            refused.append(Refused(frame_id=scored.frame_id, reason=reason))
    return refused, list(usable.values()), flagged


def _score(candidate: Candidate, bounds: LabelBounds) -> _Scored:
    """The candidate with its largest uncertainty over bound; NaN, and why, where it has none."""
    ratios = {}
    for label, bound in bounds.bounds.items():
        value = candidate.uncertainty.get(label)
        if value is None:
            continue
        if not np.isfinite(value) or value < 0:
            return _Scored(candidate, np.nan, f"the uncertainty of {label} is {value}")
        ratios[label] = float(value) / bound
    if not ratios:
        return _Scored(candidate, np.nan, f"no uncertainty is given of {', '.join(bounds.bounds)}")
    if not any(ratios.values()):
        return _Scored(candidate, np.nan, "the uncertainty is zero in every bounded label, which means no certainty")
    worst = max(ratios, key=lambda label: ratios[label])
    text = f"{worst} {candidate.uncertainty[worst]:.3g} {UNITS[worst]}, {ratios[worst]:.2f} times its bound"
    return _Scored(candidate, ratios[worst], text)


def _defect(scored: _Scored, settings: SelectionSettings) -> str | None:
    """Why a candidate can be neither labelled nor compared."""
    if trouble := implausible(scored.candidate.frame, settings.plausibility):
        return trouble
    if np.isnan(scored.score):
        return scored.worst
    if not np.isfinite(scored.candidate.descriptor).all():
        return "the descriptor has NaN or infinite entries"
    limit = settings.plausibility.max_score
    if limit is not None and scored.score > limit:
        return f"the model is lost here: {scored.worst}, allowed {limit:g} times"
    return None


class _Picker:
    """Takes frames one after the other, and knows how far each other frame is from all known and taken ones."""

    def __init__(self, settings: SelectionSettings, known: np.ndarray, usable: Sequence[_Scored]) -> None:
        self.settings = settings
        near = settings.min_distance
        self.near = 0.1 * typical_distance(known) if near is None else near
        self.chosen: list[Chosen] = []
        self.open = {scored.frame_id: scored for scored in usable}
        self.distance = {scored.frame_id: np.inf for scored in usable}
        self.refused: list[Refused] = []
        for descriptor in known:
            self._approach(descriptor)
        self._refuse_near("a labelled frame")

    def farthest(self, shortlist: Sequence[_Scored], count: int) -> None:
        """Farthest-point sampling weighted by score; the most uncertain frame goes first."""
        shortlist = [scored for scored in shortlist if scored.frame_id in self.open]
        for _ in range(count):
            left = [scored for scored in shortlist if scored.frame_id in self.open]
            if not left:
                return
            if self.chosen:
                scored = max(left, key=lambda s: s.score * self.distance[s.frame_id])
            else:
                scored = max(left, key=lambda s: s.score)
            self._take(scored, f"uncertain: {scored.worst}")

    def top_up(self, count: int) -> None:
        """The most uncertain of the frames left, until ``count`` are chosen."""
        while len(self.chosen) < count and self.open:
            scored = max(self.open.values(), key=lambda s: s.score)
            self._take(scored, f"to have {self.settings.minimum} honest errors: most uncertain left, {scored.worst}")

    def random(self, count: int) -> None:
        """Random picks, in turn from each origin, temperature and field."""
        rng = np.random.default_rng(self.settings.seed)
        strata: dict[str, list[_Scored]] = {}
        for scored in self.open.values():
            strata.setdefault(_origin(scored.candidate.proposal), []).append(scored)
        names = [str(name) for name in rng.permutation(sorted(strata))]
        queues = {name: [strata[name][i] for i in rng.permutation(len(strata[name]))] for name in names}
        stop = len(self.chosen) + count
        while len(self.chosen) < stop and any(queues.values()):
            for name in names:
                queue = queues[name] = [scored for scored in queues[name] if scored.frame_id in self.open]
                if queue and len(self.chosen) < stop:
                    self._take(queue[0], f"random pick from {name}: {queue[0].worst}")

    def refusals(self) -> list[Refused]:
        """Near duplicates met on the way, and the frames left over."""
        left = [
            Refused(
                frame_id=scored.frame_id,
                reason=f"flagged, but others were worth more: {scored.worst}"
                if scored.score > 1
                else f"the model is sure: {scored.worst}",
            )
            for scored in self.open.values()
        ]
        return [*self.refused, *left]

    def _take(self, scored: _Scored, reason: str) -> None:
        del self.open[scored.frame_id]
        candidate = scored.candidate
        update = {"uncertainty": {k: float(v) for k, v in candidate.uncertainty.items()}, "reason": reason}
        self.chosen.append(
            Chosen(frame=candidate.frame, proposal=candidate.proposal.model_copy(update=update), score=scored.score)
        )
        self._approach(np.asarray(candidate.descriptor, dtype=float))
        self._refuse_near(f"the chosen frame {scored.frame_id}")

    def _approach(self, descriptor: np.ndarray) -> None:
        """Shorten the distances by that to one more known frame."""
        for frame_id, scored in self.open.items():
            distance = float(np.linalg.norm(np.asarray(scored.candidate.descriptor) - descriptor))
            self.distance[frame_id] = min(self.distance[frame_id], distance)

    def _refuse_near(self, whom: str) -> None:
        for frame_id in [key for key in self.open if self.distance[key] < self.near]:
            del self.open[frame_id]
            reason = f"a near duplicate of {whom}, at {self.distance[frame_id]:.3g} < {self.near:.3g}"
            self.refused.append(Refused(frame_id=frame_id, reason=reason))


def _origin(proposal: Proposal) -> str:
    """Where a frame was met, for people and for strata."""
    parts = [proposal.origin]
    if proposal.temperature is not None:
        parts.append(f"{proposal.temperature:.0f} K")
    if proposal.field is not None:
        parts.append("field ({:.3g}, {:.3g}, {:.3g}) V/A".format(*proposal.field))
    return ", ".join(parts)
