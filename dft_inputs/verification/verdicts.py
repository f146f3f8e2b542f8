"""What a check of foreign labels concludes, and how two explanations of the same numbers are weighed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeVar

import numpy as np
from scipy.stats import binomtest

from ..records import Record

H = TypeVar("H")

_CLEAR_RATIO = 3.0
_RATIO = 1.1
_CHANCE = 0.01


class Verdict(Record):
    """The outcome of one check.

    Attributes:
        check: what was looked at.
        outcome: ``cannot tell`` where the labels at hand do not decide, with the reason in ``detail``.
        fault: what is wrong, in a few words; empty otherwise.
        detail: the evidence, or what is missing, in one line.
    """

    check: str
    outcome: Literal["ok", "wrong", "cannot tell"]
    fault: str = ""
    detail: str


def better(residuals: np.ndarray, others: np.ndarray) -> bool:
    """Whether an explanation leaves clearly smaller residuals than another one, on the same samples.

    Either by far, or by a little so often that chance (a sign test at 1 %) is excluded.
    """
    ratio = float(np.median(others) / max(float(np.median(residuals)), 1e-300))
    if ratio >= _CLEAR_RATIO:
        return True
    wins = int((residuals < others).sum())
    return ratio >= _RATIO and float(binomtest(wins, len(residuals), 0.5, alternative="greater").pvalue) < _CHANCE


def best_of(residuals: Mapping[H, np.ndarray]) -> H:
    """The explanation of the smallest median residual."""
    return min(residuals, key=lambda hypothesis: float(np.median(residuals[hypothesis])))
