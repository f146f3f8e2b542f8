"""Read a finished VASP run: OUTCAR, vasprun.xml or both, checked against each other. Never a number from half a run."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..records import Frame
from ..units import KBAR_IN_EV_PER_CUBIC_ANGSTROM
from .inputs import FIELD_SIGN
from .outcar import Outcar, fault, parse_outcar
from .vasprun import Vasprun, parse_vasprun

OUTCAR, VASPRUN = "OUTCAR", "vasprun.xml"
_SAME_ENERGY = 1e-5


class VaspOutputError(RuntimeError):
    """An output of VASP is missing, incomplete, not converged or not of one piece; names file and cause."""


@dataclass(frozen=True)
class VaspOutput:
    """One converged run in the conventions of the project.

    Attributes:
        frame: the geometry in VASP's order of atoms, wrapped into the cell as VASP does.
        field: V/A, (3,), the physical sign.
        enthalpy: as printed, eV; it holds -E.(``electronic_dipole`` + ``ionic_dipole``).
        forces: eV/A, (N, 3). VASP takes the net force out.
        stress: eV/A^3, ASE sign, (3, 3); None in a field, where it is not known what VASP's holds fixed.
        electronic_dipole: of the electrons, e A, (3,): minus p[elc]. None without LCALCPOL.
        ionic_dipole: minus p[ion], e A, (3,). It is no sum of valence times position: VASP leaves out ions close to
            the border of the cell, so P is not made of it.
        born_effective_charges: e, (N, 3, 3), index [atom, field, displacement].
        dielectric_tensor: ion-clamped, (3, 3).
        valences: electrons by element.
        titles: TITEL of the POTCAR by element.
        kpoints: mesh; None where it was not automatic.
        nspin: 1 or 2.
        scf_accuracy: last change of the energy, eV.
        iterations, seconds: the cost.
        version: of VASP.
        steps: geometries of the run; of several, this is the last.
        gap: eV, zero or less for a metal; None where vasprun.xml or empty bands are missing.
    """

    frame: Frame
    field: np.ndarray
    enthalpy: float
    forces: np.ndarray
    stress: np.ndarray | None
    electronic_dipole: np.ndarray | None
    ionic_dipole: np.ndarray | None
    born_effective_charges: np.ndarray | None
    dielectric_tensor: np.ndarray | None
    valences: dict[str, float]
    titles: dict[str, str]
    kpoints: tuple[int, int, int] | None
    nspin: int
    scf_accuracy: float
    iterations: int
    seconds: float
    version: str
    steps: int = 1
    gap: float | None = None

    @property
    def even_valences(self) -> bool:
        """All valences are even integers: moving an ion by a lattice vector moves an even charge."""
        return bool(self.valences) and all(v == round(v) and round(v) % 2 == 0 for v in self.valences.values())


def read_vasp_output(path: Path | str, field_sign: float = FIELD_SIGN) -> VaspOutput:
    """Read one run.

    Numbers come from vasprun.xml, which has more digits, and dipoles from OUTCAR, which alone has them. Where both
    have Born charges, those of OUTCAR count, whose rows are known to be fields.

    Args:
        path: the run's directory, or its OUTCAR or vasprun.xml; gzipped or not.
        field_sign: EFIELD_PEAD over the field; see ``inputs.FIELD_SIGN``.

    Raises:
        VaspOutputError: missing, truncated, failed, unconverged or damaged output, or two files of different runs.
    """
    path = Path(path)
    files = [path] if path.is_file() else [f for name in (OUTCAR, VASPRUN) if (f := _in_directory(path, name))]
    if not files:
        raise VaspOutputError(f"{path}: neither {OUTCAR} nor {VASPRUN} is there, gzipped or not")
    outcar = next((_read_outcar(file) for file in files if OUTCAR in file.name), None)
    # OUTCAR knows better than the count of iterations whether the SCF converged.
    vasprun = next((_read_vasprun(file, outcar is None) for file in files if OUTCAR not in file.name), None)
    if outcar is not None and vasprun is not None:
        if len(outcar.species) != len(vasprun.species) or abs(outcar.energy - vasprun.energy) > _SAME_ENERGY:
            raise VaspOutputError(f"{path}: {OUTCAR} and {VASPRUN} are of different runs")
        return replace(
            _output(vasprun, field_sign),
            electronic_dipole=_negative(outcar.electronic_dipole),
            ionic_dipole=_negative(outcar.ionic_dipole),
            born_effective_charges=vasprun.born if outcar.born is None else outcar.born,
            scf_accuracy=outcar.scf_accuracy,
            seconds=outcar.seconds,
        )
    if outcar is not None:
        return _output(outcar, field_sign)
    assert vasprun is not None  # noqa: S101  (one of them was read)
    return _output(vasprun, field_sign)


def _output(run: Outcar | Vasprun, field_sign: float) -> VaspOutput:
    applied = bool(np.any(run.pead_field))
    outcar = run if isinstance(run, Outcar) else None
    return VaspOutput(
        frame=Frame(species=run.species, positions=run.positions, cell=run.cell),
        field=run.pead_field / field_sign + 0.0,
        enthalpy=run.energy,
        forces=run.forces,
        # VASP prints the force on the cell, which is minus the stress.
        stress=None if run.stress is None or applied else -run.stress * KBAR_IN_EV_PER_CUBIC_ANGSTROM,
        electronic_dipole=_negative(outcar.electronic_dipole) if outcar else None,
        ionic_dipole=_negative(outcar.ionic_dipole) if outcar else None,
        born_effective_charges=run.born,
        dielectric_tensor=run.dielectric,
        valences=run.valences,
        titles=run.titles,
        kpoints=run.kpoints,
        nspin=run.nspin,
        scf_accuracy=run.scf_accuracy,
        iterations=run.iterations,
        seconds=outcar.seconds if outcar else 0.0,
        version=run.version,
        steps=run.steps,
        gap=run.gap if isinstance(run, Vasprun) else None,
    )


def _in_directory(directory: Path, name: str) -> Path | None:
    return next((directory / n for n in (name, f"{name}.gz") if (directory / n).is_file()), None)


def _read_outcar(path: Path) -> Outcar:
    text = _read_text(path)
    if reason := fault(text):
        raise VaspOutputError(f"{path}: {reason}")
    try:
        return parse_outcar(text)
    except (ValueError, IndexError) as error:
        raise VaspOutputError(f"{path}: {error}") from error


def _read_vasprun(path: Path, alone: bool) -> Vasprun:
    try:
        run = parse_vasprun(_read_text(path))
    except (ValueError, IndexError) as error:
        raise VaspOutputError(f"{path}: {error}") from error
    if alone and not run.converged:
        raise VaspOutputError(f"{path}: SCF not converged in {run.iterations} iterations")
    return run


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8", errors="replace")
    except (OSError, EOFError, zlib.error) as error:
        raise VaspOutputError(f"{path}: cannot be read ({error})") from error


def _negative(vector: np.ndarray | None) -> np.ndarray | None:
    return None if vector is None else -vector
