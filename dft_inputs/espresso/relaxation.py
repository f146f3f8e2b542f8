"""Relaxations by pw.x in a static field, and the static dielectric constant that two of them give.

A published relaxation often comes as its standard output alone, so that is what is read here. The printed ionic dipole
is the sum of valence times position, which ties the structure read to the dipole read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..branches import string_lattice
from ..polarization import fold
from ..records import Frame
from ..units import (
    BOHR_IN_ANGSTROM,
    RYDBERG_DIPOLE_IN_E_ANGSTROM,
    RYDBERG_FIELD_IN_V_PER_ANGSTROM,
    RYDBERG_FORCE_IN_EV_PER_ANGSTROM,
    RYDBERG_IN_EV,
    VACUUM_PERMITTIVITY,
)
from .outputs import PwOutputError, check_finished, read_text
from .parsing import NUMBER, to_float
from .printed import (
    applied_field,
    element_of,
    first_sites,
    last_dipole,
    last_energy,
    last_forces,
    valence_electrons,
)

LARGEST_FORCE = 0.01
"""eV/A; left in a structure that counts as relaxed."""
_STEPS = re.compile(r"bfgs (?:converged in|failed after)\s+[0-9]+ scf cycles and\s+([0-9]+) bfgs steps")
_FINAL = re.compile(r"Begin final coordinates\s*\n((?:.*\n)*?)End final coordinates")
_FINAL_ATOM = re.compile(rf"^([A-Z]\w*)\s+({NUMBER})\s+({NUMBER})\s+({NUMBER})(?:\s+[01]\s+[01]\s+[01])?\s*$", re.M)
_FINAL_ENERGY = re.compile(rf"Final e\w+\s+=\s+({NUMBER}) Ry")
_KPOINT = re.compile(rf"^\s+k\(\s*([0-9]+)\) = \(\s*({NUMBER})\s+({NUMBER})\s+({NUMBER})\), wk =", re.M)


@dataclass(frozen=True)
class Relaxation:
    """The end of a relaxation at fixed cell, or a single SCF of a structure that was relaxed before.

    Attributes:
        frame: the final structure.
        field: V/A, (3,).
        enthalpy: as printed, eV.
        forces: eV/A, (N, 3).
        polarization: electronic and ionic dipole as printed, e A, (3,); known modulo ``branches``.
        branches: rows span what P moves by when one k-string hops, e A, (3, 3).
        steps: relaxation steps; 0 for a single SCF.
    """

    frame: Frame
    field: np.ndarray
    enthalpy: float
    forces: np.ndarray
    polarization: np.ndarray
    branches: np.ndarray
    steps: int

    @property
    def largest_force(self) -> float:
        """Length of the largest force left on an atom, eV/A."""
        return float(np.linalg.norm(self.forces, axis=1).max())


def read_relaxation(path: Path | str) -> Relaxation:
    """Read the standard output (may be gzipped) of a pw.x ``relax`` or ``scf`` run with ``lelfield``.

    Args:
        path: the file. Its k-points must be printed, as they are for up to 99 of them.

    Raises:
        PwOutputError: missing, truncated or damaged output, one without a field operator, or one whose last SCF did
            not converge. A relaxation that ends above its own thresholds is read: ``largest_force`` says how far it is.
    """
    path = Path(path)
    text = read_text(path)
    check_finished(text, path)
    try:
        relaxation = _assemble(text)
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise PwOutputError(f"{path}: an expected entry is missing or broken ({error})") from error
    return relaxation


def dielectric_constant(
    zero: Relaxation, biased: Relaxation, largest_force: float = LARGEST_FORCE
) -> tuple[float, np.ndarray]:
    """Static dielectric constant along the field of the second run: 1 + dP.E / (eps0 V E^2).

    The ions have followed the field, so this is eps_0; with ``biased`` at the positions of ``zero`` it is eps_inf.

    Args:
        zero: relaxed without a field.
        biased: relaxed in a field, in the same cell.
        largest_force: eV/A; a structure with more is not relaxed.

    Returns:
        The constant, and the dP that gave it on its smallest branch, e A, (3,).

    Raises:
        ValueError: not such a pair, or a structure that is not relaxed.
    """
    if np.any(zero.field) or not np.any(biased.field):
        raise ValueError("dielectric_constant needs a run without a field first, then one with a field")
    if zero.frame.species != biased.frame.species or not np.allclose(zero.frame.cell, biased.frame.cell, atol=1e-5):
        raise ValueError("the two relaxations are of different crystals: elements, their order or the cell differ")
    for name, run in (("without", zero), ("with", biased)):
        if run.largest_force > largest_force:
            raise ValueError(
                f"the run {name} field has forces up to {run.largest_force:.3g} eV/A: relax it below {largest_force:g}"
            )
    change = fold(biased.polarization - zero.polarization, zero.branches)
    field = biased.field
    susceptibility = change @ field / (VACUUM_PERMITTIVITY * zero.frame.volume * (field @ field))
    return 1 + float(susceptibility), change


def _assemble(text: str) -> Relaxation:
    field = applied_field(text)
    if field is None:
        raise ValueError("no field operator: set lelfield")
    steps = _STEPS.search(text)
    if steps is None and "BFGS Geometry Optimization" in text:
        raise ValueError("the relaxation did not come to its end")
    first = _first_frame(text)
    frame = _final_frame(text, first) if steps else first
    forces = last_forces(text, len(frame))
    if forces is None:
        raise ValueError("no forces: set tprnfor")
    energy = last_energy(text)
    if steps and abs(to_float(_FINAL_ENERGY.findall(text)[-1]) - energy) > 2e-8:
        raise ValueError("the last energy is not the final one")
    valences = valence_electrons(text)
    ionic = last_dipole(text, "Ionic") * RYDBERG_DIPOLE_IN_E_ANGSTROM
    expected = np.array([valences[symbol] for symbol in frame.species]) @ frame.positions
    if np.abs(ionic - expected).max() > 1e-5 * len(frame):
        raise ValueError("the ionic dipole is not that of the final structure")
    return Relaxation(
        frame=frame,
        field=field * RYDBERG_FIELD_IN_V_PER_ANGSTROM,
        enthalpy=energy * RYDBERG_IN_EV,
        forces=forces * RYDBERG_FORCE_IN_EV_PER_ANGSTROM,
        polarization=last_dipole(text, "Electronic") * RYDBERG_DIPOLE_IN_E_ANGSTROM + ionic,
        branches=string_lattice(frame.cell, _mesh(text, frame.cell), 1 if "LSDA" in text else 2),
        steps=int(steps[1]) if steps else 0,
    )


def _first_frame(text: str) -> Frame:
    species, positions, alat = first_sites(text)
    rows = re.findall(rf"a\(([123])\) = \(\s*({NUMBER})\s+({NUMBER})\s+({NUMBER})\s+\)", text)[:3]
    if [row[0] for row in rows] != ["1", "2", "3"]:
        raise ValueError("crystal axes")
    cell = np.array([[to_float(value) for value in row[1:]] for row in rows])
    return Frame(species=species, positions=positions * alat * BOHR_IN_ANGSTROM, cell=cell * alat * BOHR_IN_ANGSTROM)


def _final_frame(text: str, first: Frame) -> Frame:
    """The final coordinates, which ``relax`` prints in the unit of the input; Angstrom is asked for."""
    blocks = _FINAL.findall(text)
    if not blocks or "ATOMIC_POSITIONS (angstrom)" not in blocks[-1]:
        raise ValueError("no final coordinates in angstrom")
    rows = _FINAL_ATOM.findall(blocks[-1])
    if tuple(element_of(row[0]) for row in rows) != first.species:
        raise ValueError("final coordinates")
    positions = np.array([[to_float(value) for value in row[1:]] for row in rows])
    return first.model_copy(update={"positions": positions})


def _mesh(text: str, cell: np.ndarray) -> tuple[int, int, int]:
    """Points of the Gamma-centred mesh along each reciprocal vector, from the list of k-points."""
    alat = to_float(re.findall(rf"celldm\(1\)=\s*({NUMBER})", text)[0]) * BOHR_IN_ANGSTROM
    expected = int(re.findall(r"number of k points=\s*([0-9]+)", text)[0])
    rows = _KPOINT.findall(text)[:expected]
    if [int(row[0]) for row in rows] != list(range(1, expected + 1)):
        raise ValueError("list of k-points")
    cartesian = np.array([[to_float(value) for value in row[1:]] for row in rows]) / alat
    fractional = np.rint((cartesian @ cell.T) % 1 * 1e4).astype(int) % 10000
    n1, n2, n3 = (len({int(v) for v in column} | {-int(v) % 10000 for v in column}) for column in fractional.T)
    return n1, n2, n3
