"""Read a finished ABINIT run: its netCDF file, its output and its log, checked against each other.

The netCDF file (``GSR.nc``, which is HDF5) gives full precision, in Hartree units; the output says that the run ended
and converged; the log has the Berry phase of every k-string. Whatever two of them say must agree, so a file left over
from another run, a lost line or a damaged number is noticed. Never a number from half a run.

ABINIT 9.6.2 in a field, measured on AlAs: the Kohn-Sham energy, P and forces belong together (dH/dE = -P to 1e-7 e A,
d2H/dE2 = -dP/dE to 1e-6, F = -dH/du and dF/dE = dP/du within their finite differences), with H = U_KS - E.P of the
final Berry phases. Its own electric energy, and so its total energy, is another: the -E.P in it is not that of the
final phases (6 to 21 % of alpha in the second difference), and P is folded into [-1, 1] there. So H is made here. The
stress is that at fixed E.a_i, without the Maxwell stress. The net force is removed. See docs/results/engines.md.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from ..branches import string_counts
from ..units import BOHR_IN_ANGSTROM, HARTREE_FIELD_IN_V_PER_ANGSTROM, HARTREE_IN_EV
from .inputs import PREFIX

OUTPUT, LOG, STDERR = f"{PREFIX}.abo", f"{PREFIX}.log", f"{PREFIX}.err"
RAW, DONE = f"{PREFIX}_GSR.nc", f"{PREFIX}_GSR.nc.gz"
"""The netCDF file as ABINIT leaves it (two megabytes of blanks), and in its place when the run is finished."""
_VOIGT = ((0, 5, 4), (5, 1, 3), (4, 3, 2))
_ERROR = re.compile(r"--- !(?:ERROR|BUG)\n.*?message: \|\n(.*?)\n\.\.\.", re.DOTALL)
_STRINGS = re.compile(r"istr\s+polberry\(istr\)(.*?)\n\s+total\s", re.DOTALL)
# Warnings may stand between the heading and the strings.
_STRING = re.compile(r"^\s+\d+\s+(-?\d\.\d+E[+-]\d+)$", re.MULTILINE)
_PHASE = re.compile(r"Electronic Berry phase\s+(\S+)")
_ENERGY = re.compile(r"^ ETOT\s*\d+\s+(\S+)\s+(\S+)", re.MULTILINE)
_FIELD = re.compile(r"final values:\s*\n \(a\. u\.\)\s*\n\s+E:\s+(\S+)\s+(\S+)\s+(\S+)")
_FORCE = re.compile(r"cartesian forces \(hartree/bohr\) at end:\s*\n((?:\s+\d+(?:\s+\S+){3}\s*\n)+)")
_VERSION = re.compile(r"^\.Version\s+(\S+)\s+of ABINIT", re.MULTILINE)
_TIMES = re.compile(r"\+Overall time at end \(sec\) : cpu=\s*(\S+)\s+wall=\s*(\S+)")
_RANKS = re.compile(r"mpi_nproc:\s*(\d+)")
_LOG_END = re.compile(r"--- !FinalSummary\n(?:.*\n)*?\.\.\.\n")
_STOPPED = "Approaching time limit"


class AbinitOutputError(RuntimeError):
    """An output of ABINIT is missing, incomplete, not converged or not of one piece; names file and cause."""


@dataclass(frozen=True)
class AbinitOutput:
    """One converged SCF.

    Attributes:
        cell: lattice vectors as rows, A, (3, 3).
        positions: Cartesian, A, (N, 3).
        atomic_numbers: (N,).
        charges: valence of each atom, e, (N,).
        field: V/A, (3,).
        energy: Kohn-Sham energy, without any -E.P, eV.
        forces: -dH/dR at fixed field, eV/A, (N, 3).
        stress: at fixed E.a_i, ASE sign, eV/A^3, (3, 3).
        electronic_phases: electronic P in e along the lattice vectors, mean of the strings, (3,).
        string_phases: of each k-string, for the three lattice vectors, e; a few digits less.
        phase_change: of ``electronic_phases`` in the last SCF iteration, (3,), None without a field.
        eigenvalues: eV, (k-points, bands).
        energy_change: of the last SCF iteration, eV.
        ecut: Ha.
        kpoints: mesh.
        fft_grid: points of the density grid along the lattice vectors.
        iterations: of the SCF.
        wall_time: s; ``cpu_time``: of one rank, s.
        version: of ABINIT.
    """

    cell: np.ndarray
    positions: np.ndarray
    atomic_numbers: np.ndarray
    charges: np.ndarray
    field: np.ndarray
    energy: float
    forces: np.ndarray
    stress: np.ndarray
    electronic_phases: np.ndarray
    string_phases: tuple[np.ndarray, np.ndarray, np.ndarray]
    phase_change: np.ndarray | None
    eigenvalues: np.ndarray
    energy_change: float
    ecut: float
    kpoints: tuple[int, int, int]
    fft_grid: tuple[int, int, int]
    iterations: int
    wall_time: float
    cpu_time: float
    version: str


def read_abinit_output(directory: Path) -> AbinitOutput:
    """Read the run in a directory.

    Raises:
        AbinitOutputError: missing, truncated, failed, unconverged or damaged output, or files of different runs.
    """
    output, log = _text(directory / OUTPUT), _text(directory / LOG)
    check_finished(output, log, directory / OUTPUT)
    try:
        with h5py.File(io.BytesIO(netcdf_content(directory)), "r") as gsr:
            found = _assemble(gsr, output, log)
            reason = _disagreement(found, gsr, output)
    except (OSError, KeyError, ValueError, IndexError, TypeError, AttributeError, RuntimeError) as error:
        raise AbinitOutputError(f"{directory}: an expected entry is missing or broken ({error})") from error
    if reason:
        raise AbinitOutputError(f"{directory}: {reason}")
    return found


def netcdf_content(directory: Path) -> bytes:
    """The netCDF file of a run, finished or just ended.

    Raises:
        AbinitOutputError: it is not there, or broken.
    """
    raw, done = directory / RAW, directory / DONE
    try:
        return gzip.decompress(done.read_bytes()) if done.exists() else raw.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise AbinitOutputError(f"{done if done.exists() else raw}: cannot be read ({error})") from error


def check_finished(output: str, log: str, path: Path) -> None:
    """ABINIT ends well after an unconverged run too, so both are asked for.

    Raises:
        AbinitOutputError: the run failed, did not converge or did not end.
    """
    if reason := failure_reason(output, log):
        raise AbinitOutputError(f"{path}: {reason}")
    ended = "Calculation completed." in output and _TIMES.search(output) and _LOG_END.search(log)
    if "=>converged" not in output or not ended:
        raise AbinitOutputError(f"{path}: incomplete output, the run did not end")


def failure_reason(output: str, log: str) -> str | None:
    """Why ABINIT stopped, from its output and log; None where nothing is said."""
    if _STOPPED in output:
        return "stopped at its time limit"
    if "SCF cycles to converge" in output:
        return f"SCF not converged in {len(_ENERGY.findall(output))} iterations"
    if match := _ERROR.search(log):
        return f"ABINIT stopped: {' '.join(match[1].split())}"
    return None


def ranks_at_work(output: str) -> int | None:
    """On how many ranks ABINIT says that it ran."""
    found = _RANKS.search(output)
    return int(found[1]) if found else None


def cost(output: str) -> tuple[int, float, float]:
    """SCF iterations, wall and CPU seconds of a run, as far as its output tells."""
    times = _TIMES.search(output)
    return len(_ENERGY.findall(output)), float(times[2]) if times else 0.0, float(times[1]) if times else 0.0


def read_string_phases(directory: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Berry phase of each k-string of a finished run, for the three lattice vectors, e.

    Raises:
        AbinitOutputError: the log is missing or broken.
    """
    try:
        return _string_phases(_text(directory / LOG))
    except (ValueError, IndexError) as error:
        raise AbinitOutputError(f"{directory / LOG}: no Berry phases of k-strings ({error})") from error


def read_eigenvalues(directory: Path) -> np.ndarray:
    """Eigenvalues of a run, converged or not, eV, (k-points, bands).

    Raises:
        AbinitOutputError: the netCDF file is missing or broken.
    """
    try:
        with h5py.File(io.BytesIO(netcdf_content(directory)), "r") as gsr:
            return _array(gsr, "eigenvalues")[0] * HARTREE_IN_EV
    except (OSError, KeyError, IndexError) as error:
        raise AbinitOutputError(f"{directory / RAW}: no eigenvalues ({error})") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        raise AbinitOutputError(f"{path}: cannot be read ({error})") from error


def _array(gsr: h5py.File, name: str) -> np.ndarray:
    return np.array(gsr[name], dtype=float)


def _assemble(gsr: h5py.File, output: str, log: str) -> AbinitOutput:
    cell = _array(gsr, "primitive_vectors") * BOHR_IN_ANGSTROM
    kinds = np.array(gsr["atom_species"], dtype=int) - 1
    version = _VERSION.search(output)
    iterations, wall_time, cpu_time = cost(output)
    grid = [len(gsr[f"number_of_grid_points_vector{axis}"]) for axis in (1, 2, 3)]  # type: ignore[arg-type]
    mesh = [int(n) for n in _array(gsr, "monkhorst_pack_folding")]
    field = _FIELD.search(output)
    phases = _PHASE.findall(log)
    changes = None
    if field:
        # After each iteration, and once more at the end.
        changes = np.array(phases[-3:], dtype=float) - np.array(phases[-9:-6], dtype=float)
        changes -= 2 * np.rint(changes / 2)
    one, two, three = _string_phases(log)
    return AbinitOutput(
        cell=cell,
        positions=_array(gsr, "reduced_atom_positions") @ cell,
        atomic_numbers=np.array(gsr["atomic_numbers"], dtype=float).astype(int)[kinds],
        charges=_array(gsr, "zionpsp")[kinds],
        field=np.array(field.groups() if field else (0, 0, 0), dtype=float) * HARTREE_FIELD_IN_V_PER_ANGSTROM,
        energy=float(_array(gsr, "etotal") - _array(gsr, "e_elecfield")) * HARTREE_IN_EV,
        forces=_array(gsr, "cartesian_forces") * HARTREE_IN_EV / BOHR_IN_ANGSTROM,
        stress=_array(gsr, "cartesian_stress_tensor")[np.array(_VOIGT)] * HARTREE_IN_EV / BOHR_IN_ANGSTROM**3,
        electronic_phases=_array(gsr, "reduced_electronic_polarization"),
        string_phases=(one, two, three),
        phase_change=changes,
        eigenvalues=_array(gsr, "eigenvalues")[0] * HARTREE_IN_EV,
        energy_change=float(_array(gsr, "deltae")) * HARTREE_IN_EV,
        ecut=float(_array(gsr, "kinetic_energy_cutoff")),
        kpoints=(mesh[0], mesh[1], mesh[2]),
        fft_grid=(grid[0], grid[1], grid[2]),
        iterations=iterations,
        wall_time=wall_time,
        cpu_time=cpu_time,
        version=version[1] if version else "",
    )


def _string_phases(log: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    blocks = [np.array(_STRING.findall(block), float) for block in _STRINGS.findall(log)]
    one, two, three = blocks[-3:]
    return one, two, three


def _disagreement(found: AbinitOutput, gsr: h5py.File, output: str) -> str | None:
    """What the netCDF file, the output and the log do not agree on; None where all is well."""
    energies = _ENERGY.findall(output)
    total = float(_array(gsr, "etotal"))
    if not energies or abs(float(energies[-1][0]) - total) > 1e-10 * max(1.0, abs(total)):
        return f"{OUTPUT} and {RAW} disagree on the total energy"
    printed = _FORCE.findall(output)
    rows = np.array([line.split()[1:] for line in printed[-1].splitlines()] if printed else [], dtype=float)
    in_hartree = found.forces * BOHR_IN_ANGSTROM / HARTREE_IN_EV
    if rows.shape != in_hartree.shape or np.abs(rows - in_hartree).max() > 1e-8:
        return f"{OUTPUT} and {RAW} disagree on the forces"
    phases = np.array(_PHASE.findall(output)[-3:], dtype=float)
    if phases.shape != (3,) or np.abs(phases - found.electronic_phases).max() > 1e-8:
        return f"{OUTPUT} and {RAW} disagree on the Berry phases"
    for strings, phase, count in zip(found.string_phases, phases, string_counts(found.kpoints), strict=True):
        # Each string counts 2 e, and the mean is folded by 2 e.
        apart = (strings.mean() - phase) * count / 2
        if len(strings) != count or abs(apart - round(apart)) > 1e-6 * count:
            return f"{LOG} and {RAW} disagree on the Berry phases"
    arrays = (found.forces, found.stress, found.energy, found.eigenvalues, found.positions)
    return None if all(np.isfinite(array).all() for array in arrays) else f"{RAW} has numbers that are none"
