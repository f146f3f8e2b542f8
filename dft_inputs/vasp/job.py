"""The VASP runs of one label: INCAR, POSCAR, KPOINTS and POTCAR of each, one run or two, and what they say.

A run at zero field comes first, and all others start from its WAVECAR. Each is on a Berry-phase branch of its own.
"""

from __future__ import annotations

import math
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..attempts import Attempt, read_attempts, repair_lines, write_attempts
from ..engine import FieldJob, FieldRun
from ..errors import EngineError, Failure, disk_full, is_full
from ..files import write_atomically
from ..insulators import strong_field
from ..program import execute
from ..pseudopotentials import Pseudopotential
from ..records import ElectricResponse, Provenance
from .code import VaspCode
from .failures import complains, complaint, exit_error
from .inputs import Incar, field_incar, incar_text, input_texts, planned_provenance, write_inputs
from .labels import check_conventions
from .outputs import at_field, electrons_per_quantum, vasp_point
from .potcars import potcar_content
from .results import VaspOutputError
from .run_output import OUTCAR, VASPRUN, read_vasp_output
from .settings import NEUTRAL_TAGS, VaspSettings

REQUEST, DONE = "request.txt", "done"
"""What determines the numbers of a point, which names it (INCAR is as run), and the mark of a finished one."""
_STREAMS = ("vasp.out", "vasp.err")
_START = "WAVECAR"
_LARGE = (_START, "CHG", "CHGCAR", "WAVEDER", "TMPCAR")
_STOP = "STOPCAR"


@dataclass(frozen=True, kw_only=True)
class VaspJob(FieldJob):
    """One frame to label, with all that its runs need."""

    one_branch: ClassVar[bool] = False

    settings: VaspSettings
    code: VaspCode
    potcars: dict[str, Pseudopotential]

    def provenance(self) -> Provenance:
        """What is known before anything is run."""
        return planned_provenance(self.settings, self.stencil, self.potcars)

    def write(self, name: str) -> None:
        """Empty the directory of a run and put its inputs there, and the wavefunctions at zero field."""
        folder = self.folder(name)
        if folder.exists():
            shutil.rmtree(folder)
        write_inputs(folder, self.frame, self.settings, self._incar(name))
        write_atomically(self.directory / "POTCAR", potcar_content(self.potcars))
        (folder / "POTCAR").symlink_to("../POTCAR")
        for source in self.sources(name):
            try:
                shutil.copyfile(self.folder(source) / _START, folder / _START)
            except FileNotFoundError as error:
                raise EngineError(f"no start for {name}: the {_START} of {source} is gone") from error
        write_atomically(folder / REQUEST, self._request(name))

    def run(self, name: str, lease_descriptor: int) -> FieldRun:
        """Make a run; where its SCF does not converge, once more from where it stopped, by another algorithm."""
        if not self._resumable(name):
            self.write(name)
        try:
            return self._attempt(name, Attempt(), lease_descriptor)
        except EngineError as error:
            if error.kind not in (Failure.STAGNANT, Failure.DIAGONALIZATION):
                raise
            if hopeless := self._hopeless(name):
                raise EngineError(f"{error}: {hopeless}", error.kind) from error
            return self._second(name, lease_descriptor, error)

    def read(self, name: str) -> FieldRun | None:
        """A finished run of exactly this input."""
        folder = self.folder(name)
        attempts = read_attempts(folder)
        if not self._requested(name) or (attempts and attempts[-1].failure):
            return None
        try:
            run = self._said(name)
        except (OSError, EngineError):
            return None
        write_atomically(folder / DONE, "")  # a kill may have come before the mark
        return run

    def sources(self, name: str) -> tuple[str, ...]:
        """VASP converges zero field before it switches a field on, so all runs start from there."""
        return () if name == self.first else (self.first,)

    def has_files(self, name: str) -> bool:
        """Wavefunctions to start from."""
        return (self.folder(name) / _START).is_file()

    def drop_files(self, name: str) -> None:
        """Remove wavefunctions and densities."""
        for file in _LARGE:
            (self.folder(name) / file).unlink(missing_ok=True)

    def verify(self, response: ElectricResponse) -> None:
        """Refuse another sign of the field, and forces without it."""
        check_conventions(response)

    def _incar(self, name: str, changes: Mapping[str, str | float] | None = None) -> Incar:
        return {**field_incar(self.settings, self.fields[name]), **(changes or {})}

    def _request(self, name: str) -> str:
        incar = {tag: value for tag, value in self._incar(name).items() if tag not in NEUTRAL_TAGS}
        texts = input_texts(self.frame, self.settings, incar)
        files = "".join(f"{element} {one.sha256}\n" for element, one in self.potcars.items())
        return "".join((f"label {self.label_id}, point {name}\n", *texts.values(), files))

    def _resumable(self, name: str) -> bool:
        """An attempt at exactly this input stopped at its time limit and left its wavefunctions."""
        folder = self.folder(name)
        attempts = read_attempts(folder)
        return bool(attempts) and attempts[-1].resumable and self._requested(name) and self.has_files(name)

    def _requested(self, name: str) -> bool:
        try:
            return (self.folder(name) / REQUEST).read_text() == self._request(name)
        except OSError:
            return False

    def _second(self, name: str, lease_descriptor: int, first: EngineError) -> FieldRun:
        """All bands at once, which changes the way to convergence alone."""
        changes: dict[str, str | float] = {"ALGO": "All", "NELM": str(2 * self.settings.nelm)}
        write_atomically(self.folder(name) / "INCAR", incar_text(self._incar(name, changes)))
        attempt = Attempt(remedy="all bands at once", changes=changes)
        try:
            return self._attempt(name, attempt, lease_descriptor)
        except EngineError as error:
            if error.kind is Failure.TIME_LIMIT:
                raise
            raise EngineError(f"{first}, nor with {attempt.remedy}: {error}", error.kind) from error

    def _attempt(self, name: str, attempt: Attempt, lease_descriptor: int) -> FieldRun:
        """Run VASP once in a directory that is set up; what goes wrong is kept beside the output."""
        folder, started = self.folder(name), time.monotonic()
        before = read_attempts(folder)
        if before:
            write_attempts(folder, (*before, attempt))
        try:
            run = self._execute(name, lease_descriptor)
        except EngineError as error:
            cost = {"iterations": _iterations(folder), "seconds": time.monotonic() - started}
            stopped = {"failure": str(error), "resumable": error.kind is Failure.TIME_LIMIT}
            write_attempts(folder, (*before, attempt.model_copy(update={**cost, **stopped})))
            raise
        write_atomically(folder / DONE, "")
        return run

    def _execute(self, name: str, lease_descriptor: int) -> FieldRun:
        folder, limit = self.folder(name), self.code.seconds_left()
        if limit is not None and limit <= 0:
            message = f"no time is left in this batch job for {name}; run again to resume"
            raise EngineError(message, Failure.TIME_LIMIT)
        deadline = math.inf if limit is None else time.monotonic() + limit
        (folder / _STOP).unlink(missing_ok=True)
        stopped = False

        def stop() -> None:
            """VASP then ends with its files written, and may take this one away."""
            nonlocal stopped
            stopped = True
            write_atomically(folder / _STOP, "LABORT = .TRUE.\n")

        status = execute(
            self.code,
            (),
            folder,
            _STREAMS,
            name=name,
            lease_descriptor=lease_descriptor,
            watch=lambda _: time.monotonic() > deadline,
            stop=stop,
        )
        stdout, stderr = ((folder / file).read_text(errors="replace") for file in _STREAMS)
        if error := exit_error(status, stdout, stderr, self.code, folder, name):
            raise error
        try:
            return self._said(name)
        except VaspOutputError as error:
            raise self._output_error(name, error, stdout, stderr, stopped=stopped) from error

    def _output_error(
        self, name: str, error: VaspOutputError, stdout: str, stderr: str, *, stopped: bool
    ) -> EngineError:
        """What an output that cannot be used means for its point; ``stopped`` where VASP was asked to stop."""
        folder = self.folder(name)
        if is_full(folder):
            return disk_full(name)
        if error.kind is not Failure.STAGNANT:
            words = complaint(stdout, stderr) if complains(stdout) else str(error)
            return EngineError(f"no complete output at {name}: {words}")
        iterations = _iterations(folder)
        if stopped:
            message = f"stopped at its time limit at {name} after {iterations} iterations; run again to resume"
            return EngineError(message, Failure.TIME_LIMIT)
        return EngineError(f"SCF not converged in {iterations} iterations at {name}", Failure.STAGNANT)

    def _hopeless(self, name: str) -> str | None:
        """Why no remedy helps: too strong a field for the mesh; or None."""
        zero = None if name == self.first else self.read(self.first)
        if zero is None or zero.gap is None:
            return None
        return strong_field(self.fields[name], zero.gap, self.frame.cell, self.settings.mesh)

    def _said(self, name: str) -> FieldRun:
        """What a run says.

        Raises:
            VaspOutputError: not whole, another field, structure or mesh than the one asked for, or no dipole.
        """
        folder = self.folder(name)
        if not (folder / VASPRUN).is_file():  # which has more digits than OUTCAR, and the gap
            raise VaspOutputError(f"{folder}: there is no {VASPRUN}")
        output = at_field(read_vasp_output(folder), self.fields[name], folder)
        if output.kpoints != self.settings.mesh:
            raise VaspOutputError(f"{folder}: its mesh is {output.kpoints}, not {self.settings.mesh}")
        point = vasp_point(name, output, self.frame, folder)
        before = [attempt for attempt in read_attempts(folder) if attempt.failure]
        cost = {
            "scf_iterations": output.iterations + sum(attempt.iterations for attempt in before),
            "seconds": output.seconds + sum(attempt.seconds for attempt in before),
        }
        return FieldRun(
            point=point.model_copy(update=cost),
            gap=None if self.fields[name].any() else output.gap,
            version=output.version,
            cpu_seconds=output.cpu_seconds,
            electrons_per_quantum=electrons_per_quantum(output),
            repairs=repair_lines(folder, name),
        )


def _iterations(folder: Path) -> int:
    """Of the SCF, finished or not."""
    try:
        return len(re.findall(r"-+ Iteration\s+\d+\(", (folder / OUTCAR).read_text(errors="replace")))
    except OSError:
        return 0
