"""Run ABINIT in a directory of its own, with a second attempt where the SCF is slow, and from where it stopped."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..errors import EngineError, Failure, disk_full, killed_by, ran_out_of_space
from ..files import write_atomically
from ..program import execute
from .code import AbinitCode
from .inputs import PREFIX, WAVEFUNCTIONS, restarted
from .outputs import (
    DONE,
    LOG,
    OUTPUT,
    RAW,
    STDERR,
    AbinitOutput,
    AbinitOutputError,
    cost,
    failure_reason,
    netcdf_content,
    ranks_at_work,
    read_abinit_output,
)
from .settings import AbinitSettings

INPUT, AS_RUN = f"{PREFIX}.abi", "as_run.abi"
"""The run as asked for, and the same but for remedies and where it starts."""
_START = "start_WFK"
"""Wavefunctions of an earlier attempt."""
_LONGER, _CAREFUL = 3, 50.0
"""For an SCF that was not done in time: so many more iterations, and the mixing of a smaller gap."""
_SCRAPS = (f"{PREFIX}_OUT.nc", f"{PREFIX}_DDB", f"{PREFIX}_EBANDS.agr", "__ABI_MPIABORTFILE__")


def stored_run(directory: Path, text: str) -> AbinitOutput | None:
    """The finished run in ``directory``, if it is complete, converged and of exactly this input.

    One that ended as this process was killed before it marked it is marked now. Iterations and times are those of all
    attempts.
    """
    try:
        if (directory / INPUT).read_text() != text:
            return None
        return finish(directory)
    except (OSError, AbinitOutputError):
        return None


def set_up(directory: Path, text: str) -> None:
    """Empty the directory of a run and put its input there."""
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    write_atomically(directory / INPUT, text)


def run_to_end(
    directory: Path,
    text: str,
    settings: AbinitSettings,
    code: AbinitCode,
    *,
    name: str,
    lease_descriptor: int,
    hopeless: Callable[[], str | None],
) -> AbinitOutput:
    """Run one SCF, from where an attempt stopped at its time limit or else from its start.

    Args:
        directory: of this run alone.
        text: its input.
        settings: level of theory.
        code: how to run ABINIT.
        name: of the run, for messages.
        lease_descriptor: from ``program.lease``.
        hopeless: why an SCF that did not converge never will, or None.

    Raises:
        EngineError: it failed, was killed or stopped, did not converge or left no readable output.
        OSError: the disk is full or not writable.
    """
    as_run = text
    if _stopped(directory, text):
        as_run = _from_own_wavefunctions(directory, text, {})
    else:
        set_up(directory, text)
    try:
        return _attempt(directory, as_run, code, name, lease_descriptor)
    except EngineError as error:
        if error.kind != Failure.SLOW:
            raise
        if reason := hopeless():
            raise EngineError(reason, Failure.STAGNANT) from error
    remedy = {"nstep": str(_LONGER * settings.nstep), "diemac": repr(_CAREFUL)}
    as_run = _from_own_wavefunctions(directory, text, remedy)
    return _attempt(directory, as_run, code, name, lease_descriptor)


def repair_lines(directory: Path, name: str) -> tuple[str, ...]:
    """What it took to converge a finished run, one line each."""
    slow = [path for path in _attempts(directory) if "not converged" in (failure_reason(path.read_text(), "") or "")]
    return tuple(f"{name}: SCF not converged at first, went on for longer with diemac {_CAREFUL:g}" for _ in slow)


def finish(directory: Path) -> AbinitOutput:
    """Read a run that ended and mark it as finished: its netCDF file, compressed, is the mark.

    Raises:
        AbinitOutputError: the output is incomplete or not converged.
        OSError: the disk is full or not writable.
    """
    output = read_abinit_output(directory)
    if not (directory / DONE).exists():
        write_atomically(directory / DONE, gzip.compress(netcdf_content(directory), mtime=0))
    for scrap in (*_SCRAPS, RAW, _START):
        (directory / scrap).unlink(missing_ok=True)
    earlier = [cost(path.read_text(errors="replace")) for path in _attempts(directory)]
    return replace(
        output,
        iterations=output.iterations + sum(iterations for iterations, _, _ in earlier),
        wall_time=output.wall_time + sum(wall for _, wall, _ in earlier),
        cpu_time=output.cpu_time + sum(cpu for _, _, cpu in earlier),
    )


def _attempt(directory: Path, text: str, code: AbinitCode, name: str, lease_descriptor: int) -> AbinitOutput:
    write_atomically(directory / AS_RUN, text)
    limit = code.seconds_left()
    if limit is not None and limit < 1:
        raise EngineError(f"no time is left in this batch job for {name}; run again to resume", Failure.TIME_LIMIT)
    arguments = [AS_RUN] if limit is None else [AS_RUN, "--timelimit", _slurm_time(limit)]
    status = execute(code, arguments, directory, (LOG, STDERR), name=name, lease_descriptor=lease_descriptor)
    output, log, stderr = (_text(directory / file) for file in (OUTPUT, LOG, STDERR))
    if ran_out_of_space(status, log + stderr, [directory]):
        raise disk_full(name)
    if signal := killed_by(status):
        raise EngineError(f"ABINIT was killed (signal {signal}) at {name}", Failure.KILLED)
    if status:
        reason = failure_reason(output, log) or f"ABINIT failed (exit {status}): {_last_words(stderr)}"
        raise EngineError(f"{reason} at {name}")
    if (ranks := ranks_at_work(output)) not in (None, code.ranks):
        raise EngineError(
            f"ABINIT ran on {ranks} of {code.ranks} ranks at {name}: {code.argv()[0]} is not of the MPI that ABINIT "
            "was built with; set codes.abinit.launcher to the right one"
        )
    return _finished(directory, output, log, name)


def _last_words(stderr: str) -> str:
    """Of a program that died: an error of the Fortran runtime with its place before it, or the last line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [number for number, line in enumerate(lines) if line.startswith("Fortran runtime error")]
    words = lines[max(0, errors[0] - 1) : errors[0] + 1] if errors else lines[-1:]
    return " ".join(words) or "no message"


def _finished(directory: Path, output: str, log: str, name: str) -> AbinitOutput:
    try:
        return finish(directory)
    except AbinitOutputError as error:
        reason = failure_reason(output, log) or ""
        if "time limit" in reason:
            raise EngineError(f"{reason} at {name}; run again to resume", Failure.TIME_LIMIT) from error
        if "not converged" in reason:
            raise EngineError(f"{reason} at {name}", Failure.SLOW) from error
        raise EngineError(f"no complete output at {name}: {error}") from error


def _stopped(directory: Path, text: str) -> bool:
    """An attempt at this very run stopped at its time limit with its wavefunctions written."""
    output = _text(directory / OUTPUT)
    same = _text(directory / INPUT) == text
    return same and "time limit" in (failure_reason(output, "") or "") and (directory / WAVEFUNCTIONS).is_file()


def _from_own_wavefunctions(directory: Path, text: str, changes: dict[str, str]) -> str:
    """Put the attempt aside and return the input that goes on from it."""
    number = len(_attempts(directory)) + 1
    (directory / WAVEFUNCTIONS).replace(directory / _START)
    (directory / OUTPUT).replace(directory / f"attempt{number}.abo")
    (directory / RAW).unlink(missing_ok=True)
    return restarted(text, _START, changes)


def _attempts(directory: Path) -> list[Path]:
    return sorted(directory.glob("attempt*.abo"))


def _slurm_time(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
