"""Energies against forces, and forces against a rotation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..records import LabelledFrame
from ..units import BOHR_IN_ANGSTROM, HARTREE_IN_EV, RYDBERG_IN_EV
from .neighbours import pairs
from .verdicts import Verdict, best_of, better

_LEAST_PAIRS = 3
_EXPLAINED = 0.35
_FARTHEST = 0.8
_FAULTS: dict[str, tuple[float, str]] = {
    "named": (1.0, ""),
    "sign": (-1.0, "forces have the opposite sign (gradients)"),
    "Ry/bohr": (RYDBERG_IN_EV / BOHR_IN_ANGSTROM, "forces are in Ry/bohr"),
    "Hartree/bohr": (HARTREE_IN_EV / BOHR_IN_ANGSTROM, "forces are in Hartree/bohr"),
    "energy in Ry": (1 / RYDBERG_IN_EV, "the energy is in Ry"),
    "energy in Hartree": (1 / HARTREE_IN_EV, "the energy is in Hartree"),
    "Rydberg units": (1 / BOHR_IN_ANGSTROM, "energy and forces are in atomic units"),
}
"""Factor on the forces that would reproduce the energies."""


def energy_against_forces(frames: Sequence[LabelledFrame]) -> Verdict:
    """dU = -F.dR between neighbouring frames at zero field: sign and units of forces and energies.

    At a field the enthalpy of a periodic cell moves by -E.Q whenever an atom is written in another image, so such
    pairs say nothing.
    """
    check = "energy against forces (dU = -F.dR)"
    found = [
        pair
        for pair in pairs(frames, "enthalpy", "forces", farthest=_FARTHEST)
        if not (all(pair.first.frame.pbc) and pair.first.response.field.any())
    ]
    if len(found) < _LEAST_PAIRS:
        lacking = f"{len(found)} pairs of neighbouring frames at zero field, {_LEAST_PAIRS} are needed"
        return Verdict(check=check, outcome="cannot tell", detail=lacking)
    changes = np.array([pair.second.response.enthalpy - pair.first.response.enthalpy for pair in found])  # type: ignore[operator]
    works = np.array([-float((pair.mean("forces") * pair.displacement).sum()) for pair in found])
    residuals = {name: np.abs(changes - factor * works) for name, (factor, _) in _FAULTS.items()}
    best = best_of(residuals)
    left, size = float(np.median(residuals[best])), float(np.median(np.abs(changes)))
    detail = f"{len(found)} pairs: {left:.2g} of {size:.2g} eV are left over"
    rivals = [name for name in _FAULTS if name != best and not better(residuals[best], residuals[name])]
    if left > _EXPLAINED * size or rivals:
        return Verdict(check=check, outcome="cannot tell", detail=f"{detail}; the frames are too far apart")
    if best != "named":
        return Verdict(check=check, outcome="wrong", fault=_FAULTS[best][1], detail=detail)
    return Verdict(check=check, outcome="ok", detail=detail)


def rotational_sum_rules(frames: Sequence[LabelledFrame]) -> list[Verdict]:
    """Turning a molecule and its field together changes nothing.

    To first order in the rotation w: sum_i r_i x F_i = P x E, and sum_i Z*_i (w x r_i) + alpha (w x E) = w x P. For a
    periodic cell the rotation is a strain of the lattice as well, and neither holds.
    """
    isolated = [f for f in frames if not any(f.frame.pbc)]
    return [_torque(isolated), _turned_dipole(isolated)]


def _torque(frames: Sequence[LabelledFrame]) -> Verdict:
    check = "rotational sum rule of the forces"
    errors, sizes = [], []
    for item in frames:
        response, positions = item.response, item.frame.positions
        if response.forces is None or (response.field.any() and response.polarization is None):
            continue
        dipole = np.zeros(3) if response.polarization is None else response.polarization
        arms = positions - positions.mean(axis=0)
        torques = np.cross(arms, response.forces)
        errors.append(float(np.linalg.norm(torques.sum(axis=0) - np.cross(dipole, response.field))))
        sizes.append(float(np.linalg.norm(torques, axis=1).sum() + np.linalg.norm(np.cross(dipole, response.field))))
    if not errors or max(sizes) < 1e-6:
        return Verdict(check=check, outcome="cannot tell", detail="no isolated molecules with forces")
    share = float(np.median(errors)) / max(float(np.median(sizes)), 1e-300)
    detail = f"{len(errors)} molecules: {share:.1%} of the torques is left over"
    if share > 0.2:
        fault = "the torque on the molecules is not P x E"
        return Verdict(check=check, outcome="wrong", fault=fault, detail=detail)
    return Verdict(check=check, outcome="ok", detail=detail)


def _turned_dipole(frames: Sequence[LabelledFrame]) -> Verdict:
    check = "rotational sum rule of Z* and P"
    residuals: dict[tuple[int, bool], list[float]] = {}
    for item in frames:
        response = item.response
        if response.born_effective_charges is None or response.polarization is None:
            continue
        if response.field.any() and response.polarizability is None:
            continue
        alpha = np.zeros((3, 3)) if response.polarizability is None else response.polarizability
        arms = item.frame.positions - item.frame.positions.mean(axis=0)
        for axis in np.eye(3):
            for transposed in (False, True):
                charges = response.born_effective_charges
                charges = charges.swapaxes(1, 2) if transposed else charges
                turned = np.einsum("iab,ib->a", charges, np.cross(axis, arms)) + alpha @ np.cross(axis, response.field)
                for sign in (1, -1):
                    error = float(np.linalg.norm(turned - sign * np.cross(axis, response.polarization)))
                    residuals.setdefault((sign, transposed), []).append(error)
    if len(residuals.get((1, False), ())) < _LEAST_PAIRS:
        return Verdict(check=check, outcome="cannot tell", detail="no isolated molecules with Z* and P")
    arrays = {key: np.array(rows) for key, rows in residuals.items()}
    best = best_of(arrays)
    detail = f"{len(arrays[best]) // 3} molecules: {np.median(arrays[best]):.2g} e A is left over"
    if any(key != best and not better(arrays[best], other) for key, other in arrays.items()):
        return Verdict(check=check, outcome="cannot tell", detail=f"several explanations do as well; {detail}")
    named = {"Z* is transposed": best[1], "P and Z* have opposite signs": best[0] < 0}
    faults = [fault for fault, applies in named.items() if applies]
    if faults:
        return Verdict(check=check, outcome="wrong", fault=" and ".join(faults), detail=detail)
    return Verdict(check=check, outcome="ok", detail=detail)
