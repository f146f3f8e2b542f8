"""Run pw.x in a directory of its own: one at a time, never orphaned, resumable point by point.

A lease (flock) on the frame's directory is inherited by pw.x, so it holds for as long as any pw.x lives there, even
where Python was killed. On Linux the kernel kills pw.x when the process that started it dies. Ranks of a launcher
inherit neither and outlive it by a second or two, so their end is awaited too (those on this machine).
"""

from __future__ import annotations

import fcntl
import math
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil

from ..processes import die_with_parent
from ..pseudopotentials import Pseudopotential
from .attempts import read_attempts
from .code import PwCode
from .failures import Failure, PwRunError, disk_full, exit_error, says_disk_full
from .inputs import PREFIX, SCRATCH
from .namelists import with_keys
from .outputs import STDOUT, XML, PwOutput, PwOutputError, read_pw_output
from .scratch import drop_scratch, has_scratch, make_scratch

__all__ = [
    "DirectoryBusyError", "PwRunError", "drop_scratch", "ended_point", "execute", "execute_point", "finish_point",
    "has_scratch", "lease", "link_pseudopotentials", "run_point", "set_up_point", "stored_point",
]  # fmt: skip

INPUT, AS_RUN, STDERR, LEASE = "pw.in", "as_run.in", "pw.err", ".lease"
"""``pw.in`` is the point as asked for and names it; ``as_run.in`` is the same but for time limits and remedies."""
_POLL = 0.2
_FULL = 65536
"""Bytes; a disk with less is full."""
_WATCH = 2.0
"""Seconds between looks at a run."""


class DirectoryBusyError(RuntimeError):
    """Another process is labelling in this directory."""


@contextmanager
def lease(
    directory: Path,
    timeout: float,
    program: str = "pw.x",
    *,
    part: str = "",
    among: Collection[Path] | None = None,
) -> Iterator[int]:
    """Hold the directory alone, or a part of it among others at work in other parts.

    Args:
        directory: made where it is missing.
        timeout: seconds to wait for others to leave.
        program: name of the executable whose stray ranks are awaited.
        part: name of the part to hold; others may hold other parts, and nobody the whole, for as long.
        among: the folders of the part.

    Yields:
        The descriptor that children inherit.

    Raises:
        DirectoryBusyError: it was still held after ``timeout`` seconds.
    """
    directory.mkdir(parents=True, exist_ok=True)
    files = [(directory / LEASE, fcntl.LOCK_SH if part else fcntl.LOCK_EX)]
    if part:
        files.append((directory / f"{LEASE}-{part}", fcntl.LOCK_EX))
    with ExitStack() as opened:
        locks = [(opened.enter_context(path.open("a")).fileno(), kind) for path, kind in files]
        deadline = time.monotonic() + timeout
        while not all(_locked(*lock) for lock in locks) or any(_strays(f, program) for f in among or [directory]):
            if time.monotonic() > deadline:
                raise DirectoryBusyError(
                    f"another process has been labelling in {directory} for over {timeout:g} s; wait for it to end"
                )
            time.sleep(_POLL)
        yield locks[-1][0]


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _strays(directory: Path, program: str) -> bool:
    """A process of this name works below the directory."""
    home = directory.resolve()
    for process in psutil.process_iter(["name"]):
        with suppress(psutil.Error, OSError):
            at_work = process.info["name"] == program and process.status() != psutil.STATUS_ZOMBIE
            if at_work and Path(process.cwd()).is_relative_to(home):
                return True
    return False


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
        refused = (attempts and attempts[-1].failure) or is_full(directory) or _wrong_ranks(directory, code)
        if refused or (directory / INPUT).read_text() != text:
            return None
        return finish_point(directory, name=directory.name)
    except (OSError, PwRunError):
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
        PwRunError: pw.x was killed, failed, did not converge or left no readable output.
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
        raise PwRunError(f"cannot write to codes.pw.scratch_dir at {name}: {error}", Failure.DISK) from error
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
        PwRunError: pw.x did not end well.
    """
    limit = code.seconds_left()
    if limit is not None:
        if limit <= 0:
            raise PwRunError(f"no time is left in this batch job for {name}; run again to resume", Failure.TIME_LIMIT)
        text = with_keys(text, {"max_seconds": round(limit, 1)})
    (directory / AS_RUN).write_text(text)
    status = execute(directory, code, name, lease_descriptor, watch)
    texts = (_text(directory / STDOUT), _text(directory / STDERR))
    if error := exit_error(status, *texts, full=is_full(directory), name=name, limit=limit):
        raise error
    if wrong := _wrong_ranks(directory, code):
        raise PwRunError(
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
        PwRunError: the output is incomplete or not converged.
    """
    try:
        output = read_pw_output(directory / STDOUT, directory / SCRATCH / f"{PREFIX}.xml")
    except PwOutputError as error:
        if is_full(directory):  # pw.x then ends with status 0
            raise disk_full(name) from error
        raise PwRunError(f"no complete output at {name}: {error}") from error
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
            raise disk_full(name) from error
        raise PwRunError(f"cannot copy the files of {source.name} for {name}: {reason}") from error
    (target / SCRATCH / f"{PREFIX}.xml").unlink(missing_ok=True)


def execute(
    directory: Path,
    code: PwCode,
    name: str,
    lease_descriptor: int,
    watch: Callable[[str], bool] | None = None,
    files: tuple[str, str, str] = (AS_RUN, STDOUT, STDERR),
) -> int:
    """Run a program to its end and return its exit status, negative for a signal.

    Args:
        directory: where it runs.
        code: the program.
        name: of the point, for messages.
        lease_descriptor: from ``lease``.
        watch: given the output so far, True where it is to be asked to stop.
        files: names of its input, standard output and standard error.

    Raises:
        PwRunError: it exceeded the time it is given before it is killed.
    """
    stop = directory / SCRATCH / f"{PREFIX}.EXIT"
    stop.unlink(missing_ok=True)
    with (directory / files[1]).open("wb") as stdout, (directory / files[2]).open("wb") as stderr:
        process = subprocess.Popen(
            [*code.argv(), "-in", files[0]],
            cwd=directory,
            env=_environment(code),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            pass_fds=(lease_descriptor,),
            start_new_session=True,
            preexec_fn=partial(die_with_parent, os.getpid()),  # noqa: PLW1509  (the hook makes two system calls)
        )
        deadline = time.monotonic() + (code.timeout or math.inf)
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    return process.wait(timeout=max(0.0, min(_WATCH, deadline - time.monotonic())))
                if time.monotonic() >= deadline:
                    raise PwRunError(f"{code.program} exceeded its {code.timeout:g} s at {name}")
                if watch is not None and not stop.exists() and watch(_text(directory / files[1])):
                    stop.touch()
        finally:
            # Also on KeyboardInterrupt: the whole group, as a launcher has children.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def is_full(directory: Path) -> bool:
    """The disk of a point or of its scratch files is full."""
    places = [place for place in (directory, directory / SCRATCH) if place.exists()]
    return any(shutil.disk_usage(place).free < _FULL for place in places)


def _text(path: Path) -> str:
    return path.read_text(errors="replace")


def _environment(code: PwCode) -> dict[str, str]:
    """One thread per rank; containers run as root; ranks of two frames must not be bound to the same cores."""
    defaults = {
        "OMP_NUM_THREADS": "1",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_hwloc_base_binding_policy": "none",
    }
    if not code.launch_words:
        # A single process needs neither Open MPI's daemon nor its networks, which take 0.3 s to start. Without the
        # daemon all share one session directory, and two that start at once trip over each other (1 of 120 did).
        defaults |= {"OMPI_MCA_ess_singleton_isolated": "1", "OMPI_MCA_btl": "self", "OMPI_MCA_pml": "ob1"}
        defaults["OMPI_MCA_orte_create_session_dirs"] = "0"
    return {**os.environ, **defaults, **code.environment}
