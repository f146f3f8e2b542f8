"""What OUTCAR says, geometry by geometry.

Its Born block has the field in its rows; its dipoles have the electron's sign, and its stress is the force on the cell.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ..records import Frame
from .results import RunSteps, VaspOutput, stress_of

_STEP = re.compile(r"-+ Iteration\s+(\d+)\(")
_CPU_SECONDS = re.compile(r"Total CPU time used \(sec\):\s*([\d.]+)")
_FLOAT = re.compile(r"-?\d+\.\d+(?:[Ee][-+]?\d+)?")
_SECONDS = re.compile(r"Elapsed time \(sec\):\s*([\d.]+)[ \t]*\n")
_VECTOR = r"\(\s*(-?[\d.]+)\s*(-?[\d.]+)\s*(-?[\d.]+)\s*\)"
_PEAD_FIELD = re.compile(r"EFIELD_PEAD\s*=((?:\s+[-+.\dEe]+){3})")
# Van der Waals methods add columns.
_POSITIONS = re.compile(r"POSITION\s+TOTAL-FORCE.*\n\s*-+\n((?:(?:\s+-?\d+\.\d+){6,}[ \t]*\n)+)")
_LOOP = re.compile(r"aborting loop (because EDIFF is reached|EDIFF was not reached)")
_CHANGE = re.compile(r"total energy-change \(2\. order\) :\s*(-?[\d.]+E[-+]\d+)")
_LEARNED = "ML FORCE on cell"
"""What VASP's own machine-learned potential says begins here: neither its forces nor its stress are of DFT."""
_ELEMENT = re.compile(r"^\S+\s+([A-Z][a-z]?)")
_CELL = re.compile(r"direct lattice vectors.*\n((?:(?:\s*-?\d+\.\d+){6}[ \t]*\n){3})")
_ENERGY = re.compile(r"free {2}energy {3}TOTEN {2}=\s*(-?\d+\.\d+)")
_DIELECTRIC = re.compile(
    r"MACROSCOPIC STATIC DIELECTRIC TENSOR \(including local field effects.*\n\s*-+\n"
    r"((?:(?:\s+-?\d+\.\d+){3}[ \t]*\n){3})"
)
_BORN = re.compile(
    r"BORN EFFECTIVE CHARGES \(in(?:cluding local field effects| e, cumm?ulative output).*\n\s*-+\n"
    r"((?:\s*ion\s+\d+[^\n]*\n(?:\s+[123](?:\s+-?\d+\.\d+){3}[ \t]*\n){3})+)"
)


def parse_outcar(text: str, field_sign: float) -> RunSteps:
    """Read the text of an OUTCAR; the last geometry of a run that did not end is left out, as it may be cut.

    Args:
        text: of the file.
        field_sign: EFIELD_PEAD over the field.

    Raises:
        ValueError: an entry is missing or cut; says which.
    """
    fault = _fault(text)
    chunks = _chunks(text)
    whole = chunks[:-1] if fault else chunks
    if not whole or (not fault and _silent(text, whole)):
        return RunSteps((), fault=fault)
    common = _common(text, field_sign)
    outputs = tuple(_geometry(chunk, common, number, len(whole)) for number, chunk in enumerate(whole, 1))
    unconverged = frozenset(number for number, chunk in enumerate(whole, 1) if not _converged(chunk, text))
    return RunSteps(outputs, unconverged, fault)


def _fault(text: str) -> str | None:
    if match := re.search(r"internal error in subroutine\s+(\w+)", text):
        return f"VASP stopped in {match[1]}"
    return None if _SECONDS.search(text) else "incomplete output, the run did not end"


def _silent(text: str, chunks: list[str]) -> bool:
    """With NWRITE = 0 positions and forces of most geometries are not in OUTCAR."""
    return bool(re.search(r"NWRITE\s*=\s*0\b", text)) and not all(map(_POSITIONS.search, chunks))


def _chunks(text: str) -> list[str]:
    """The part of each geometry, by the number that its iterations bear."""
    starts: dict[str, int] = {}
    for match in _STEP.finditer(text):
        starts.setdefault(match[1], match.start())
    places = [*starts.values(), len(text)] if starts else [0, len(text)]
    return [text[start:end].split(_LEARNED, 1)[0] for start, end in pairwise(places)]


def _converged(chunk: str, text: str) -> bool:
    """Every SCF of a geometry; VASP 5 says that EDIFF is reached even where NELM was."""
    parts = _LOOP.split(chunk)
    loops, verdicts = parts[:-1:2], parts[1::2]
    if not loops or any(verdict.startswith("EDIFF was not") for verdict in verdicts):
        return False
    most, ediff = re.search(r"NELM\s*=\s*(\d+)", text), re.search(r"EDIFF\s*=\s*([\d.]+E[-+]\d+)", text)
    if most is None or ediff is None:
        return True
    spent = [loop for loop in loops if len(_STEP.findall(loop)) >= int(most[1])]
    return all(_last_change(loop) <= float(ediff[1]) for loop in spent)


@dataclass(frozen=True)
class _Common:
    """What all geometries of a run share: the atoms, and the fields of an output."""

    species: tuple[str, ...]
    values: dict[str, Any]


def _common(text: str, field_sign: float) -> _Common:
    counts = [int(n) for n in _last(re.findall(r"ions per type =\s*([\d ]+)", text), "ions per type").split()]
    titles = _titles(text, len(counts))
    names = [_ELEMENT.findall(title)[0] for title in titles]
    valences = [float(value) for value in re.findall(r"POMASS\s*=\s*[\d.]+;\s*ZVAL\s*=\s*([\d.]+)", text)]
    values = {
        "field": _pead_field(text) / field_sign + 0.0,
        "valences": dict(zip(names, valences, strict=True)) if len(names) == len(valences) else {},
        "titles": dict(zip(names, titles, strict=True)),
        "kpoints": _mesh(text),
        "nspin": int(match[1]) if (match := re.search(r"ISPIN\s*=\s*([12])", text)) else 1,
        "seconds": float(match[1]) if (match := _SECONDS.search(text)) else 0.0,
        "cpu_seconds": float(match[1]) if (match := _CPU_SECONDS.search(text)) else 0.0,
        "version": match[1] if (match := re.match(r"\s*vasp\.([\d.]+\d)", text)) else "",
    }
    return _Common(tuple(name for name, count in zip(names, counts, strict=True) for _ in range(count)), values)


def _geometry(chunk: str, common: _Common, number: int, steps: int) -> VaspOutput:
    atoms = _numbers(_last(_POSITIONS.findall(chunk), "POSITION and TOTAL-FORCE"), 6)
    if len(atoms) != len(common.species):
        raise ValueError(f"forces of {len(atoms)} atoms, but {len(common.species)} atoms")
    cell = _numbers(_last(_CELL.findall(chunk), "direct lattice vectors"), 6)[:, :3]
    return VaspOutput(
        frame=Frame(species=common.species, positions=atoms[:, :3], cell=cell),
        forces=atoms[:, 3:],
        enthalpy=float(_last(_ENERGY.findall(chunk), "free  energy   TOTEN")),
        stress=stress_of(_printed_stress(chunk), common.values["field"]),
        electronic_dipole=_dipole(chunk, "elc"),
        ionic_dipole=_dipole(chunk, "ion"),
        born_effective_charges=_born(chunk, len(common.species)),
        dielectric_tensor=_numbers(blocks[-1], 3) if (blocks := _DIELECTRIC.findall(chunk)) else None,
        # Responses go on after the ground state.
        scf_accuracy=_last_change(_LOOP.split(chunk)[-3]) if _LOOP.search(chunk) else 0.0,
        iterations=len(_STEP.findall(chunk)),
        step=number,
        steps=steps,
        **common.values,
    )


def _titles(text: str, types: int) -> list[str]:
    """TITEL of each type of atoms; the head of the file lists them too."""
    for pattern in (r"TITEL\s*=\s*(\S.*?)\s*$", r"^ POTCAR:\s+(\S.*?)\s*$"):
        titles = re.findall(pattern, text, re.MULTILINE)[:types]
        if len(titles) == types and all(_ELEMENT.search(title) for title in titles):
            return titles
    raise ValueError(f"no TITEL of a POTCAR for each of the {types} types of atoms")


def _printed_stress(text: str) -> np.ndarray | None:
    lines = re.findall(r"^\s*in kB((?:\s+-?\d+\.\d+){6})", text, re.MULTILINE)
    if not lines:
        return None
    xx, yy, zz, xy, yz, zx = map(float, lines[-1].split())
    return np.array([[xx, xy, zx], [xy, yy, yz], [zx, yz, zz]])


def _pead_field(text: str) -> np.ndarray:
    """The echo of INCAR comes first, and has all digits; with LCALCEPS the fields are VASP's own."""
    match = _PEAD_FIELD.search(text)
    if match is None or re.search(r"LCALCEPS\s*=\s*T", text):
        return np.zeros(3)
    return np.array([float(word) for word in match[1].split()])


def _dipole(text: str, kind: str) -> np.ndarray | None:
    """With the sign of the physical dipole."""
    vectors = re.findall(rf"p\[{kind}\]=\s*{_VECTOR}", text)
    return -np.array(vectors[-1], dtype=float) if vectors else None


def _born(text: str, atoms: int) -> np.ndarray | None:
    blocks = _BORN.findall(text)
    if not blocks:
        if "BORN EFFECTIVE CHARGES (in" in text:
            raise ValueError("BORN EFFECTIVE CHARGES are cut")
        return None
    charges = _numbers(blocks[-1], 3).reshape(-1, 3, 3)
    if len(charges) != atoms:
        raise ValueError(f"BORN EFFECTIVE CHARGES of {len(charges)} atoms, but {atoms} atoms")
    return charges


def _mesh(text: str) -> tuple[int, int, int] | None:
    match = re.search(r"generate k-points for:\s+(\d+)\s+(\d+)\s+(\d+)", text)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def _last_change(text: str) -> float:
    """Of the energy in an SCF, eV."""
    changes = _CHANGE.findall(text)
    return abs(float(changes[-1])) if changes else 0.0


def _numbers(block: str, columns: int) -> np.ndarray:
    """The first columns of a table."""
    rows = [_FLOAT.findall(line)[:columns] for line in block.splitlines()]
    return np.array([row for row in rows if len(row) == columns], dtype=float)


def _last(found: list[str], what: str) -> str:
    if not found:
        raise ValueError(f"no entry {what!r}")
    return found[-1]
