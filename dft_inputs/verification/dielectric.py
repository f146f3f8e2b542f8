"""The polarizability: a positive definite matrix of a plausible size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import pi

import numpy as np

from ..records import LabelledFrame
from ..units import BOHR_IN_ANGSTROM, HARTREE_IN_EV, VACUUM_PERMITTIVITY
from .verdicts import Verdict

_PLAUSIBLE = (0.2, 15.0)
"""Polarizability volume per atom, A^3: helium 0.2, the largest anions in crystals 10 (Shannon, JAP 73, 348 (1993))."""
_E2_A2_PER_EV_IN_CUBIC_ANGSTROM = 1 / (4 * pi * VACUUM_PERMITTIVITY)

_UNITS: dict[str, tuple[str, Callable[[float, float], float]]] = {
    "named": ("e^2 A^2/eV", lambda value, volume: value),
    "bohr^3": ("alpha is in bohr^3", lambda value, volume: value * BOHR_IN_ANGSTROM**2 / HARTREE_IN_EV),
    "A^3": ("alpha is in A^3", lambda value, volume: value / _E2_A2_PER_EV_IN_CUBIC_ANGSTROM),
    "per volume": ("alpha is divided by the volume", lambda value, volume: value * volume),
    "times volume": ("alpha is multiplied by the volume", lambda value, volume: value / volume),
    "eps": ("alpha is the dielectric tensor", lambda value, volume: (value - 1) * VACUUM_PERMITTIVITY * volume),
    "chi": (
        "alpha is the susceptibility (eps - 1)/4pi",
        lambda value, volume: 4 * pi * value * VACUUM_PERMITTIVITY * volume,
    ),
}
"""What the label would be, were it stored in that unit."""


def sign_of_polarizability(frames: Sequence[LabelledFrame]) -> Verdict:
    """Any system in its ground state lowers its energy in a field: alpha is positive definite, eps exceeds 1."""
    check = "alpha positive definite"
    values = [alpha for f in frames if (alpha := f.response.polarizability) is not None]
    if not values:
        return Verdict(check=check, outcome="cannot tell", detail="no polarizabilities")
    spectra = np.array([np.linalg.eigvalsh((alpha + alpha.T) / 2) for alpha in values])
    detail = f"eigenvalues between {spectra.min():.3g} and {spectra.max():.3g} e^2 A^2/eV"
    negative = int((spectra[:, 0] <= 0).sum())
    if not negative:
        return Verdict(check=check, outcome="ok", detail=detail)
    if (spectra < 0).all():
        fault = "alpha has the opposite sign"
        return Verdict(check=check, outcome="wrong", fault=fault, detail=detail)
    if negative > len(spectra) // 2:
        fault = "alpha is not positive definite"
        return Verdict(check=check, outcome="wrong", fault=fault, detail=f"{negative} of {len(spectra)}: {detail}")
    return Verdict(check=check, outcome="ok", detail=f"{detail}; {negative} frames are refused one by one")


def unit_of_polarizability(frames: Sequence[LabelledFrame]) -> Verdict:
    """The volume polarizability per atom, by Clausius and Mossotti, that each unit would imply.

    Only units that differ by much can be told from one another: in a crystal of a hundred atoms alpha itself, eps and
    (eps - 1)/4pi may all look plausible.
    """
    check = "unit of alpha"
    labelled = [f for f in frames if f.response.polarizability is not None]
    if not labelled:
        return Verdict(check=check, outcome="cannot tell", detail="no polarizabilities")
    plausible = {}
    for name, (_, convert) in _UNITS.items():
        per_atom = float(np.median([_per_atom(item, convert) for item in labelled]))
        if _PLAUSIBLE[0] <= per_atom <= _PLAUSIBLE[1]:
            plausible[name] = per_atom
    as_named = float(np.median([_per_atom(item, _UNITS["named"][1]) for item in labelled]))
    detail = f"{as_named:.3g} A^3 per atom as named"
    if "named" in plausible:
        others = ", ".join(name for name in plausible if name != "named")
        if others:
            return Verdict(check=check, outcome="cannot tell", detail=f"{detail}; plausible too: {others}")
        return Verdict(check=check, outcome="ok", detail=detail)
    if not plausible:
        return Verdict(check=check, outcome="cannot tell", detail=f"{detail}; no unit gives a plausible one")
    fault = " or ".join(_UNITS[name][0] for name in plausible)
    return Verdict(check=check, outcome="wrong", fault=fault, detail=detail)


def _per_atom(item: LabelledFrame, convert: Callable[[float, float], float]) -> float:
    """Polarizability volume, A^3 per atom; of a crystal by Clausius and Mossotti."""
    volume = item.frame.volume
    alpha = convert(abs(float(np.trace(item.response.polarizability))) / 3, volume or 1.0)  # type: ignore[arg-type]
    if alpha <= 0:
        return 0.0
    if not all(item.frame.pbc):
        return alpha * _E2_A2_PER_EV_IN_CUBIC_ANGSTROM / len(item.frame)
    eps = 1 + alpha / (VACUUM_PERMITTIVITY * volume)
    if eps > 100:
        return np.inf
    return 3 * volume / (4 * pi) * (eps - 1) / (eps + 2) / len(item.frame)
