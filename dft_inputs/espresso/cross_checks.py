"""What pw.x writes twice must agree: its standard output and its XML are of one run, and both are whole.

Tolerances are the last digit printed. A number of the XML that is printed nowhere is guarded by its counts.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import numpy as np

from ..units import (
    BOHR_IN_ANGSTROM,
    RYDBERG_DIPOLE_IN_E_ANGSTROM,
    RYDBERG_FIELD_IN_V_PER_ANGSTROM,
    RYDBERG_FORCE_IN_EV_PER_ANGSTROM,
    RYDBERG_IN_EV,
)
from .parsing import NUMBER, element, number, numbers, to_float, value

if TYPE_CHECKING:
    from .outputs import PwOutput

_ENERGY = re.compile(rf"^!\s+total energy\s+=\s+({NUMBER}) Ry", re.MULTILINE)
_FORCES = re.compile(r"Forces acting on atoms.*\n\s*\n((?:\s+atom\s+[0-9]+ type.*\n)*)")
_FORCE = re.compile(rf"^\s+atom\s+([0-9]+) type\s+[0-9]+\s+force =\s+({NUMBER})\s+({NUMBER})\s+({NUMBER})\s*$")
_STRESS = re.compile(r"total\s+stress\s+\(Ry/bohr\*\*3\).*\n(.*)\n(.*)\n(.*)\n")
_FIELD = re.compile(
    r"Using Berry phase electric field\s*\n\s*In a\.u\.\(Ry\)\s+cartesian.*\n" + rf"\s+({NUMBER})\s*\n" * 3
)
_SITE = re.compile(rf"^\s+[0-9]+\s+\S+\s+tau\(\s*([0-9]+)\) = \(\s*({NUMBER})\s+({NUMBER})\s+({NUMBER})\s+\)", re.M)
_ALAT = re.compile(rf"celldm\(1\)=\s*({NUMBER})")
_ACHIEVED = re.compile(r"convergence has been achieved in\s+([0-9]+) iterations")


def disagreement(output: PwOutput, root: ET.Element, text: str) -> str | None:
    """What differs between a run read from its XML and its standard output; None where all agrees.

    Args:
        output: the run.
        root: its XML.
        text: its standard output.
    """
    for check in (_energy, _iterations, _forces, _stress, _field, _dipoles, _positions, _valences):
        try:
            reason = check(output, root, text)
        except (AttributeError, ValueError, TypeError, IndexError, KeyError) as error:
            return f"cannot be compared: the {check.__name__.lstrip('_')} are missing or broken ({error})"
        if reason:
            return reason
    return None


def _energy(output: PwOutput, root: ET.Element, text: str) -> str | None:
    printed = to_float(_ENERGY.findall(text)[-1])
    same = abs(printed - output.enthalpy / RYDBERG_IN_EV) < 2e-8
    return None if same else "differ in energy: they are of different runs"


def _iterations(output: PwOutput, root: ET.Element, text: str) -> str | None:
    """The last cycle ends at the count of the XML; with one cycle that is all of them, but after a restart."""
    steps = int(value(root, "output/convergence_info/scf_conv/n_scf_steps"))
    counts = [int(n) for n in re.findall(r"iteration #\s*([0-9]+)", text)]
    whole = counts[0] == 1 or "restarted from scf iteration" in text
    same = whole and counts[-1] == steps == int(_ACHIEVED.findall(text)[-1])
    return None if same else "differ in the number of SCF iterations"


def _forces(output: PwOutput, root: ET.Element, text: str) -> str | None:
    tables = _FORCES.findall(text)
    if bool(tables) != (output.forces is not None):
        return "disagree on whether forces were computed"
    if output.forces is None:
        return None
    rows = [_FORCE.match(line) for line in tables[-1].splitlines()]
    if [row and int(row[1]) for row in rows] != list(range(1, len(output.frame) + 1)):
        return "differ in the forces: lines are missing"
    printed = np.array([[to_float(row[i]) for i in (2, 3, 4)] for row in rows if row])
    same = np.abs(printed - output.forces / RYDBERG_FORCE_IN_EV_PER_ANGSTROM).max() < 2e-8
    return None if same else "differ in the forces: they are of different runs"


def _stress(output: PwOutput, root: ET.Element, text: str) -> str | None:
    tables = _STRESS.findall(text)
    if bool(tables) != (output.stress is not None):
        return "disagree on whether the stress was computed"
    if output.stress is None:
        return None
    printed = np.array([[to_float(token) for token in line.split()[:3]] for line in tables[-1]])
    same = np.abs(printed + output.stress * BOHR_IN_ANGSTROM**3 / RYDBERG_IN_EV).max() < 2e-8
    return None if same else "differ in the stress"


def _field(output: PwOutput, root: ET.Element, text: str) -> str | None:
    printed = _FIELD.findall(text)
    if bool(printed) != (output.electronic_dipole is not None):
        return "disagree on whether there was a field"
    if (root.findtext("input/electric_field/electric_potential", "").strip() == "homogenous_field") != bool(printed):
        return "disagree on whether there was a field"
    if not printed:
        return None
    field = np.array([to_float(value) for value in printed[-1]])
    same = np.abs(field - output.field / RYDBERG_FIELD_IN_V_PER_ANGSTROM).max() < 2e-10
    return None if same else "differ in the field: they are of different runs"


def _dipoles(output: PwOutput, root: ET.Element, text: str) -> str | None:
    """The XML's electronic dipole is in components along the lattice vectors, the ionic one Cartesian."""
    if output.electronic_dipole is None or output.ionic_dipole is None:
        return None
    info = "output/electric_field/finiteElectricFieldInfo"
    electronic, ionic = (numbers(element(root, f"{info}/{kind}Dipole")) for kind in ("electronic", "ionic"))
    directions = output.frame.cell / np.linalg.norm(output.frame.cell, axis=1)[:, None]
    for found, expected in ((output.electronic_dipole, electronic @ directions), (output.ionic_dipole, ionic)):
        printed = found / RYDBERG_DIPOLE_IN_E_ANGSTROM
        if np.abs(printed - expected).max() > 1e-10 * max(1.0, np.abs(expected).max()):
            return "differ in the dipole"
    return None


def _positions(output: PwOutput, root: ET.Element, text: str) -> str | None:
    sites = {int(row[0]): [to_float(value) for value in row[1:]] for row in _SITE.findall(text)}
    if sorted(sites) != list(range(1, len(output.frame) + 1)):
        return "differ in the positions: lines are missing"
    alat = to_float(_ALAT.findall(text)[0])
    printed = np.array([sites[index] for index in sorted(sites)]) * alat
    difference = np.abs(printed - output.frame.positions / BOHR_IN_ANGSTROM).max()
    largest = max(1.0, np.abs(printed).max() / alat)
    return (
        None if difference < 2e-7 * alat + 2e-6 * largest else "differ in the positions: not one SCF of one structure"
    )


def _valences(output: PwOutput, root: ET.Element, text: str) -> str | None:
    if missing := set(output.frame.species) - set(output.valences):
        return f"differ in the elements: no valence of {', '.join(sorted(missing))}"
    electrons = sum(output.valences[symbol] for symbol in output.frame.species)
    electrons -= number(root, "input/bands/tot_charge")
    return None if abs(electrons - output.n_electrons) < 1e-4 else "differ in the number of electrons"
