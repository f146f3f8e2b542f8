"""What OUTCAR says. Its Born block has the field in its rows; its dipoles have the electron's sign."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

_FLOAT = re.compile(r"-?\d+\.\d+(?:[Ee][-+]?\d+)?")
_END = "General timing and accounting informations for this job"
_VECTOR = r"\(\s*(-?[\d.]+)\s*(-?[\d.]+)\s*(-?[\d.]+)\s*\)"
_PEAD_FIELD = re.compile(r"EFIELD_PEAD\s*=((?:\s+[-+.\dEe]+){3})")
_POSITIONS = re.compile(r"POSITION\s+TOTAL-FORCE.*\n\s*-+\n((?:(?:\s+-?\d+\.\d+){6}[ \t]*\n)+)")
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


@dataclass(frozen=True)
class Outcar:
    """The numbers of an OUTCAR; None or empty where it has none.

    Attributes:
        species: of each atom.
        cell: A, rows, (3, 3).
        positions: Cartesian, A, (N, 3).
        forces: eV/A, (N, 3).
        energy: free energy, eV; the electric enthalpy in a field.
        stress: as printed, kB, (3, 3).
        pead_field: EFIELD_PEAD as given, eV/A, (3,).
        electronic_dipole, ionic_dipole: p[elc] and p[ion] as printed, electrons A, (3,).
        born: the Born block as printed, rows for fields, e, (N, 3, 3).
        dielectric: ion-clamped, (3, 3).
        valences: electrons by element.
        titles: TITEL of the POTCAR by element.
        kpoints: automatic mesh.
        nspin: 1 or 2.
        scf_accuracy: last change of the energy, eV.
        iterations, seconds: the cost.
        version: of VASP.
        steps: geometries.
    """

    species: tuple[str, ...]
    cell: np.ndarray
    positions: np.ndarray
    forces: np.ndarray
    energy: float
    stress: np.ndarray | None
    pead_field: np.ndarray
    electronic_dipole: np.ndarray | None
    ionic_dipole: np.ndarray | None
    born: np.ndarray | None
    dielectric: np.ndarray | None
    valences: dict[str, float]
    titles: dict[str, str]
    kpoints: tuple[int, int, int] | None
    nspin: int
    scf_accuracy: float
    iterations: int
    seconds: float
    version: str
    steps: int


def fault(text: str) -> str | None:
    """Why an OUTCAR holds no finished and converged run, in words; None for one that does."""
    if match := re.search(r"internal error in subroutine\s+(\w+)", text):
        return f"VASP stopped in {match[1]}"
    if _END not in text:
        return "incomplete output, the run did not end"
    loops = re.findall(r"aborting loop (because EDIFF is reached|EDIFF was not reached)", text)
    if not loops or loops[-1].startswith("EDIFF was not"):
        return "SCF not converged"
    return None


def parse_outcar(text: str) -> Outcar:
    """Read the text of a finished OUTCAR: its last geometry.

    Raises:
        ValueError: an entry is missing or cut; says which.
    """
    counts = [int(n) for n in _last(re.findall(r"ions per type =\s*([\d ]+)", text), "ions per type").split()]
    titles = _titles(text, len(counts))
    names = [_ELEMENT.findall(title)[0] for title in titles]
    species = tuple(name for name, count in zip(names, counts, strict=True) for _ in range(count))
    blocks = _POSITIONS.findall(text)
    atoms = _numbers(_last(blocks, "POSITION and TOTAL-FORCE"), 6)
    if len(atoms) != len(species):
        raise ValueError(f"forces of {len(atoms)} atoms, but {len(species)} atoms")
    valences = [float(value) for value in re.findall(r"POMASS\s*=\s*[\d.]+;\s*ZVAL\s*=\s*([\d.]+)", text)]
    return Outcar(
        species=species,
        cell=_numbers(_last(_CELL.findall(text), "direct lattice vectors"), 6)[:, :3],
        positions=atoms[:, :3],
        forces=atoms[:, 3:],
        energy=float(_last(_ENERGY.findall(text), "free  energy   TOTEN")),
        stress=_stress(text),
        pead_field=_pead_field(text),
        electronic_dipole=_dipole(text, "elc"),
        ionic_dipole=_dipole(text, "ion"),
        born=_born(text, len(species)),
        dielectric=_numbers(blocks[-1], 3) if (blocks := _DIELECTRIC.findall(text)) else None,
        valences=dict(zip(names, valences, strict=True)) if len(names) == len(valences) else {},
        titles=dict(zip(names, titles, strict=True)),
        kpoints=_mesh(text),
        nspin=int(match[1]) if (match := re.search(r"ISPIN\s*=\s*([12])", text)) else 1,
        scf_accuracy=_scf_accuracy(text),
        iterations=len(re.findall(r"-+ Iteration\s+\d+\(", text)),
        seconds=float(match[1]) if (match := re.search(r"Elapsed time \(sec\):\s*([\d.]+)", text)) else 0.0,
        version=match[1] if (match := re.match(r"\s*vasp\.([\d.]+\d)", text)) else "",
        steps=len(_POSITIONS.findall(text)),
    )


def _titles(text: str, types: int) -> list[str]:
    """TITEL of each type of atoms; the head of the file lists them too."""
    for pattern in (r"TITEL\s*=\s*(\S.*?)\s*$", r"^ POTCAR:\s+(\S.*?)\s*$"):
        titles = re.findall(pattern, text, re.MULTILINE)[:types]
        if len(titles) == types and all(_ELEMENT.search(title) for title in titles):
            return titles
    raise ValueError(f"no TITEL of a POTCAR for each of the {types} types of atoms")


def _stress(text: str) -> np.ndarray | None:
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
    vectors = re.findall(rf"p\[{kind}\]=\s*{_VECTOR}", text)
    return np.array(vectors[-1], dtype=float) if vectors else None


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


def _scf_accuracy(text: str) -> float:
    changes = re.findall(r"total energy-change \(2\. order\) :\s*(-?[\d.]+E[-+]\d+)", text)
    return abs(float(changes[-1])) if changes else 0.0


def _numbers(block: str, columns: int) -> np.ndarray:
    return np.array(_FLOAT.findall(block), dtype=float).reshape(-1, columns)


def _last(found: list[str], what: str) -> str:
    if not found:
        raise ValueError(f"no entry {what!r}")
    return found[-1]
