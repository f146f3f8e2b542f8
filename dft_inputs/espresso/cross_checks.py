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
from .parsing import element, number, numbers, value
from .printed import applied_field, dipole_count, first_sites, iteration_counts, last_energy, last_forces, last_stress

if TYPE_CHECKING:
    from .outputs import PwOutput

_ACHIEVED = re.compile(r"convergence has been achieved in\s+([0-9]+) iterations")
_DIFFERENT_RUNS = "they are of different runs"


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
    same = abs(last_energy(text) - output.enthalpy / RYDBERG_IN_EV) < 2e-8
    return None if same else f"differ in energy: {_DIFFERENT_RUNS}"


def _iterations(output: PwOutput, root: ET.Element, text: str) -> str | None:
    """The last cycle ends at the count of the XML."""
    counts = iteration_counts(text)
    whole = counts[0] == 1 or "restarted from scf iteration" in text
    steps = int(value(root, "output/convergence_info/scf_conv/n_scf_steps"))
    same = whole and counts[-1] == steps == int(_ACHIEVED.findall(text)[-1])
    return None if same else "differ in the number of SCF iterations"


def _forces(output: PwOutput, root: ET.Element, text: str) -> str | None:
    printed = last_forces(text, len(output.frame))
    if printed is None or output.forces is None:
        return None if printed is output.forces else "disagree on whether forces were computed"
    same = np.abs(printed - output.forces / RYDBERG_FORCE_IN_EV_PER_ANGSTROM).max() < 2e-8
    return None if same else f"differ in the forces: {_DIFFERENT_RUNS}"


def _stress(output: PwOutput, root: ET.Element, text: str) -> str | None:
    printed = last_stress(text)
    if printed is None or output.stress is None:
        return None if printed is output.stress else "disagree on whether the stress was computed"
    same = np.abs(printed + output.stress * BOHR_IN_ANGSTROM**3 / RYDBERG_IN_EV).max() < 2e-8
    return None if same else f"differ in the stress: {_DIFFERENT_RUNS}"


def _field(output: PwOutput, root: ET.Element, text: str) -> str | None:
    printed = applied_field(text)
    berry = root.findtext("input/electric_field/electric_potential", "").strip() == "homogenous_field"
    if not (printed is None) == (output.electronic_dipole is None) == (not berry):
        return "disagree on whether there was a field"
    if printed is None:
        return None
    same = np.abs(printed - output.field / RYDBERG_FIELD_IN_V_PER_ANGSTROM).max() < 2e-10
    return None if same else f"differ in the field: {_DIFFERENT_RUNS}"


def _dipoles(output: PwOutput, root: ET.Element, text: str) -> str | None:
    """The XML's electronic dipole is in components along the lattice vectors, the ionic one Cartesian."""
    if output.electronic_dipole is None or output.ionic_dipole is None:
        return None
    if dipole_count(text) != len(iteration_counts(text)):
        return "differ in the dipole: an iteration lacks its own"
    info = "output/electric_field/finiteElectricFieldInfo"
    electronic, ionic = (numbers(element(root, f"{info}/{kind}Dipole")) for kind in ("electronic", "ionic"))
    directions = output.frame.cell / np.linalg.norm(output.frame.cell, axis=1)[:, None]
    for printed, expected in ((output.electronic_dipole, electronic @ directions), (output.ionic_dipole, ionic)):
        difference = np.abs(printed / RYDBERG_DIPOLE_IN_E_ANGSTROM - expected).max()
        if difference > 1e-10 * max(1.0, np.abs(expected).max()):
            return f"differ in the dipole: {_DIFFERENT_RUNS}"
    return None


def _positions(output: PwOutput, root: ET.Element, text: str) -> str | None:
    species, positions, alat = first_sites(text)
    if species != output.frame.species:
        return f"differ in the atoms: {_DIFFERENT_RUNS}"
    difference = np.abs(positions * alat - output.frame.positions / BOHR_IN_ANGSTROM).max()
    # Seven decimals of the positions and six of alat are printed.
    same = difference < 2e-7 * alat + 2e-6 * max(1.0, np.abs(positions).max())
    return None if same else "differ in the positions: not one SCF of one structure"


def _valences(output: PwOutput, root: ET.Element, text: str) -> str | None:
    if missing := set(output.frame.species) - set(output.valences):
        return f"differ in the elements: no valence of {', '.join(sorted(missing))}"
    electrons = sum(output.valences[symbol] for symbol in output.frame.species)
    electrons -= number(root, "input/bands/tot_charge")
    return None if abs(electrons - output.n_electrons) < 1e-4 else "differ in the number of electrons"
