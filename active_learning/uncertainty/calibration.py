"""From the spread of a committee to an uncertainty one can believe: a factor a label, fitted to honest errors.

Members trained on the same data agree more than they are right. With Gaussian errors of standard deviation
``scale * spread`` the likelihood of the errors is largest at scale^2 = <error^2 / spread^2> (Musil et al., J. Chem.
Theory Comput. 15, 906 (2019); Imbalzano et al., J. Chem. Phys. 154, 074102 (2021), whose correction for few members
is left out, as a spread here averages over many components). A handful of frames says little about a factor, so it has
a conjugate prior, a scaled inverse chi-squared worth ``prior_frames`` frames about the previous factor (Gelman et al.,
Bayesian Data Analysis, sec. 2.6): scale^2 = (n <error^2 / spread^2> + n0 previous^2) / (n + n0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy.special import gammaincinv

from ..labels import BOUNDED, UNITS
from .committee import Spread, UncertaintyError

_COMPONENTS = {"forces": 3, "polarization": 3, "born_effective_charges": 9, "polarizability": 9}
_FEWEST_FOR_RANKS = 3


@dataclass(frozen=True)
class Pair:
    """Raw spread and honest error of one label on one frame that was not trained on, reduced alike, in its unit."""

    label: str
    spread: float
    error: float


class LabelCalibration(BaseModel):
    """The calibration of one label.

    Attributes:
        label: its name.
        unit: of spread and error.
        scale: calibrated uncertainty = scale * spread.
        frames: number of honest errors behind it.
        coverage_90: share of them inside their calibrated 90 % bound; 0.9 for a good calibration.
        rank_correlation: Spearman's, of spread and error; near 0 the spread does not tell good frames from bad,
            whatever the scale. None for fewer than three frames or equal values.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    unit: str
    scale: float
    frames: int
    coverage_90: float
    rank_correlation: float | None = None


class Calibration(BaseModel):
    """Factors by label. A label that was never calibrated has the factor 1.

    Attributes:
        labels: a calibration for each label that has one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    labels: tuple[LabelCalibration, ...] = ()

    def scale(self, label: str) -> float:
        """Factor from raw spread to calibrated uncertainty."""
        return next((entry.scale for entry in self.labels if entry.label == label), 1.0)

    def apply(self, spread: Spread) -> dict[str, float]:
        """Calibrated uncertainty by label name, in the label's unit."""
        return {label: self.scale(label) * value for label, value in spread.by_label().items()}


def pairs_of(spread: Spread, errors: Spread) -> list[Pair]:
    """Pairs of one frame for the labels known on both sides.

    Args:
        spread: raw, of the committee that made the prediction.
        errors: ``LabelErrors.as_spread()`` of that prediction.
    """
    known = errors.by_label()
    return [Pair(label, value, known[label]) for label, value in spread.by_label().items() if label in known]


def fit_calibration(
    pairs: Sequence[Pair], previous: Calibration | None = None, *, prior_frames: float = 4.0, floor: float = 0.1
) -> Calibration:
    """Fit the factor of every label that has pairs; other labels keep their previous one.

    Frames chosen for their large spread are not a fair sample of all frames; random picks among them make it fairer.

    Args:
        pairs: of frames that no member was trained on.
        previous: the factors to shrink towards; 1 for every label if not given.
        prior_frames: weight of the previous factor, in frames.
        floor: smaller spreads count as this fraction of the label's median one, lest one lucky agreement rule the fit.

    Raises:
        UncertaintyError: an unknown label, NaN or negative numbers, or spreads of a label that are all zero.
    """
    previous = previous or Calibration()
    fitted = {entry.label: entry for entry in previous.labels}
    for pair in pairs:
        if pair.label not in BOUNDED:
            raise UncertaintyError(f"cannot calibrate {pair.label!r}; known are {', '.join(BOUNDED)}")
    for label in BOUNDED:
        own = [pair for pair in pairs if pair.label == label]
        if own:
            fitted[label] = _fit_label(label, own, previous.scale(label), prior_frames, floor)
    return Calibration(labels=tuple(fitted[label] for label in BOUNDED if label in fitted))


def coverage(pairs: Sequence[Pair], level: float, calibration: Calibration | None = None) -> float:
    """Share of the errors inside their bound at a confidence level; equals ``level`` for a perfect calibration.

    An rms over d components of a Gaussian with standard deviation s lies below s * sqrt(chi2_d(level) / d). For the
    per-atom labels d is that of one atom.

    Args:
        pairs: spread and honest error of labels.
        level: the confidence, between 0 and 1.
        calibration: factors on the spread; none where not given.

    Raises:
        UncertaintyError: no pairs.
        ValueError: a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"a confidence level lies between 0 and 1, not {level}")
    if not pairs:
        raise UncertaintyError("coverage needs at least one frame with an honest error")
    calibration = calibration or Calibration()
    inside = [pair.error <= _radius(pair.label, level) * calibration.scale(pair.label) * pair.spread for pair in pairs]
    return float(np.mean(inside))


def rank_correlation(pairs: Sequence[Pair]) -> float | None:
    """Spearman's rank correlation of spread and error; None for fewer than three pairs or a constant side."""
    if len(pairs) < _FEWEST_FOR_RANKS:
        return None
    spread = _ranks(np.array([pair.spread for pair in pairs]))
    error = _ranks(np.array([pair.error for pair in pairs]))
    if np.ptp(spread) == 0 or np.ptp(error) == 0:
        return None
    return float(np.corrcoef(spread, error)[0, 1])


def _fit_label(
    label: str, pairs: Sequence[Pair], previous: float, prior_frames: float, floor: float
) -> LabelCalibration:
    spread = np.array([pair.spread for pair in pairs], dtype=float)
    error = np.array([pair.error for pair in pairs], dtype=float)
    if not np.isfinite([spread, error]).all() or spread.min() < 0 or error.min() < 0:
        raise UncertaintyError(f"spreads and errors of {label} must be finite and not negative")
    if not spread.any():
        raise UncertaintyError(f"the spreads of {label} are all zero: they cannot be calibrated, and mean no certainty")
    floored = np.maximum(spread, floor * np.median(spread[spread > 0]))
    likeliest = float(np.mean((error / floored) ** 2))
    scale = float(np.sqrt((len(pairs) * likeliest + prior_frames * previous**2) / (len(pairs) + prior_frames)))
    entry = LabelCalibration(label=label, unit=UNITS[label], scale=scale, frames=len(pairs), coverage_90=0.0)
    return entry.model_copy(
        update={
            "coverage_90": coverage(pairs, 0.9, Calibration(labels=(entry,))),
            "rank_correlation": rank_correlation(pairs),
        }
    )


def _radius(label: str, level: float) -> float:
    """Bound on an rms over d components in units of its standard deviation."""
    components = _COMPONENTS[label]
    return float(np.sqrt(2 * gammaincinv(components / 2, level) / components))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts + 1) / 2)[inverse]
