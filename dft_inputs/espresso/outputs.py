"""Read a finished pw.x run: standard output and XML, checked against each other. Never a number from half a run.

The XML gives full precision (Hartree units). Whatever the standard output prints as well must agree with it (see
``cross_checks``), so an XML left over from another run, a lost line or a damaged number is noticed.
"""

from __future__ import annotations

import gzip
import re
import xml.etree.ElementTree as ET
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import EngineError
from ..records import Frame
from ..units import (
    BOHR_IN_ANGSTROM,
    HARTREE_IN_EV,
    RYDBERG_DIPOLE_IN_E_ANGSTROM,
    RYDBERG_FIELD_IN_V_PER_ANGSTROM,
)
from .cross_checks import disagreement
from .parsing import element, number, numbers, value
from .printed import element_of, iteration_counts, last_dipole, last_dipole_change, valence_electrons

STDOUT, XML = "pw.out", "pw.xml"
_END = re.compile(r"JOB DONE\.\s*\n=-+=")


class PwOutputError(EngineError):
    """An output of pw.x or ph.x is missing, incomplete, not converged or not of one piece; names file and cause."""


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
        cpu_time: of one rank, s.
        n_electrons: valence electrons of the cell.
        nspin: 1 or 2.
        valences: electrons by element.
        kpoints: Monkhorst-Pack mesh.
        version: of pw.x.
        eigenvalues: eV, (k-points, bands), spin channels side by side.
        dipole_change: of the electronic dipole in the last SCF iteration, e A, (3,), or None.
        magnetization, absolute_magnetization: total, and integral of its absolute value, Bohr magnetons; None for
            ``nspin`` 1.
        fft_grid: points of the density grid along the lattice vectors.
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
    cpu_time: float
    n_electrons: float
    nspin: int
    valences: dict[str, float]
    kpoints: tuple[int, int, int]
    version: str
    eigenvalues: np.ndarray
    dipole_change: np.ndarray | None = None
    magnetization: float | None = None
    absolute_magnetization: float | None = None
    fft_grid: tuple[int, int, int] | None = None

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
        PwOutputError: missing, truncated, failed, unconverged or damaged output, or two files of different runs.
    """
    stdout, xml_path = (Path(source), Path(xml)) if xml is not None else _locate(Path(source))
    text = read_text(stdout)
    check_finished(text, stdout)
    try:
        root = ET.fromstring(read_text(xml_path))  # noqa: S314  (our own run's output)
    except (ET.ParseError, ValueError, LookupError) as error:
        raise PwOutputError(f"{xml_path}: incomplete XML ({error})") from error
    try:
        if value(root, "output/convergence_info/scf_conv/convergence_achieved") != "true":
            raise PwOutputError(f"{xml_path}: SCF not converged")
        output = _assemble(root, text)
    except (AttributeError, ValueError, TypeError, IndexError, KeyError) as error:
        raise PwOutputError(f"{xml_path}: an expected entry is missing or broken ({error})") from error
    if reason := disagreement(output, root, text):
        raise PwOutputError(f"{stdout} and {xml_path.name} {reason}")
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


def read_text(path: Path) -> str:
    """Content of a text file, gzipped or not.

    Raises:
        PwOutputError: it cannot be read.
    """
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8", errors="replace")
    except (OSError, EOFError, zlib.error) as error:
        raise PwOutputError(f"{path}: cannot be read ({error})") from error


def check_finished(text: str, path: Path) -> None:
    """pw.x prints JOB DONE after an unconverged run too, so both are asked for.

    Raises:
        PwOutputError: the run failed, did not converge or did not end.
    """
    if reason := failure_reason(text):
        raise PwOutputError(f"{path}: {reason}")
    if "convergence has been achieved" not in text or not _END.search(text):
        raise PwOutputError(f"{path}: incomplete output, the run did not end")


def _assemble(root: ET.Element, text: str) -> PwOutput:
    out = "output"
    forces, stress = root.find(f"{out}/forces"), root.find(f"{out}/stress")
    frame = _frame(element(root, f"{out}/atomic_structure"))
    lelfield = "Using Berry phase electric field" in text
    field = numbers(element(root, "input/electric_field/electric_field_vector")) if lelfield else np.zeros(3)
    return PwOutput(
        frame=frame,
        field=field * RYDBERG_FIELD_IN_V_PER_ANGSTROM,
        enthalpy=number(root, f"{out}/total_energy/etot") * HARTREE_IN_EV,
        forces=None if forces is None else numbers(forces).reshape(len(frame), 3) * HARTREE_IN_EV / BOHR_IN_ANGSTROM,
        # pw.x gives the stress with the sign of a pressure.
        stress=None if stress is None else -numbers(stress).reshape(3, 3) * HARTREE_IN_EV / BOHR_IN_ANGSTROM**3,
        electronic_dipole=last_dipole(text, "Electronic") * RYDBERG_DIPOLE_IN_E_ANGSTROM if lelfield else None,
        ionic_dipole=last_dipole(text, "Ionic") * RYDBERG_DIPOLE_IN_E_ANGSTROM if lelfield else None,
        scf_accuracy=number(root, f"{out}/convergence_info/scf_conv/scf_error") * HARTREE_IN_EV,
        iterations=len(iteration_counts(text)),
        wall_time=number(root, "timing_info/total/wall"),
        cpu_time=number(root, "timing_info/total/cpu"),
        n_electrons=number(root, f"{out}/band_structure/nelec"),
        nspin={"true": 2, "false": 1}[value(root, f"{out}/band_structure/lsda")],
        valences=valence_electrons(text),
        kpoints=_mesh(root, frame.cell),
        fft_grid=_grid(root),
        version=element(root, "general_info/creator").attrib["VERSION"],
        eigenvalues=_eigenvalues(root),
        dipole_change=_dipole_change(text),
        magnetization=_magnetization(root, "total"),
        absolute_magnetization=_magnetization(root, "absolute"),
    )


def _dipole_change(text: str) -> np.ndarray | None:
    change = last_dipole_change(text)
    return None if change is None else change * RYDBERG_DIPOLE_IN_E_ANGSTROM


def _magnetization(root: ET.Element, kind: str) -> float | None:
    lsda = value(root, "output/band_structure/lsda") == "true"
    return number(root, f"output/magnetization/{kind}") if lsda else None


def _grid(root: ET.Element) -> tuple[int, int, int]:
    grid = element(root, "output/basis_set/fft_grid").attrib
    return int(grid["nr1"]), int(grid["nr2"]), int(grid["nr3"])


def _mesh(root: ET.Element, cell: np.ndarray) -> tuple[int, int, int]:
    """Monkhorst-Pack mesh, also where its k-points were listed one by one."""
    start = element(root, "output/band_structure/starting_k_points")
    if (mesh := start.find("monkhorst_pack")) is not None:
        return int(mesh.attrib["nk1"]), int(mesh.attrib["nk2"]), int(mesh.attrib["nk3"])
    alat = float(element(root, "output/atomic_structure").attrib["alat"]) * BOHR_IN_ANGSTROM
    cartesian = np.array([numbers(k) for k in root.findall("output/band_structure/ks_energies/k_point")])
    counts = [len(np.unique(np.round(column % 1, 6) % 1)) for column in (cartesian @ cell.T / alat).T]
    if np.prod(counts) != len(cartesian):
        raise ValueError("k-points that form no mesh")
    return counts[0], counts[1], counts[2]


def _frame(structure: ET.Element) -> Frame:
    atoms = sorted(structure.findall("atomic_positions/atom"), key=lambda atom: int(atom.attrib["index"]))
    if [int(atom.attrib["index"]) for atom in atoms] != list(range(1, int(structure.attrib["nat"]) + 1)):
        raise ValueError("atoms are missing")
    return Frame(
        species=tuple(element_of(atom.attrib["name"]) for atom in atoms),
        positions=np.array([numbers(atom) for atom in atoms]) * BOHR_IN_ANGSTROM,
        cell=np.array([numbers(element(structure, f"cell/a{i}")) for i in (1, 2, 3)]) * BOHR_IN_ANGSTROM,
    )


def _eigenvalues(root: ET.Element) -> np.ndarray:
    """All bands at all k-points, eV."""
    structure = element(root, "output/band_structure")
    lists = structure.findall("ks_energies/eigenvalues")
    bands = [numbers(one) for one in lists]
    if len(lists) != int(value(structure, "nks")):
        raise ValueError("k-points are missing")
    if any(len(values) != int(one.attrib["size"]) for values, one in zip(bands, lists, strict=True)):
        raise ValueError("bands are missing")
    return np.array(bands) * HARTREE_IN_EV
