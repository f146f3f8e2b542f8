"""The tables of pw.x's standard output, in the units in which they are printed (Rydberg atomic units)."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np

from .parsing import NUMBER, to_float

_THREE = rf"({NUMBER})\s+({NUMBER})\s+({NUMBER})"
_ENERGY = re.compile(rf"^!\s+total energy\s+=\s+({NUMBER}) Ry", re.MULTILINE)
_FORCES = re.compile(r"Forces acting on atoms.*\n\s*\n((?:\s+atom\s+[0-9]+ type.*\n)*)")
_FORCE = re.compile(rf"^\s+atom\s+([0-9]+) type\s+[0-9]+\s+force =\s+{_THREE}\s*$")
_STRESS = re.compile(r"total\s+stress\s+\(Ry/bohr\*\*3\).*\n(.*)\n(.*)\n(.*)\n")
_FIELD = re.compile(
    r"Using Berry phase electric field\s*\n\s*In a\.u\.\(Ry\)\s+cartesian.*\n" + rf"\s+({NUMBER})\s*\n" * 3
)
_SITE = re.compile(rf"^\s+([0-9]+)\s+([A-Z]\S*)\s+tau\(\s*([0-9]+)\) = \(\s*{_THREE}\s+\)", re.MULTILINE)
_ALAT = re.compile(rf"celldm\(1\)=\s*({NUMBER})")
_DIPOLE = re.compile(
    rf"(?P<kind>Electronic|Ionic) Dipole on Cartesian axes\s+1\s+({NUMBER})\s+2\s+({NUMBER})\s+3\s+({NUMBER})\s"
)
_VALENCE_TABLE = re.compile(r"atomic species\s+valence\s+mass\s+pseudopotential\n((?:\s+[A-Z]\w*\s+[0-9.]+.*\n)+)")
_ITERATION = re.compile(r"iteration #\s*([0-9]+)")


def element_of(name: str) -> str:
    """The element of a species as pw.x names it, e.g. ``Fe`` of ``Fe1`` and ``Fe_up``."""
    return re.sub(r"[\d_-].*", "", name)


def last_energy(text: str) -> float:
    """The last converged total energy, Ry.

    Raises:
        IndexError: there is none.
    """
    return to_float(_ENERGY.findall(text)[-1])


def last_forces(text: str, atoms: int) -> np.ndarray | None:
    """The last table of forces, Ry/bohr, (N, 3); None where none is printed.

    Raises:
        ValueError: it has not one line for each atom.
    """
    tables = _FORCES.findall(text)
    if not tables:
        return None
    rows = [_FORCE.match(line) for line in tables[-1].splitlines()]
    if [row and int(row[1]) for row in rows] != list(range(1, atoms + 1)):
        raise ValueError("forces: lines are missing")
    return np.array([[to_float(row[i]) for i in (2, 3, 4)] for row in rows if row])


def last_stress(text: str) -> np.ndarray | None:
    """The last stress, Ry/bohr^3 with the sign of a pressure, (3, 3); None where none is printed."""
    tables = _STRESS.findall(text)
    return np.array([[to_float(token) for token in line.split()[:3]] for line in tables[-1]]) if tables else None


def applied_field(text: str) -> np.ndarray | None:
    """The field, Ry a.u., (3,); None for a run without ``lelfield``."""
    found = _FIELD.findall(text)
    return np.array([to_float(value) for value in found[-1]]) if found else None


def last_dipole_change(text: str) -> np.ndarray | None:
    """How far the electronic dipole moved in the last SCF iteration, Ry a.u., (3,); None where it was printed once."""
    found = [match for match in _DIPOLE.finditer(text) if match["kind"] == "Electronic"][-2:]
    if len(found) < 2:
        return None
    before, after = ([to_float(match[i]) for i in (2, 3, 4)] for match in found)
    return np.subtract(after, before)


def last_dipole(text: str, kind: str) -> np.ndarray:
    """The last dipole on Cartesian axes, Ry a.u., (3,). It precedes the energy of the same, last iteration.

    Args:
        text: standard output.
        kind: ``Electronic`` or ``Ionic``.

    Raises:
        ValueError: there is none.
    """
    found = [match for match in _DIPOLE.finditer(text) if match["kind"] == kind]
    if not found:
        raise ValueError(f"no {kind.lower()} dipole")
    return np.array([to_float(found[-1][i]) for i in (2, 3, 4)])


def dipole_count(text: str) -> int:
    """Electronic dipoles printed whole; each SCF iteration in a field prints one."""
    return sum(match["kind"] == "Electronic" for match in _DIPOLE.finditer(text))


def first_sites(text: str) -> tuple[tuple[str, ...], np.ndarray, float]:
    """Elements, positions in alat (N, 3) and alat in bohr of the structure that pw.x starts from.

    Raises:
        ValueError: lines are missing.
        IndexError: there is no lattice parameter.
    """
    rows = _SITE.findall(text)
    numbers = list(range(1, len(rows) + 1))
    if not rows or [int(row[0]) for row in rows] != numbers or [int(row[2]) for row in rows] != numbers:
        raise ValueError("positions: lines are missing")
    positions = np.array([[to_float(value) for value in row[3:]] for row in rows])
    return tuple(element_of(row[1]) for row in rows), positions, to_float(_ALAT.findall(text)[0])


def valence_electrons(text: str) -> dict[str, float]:
    """Valence electrons by element; empty where the table is missing."""
    table = _VALENCE_TABLE.search(text)
    rows = [line.split() for line in table[1].splitlines()] if table else []
    return {element_of(row[0]): to_float(row[1]) for row in rows}


def iteration_counts(text: str) -> list[int]:
    """Number of each SCF iteration; each cycle counts from one, or from where a restart goes on.

    Raises:
        ValueError: some are missing.
    """
    counts = [int(n) for n in _ITERATION.findall(text)]
    if any(after not in (before + 1, 1) for before, after in pairwise(counts)):
        raise ValueError("SCF iterations are missing")
    return counts
