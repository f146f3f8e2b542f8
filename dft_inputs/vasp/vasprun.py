"""What vasprun.xml says: the numbers of OUTCAR with more digits, but no dipoles."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Vasprun:
    """The numbers of a vasprun.xml; None or empty where it has none. Attributes as in ``Outcar``.

    Attributes:
        converged: the SCF took fewer than NELM iterations.
        gap: eV, over the k-points of the run, zero or less for a metal; None without empty bands.
    """

    species: tuple[str, ...]
    cell: np.ndarray
    positions: np.ndarray
    forces: np.ndarray
    energy: float
    stress: np.ndarray | None
    pead_field: np.ndarray
    born: np.ndarray | None
    dielectric: np.ndarray | None
    valences: dict[str, float]
    titles: dict[str, str]
    kpoints: tuple[int, int, int] | None
    nspin: int
    scf_accuracy: float
    iterations: int
    version: str
    steps: int
    converged: bool
    gap: float | None


def parse_vasprun(text: str) -> Vasprun:
    """Read the text of a vasprun.xml: its last geometry.

    Raises:
        ValueError: not whole, or an entry is missing; says which.
    """
    try:
        root = ET.fromstring(text)  # noqa: S314  (a file of the user's own)
    except ET.ParseError as error:
        raise ValueError(f"incomplete XML, the run did not end ({error})") from error
    steps = root.findall("calculation")
    if not steps:
        raise ValueError("no calculation")
    last = steps[-1]
    cell = _varray(last, "structure/crystal/varray[@name='basis']")
    fractional = _varray(last, "structure/varray[@name='positions']")
    forces, born = last.find("varray[@name='forces']"), last.find("array[@name='born_charges']")
    if forces is None:
        raise ValueError("no forces")
    # Responses append iterations of their own after the forces; those are no energies of the ground state.
    electronic = [element for element in list(last)[: list(last).index(forces)] if element.tag == "scstep"]
    energies = [_energy(element) for element in electronic]
    valences, titles = _types(root)
    tags = _tags(root)
    stress, dielectric = (last.find(f"varray[@name='{name}']") for name in ("stress", "epsilon"))
    return Vasprun(
        species=tuple(_text(c) for c in root.findall("atominfo/array[@name='atoms']/set/rc/c[1]")),
        cell=cell,
        positions=fractional @ cell,
        forces=_rows(forces),
        energy=_energy(last),
        stress=None if stress is None else _rows(stress),
        pead_field=_pead_field(tags),
        born=None if born is None else np.array([_rows(one) for one in born.findall("set")]),
        dielectric=None if dielectric is None else _rows(dielectric),
        valences=valences,
        titles=titles,
        kpoints=_mesh(root),
        nspin=int(tags.get("ISPIN", "1")),
        scf_accuracy=abs(energies[-1] - energies[-2]) if len(energies) > 1 else 0.0,
        iterations=len(energies),
        version=_text(root.find("generator/i[@name='version']")),
        steps=len(steps),
        converged=len(energies) < int(tags.get("NELM", "60")),
        gap=_gap(last),
    )


def _tags(root: ET.Element) -> dict[str, str]:
    """Tags of INCAR over the resolved parameters."""
    elements = [*root.iterfind("parameters//*[@name]"), *root.iterfind("incar/*[@name]")]
    return {e.attrib["name"].upper(): (e.text or "").strip() for e in elements if e.tag in ("i", "v")}


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


def _varray(element: ET.Element, path: str) -> np.ndarray:
    found = element.find(path)
    if found is None:
        raise ValueError(f"no entry {path}")
    return _rows(found)


def _rows(element: ET.Element) -> np.ndarray:
    return np.array([_text(row).split() for row in element.findall("v")], dtype=float)


def _text(element: ET.Element | None) -> str:
    if element is None or element.text is None:
        raise ValueError("an entry is missing")
    return element.text.strip()
