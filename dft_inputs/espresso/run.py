"""Run pw.x at a point in a directory of its own, resumable and finished at once or not at all."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..attempts import read_attempts
from ..errors import EngineError, Failure, disk_full, is_full, says_disk_full
from ..program import execute
from ..pseudopotentials import Pseudopotential
from .code import PwCode
from .failures import exit_error
from .inputs import PREFIX, SCRATCH
from .namelists import with_keys
from .outputs import STDOUT, XML, PwOutput, PwOutputError, read_pw_output
from .scratch import drop_scratch, make_scratch

INPUT, AS_RUN, STDERR = "pw.in", "as_run.in", "pw.err"
"""``pw.in`` is the point as asked for and names it; ``as_run.in`` is the same but for time limits and remedies."""


def stored_point(directory: Path, text: str) -> PwOutput | None:
    """The finished run in ``directory``, if it is complete, converged and of exactly this input.

    Iterations and time are those of all its attempts.
    """
    try:
        if (directory / INPUT).read_text() != text:
            return None
        return _with_attempts(read_pw_output(directory / STDOUT, directory / XML), directory)
    except (OSError, PwOutputError):
        return None


def ended_point(directory: Path, text: str, code: PwCode) -> PwOutput | None:
    """``stored_point``, or a run that ended as this process was killed before it marked it: it is marked now.

    Args:
        directory: of this point alone, under a lease.
        text: pw.x input.
        code: how to run pw.x.
    """
    if stored := stored_point(directory, text):
        return stored
    try:
        attempts = read_attempts(directory)
        refused = (attempts and attempts[-1].failure) or is_full(*_places(directory)) or _wrong_ranks(directory, code)
        if refused or (directory / INPUT).read_text() != text:
            return None
        return finish_point(directory, name=directory.name)
    except (OSError, EngineError):
        return None


def run_point(
    directory: Path,
    text: str,
    code: PwCode,
    *,
    name: str,
    lease_descriptor: int,
    start_from: Path | None = None,
    prepare: Callable[[Path], None] | None = None,
) -> PwOutput:
    """Run one SCF from scratch in ``directory``, whatever half-finished run it holds, and once only.

    Args:
        directory: of this point alone; emptied first.
        text: pw.x input.
        code: how to run pw.x.
        name: of the point, for messages.
        lease_descriptor: from ``lease``.
        start_from: directory of a finished point whose scratch files this one starts from.
        prepare: called with ``directory`` when these files are there, to change them before the run.

    Raises:
        EngineError: pw.x was killed, failed, did not converge or left no readable output.
        OSError: the disk is full or not writable.
    """
    set_up_point(directory, text, code, name=name, start_from=start_from, prepare=prepare)
    execute_point(directory, text, code, name=name, lease_descriptor=lease_descriptor)
    return finish_point(directory, name=name)


def set_up_point(
    directory: Path,
    text: str,
    code: PwCode,
    *,
    name: str,
    start_from: Path | None = None,
    prepare: Callable[[Path], None] | None = None,
) -> None:
    """Empty the directory of a point and put its input and its first wavefunctions there; see ``run_point``."""
    drop_scratch(directory)
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    try:
        make_scratch(directory, code.scratch_dir)
    except OSError as error:
        raise EngineError(f"cannot write to codes.pw.scratch_dir at {name}: {error}", Failure.DISK) from error
    if start_from is not None:
        _copy_scratch(start_from, directory, name)
    if prepare is not None:
        prepare(directory)
    (directory / INPUT).write_text(text)


def execute_point(
    directory: Path,
    text: str,
    code: PwCode,
    *,
    name: str,
    lease_descriptor: int,
    watch: Callable[[str], bool] | None = None,
) -> None:
    """Run pw.x once in a directory that is set up.

    Args:
        directory: of this point alone.
        text: input to run, which may differ from the point's in the way to convergence.
        code: how to run pw.x.
        name: of the point, for messages.
        lease_descriptor: from ``lease``.
        watch: given the output so far, True where it is useless to go on; pw.x is then asked to stop.

    Raises:
        EngineError: pw.x did not end well.
    """
    limit = code.seconds_left()
    if limit is not None:
        if limit <= 0:
            raise EngineError(f"no time is left in this batch job for {name}; run again to resume", Failure.TIME_LIMIT)
        text = with_keys(text, {"max_seconds": round(limit, 1)})
    (directory / AS_RUN).write_text(text)
    stop = directory / SCRATCH / f"{PREFIX}.EXIT"
    stop.unlink(missing_ok=True)
    status = execute(
        code,
        ["-in", AS_RUN],
        directory,
        (STDOUT, STDERR),
        name=name,
        lease_descriptor=lease_descriptor,
        watch=watch,
        stop=stop.touch,
    )
    texts = (_text(directory / STDOUT), _text(directory / STDERR))
    if error := exit_error(status, *texts, places=_places(directory), name=name, limit=limit):
        raise error
    if wrong := _wrong_ranks(directory, code):
        raise EngineError(
            f"pw.x ran on {wrong} of {code.ranks} ranks at {name}: {code.argv()[0]} is not of the MPI that pw.x "
            "was built with; set codes.pw.launcher to the right one"
        )


def _wrong_ranks(directory: Path, code: PwCode) -> str | None:
    """On how many ranks pw.x ran, where these are not the ones it was given."""
    found = re.search(r"running on\s+(\d+) processor", _text(directory / STDOUT))
    return found[1] if code.ranks > 1 and found and int(found[1]) != code.ranks else None


def finish_point(directory: Path, *, name: str) -> PwOutput:
    """Read a run that ended and mark its point as finished.

    Args:
        directory: of the point.
        name: of the point, for messages.

    Raises:
        EngineError: the output is incomplete or not converged.
    """
    try:
        output = read_pw_output(directory / STDOUT, directory / SCRATCH / f"{PREFIX}.xml")
    except PwOutputError as error:
        if is_full(*_places(directory)):  # pw.x then ends with status 0
            raise disk_full(name, PwCode.section) from error
        raise EngineError(f"no complete output at {name}: {error}") from error
    # The XML at its final place marks the point as finished, so it comes last and at once.
    partial = directory / f"{XML}.part"
    shutil.copyfile(directory / SCRATCH / f"{PREFIX}.xml", partial)
    partial.replace(directory / XML)
    return _with_attempts(output, directory)


def _with_attempts(output: PwOutput, directory: Path) -> PwOutput:
    """The output with the cost of the attempts before it."""
    failed = [attempt for attempt in read_attempts(directory) if attempt.failure]
    return replace(
        output,
        iterations=output.iterations + sum(attempt.iterations for attempt in failed),
        wall_time=output.wall_time + sum(attempt.seconds for attempt in failed),
    )


def link_pseudopotentials(directory: Path, pseudopotentials: dict[str, Pseudopotential]) -> None:
    """Links under ``directory/pseudo``: inputs then hold no absolute path and can be run by hand."""
    folder = directory / "pseudo"
    folder.mkdir(parents=True, exist_ok=True)
    for pseudopotential in pseudopotentials.values():
        link = folder / pseudopotential.path.name
        target = pseudopotential.path.resolve()
        if link.is_symlink() and link.readlink() == target:
            continue  # another run may be reading it
        link.unlink(missing_ok=True)
        link.symlink_to(target)


def _copy_scratch(source: Path, target: Path, name: str) -> None:
    try:
        shutil.copytree(source / SCRATCH, target / SCRATCH, dirs_exist_ok=True)
    except shutil.Error as error:  # one entry per file
        reason = str(error.args[0][0][2])
        if says_disk_full(reason):
            raise disk_full(name, PwCode.section) from error
        raise EngineError(f"cannot copy the files of {source.name} for {name}: {reason}") from error
    (target / SCRATCH / f"{PREFIX}.xml").unlink(missing_ok=True)


def _places(directory: Path) -> tuple[Path, ...]:
    """Where the files of a point lie."""
    return directory, directory / SCRATCH


def _text(path: Path) -> str:
    return path.read_text(errors="replace")
