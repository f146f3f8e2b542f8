"""Born effective charges and polarization against each other, against the atoms, and against themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..polarization import fold
from ..records import LabelledFrame
from ..units import (
    BOHR_IN_ANGSTROM,
    E_PER_SQUARE_ANGSTROM_IN_MICROCOULOMB_PER_SQUARE_CM,
    RYDBERG_DIPOLE_IN_E_ANGSTROM,
)
from .neighbours import Pair, pairs, triangles
from .verdicts import Verdict, best_of, better

_SUM_RULE_BOUND = 0.05
_EXPLAINED = 0.35
"""Residual over the change itself, below which an explanation counts as one."""
_DEBYE = 0.20819434
"""e A (CODATA 2018)."""
_LEAST_PAIRS = 3

_POLARIZATION_FAULTS: dict[str, str] = {
    "named": "",
    "per volume": "P is divided by the volume",
    "times volume": "P is multiplied by the volume",
    "uC/cm^2": "P is in uC/cm^2",
    "e bohr": "P is in e bohr",
    "debye": "P is in debye",
    "Ry": "P is in Rydberg units (sqrt(2) e bohr)",
}


def _factors(volume: float) -> dict[str, float]:
    """What the stored P must be multiplied with, were its fault the one of that name."""
    return {
        "named": 1.0,
        "per volume": volume,
        "times volume": 1 / volume,
        "uC/cm^2": volume / E_PER_SQUARE_ANGSTROM_IN_MICROCOULOMB_PER_SQUARE_CM,
        "e bohr": BOHR_IN_ANGSTROM,
        "debye": _DEBYE,
        "Ry": RYDBERG_DIPOLE_IN_E_ANGSTROM,
    }


def acoustic_sum_rule(frames: Sequence[LabelledFrame]) -> Verdict:
    """A rigid shift of all atoms changes nothing: the mean of Z* over the atoms vanishes (Pick et al., PRB 1, 910)."""
    check = "acoustic sum rule of Z*"
    sums = [np.abs(z.mean(axis=0)).max() for f in frames if (z := f.response.born_effective_charges) is not None]
    if not sums:
        return Verdict(check=check, outcome="cannot tell", detail="no Born effective charges")
    worst = f"largest mean of Z* over the atoms: {max(sums):.2g} e"
    if max(sums) < 1e-6:
        return Verdict(check=check, outcome="ok", detail=f"{worst}; the code imposed the rule, so this tests little")
    if float(np.median(sums)) > _SUM_RULE_BOUND:
        return Verdict(check=check, outcome="wrong", fault="Z* violates the acoustic sum rule", detail=worst)
    return Verdict(check=check, outcome="ok", detail=worst)


def sign_of_charges(frames: Sequence[LabelledFrame]) -> Verdict:
    """The most electropositive element must have the most positive mean charge, the trace of Z* over 3."""
    check = "sign of Z*"
    charges: dict[str, list[float]] = {}
    for item in frames:
        if (tensors := item.response.born_effective_charges) is not None:
            for symbol, trace in zip(item.frame.species, np.trace(tensors, axis1=1, axis2=2), strict=True):
                charges.setdefault(symbol, []).append(float(trace) / 3)
    if not charges:
        return Verdict(check=check, outcome="cannot tell", detail="no Born effective charges")
    scale = electronegativities(tuple(charges))
    cation, anion = min(scale, key=lambda s: scale[s]), max(scale, key=lambda s: scale[s])
    if scale[anion] - scale[cation] < 0.3:
        return Verdict(check=check, outcome="cannot tell", detail="the elements hardly differ in electronegativity")
    means = {symbol: float(np.mean(values)) for symbol, values in charges.items()}
    detail = ", ".join(f"{symbol} {mean:+.2f} e" for symbol, mean in means.items())
    difference = means[cation] - means[anion]
    if abs(difference) < 0.2:
        return Verdict(check=check, outcome="cannot tell", detail=f"charges too small: {detail}")
    if difference < 0:
        return Verdict(check=check, outcome="wrong", fault="Z* has the opposite sign", detail=detail)
    return Verdict(check=check, outcome="ok", detail=detail)


def electronegativities(symbols: Sequence[str]) -> dict[str, float]:
    """Pauling's scale; elements without a value (noble gases) count as neutral in the middle."""
    from pymatgen.core import Element  # noqa: PLC0415  (slow to import, and read where labels are verified only)

    values = {}
    for symbol in symbols:
        element = Element(symbol)
        known = element.Z not in (2, 10, 18) and element.X == element.X
        values[symbol] = float(element.X) if known else 2.2
    return values


def polarization_against_charges(frames: Sequence[LabelledFrame], sign: Verdict) -> list[Verdict]:
    """dP = Z*.dR between neighbouring frames, modulo quanta: index order of Z*, unit of P, relative sign.

    Every combination of the known faults is tried, and the one that explains the changes is named. Z* is averaged over
    both frames, so errors are of third order in the displacement.

    Args:
        frames: in the order of their trajectory.
        sign: of ``sign_of_charges``: which of two opposite signs is the wrong one.
    """
    checks = ("index order of Z* (dP = Z*.dR)", "unit of P (dP = Z*.dR)", "sign of P (dP = Z*.dR)")
    found = pairs(frames, "polarization", "born_effective_charges")
    if len(found) < _LEAST_PAIRS:
        lacking = f"{len(found)} pairs of neighbouring frames with both P and Z*, {_LEAST_PAIRS} are needed"
        return [Verdict(check=check, outcome="cannot tell", detail=lacking) for check in checks]
    residuals = _residuals(found)
    best = best_of(residuals)
    change = float(np.median([np.linalg.norm(pair.work_of_charges()) for pair in found]))
    left = float(np.median(residuals[best]))
    if left > _EXPLAINED * change:
        lost = f"no known fault explains the changes of P: {left:.2g} of {change:.2g} e A are left over"
        return [Verdict(check=check, outcome="cannot tell", detail=lost) for check in checks]
    detail = f"{len(found)} pairs: |dP - Z*.dR| is {left:.2g} e A where |dP| is {change:.2g}"
    return [
        _order_verdict(checks[0], residuals, best, detail),
        _unit_verdict(checks[1], residuals, best, detail),
        _sign_verdict(checks[2], residuals, best, sign, detail),
    ]


_Hypothesis = tuple[int, str, bool]
"""Sign, unit, transposed."""


def _residuals(found: Sequence[Pair]) -> dict[_Hypothesis, np.ndarray]:
    """|dP - Z*.dR| folded by the quanta e a_i, of each pair under each explanation, e A."""
    rows: dict[_Hypothesis, list[float]] = {}
    for pair in found:
        change = pair.second.response.polarization - pair.first.response.polarization  # type: ignore[operator]
        for transposed in (False, True):
            work = pair.work_of_charges(transposed)
            for unit, factor in _factors(pair.first.frame.volume).items():
                for sign in (1, -1):
                    difference = sign * factor * change - work
                    rows.setdefault((sign, unit, transposed), []).append(_folded_norm(difference, pair))
    return {hypothesis: np.array(values) for hypothesis, values in rows.items()}


def _folded_norm(difference: np.ndarray, pair: Pair) -> float:
    if all(pair.first.frame.pbc):
        # Far more quanta than fit a double's precision would be noise, not physics.
        difference = fold(np.clip(difference, -1e9, 1e9), pair.cell)
    return float(np.linalg.norm(difference))


def _order_verdict(check: str, residuals: Mapping[_Hypothesis, np.ndarray], best: _Hypothesis, detail: str) -> Verdict:
    sign, unit, transposed = best
    other = (sign, unit, not transposed)
    against = f"{detail}, {np.median(residuals[other]):.2g} with the {'order as named' if transposed else 'transpose'}"
    if not better(residuals[best], residuals[other]):
        return Verdict(check=check, outcome="cannot tell", detail=f"Z* and its transpose do as well; {against}")
    if transposed:
        return Verdict(check=check, outcome="wrong", fault="Z* is transposed", detail=against)
    return Verdict(check=check, outcome="ok", detail=against)


def _unit_verdict(check: str, residuals: Mapping[_Hypothesis, np.ndarray], best: _Hypothesis, detail: str) -> Verdict:
    sign, unit, transposed = best
    others = {u: residuals[sign, u, transposed] for u in _POLARIZATION_FAULTS if u != unit}
    rivals = [u for u, other in others.items() if not better(residuals[best], other)]
    if rivals:
        return Verdict(
            check=check, outcome="cannot tell", detail=f"{unit} and {', '.join(rivals)} do as well; {detail}"
        )
    if unit != "named":
        return Verdict(check=check, outcome="wrong", fault=_POLARIZATION_FAULTS[unit], detail=detail)
    return Verdict(check=check, outcome="ok", detail=detail)


def _sign_verdict(
    check: str, residuals: Mapping[_Hypothesis, np.ndarray], best: _Hypothesis, charges: Verdict, detail: str
) -> Verdict:
    sign, unit, transposed = best
    if not better(residuals[best], residuals[-sign, unit, transposed]):
        return Verdict(check=check, outcome="cannot tell", detail=f"both signs do as well; {detail}")
    if charges.outcome == "cannot tell":
        if sign > 0:
            return Verdict(check=check, outcome="ok", detail=f"P and Z* agree; {detail}")
        fault = "P and Z* have opposite signs"
        return Verdict(check=check, outcome="wrong", fault=fault, detail=f"which of them is wrong is open; {detail}")
    if (sign > 0) == (charges.outcome == "ok"):
        return Verdict(check=check, outcome="ok", detail=detail)
    return Verdict(check=check, outcome="wrong", fault="P has the opposite sign", detail=detail)


def closed_loops(frames: Sequence[LabelledFrame]) -> Verdict:
    """Z* is a gradient, of P, so Z*.dR vanishes round a loop of three frames; its transpose is none.

    It needs no P and no sign. Trapezoidal legs are exact where Z* is linear in between.
    """
    check = "index order of Z* (closed loops)"
    residuals: dict[bool, list[float]] = {False: [], True: []}
    for legs in triangles(frames, "born_effective_charges"):
        for transposed, rows in residuals.items():
            rows.append(float(np.linalg.norm(sum(leg.work_of_charges(transposed) for leg in legs))))
    count = len(residuals[False])
    if count < 2 * _LEAST_PAIRS:
        lacking = f"{count} loops over three frames of the same atoms and cell, {2 * _LEAST_PAIRS} are needed"
        return Verdict(check=check, outcome="cannot tell", detail=lacking)
    named, turned = np.array(residuals[False]), np.array(residuals[True])
    detail = f"{count} loops: {np.median(named):.2g} e A as named, {np.median(turned):.2g} with the transpose"
    if better(named, turned):
        return Verdict(check=check, outcome="ok", detail=detail)
    if better(turned, named):
        return Verdict(check=check, outcome="wrong", fault="Z* is transposed", detail=detail)
    return Verdict(check=check, outcome="cannot tell", detail=detail)
