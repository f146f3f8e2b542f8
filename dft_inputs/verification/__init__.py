"""Foreign labels verified by physics: which convention they follow shows in how they fit together.

``verify`` runs every check on a set of frames. Each is a pure function that returns a `Verdict`: ok, wrong with the
name of the fault, or cannot tell and why.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..records import LabelledFrame
from .charges import acoustic_sum_rule, closed_loops, polarization_against_charges, sign_of_charges
from .dielectric import sign_of_polarizability, unit_of_polarizability
from .dipoles import polarization_against_atoms
from .energies import energy_against_forces, rotational_sum_rules
from .verdicts import Verdict

__all__ = [
    "Verdict",
    "acoustic_sum_rule",
    "closed_loops",
    "energy_against_forces",
    "polarization_against_atoms",
    "polarization_against_charges",
    "rotational_sum_rules",
    "sign_of_charges",
    "sign_of_polarizability",
    "unit_of_polarizability",
    "verify",
]


def verify(frames: Sequence[LabelledFrame]) -> tuple[Verdict, ...]:
    """Every check that the labels of these frames ask for.

    Args:
        frames: finished labels, in the order of their trajectory: neighbours are compared.
    """
    present = {name for item in frames for name in item.response.labels}
    verdicts: list[Verdict] = []
    if {"enthalpy", "forces"} <= present:
        verdicts.append(energy_against_forces(frames))
    if "born_effective_charges" in present:
        sign = sign_of_charges(frames)
        verdicts += [acoustic_sum_rule(frames), sign, closed_loops(frames)]
        if "polarization" in present:
            verdicts += polarization_against_charges(frames, sign)
    elif "polarization" in present:
        verdicts.append(polarization_against_atoms(frames))
    if "polarizability" in present:
        verdicts += [sign_of_polarizability(frames), unit_of_polarizability(frames)]
    if any(not any(item.frame.pbc) for item in frames):
        verdicts += rotational_sum_rules(frames)
    return tuple(verdicts)
