"""The sign of P where there is no Z*: atoms that share electrons unevenly carry the dipole."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..polarization import fold
from ..records import LabelledFrame
from .charges import electronegativities
from .neighbours import Pair, pairs
from .verdicts import Verdict, better

_LEAST_PAIRS = 10
_CHARGES = np.linspace(0.1, 6, 60)
"""Charge per unit of electronegativity, e."""
_FARTHEST = 3.0
_EXPLAINED = 0.5


def polarization_against_atoms(frames: Sequence[LabelledFrame]) -> Verdict:
    """Changes of P follow those of rigid charges, in proportion to the electronegativity; their sign is known.

    One number is fitted, the positive charge q per unit of electronegativity X, over pairs of frames:
    dP = q sum_i (X_mean - X_i) dr_i + alpha dE, modulo quanta, for P as named, of the opposite sign and per volume.
    Units that differ by less than the range of q cannot be told.
    """
    check = "sign of P (rigid charges)"
    found = pairs(frames, "polarization", farthest=_FARTHEST, equal_fields=False)
    found = [pair for pair in found if _field_known(pair.first, pair.second)]
    if len(found) < _LEAST_PAIRS:
        lacking = f"{len(found)} pairs of frames of the same atoms and cell, {_LEAST_PAIRS} are needed"
        return Verdict(check=check, outcome="cannot tell", detail=lacking)
    rigid = _rigid_changes(found)
    size = float(np.median(np.linalg.norm(rigid, axis=1)))
    if size < 0.05:
        return Verdict(check=check, outcome="cannot tell", detail="the atoms move too little, or do not differ")
    changes = np.array([p.second.response.polarization - p.first.response.polarization for p in found])  # type: ignore[operator]
    induced = np.array([_induced(pair.first, pair.second) for pair in found])
    volumes = np.array([[pair.first.frame.volume or 1.0] for pair in found])
    hypotheses = {
        "": changes,
        "P has the opposite sign": -changes,
        "P is divided by the volume": changes * volumes,
        "P is divided by the volume and has the opposite sign": -changes * volumes,
    }
    best = {fault: _fitted(change - induced, rigid, found) for fault, change in hypotheses.items()}
    return _judged(check, best, size)


def _rigid_changes(found: Sequence[Pair]) -> np.ndarray:
    """Change of the dipole of atoms that carry X_mean - X_i each, e A, (pairs, 3)."""
    scale = electronegativities(sorted({symbol for pair in found for symbol in pair.first.frame.species}))
    changes = []
    for pair in found:
        values = np.array([scale[symbol] for symbol in pair.first.frame.species])
        changes.append((values.mean() - values) @ pair.displacement)
    return np.array(changes)


def _fitted(changes: np.ndarray, rigid: np.ndarray, found: Sequence[Pair]) -> tuple[float, np.ndarray]:
    """The charge that explains the changes best, and what it leaves over of each, e A."""
    left = changes[None] - _CHARGES[:, None, None] * rigid[None]
    for row, pair in enumerate(found):
        if all(pair.first.frame.pbc):
            left[:, row] = fold(left[:, row], pair.cell)
    norms = np.linalg.norm(left, axis=-1)
    index = int(np.argmin(np.median(norms, axis=1)))
    return float(_CHARGES[index]), norms[index]


def _judged(check: str, best: dict[str, tuple[float, np.ndarray]], size: float) -> Verdict:
    fault = min(best, key=lambda name: float(np.median(best[name][1])))
    charge, norms = best[fault]
    detail = f"{len(norms)} pairs: {charge:.2g} e per unit of electronegativity, {np.median(norms):.2g} e A left over"
    distinct = all(better(norms, other) for name, (_, other) in best.items() if name != fault)
    if not distinct or float(np.median(norms)) > _EXPLAINED * size * charge:
        return Verdict(check=check, outcome="cannot tell", detail=f"{detail}; rigid charges do not explain P")
    if fault:
        return Verdict(check=check, outcome="wrong", fault=fault, detail=detail)
    return Verdict(check=check, outcome="ok", detail=f"{detail}; its unit is open within a factor of a few")


def _field_known(first: LabelledFrame, second: LabelledFrame) -> bool:
    same = np.abs(first.response.field - second.response.field).max() < 1e-9
    return bool(same) or (first.response.polarizability is not None and second.response.polarizability is not None)


def _induced(first: LabelledFrame, second: LabelledFrame) -> np.ndarray:
    """alpha dE, the change of P that is due to the field, e A; the sign of alpha is judged elsewhere."""
    one, two = first.response, second.response
    if one.polarizability is None or two.polarizability is None:
        return np.zeros(3)
    alpha = (one.polarizability + two.polarizability) / 2
    return np.sign(np.trace(alpha)) * alpha @ (two.field - one.field)
