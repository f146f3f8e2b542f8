"""How far the members of a committee of models disagree, in the units of the labels (query by committee).

Each label is reduced to one number a frame: for per-atom labels the worst atom's, as one unknown environment is
reason enough for a calculation; for labels of the cell the root mean square over components. ``errors.py`` reduces
errors in the same way, so that the two can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...dft_inputs.polarization import fold
from ..labels import BOUNDED, PER_ATOM

_SHAPES = {
    "forces": "(K, N, 3)",
    "polarization": "(K, 3)",
    "born_effective_charges": "(K, N, 3, 3)",
    "polarizability": "(K, 3, 3)",
}


class UncertaintyError(ValueError):
    """An uncertainty that says nothing: a committee of one, identical members, NaN."""


@dataclass(frozen=True)
class Committee:
    """What K members predict for one frame at one field. A label not predicted is None.

    Attributes:
        forces: eV/A, (K, N, 3).
        polarization: e A, (K, 3).
        born_effective_charges: e, (K, N, 3, 3).
        polarizability: e^2 A^2/eV, (K, 3, 3).
        polarization_quanta: rows span the lattice of quanta of P in e A, (3, 3); members are compared modulo it.
            None where all members share a branch.
    """

    forces: np.ndarray | None = None
    polarization: np.ndarray | None = None
    born_effective_charges: np.ndarray | None = None
    polarizability: np.ndarray | None = None
    polarization_quanta: np.ndarray | None = None

    def predictions(self) -> dict[str, np.ndarray]:
        """The labels that are predicted, by name, float64."""
        return {name: np.asarray(value, dtype=float) for name in BOUNDED if (value := getattr(self, name)) is not None}


@dataclass(frozen=True)
class Spread:
    """Raw (uncalibrated) disagreement of a committee on one frame; None for a label not predicted.

    Attributes:
        forces: worst atom's standard deviation, rms over x, y, z, eV/A.
        polarization: rms over components, e A.
        born_effective_charges: worst atom's, rms over the nine components, e.
        polarizability: rms over the nine components, e^2 A^2/eV.
    """

    forces: float | None = None
    polarization: float | None = None
    born_effective_charges: float | None = None
    polarizability: float | None = None

    def by_label(self) -> dict[str, float]:
        """The spreads that are known, by label name."""
        return {name: value for name in BOUNDED if (value := getattr(self, name)) is not None}


def committee_spread(committee: Committee) -> Spread:
    """The unbiased standard deviation over the members, reduced to one number a label.

    Args:
        committee: predictions of all members for one frame, in the units of the conventions.

    Raises:
        UncertaintyError: fewer than two members, members that disagree on nothing at all, NaN or infinite
            predictions, or arrays whose shapes do not fit together.
    """
    predictions = committee.predictions()
    _check(predictions)
    spread = {
        name: reduced(name, _variance(name, values, committee.polarization_quanta))
        for name, values in predictions.items()
    }
    if not any(spread.values()):
        raise UncertaintyError(
            "all members of the committee predict the same: train them from different seeds or on different splits"
        )
    return Spread(**spread)


def reduced(name: str, squares: np.ndarray) -> float:
    """Root of the mean of squares over components, of the worst atom for a per-atom label.

    Args:
        name: label.
        squares: variances or squared errors in the shape of the label, without a member axis.
    """
    if name in PER_ATOM:
        return float(np.sqrt(squares.reshape(len(squares), -1).mean(axis=1).max()))
    return float(np.sqrt(squares.mean()))


def _variance(name: str, values: np.ndarray, quanta: np.ndarray | None) -> np.ndarray:
    """Unbiased variance over the member axis; deviations from the first member are exact for equal members."""
    deviations = values - values[0]
    if name == "polarization" and quanta is not None:
        deviations = fold(deviations, quanta)
    return deviations.var(axis=0, ddof=1)


def _check(predictions: dict[str, np.ndarray]) -> None:
    if not predictions:
        raise UncertaintyError(f"the committee predicts none of {', '.join(BOUNDED)}")
    ranks = {name: shape.count(",") + 1 for name, shape in _SHAPES.items()}
    for name, values in predictions.items():
        if values.ndim != ranks[name] or any(length != 3 for length in _components(name, values)):
            raise UncertaintyError(f"{name} of a committee must have the shape {_SHAPES[name]}, not {values.shape}")
    if len({len(values) for values in predictions.values()}) > 1:
        sizes = ", ".join(f"{name} {len(values)}" for name, values in predictions.items())
        raise UncertaintyError(f"the labels of a committee come from different numbers of members: {sizes}")
    if len({values.shape[1] for name, values in predictions.items() if name in PER_ATOM}) > 1:
        raise UncertaintyError("forces and born_effective_charges of a committee have different numbers of atoms")
    members = len(next(iter(predictions.values())))
    if members < 2:
        raise UncertaintyError(f"a committee of {members} has no spread: train at least two members")
    for name, values in predictions.items():
        if not np.isfinite(values).all():
            member = int(np.argmin(np.isfinite(values).reshape(members, -1).all(axis=1)))
            raise UncertaintyError(f"member {member} predicts NaN or infinite {name}: the frame has exploded")


def _components(name: str, values: np.ndarray) -> tuple[int, ...]:
    """Lengths of the Cartesian axes, which stand behind the member and the atom axis."""
    return values.shape[2:] if name in PER_ATOM else values.shape[1:]
