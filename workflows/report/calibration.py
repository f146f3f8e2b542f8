"""Uncertainties against honest errors, label by label: the points of the figure and the rows of its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...active_learning.labels import BOUNDED
from ...active_learning.uncertainty.calibration import Pair, coverage, rank_correlation
from ..queries import Campaign
from ..records import HonestPair
from .style import QUANTITIES, significant


@dataclass(frozen=True)
class CalibrationRow:
    """How far the uncertainties of one label can be believed; text for people."""

    name: str
    frames: int
    factor: str
    raw: str
    calibrated: str
    rank: str


def calibration_rows(campaign: Campaign) -> tuple[CalibrationRow, ...]:
    """One row for each label with an uncertainty and an honest error."""
    pairs = [pair for generation in campaign.generations for pair in generation.pairs]
    rows = []
    for label in BOUNDED:
        sides = uncertainty_points(pairs, label)
        if sides:
            rank = rank_correlation(sides["raw"])
            row = CalibrationRow(
                name=QUANTITIES[label].name,
                frames=len(sides["raw"]),
                factor=significant(campaign.selections[-1].calibration.scale(label)) if campaign.selections else "–",
                raw=f"{coverage(sides['raw'], 0.9):.0%}",
                calibrated=f"{coverage(sides['calibrated'], 0.9):.0%}",
                rank="–" if rank is None else f"{rank:.2f}",
            )
            rows.append(row)
    return tuple(rows)


def uncertainty_points(pairs: Sequence[HonestPair], label: str) -> dict[str, list[Pair]]:
    """Pairs of one label with the ``raw`` spread and with the ``calibrated`` one; empty where there are none."""
    sides: dict[str, list[Pair]] = {"raw": [], "calibrated": []}
    for pair in pairs:
        error = pair.errors.as_spread().by_label().get(label)
        before: Mapping[str, Mapping[str, float]] = {"raw": pair.spread, "calibrated": pair.uncertainty}
        if error is not None and all(label in values for values in before.values()):
            for side, values in before.items():
                sides[side].append(Pair(label, values[label], error))
    return sides if sides["raw"] else {}
