"""Are sign, units and contents of VASP's fields what is assumed here? Five or six runs of a tiny crystal tell.

The crystal is MgO with oxygen off its site, so that no symmetry hides a wrong index. Runs: zero field, +-E along z, the
oxygen moved along z both ways at zero field, and, where wanted, the DFPT response. Two routes to each response are
compared: dP/dE with the enthalpy's second difference, dF/dE with dP/du, and the Born block with dF/dE.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..branches import string_lattice
from ..polarization import fold
from ..records import FieldPoint, Frame
from ..stencil import ZERO
from .inputs import VASP_STEP, field_incar, response_incar, static_incar, write_inputs
from .outputs import read_vasp_label, vasp_point
from .results import VaspOutput
from .run_output import read_vasp_output
from .settings import VaspSettings

PLUS, MINUS, UP, DOWN, RESPONSE = "plus_z", "minus_z", "oxygen_up", "oxygen_down", "dfpt"
OXYGEN, Z = 1, 2
MOVE = 0.02
"""A: of the oxygen, either way."""
_AGREE = 0.05
"""Relative difference of two routes that passes: Z* from P and from forces converge alike, not equally."""
SETTINGS = VaspSettings(protocol="doctor", encut=450.0, kpoints=(6, 6, 6), ediff=1e-8)


@dataclass(frozen=True)
class Verdict:
    """One thing that was confirmed or not.

    Attributes:
        name: what.
        ok: as assumed.
        detail: the numbers.
        fix: what to do where it is not.
    """

    name: str
    ok: bool
    detail: str
    fix: str = ""


def trial_crystal(move: float = 0.0) -> Frame:
    """MgO with its oxygen off the site, and moved further along z, A."""
    cell = 2.125 * np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    oxygen = cell.sum(axis=0) / 2 + np.array([0.05, 0.11, 0.08 + move])
    return Frame(species=("Mg", "O"), positions=np.array([[0.0, 0.0, 0.0], oxygen]), cell=cell)


def write_trial_runs(folder: Path) -> list[Path]:
    """Inputs of the runs, without POTCAR, for the user to run.

    Returns:
        The folders, that of zero field first.
    """
    step = VASP_STEP * np.eye(3)[Z]
    plan = {
        ZERO: (trial_crystal(), static_incar(SETTINGS)),
        PLUS: (trial_crystal(), field_incar(SETTINGS, step)),
        MINUS: (trial_crystal(), field_incar(SETTINGS, -step)),
        UP: (trial_crystal(MOVE), static_incar(SETTINGS)),
        DOWN: (trial_crystal(-MOVE), static_incar(SETTINGS)),
        RESPONSE: (trial_crystal(), response_incar(SETTINGS)),
    }
    for name, (frame, incar) in plan.items():
        write_inputs(folder / name, frame, SETTINGS, incar)
    return [folder / name for name in plan]


def judge_trial_runs(folder: Path) -> list[Verdict]:
    """Read the runs of ``write_trial_runs`` and compare.

    Raises:
        VaspOutputError: a run is missing, unfinished or of another structure.
    """
    outputs = {name: read_vasp_output(folder / name) for name in (ZERO, PLUS, MINUS, UP, DOWN)}
    frames = {UP: trial_crystal(MOVE), DOWN: trial_crystal(-MOVE)}
    points = {
        name: vasp_point(name, output, frames.get(name, trial_crystal()), folder / name)
        for name, output in outputs.items()
    }
    response = None
    if (folder / RESPONSE).is_dir() and any((folder / RESPONSE).glob("OUTCAR*")):
        response = read_vasp_label(folder / RESPONSE, trial_crystal()).response.born_effective_charges
    return verdicts(points, outputs[ZERO], response)


def verdicts(points: Mapping[str, FieldPoint], zero: VaspOutput, born: np.ndarray | None = None) -> list[Verdict]:
    """Compare the routes to each response; a pure function.

    Args:
        points: zero field, +-E along z, oxygen moved along z both ways, by the names of this module.
        zero: the run at zero field.
        born: Z* of the response run in the order of the crystal's atoms, (2, 3, 3).
    """
    strings = string_lattice(zero.frame.cell, zero.kpoints or (1, 1, 1), 2 // zero.nspin)
    plus, minus = points[PLUS], points[MINUS]
    span = float(plus.field[Z] - minus.field[Z])
    slope = fold(plus.polarization - minus.polarization, strings) / span
    bend = _second_difference(points, strings)
    forces = (plus.forces - minus.forces) / span
    moved = fold(points[UP].polarization - points[DOWN].polarization, strings) / (2 * MOVE)
    found = [
        _sign(slope[Z]),
        _close("field in V/A, enthalpy with -E.P", slope[Z], bend, "dP/dE", "-d2H/dE2", "e^2 A^2/eV"),
        _energy_slope(points, strings),
        _close("forces in the field", forces[OXYGEN, Z], moved[Z], "dF/dE", "dP/du", "e"),
    ]
    if born is not None:
        found.append(_born_rows(forces, born))
    return found


def _second_difference(points: Mapping[str, FieldPoint], strings: np.ndarray) -> float:
    """-d2H/dE2 with all enthalpies on the branch of the zero point."""
    zero = points[ZERO]
    on_branch = []
    for point in (points[PLUS], points[MINUS]):
        change = point.polarization - zero.polarization
        jump = change - fold(change, strings)
        on_branch.append(point.enthalpy + float(jump @ point.field))
    return -(sum(on_branch) - 2 * zero.enthalpy) / (float(points[PLUS].field[Z]) ** 2)


def _sign(slope: float) -> Verdict:
    return Verdict(
        "sign of the field",
        bool(slope > 0),
        f"dP/dE = {slope:.4f} e^2 A^2/eV with E = -EFIELD_PEAD",
        "this VASP takes EFIELD_PEAD with the other sign: set FIELD_SIGN in dft_inputs/vasp/inputs.py, and tell us",
    )


def _energy_slope(points: Mapping[str, FieldPoint], strings: np.ndarray) -> Verdict:
    """(H(-E) - H(+E)) / 2E is P along z, modulo what strings can hop by along z."""
    plus, minus = points[PLUS], points[MINUS]
    slope = (minus.enthalpy - plus.enthalpy) / float(plus.field[Z] - minus.field[Z])
    mean = (plus.polarization[Z] + minus.polarization[Z]) / 2
    spacing = float(np.abs(strings[np.abs(strings[:, Z]) > 1e-6, Z]).min()) / 2
    away = (slope - mean + spacing / 2) % spacing - spacing / 2
    return Verdict(
        "polarization in the enthalpy",
        bool(abs(away) < _AGREE * spacing),
        f"-dH/dE = {slope:.4f}, P = {mean:.4f} e A, {away:+.4f} modulo {spacing:.4f}",
        "the enthalpy of this VASP holds another dipole than it prints: use forces and P only, and tell us",
    )


def _born_rows(forces: np.ndarray, born: np.ndarray) -> Verdict:
    """Row z of the Born block is dF/dE_z; column z would be it if the block were transposed."""
    rows, columns = (float(np.abs(forces - part).max()) for part in (born[:, Z, :], born[:, :, Z]))
    return Verdict(
        "rows of the Born block are fields",
        rows < max(_AGREE * float(np.abs(forces).max()), columns),
        f"dF/dE differs from row z by {rows:.3f} e, from column z by {columns:.3f} e",
        "this VASP prints the Born block transposed: do not import its Z*, and tell us",
    )


def _close(name: str, one: float, other: float, left: str, right: str, unit: str) -> Verdict:
    scale = max(abs(one), abs(other))
    ok = bool(scale > 0 and abs(one - other) <= _AGREE * scale)
    ratio = f", ratio {one / other:.3f}" if other else ""
    fix = "the two must agree; converge the runs further (ENCUT, KPOINTS, EDIFF), and tell us the ratio if they do not"
    if abs(one) < _AGREE * abs(other):
        fix = (
            "this quantity does not feel the field in this VASP: labels by finite fields are no use with it; take DFPT "
            "(of forces, VASP's forum says that some versions need LPEAD_RELAX = .TRUE. in incar: try it here)"
        )
    return Verdict(name, ok, f"{left} = {one:.4f}, {right} = {other:.4f} {unit}{ratio}", fix)
