"""Frames that are close to each other: what tells derivatives from their transposes, signs and units."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ..records import LabelledFrame

_MANY = 50
_REACH = 3


@dataclass(frozen=True)
class Pair:
    """Two frames of the same atoms in the same cell at the same field.

    Attributes:
        first, second: the labels.
        displacement: from the first to the second, to the nearest image, A, (N, 3).
    """

    first: LabelledFrame
    second: LabelledFrame
    displacement: np.ndarray

    @property
    def cell(self) -> np.ndarray:
        """Rows are lattice vectors, A."""
        return self.first.frame.cell

    def mean(self, name: str, transposed: bool = False) -> np.ndarray:
        """Mean of a label of both frames: the trapezoidal rule, exact where the label is linear in between."""
        mean = (getattr(self.first.response, name) + getattr(self.second.response, name)) / 2
        return mean.swapaxes(-1, -2) if transposed else mean

    def work_of_charges(self, transposed: bool = False) -> np.ndarray:
        """Z*.dR, the change of P that Z* foretells, e A, (3,)."""
        charges = self.mean("born_effective_charges", transposed)
        return np.einsum("iab,ib->a", charges, self.displacement)


def groups(frames: Sequence[LabelledFrame], *needed: str) -> list[list[LabelledFrame]]:
    """Frames that have the needed labels, by atoms and cell, in their order."""
    found: dict[tuple, list[LabelledFrame]] = {}
    for item in frames:
        if all(getattr(item.response, name) is not None for name in needed):
            key = (item.frame.species, item.frame.pbc, tuple(np.round(item.frame.cell.ravel(), 4)))
            found.setdefault(key, []).append(item)
    return list(found.values())


def pairs(
    frames: Sequence[LabelledFrame], *needed: str, farthest: float = 0.8, equal_fields: bool = True
) -> list[Pair]:
    """Frames next to each other in their group; in a small group also those a few frames apart.

    Args:
        frames: in the order of their trajectory.
        needed: labels that both must have.
        farthest: rms displacement above which two frames say nothing about each other, A.
        equal_fields: leave out pairs whose labels hold at different fields.
    """
    found = []
    for group in groups(frames, *needed):
        reach = 1 if len(group) >= _MANY else _REACH
        for first, second in _within(group, reach):
            if equal_fields and np.abs(first.response.field - second.response.field).max() > 1e-9:
                continue
            pair = _pair(first, second)
            if 1e-6 < _rms(pair) < farthest:
                found.append(pair)
    return found


def _within(group: Sequence[LabelledFrame], reach: int) -> Iterator[tuple[LabelledFrame, LabelledFrame]]:
    for index, first in enumerate(group):
        for second in group[index + 1 : index + 1 + reach]:
            yield first, second


def triangles(
    frames: Sequence[LabelledFrame], *needed: str, farthest: float = 1.5, most: int = 300
) -> Iterator[tuple[Pair, Pair, Pair]]:
    """Closed loops over three frames of a group that follow each other within a few frames."""
    count = 0
    for group in groups(frames, *needed):
        for start in range(len(group) - 2):
            for second, third in combinations(range(start + 1, min(start + 5, len(group))), 2):
                legs = _loop(group[start], group[second], group[third])
                # Nearest images must close: an atom that went round the cell would not come back.
                if np.abs(sum(leg.displacement for leg in legs)).max() > 1e-6:
                    continue
                if count < most and all(_rms(leg) < farthest for leg in legs):
                    count += 1
                    yield legs


def _loop(a: LabelledFrame, b: LabelledFrame, c: LabelledFrame) -> tuple[Pair, Pair, Pair]:
    return _pair(a, b), _pair(b, c), _pair(c, a)


def _pair(first: LabelledFrame, second: LabelledFrame) -> Pair:
    displacement = second.frame.positions - first.frame.positions
    periodic = np.array(first.frame.pbc)
    if periodic.all() and first.frame.volume:
        scaled = displacement @ np.linalg.inv(first.frame.cell)
        displacement = displacement - np.rint(scaled) @ first.frame.cell
    return Pair(first, second, displacement)


def _rms(pair: Pair) -> float:
    return float(np.sqrt((pair.displacement**2).sum(axis=1).mean()))
