"""Read VASP runs: OUTCAR, vasprun.xml or both, checked against each other. Never a number from half an SCF."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import Failure
from .inputs import FIELD_SIGN
from .outcar import parse_outcar
from .results import RunSteps, VaspOutput, VaspOutputError
from .vasprun import parse_vasprun

OUTCAR, VASPRUN = "OUTCAR", "vasprun.xml"
_SAME_ENERGY = 1e-5


def read_vasp_output(path: Path | str, field_sign: float = FIELD_SIGN) -> VaspOutput:
    """Read one finished run; of several geometries the last counts.

    Args:
        path: the run's directory, or its OUTCAR or vasprun.xml; gzipped or not.
        field_sign: EFIELD_PEAD over the field; see ``inputs.FIELD_SIGN``.

    Raises:
        VaspOutputError: missing, truncated, failed, unconverged or damaged output, or two files of different runs.
    """
    run = read_vasp_steps(path, field_sign)
    if run.fault:
        raise VaspOutputError(run.fault)
    last = run.outputs[-1]
    if last.step in run.unconverged:
        raise VaspOutputError(f"{path}: SCF not converged in {last.iterations} iterations", Failure.STAGNANT)
    return last


def read_vasp_steps(path: Path | str, field_sign: float = FIELD_SIGN) -> RunSteps:
    """Read all whole geometries of a run, be it a relaxation or dynamics that was cut off.

    Numbers come from vasprun.xml, which has more digits, and dipoles from OUTCAR, which alone has them. Where both
    have Born charges, those of OUTCAR count, whose rows are known to be fields. What ends of itself is told by OUTCAR,
    and by it alone whether an SCF converged, where it is there.

    Args:
        path: the run's directory, or its OUTCAR or vasprun.xml; gzipped or not.
        field_sign: EFIELD_PEAD over the field.

    Raises:
        VaspOutputError: missing or damaged output, not one whole geometry, or two files of different runs.
    """
    path = Path(path)
    files = [path] if path.is_file() else [f for name in (OUTCAR, VASPRUN) if (f := _in_directory(path, name))]
    if not files:
        raise VaspOutputError(f"{path}: neither {OUTCAR} nor {VASPRUN} is there, gzipped or not")
    outcar = next((_parsed(file, parse_outcar, field_sign) for file in files if OUTCAR in file.name), None)
    if outcar is not None and outcar.fault:  # the other file is then no whole XML
        if outcar.outputs:
            return outcar
        raise VaspOutputError(outcar.fault)
    vasprun = next((_parsed(file, parse_vasprun, field_sign) for file in files if OUTCAR not in file.name), None)
    if vasprun is None or outcar is None or not outcar.outputs:
        run = vasprun or outcar
        if run is None or not run.outputs:
            raise VaspOutputError(f"{path}: NWRITE = 0 leaves forces out of {OUTCAR}, and there is no {VASPRUN}")
        return run
    pairs = list(zip(outcar.outputs, vasprun.outputs, strict=False))
    if len(outcar.outputs) != len(vasprun.outputs) or not all(_same(*pair) for pair in pairs):
        raise VaspOutputError(f"{path}: {OUTCAR} and {VASPRUN} are of different runs")
    return replace(outcar, outputs=tuple(_merged(*pair) for pair in pairs))


def _same(outcar: VaspOutput, vasprun: VaspOutput) -> bool:
    same_energy = abs(outcar.enthalpy - vasprun.enthalpy) <= _SAME_ENERGY
    return len(outcar.frame) == len(vasprun.frame) and same_energy


def _merged(outcar: VaspOutput, vasprun: VaspOutput) -> VaspOutput:
    born = vasprun.born_effective_charges if outcar.born_effective_charges is None else outcar.born_effective_charges
    return replace(
        vasprun,
        # Whether vasprun.xml names it depends on the version of VASP.
        field=vasprun.field if np.any(vasprun.field) else outcar.field,
        stress=None if np.any(outcar.field) else vasprun.stress,
        electronic_dipole=outcar.electronic_dipole,
        ionic_dipole=outcar.ionic_dipole,
        born_effective_charges=born,
        scf_accuracy=outcar.scf_accuracy,
        seconds=outcar.seconds,
        cpu_seconds=outcar.cpu_seconds,
    )


def _in_directory(directory: Path, name: str) -> Path | None:
    return next((directory / n for n in (name, f"{name}.gz") if (directory / n).is_file()), None)


def _parsed(path: Path, parse: Callable[[str, float], RunSteps], field_sign: float) -> RunSteps:
    """One file, its fault with its name."""
    try:
        run = parse(_read_text(path), field_sign)
    except (ValueError, IndexError) as error:
        raise VaspOutputError(f"{path}: {error}") from error
    return replace(run, fault=run.fault and f"{path}: {run.fault}")


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8", errors="replace")
    except (OSError, EOFError, zlib.error) as error:
        raise VaspOutputError(f"{path}: cannot be read ({error})") from error
