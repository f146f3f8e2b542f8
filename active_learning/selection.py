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
    frame_id: str


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
    pool = [_scored(candidate, settings.bounds) for candidate in candidates]
    pool.sort(key=lambda scored: (scored.frame_id, scored.candidate.proposal.model_dump_json()))
    reasons, usable, flagged = _sift(pool, settings, set(known_ids))
    picker = _Picker(settings, known, usable)
    randoms = round(settings.random_share * settings.count)
    picker.farthest(settings.count - randoms)
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
    pool: Sequence[_Scored], settings: SelectionSettings, known_ids: set[str]
) -> tuple[list[Refused], list[_Scored], int]:
    """Refusals, the usable rest with scores, and the number of frames the model is unsure of."""
    if all(np.isnan(scored.score) for scored in pool):
        raise UncertaintyError(f"no uncertainty in the pool says anything: {pool[0].worst}")
    refused: list[Refused] = []
    usable: dict[str, _Scored] = {}
    flagged = 0
    for scored in pool:
        reason = _defect(scored, settings)
        flagged += reason is not None or scored.score > 1
        if reason is None and scored.frame_id in known_ids:
            reason = "already labelled"
        elif reason is None and scored.frame_id in usable:
            reason = "a duplicate within the pool"
        if reason is None:
            usable[scored.frame_id] = scored
        else:
            refused.append(_refused(scored, reason))
    return refused, list(usable.values()), flagged


def _scored(candidate: Candidate, bounds: LabelBounds) -> _Scored:
    score, text = _score(candidate.uncertainty, bounds)
    return _Scored(candidate, score, text, candidate.frame.frame_id)


def _score(uncertainty: Mapping[str, float], bounds: LabelBounds) -> tuple[float, str]:
    """The largest uncertainty over bound and a text on it; NaN, and why, where there is none."""
    known = {label: uncertainty[label] for label in bounds.bounds if label in uncertainty}
    if not known:
        return np.nan, f"no uncertainty is given of {', '.join(bounds.bounds)}"
    for label, value in known.items():
        if not np.isfinite(value) or value < 0:
            return np.nan, f"the uncertainty of {label} is {value}"
    if not any(known.values()):
        return np.nan, "the uncertainty is zero in every bounded label, which means no certainty"
    ratios = {label: float(value) / bounds.bounds[label] for label, value in known.items()}
    worst = max(ratios, key=lambda label: ratios[label])
    return ratios[worst], f"{worst} {known[worst]:.3g} {UNITS[worst]}, {ratios[worst]:.2f} times its bound"


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
    """Takes frames one after the other, and knows how far each other frame is from all known and taken ones.

    Frames go by their index; ``open`` marks those neither chosen nor refused.
    """

    def __init__(self, settings: SelectionSettings, known: np.ndarray, usable: Sequence[_Scored]) -> None:
        self.settings = settings
        self.near = 0.1 * typical_distance(known) if settings.min_distance is None else settings.min_distance
        self.usable = usable
        self.scores = np.array([scored.score for scored in usable])
        self.descriptors = np.array([scored.candidate.descriptor for scored in usable], dtype=float)
        self.open = np.ones(len(usable), dtype=bool)
        self.distance = np.full(len(usable), np.inf)
        self.chosen: list[Chosen] = []
        self.refused: list[Refused] = []
        if len(known) and len(usable):
            self._approach(KDTree(known).query(self.descriptors)[0], "a labelled frame")

    def farthest(self, count: int) -> None:
        """Farthest-point sampling of the flagged frames, weighted by score; the most uncertain goes first."""
        for _ in range(count):
            left = np.flatnonzero(self.open & (self.scores > 1))
            if not len(left):
                return
            worth = self.scores[left] * self.distance[left] if self.chosen else self.scores[left]
            index = int(left[np.argmax(worth)])
            self._take(index, f"uncertain: {self.usable[index].worst}")

    def top_up(self, count: int) -> None:
        """The most uncertain of the frames left, until ``count`` are chosen."""
        while len(self.chosen) < count and self.open.any():
            index = int(np.argmax(np.where(self.open, self.scores, -np.inf)))
            least = f"to have {self.settings.minimum} honest errors"
            self._take(index, f"{least}: most uncertain left, {self.usable[index].worst}")

    def random(self, count: int) -> None:
        """Random picks, in turn from each origin, temperature and field."""
        rng = np.random.default_rng(self.settings.seed)
        strata: dict[str, list[int]] = {}
        for index in rng.permutation(np.flatnonzero(self.open)).tolist():
            strata.setdefault(_origin(self.usable[index].candidate.proposal), []).append(index)
        names = [str(name) for name in rng.permutation(sorted(strata))]
        stop = len(self.chosen) + count
        while len(self.chosen) < stop and self.open.any():
            for name in names:
                index = next((i for i in strata[name] if self.open[i]), None)
                if index is not None and len(self.chosen) < stop:
                    self._take(index, f"random pick from {name}: {self.usable[index].worst}")

    def refusals(self) -> list[Refused]:
        """Near duplicates met on the way, and the frames left over."""
        left = [self.usable[index] for index in np.flatnonzero(self.open).tolist()]
        why = {True: "flagged, but others were worth more", False: "the model is sure"}
        return [*self.refused, *(_refused(scored, f"{why[scored.score > 1]}: {scored.worst}") for scored in left)]

    def _take(self, index: int, reason: str) -> None:
        self.open[index] = False
        scored = self.usable[index]
        uncertainty = {k: float(v) for k, v in scored.candidate.uncertainty.items() if np.isfinite(v)}
        proposal = scored.candidate.proposal.model_copy(update={"uncertainty": uncertainty, "reason": reason})
        self.chosen.append(Chosen(frame=scored.candidate.frame, proposal=proposal, score=scored.score))
        distance = np.linalg.norm(self.descriptors - self.descriptors[index], axis=1)
        self._approach(distance, f"the chosen frame {scored.frame_id}")

    def _approach(self, distance: np.ndarray, whom: str) -> None:
        """Shorten the distances by those to one more frame, and refuse what is now too near."""
        self.distance = np.minimum(self.distance, distance)
        for index in np.flatnonzero(self.open & (self.distance < self.near)).tolist():
            self.open[index] = False
            gap = f"{self.distance[index]:.3g} < {self.near:.3g}"
            self.refused.append(_refused(self.usable[index], f"a near duplicate of {whom}, at {gap}"))


def _refused(scored: _Scored, reason: str) -> Refused:
    return Refused(frame_id=scored.frame_id, reason=reason)


def _origin(proposal: Proposal) -> str:
    """Where a frame was met, for people and for strata."""
    parts = [proposal.origin]
    if proposal.temperature is not None:
        parts.append(f"{proposal.temperature:.0f} K")
    if proposal.field is not None:
        parts.append("field ({:.3g}, {:.3g}, {:.3g}) V/A".format(*proposal.field))
    return ", ".join(parts)
