"""Read a finished pw.x run: standard output and XML, checked against each other. Never a number from half a run.

The XML gives full precision (Hartree units). ASE reads energy and forces of the standard output, which must agree:
so an XML left over from another run is noticed. Our own reader takes what neither has in usable form: the dipole on
Cartesian axes (the XML's electronic part is in lattice components), the valences and the iterations.
"""

from __future__ import annotations

import gzip
import io
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.io import read as ase_read

from ..records import Frame
from ..units import (
    BOHR_IN_ANGSTROM,
    HARTREE_IN_EV,
    RYDBERG_DIPOLE_IN_E_ANGSTROM,
    RYDBERG_FIELD_IN_V_PER_ANGSTROM,
    RYDBERG_IN_EV,
)

STDOUT, XML = "pw.out", "pw.xml"
_END = re.compile(r"JOB DONE\.\s*\n=-+=")
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[EeDd][-+]?\d+)?"
_DIPOLE = re.compile(
    rf"(?P<kind>Electronic|Ionic) Dipole on Cartesian axes\s+1\s+({_NUMBER})\s+2\s+({_NUMBER})\s+3\s+({_NUMBER})\s"
)
_VALENCE_TABLE = re.compile(r"atomic species\s+valence\s+mass\s+pseudopotential\n((?:\s+[A-Z]\w*\s+[\d.]+.*\n)+)")


class PwOutputError(RuntimeError):
    """A pw.x output is missing, incomplete, not converged or not of one piece; names the file and the cause."""


@dataclass(frozen=True)
class PwOutput:
    """One converged SCF.

    Attributes:
        frame: the geometry pw.x saw.
        field: V/A, (3,).
        enthalpy: the printed electric enthalpy at full precision, eV; total energy for a run without a field.
        forces: eV/A, (N, 3); None for a run that computed none.
        stress: eV/A^3, ASE sign, (3, 3), or None.
        electronic_dipole: as printed: relative to zero field where ``efield_phase`` was ``read``; e A, (3,), or None
            without ``lelfield``.
        ionic_dipole: sum of valence times position, unwrapped, e A, (3,), or None.
        scf_accuracy: estimated remaining energy error, eV.
        iterations: SCF iterations over all Berry cycles.
        wall_time: s.
        n_electrons: valence electrons of the cell.
        nspin: 1 or 2.
        valences: electrons by element.
        kpoints: Monkhorst-Pack mesh.
        version: of pw.x.
        eigenvalues: eV, (k-points, bands), spin channels side by side.
    """

    frame: Frame
    field: np.ndarray
    enthalpy: float
    forces: np.ndarray | None
    stress: np.ndarray | None
    electronic_dipole: np.ndarray | None
    ionic_dipole: np.ndarray | None
    scf_accuracy: float
    iterations: int
    wall_time: float
    n_electrons: float
    nspin: int
    valences: dict[str, float]
    kpoints: tuple[int, int, int]
    version: str
    eigenvalues: np.ndarray

    @property
    def even_valences(self) -> bool:
        """All valences are even integers: moving an ion by a lattice vector moves an even charge."""
        return all(v == round(v) and round(v) % 2 == 0 for v in self.valences.values())


def read_pw_output(source: Path | str, xml: Path | str | None = None) -> PwOutput:
    """Read one run.

    Args:
        source: the run's directory (``pw.out`` and ``pw.xml``, or the only ``*.out`` and ``*.xml``; may be gzipped),
            or its standard output.
        xml: the XML file, where ``source`` is the standard output.

    Raises:
        PwOutputError: missing, truncated, failed or unconverged output, or two files of different runs.
    """
    stdout, xml_path = (Path(source), Path(xml)) if xml is not None else _locate(Path(source))
    text = _read(stdout)
    _check_finished(text, stdout)
    try:
        root = ET.fromstring(_read(xml_path))  # noqa: S314  (our own run's output)
    except ET.ParseError as error:
        raise PwOutputError(f"{xml_path}: incomplete XML ({error})") from error
    try:
        if _value(root, "output/convergence_info/scf_conv/convergence_achieved") != "true":
            raise PwOutputError(f"{xml_path}: SCF not converged")
        output = _assemble(root, text)
    except (AttributeError, ValueError, TypeError, IndexError, KeyError) as error:
        raise PwOutputError(f"{xml_path}: an expected entry is missing or broken ({error})") from error
    _check_agreement(output, text, stdout, xml_path)
    return output


def failure_reason(text: str) -> str | None:
    """Why pw.x stopped, from its standard output; None where nothing is said."""
    if match := re.search(r"convergence NOT achieved after\s+(\d+) iterations", text):
        return f"SCF not converged in {match[1]} iterations"
    if match := re.search(r"Error in routine\s+(.*?):\s*\n(.*)", text) or re.search(
        r"from (\S+) : error #\s*-?\d+\n(.*)", text
    ):
        return f"pw.x stopped in {match[1].strip()}: {' '.join(match[2].split())}"
    if "Maximum CPU time exceeded" in text:
        return "pw.x reached its time limit"
    return None


def _locate(directory: Path) -> tuple[Path, Path]:
    """Standard output and XML in a directory."""
    if not directory.is_dir():
        raise PwOutputError(f"{directory}: no such directory")
    found = []
    for name, pattern in ((STDOUT, "*.out"), (XML, "*.xml")):
        files = [directory / n for n in (name, f"{name}.gz") if (directory / n).is_file()]
        files = files or sorted([*directory.glob(pattern), *directory.glob(f"{pattern}.gz")])
        if len(files) != 1:
            raise PwOutputError(f"{directory}: expected one {pattern} file, found {len(files)}")
        found.append(files[0])
    return found[0], found[1]


def _read(path: Path) -> str:
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8", errors="replace")
    except (OSError, EOFError) as error:
        raise PwOutputError(f"{path}: cannot be read ({error})") from error


def _check_finished(text: str, path: Path) -> None:
    """pw.x prints JOB DONE after an unconverged run too, so both are asked for."""
    if reason := failure_reason(text):
        raise PwOutputError(f"{path}: {reason}")
    if "convergence has been achieved" not in text or not _END.search(text):
        raise PwOutputError(f"{path}: incomplete output, the run did not end")


def _assemble(root: ET.Element, text: str) -> PwOutput:
    out = "output"
    lelfield = "Using Berry phase electric field" in text
    n_atoms = int(_element(root, f"{out}/atomic_structure").attrib["nat"])
    forces, stress = root.find(f"{out}/forces"), root.find(f"{out}/stress")
    bands = [_floats(e) for e in root.findall(f"{out}/band_structure/ks_energies/eigenvalues")]
    mesh = _element(root, f"{out}/band_structure/starting_k_points/monkhorst_pack").attrib
    field = root.find("input/electric_field/electric_field_vector")
    return PwOutput(
        frame=_frame(_element(root, f"{out}/atomic_structure")),
        field=(_floats(field) if lelfield and field is not None else np.zeros(3)) * RYDBERG_FIELD_IN_V_PER_ANGSTROM,
        enthalpy=float(_value(root, f"{out}/total_energy/etot")) * HARTREE_IN_EV,
        forces=None if forces is None else _floats(forces).reshape(n_atoms, 3) * HARTREE_IN_EV / BOHR_IN_ANGSTROM,
        # pw.x gives the stress with the sign of a pressure.
        stress=None if stress is None else -_floats(stress).reshape(3, 3) * HARTREE_IN_EV / BOHR_IN_ANGSTROM**3,
        electronic_dipole=_dipole(text, "Electronic") if lelfield else None,
        ionic_dipole=_dipole(text, "Ionic") if lelfield else None,
        scf_accuracy=_accuracy(text),
        iterations=len(re.findall(r"iteration #\s*\d+", text)),
        wall_time=float(_value(root, "timing_info/total/wall")),
        n_electrons=float(_value(root, f"{out}/band_structure/nelec")),
        nspin=2 if _value(root, f"{out}/band_structure/lsda") == "true" else 1,
        valences=_valences(text),
        kpoints=(int(mesh["nk1"]), int(mesh["nk2"]), int(mesh["nk3"])),
        version=_element(root, "general_info/creator").attrib["VERSION"],
        eigenvalues=np.array(bands) * HARTREE_IN_EV,
    )


def _check_agreement(output: PwOutput, text: str, stdout: Path, xml: Path) -> None:
    """Both files must come from one run: energy and forces as ASE reads them, and the electronic dipole."""
    try:
        atoms = ase_read(io.StringIO(text), format="espresso-out")
        energy, forces = atoms.get_potential_energy(), atoms.calc.results.get("forces")  # type: ignore[union-attr]
    except (ValueError, IndexError, KeyError, AssertionError, StopIteration, RuntimeError) as error:
        raise PwOutputError(f"{stdout}: ASE cannot read it ({error})") from error
    printed = float(re.findall(rf"!\s+total energy\s+=\s+({_NUMBER}) Ry", text)[-1])
    # Eight decimals are printed; ASE's constants may be of another year.
    if abs(printed - output.enthalpy / RYDBERG_IN_EV) > 2e-8 or abs(energy / output.enthalpy - 1) > 1e-6:  # type: ignore[operator]
        raise PwOutputError(f"{stdout} and {xml.name} differ in energy: they are of different runs")
    if (forces is None) != (output.forces is None):
        raise PwOutputError(f"{stdout} and {xml.name} disagree on whether forces were computed")
    if output.forces is not None and not np.allclose(forces, output.forces, atol=1e-6):
        raise PwOutputError(f"{stdout} and {xml.name} differ in the forces: they are of different runs")


def _frame(structure: ET.Element) -> Frame:
    atoms = sorted(structure.findall("atomic_positions/atom"), key=lambda atom: int(atom.attrib["index"]))
    return Frame(
        species=tuple(re.sub(r"[\d_-].*", "", atom.attrib["name"]) for atom in atoms),
        positions=np.array([_floats(atom) for atom in atoms]) * BOHR_IN_ANGSTROM,
        cell=np.array([_floats(_element(structure, f"cell/a{i}")) for i in (1, 2, 3)]) * BOHR_IN_ANGSTROM,
    )


def _dipole(text: str, kind: str) -> np.ndarray:
    """The last dipole on Cartesian axes, e A. It precedes the energy of the same, last iteration."""
    found = [match for match in _DIPOLE.finditer(text) if match["kind"] == kind]
    return np.array([float(found[-1][i].replace("D", "E")) for i in (2, 3, 4)]) * RYDBERG_DIPOLE_IN_E_ANGSTROM


def _accuracy(text: str) -> float:
    return float(re.findall(rf"estimated scf accuracy\s+<\s+({_NUMBER}) Ry", text)[-1]) * RYDBERG_IN_EV


def _valences(text: str) -> dict[str, float]:
    table = _VALENCE_TABLE.search(text)
    rows = [line.split() for line in table[1].splitlines()] if table else []
    return {re.sub(r"\d+$", "", row[0]): float(row[1]) for row in rows}


def _element(root: ET.Element, path: str) -> ET.Element:
    element = root.find(path)
    if element is None:
        raise KeyError(path)
    return element


def _value(root: ET.Element, path: str) -> str:
    return (_element(root, path).text or "").strip()


def _floats(element: ET.Element) -> np.ndarray:
    return np.array((element.text or "").split(), dtype=float)
