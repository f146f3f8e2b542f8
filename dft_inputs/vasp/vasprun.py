"""What vasprun.xml says: the numbers of OUTCAR with more digits, but no dipoles."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import numpy as np

from ..records import Frame
from .results import RunSteps, VaspOutput, stress_of


def parse_vasprun(text: str, field_sign: float) -> RunSteps:
    """Read the text of a whole vasprun.xml; a geometry that took NELM iterations counts as unconverged.

    Args:
        text: of the file.
        field_sign: EFIELD_PEAD over the field.

    Raises:
        ValueError: not whole, or an entry is missing; says which.
    """
    try:
        root = ET.fromstring(text)  # noqa: S314  (a file of the user's own)
    except ET.ParseError as error:
        raise ValueError(f"incomplete XML, the run did not end ({error})") from error
    # Geometries of VASP's own machine-learned potential have no SCF.
    calculations = [one for one in root.findall("calculation") if one.find("scstep") is not None]
    if not calculations:
        raise ValueError("no calculation with an SCF")
    tags = _tags(root)
    common = _common(root, tags, field_sign)
    outputs = tuple(_geometry(one, common, number, len(calculations)) for number, one in enumerate(calculations, 1))
    most = int(tags.get("NELM", "60"))
    return RunSteps(outputs, frozenset(output.step for output in outputs if output.iterations >= most))


def _common(root: ET.Element, tags: dict[str, str], field_sign: float) -> dict[str, Any]:
    """Fields of an output that all geometries share, and the species of the atoms."""
    valences, titles = _types(root)
    return {
        "species": tuple(_text(c) for c in root.findall("atominfo/array[@name='atoms']/set/rc/c[1]")),
        "field": _pead_field(tags) / field_sign + 0.0,
        "valences": valences,
        "titles": titles,
        "kpoints": _mesh(root),
        "nspin": int(tags.get("ISPIN", "1")),
        "version": _text(root.find("generator/i[@name='version']")),
    }


def _geometry(calculation: ET.Element, common: dict[str, Any], number: int, steps: int) -> VaspOutput:
    cell = _needed(calculation, "structure/crystal/varray[@name='basis']")
    positions = _needed(calculation, "structure/varray[@name='positions']") @ cell
    energies = _scf_energies(calculation)
    shared = {name: value for name, value in common.items() if name != "species"}
    return VaspOutput(
        frame=Frame(species=common["species"], positions=positions, cell=cell),
        enthalpy=_energy(calculation),
        forces=_needed(calculation, "varray[@name='forces']"),
        stress=stress_of(_rows(calculation.find("varray[@name='stress']")), common["field"]),
        born_effective_charges=_born(calculation),
        dielectric_tensor=_rows(calculation.find("varray[@name='epsilon']")),
        scf_accuracy=abs(energies[-1] - energies[-2]) if len(energies) > 1 else 0.0,
        iterations=len(energies),
        step=number,
        steps=steps,
        gap=_gap(calculation),
        **shared,
    )


def _scf_energies(calculation: ET.Element) -> list[float]:
    """Of the ground state: responses append iterations of their own after the forces."""
    names = [element.attrib.get("name") for element in calculation]
    before = list(calculation)[: names.index("forces")] if "forces" in names else list(calculation)
    return [_energy(element) for element in before if element.tag == "scstep"]


def _born(calculation: ET.Element) -> np.ndarray | None:
    found = calculation.find("array[@name='born_charges']")
    return None if found is None else np.array([_rows(one) for one in found.findall("set")])


def _tags(root: ET.Element) -> dict[str, str]:
    """Tags of INCAR over the resolved parameters, of which the first counts: responses have a NELM of their own."""
    tags: dict[str, str] = {}
    for element in (*root.iterfind("incar/*[@name]"), *root.iterfind("parameters//*[@name]")):
        if element.tag in ("i", "v"):
            tags.setdefault(element.attrib["name"].upper(), (element.text or "").strip())
    return tags


def _pead_field(tags: dict[str, str]) -> np.ndarray:
    words = tags.get("EFIELD_PEAD", "").split()
    if len(words) != 3 or tags.get("LCALCEPS", "F").startswith("T"):
        return np.zeros(3)
    return np.array(words, dtype=float)


def _types(root: ET.Element) -> tuple[dict[str, float], dict[str, str]]:
    rows = [[_text(c) for c in rc.findall("c")] for rc in root.findall("atominfo/array[@name='atomtypes']/set/rc")]
    return {row[1]: float(row[3]) for row in rows}, {row[1]: row[4] for row in rows}


def _mesh(root: ET.Element) -> tuple[int, int, int] | None:
    divisions = root.find("kpoints/generation/v[@name='divisions']")
    if divisions is None:
        return None
    first, second, third = (int(float(word)) for word in _text(divisions).split())
    return first, second, third


def _gap(calculation: ET.Element) -> float | None:
    """Lowest empty band less highest occupied one; half-filled bands count as both."""
    rows = calculation.findall("eigenvalues/array/set/set/set/r")
    if not rows:
        return None
    energies, occupations = np.array([_text(row).split()[:2] for row in rows], dtype=float).T
    full = occupations.max()
    occupied, empty = energies[occupations > 0.01 * full], energies[occupations < 0.99 * full]
    return float(empty.min() - occupied.max()) if len(occupied) and len(empty) else None


def _energy(element: ET.Element) -> float:
    return float(_text(element.find("energy/i[@name='e_fr_energy']")))


def _needed(element: ET.Element, path: str) -> np.ndarray:
    rows = _rows(element.find(path))
    if rows is None:
        raise ValueError(f"no entry {path}")
    return rows


def _rows(element: ET.Element | None) -> np.ndarray | None:
    return None if element is None else np.array([_text(row).split() for row in element.findall("v")], dtype=float)


def _text(element: ET.Element | None) -> str:
    if element is None or element.text is None:
        raise ValueError("an entry is missing")
    return element.text.strip()
