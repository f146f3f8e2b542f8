"""Run ph.x on the files of a finished SCF: resumable after a time limit, finished at once or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

from ...errors import EngineError, Failure, disk_full, is_full, killed_by, says_disk_full
from ...program import execute
from ..code import PwCode
from ..inputs import PREFIX, SCRATCH
from ..outputs import PwOutputError
from .outputs import STDOUT, XML, PhOutput, ph_failure, read_ph_output

INPUT, AS_RUN, STDERR = "ph.in", "as_run.in", "ph.err"
_LEFTOVERS = "_ph0"
_TIME_LIMIT = "Maximum CPU time exceeded"


def stored_response(directory: Path, text: str) -> PhOutput | None:
    """The finished run in ``directory``, if it is complete, converged and of exactly this input."""
    try:
        return read_ph_output(directory) if (directory / INPUT).read_text() == text else None
    except (OSError, PwOutputError):
        return None


def run_response(directory: Path, scf: Path, text: str, code: PwCode, lease_descriptor: int) -> PhOutput:
    """Run ph.x in ``directory``; one that stopped at its time limit goes on from its last iteration.

    Args:
        directory: of the response.
        scf: directory of the finished SCF, with its scratch files.
        text: ph.x input.
        code: with ph.x as its program.
        lease_descriptor: from ``lease``.

    Raises:
        EngineError: ph.x was killed, failed, did not converge or left no readable output.
    """
    resumed = _stopped_in_time(directory, text) and any((scf / SCRATCH / _LEFTOVERS).glob(f"{PREFIX}.recover*"))
    if not resumed:
        shutil.rmtree(directory, ignore_errors=True)
        shutil.rmtree(scf / SCRATCH / _LEFTOVERS, ignore_errors=True)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / INPUT).write_text(text)
    (directory / AS_RUN).write_text(_as_run(text, code.seconds_left(), resumed))
    status = execute(
        code, ["-in", AS_RUN], directory, (STDOUT, STDERR), name=directory.name, lease_descriptor=lease_descriptor
    )
    _check(directory, status, code.program)
    tensors = scf / SCRATCH / _LEFTOVERS / f"{PREFIX}.phsave" / XML
    try:
        output = read_ph_output(directory / STDOUT, tensors)
    except PwOutputError as error:
        raise EngineError(f"no complete output at {directory.name}: {error}") from error
    # The XML at its final place marks the run as finished, so it comes last and at once.
    part = directory / f"{XML}.part"
    shutil.copyfile(tensors, part)
    part.replace(directory / XML)
    return output


def _stopped_in_time(directory: Path, text: str) -> bool:
    try:
        same = (directory / INPUT).read_text() == text
        return same and _TIME_LIMIT in (directory / STDOUT).read_text(errors="replace")
    except OSError:
        return False


def _as_run(text: str, limit: float | None, resumed: bool) -> str:
    """The input with what does not change the numbers."""
    if limit is not None and limit <= 0:
        raise EngineError("no time is left in this batch job for the response; run again to resume", Failure.TIME_LIMIT)
    more = ["   recover          = .true.\n"] if resumed else []
    more += [f"   max_seconds      = {limit:.1f}\n"] if limit is not None else []
    return text.replace("&INPUTPH\n", "&INPUTPH\n" + "".join(more), 1)


def _check(directory: Path, status: int, program: str) -> None:
    """ph.x ends with status 1 where it did not converge and where it stopped in time, printing JOB DONE in both."""
    text, stderr = ((directory / name).read_text(errors="replace") for name in (STDOUT, STDERR))
    name = directory.name
    if status != 0 and (is_full(directory, directory / SCRATCH) or says_disk_full(stderr + text)):
        raise disk_full(name, PwCode.section)
    if signal := killed_by(status):
        raise EngineError(f"{program} was killed (signal {signal}) at {name}", Failure.KILLED)
    if _TIME_LIMIT in text:
        raise EngineError(f"{program} stopped at its time limit; run again to resume", Failure.TIME_LIMIT)
    if reason := ph_failure(text):
        last = next((line.strip() for line in reversed(stderr.splitlines()) if line.strip()), "") if status else ""
        raise EngineError(f"{reason} at {name}{f' (exit {status}: {last})' if last else ''}")
