"""Run pw.x in a directory of its own: one at a time, never orphaned, resumable point by point.

A lease (flock) on the frame's directory is inherited by pw.x, so it holds for as long as any pw.x lives there, even
where Python was killed. On Linux the kernel kills pw.x when the process that started it dies. Ranks of a launcher
inherit neither and outlive it by a second or two, so their end is awaited too (those on this machine).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import psutil

from ..processes import die_with_parent
from ..pseudopotentials import Pseudopotential
from .code import PwCode
from .inputs import PREFIX, SCRATCH
from .outputs import STDOUT, XML, PwOutput, PwOutputError, failure_reason, read_pw_output
from .phases import FILE as PHASES

INPUT, STDERR, LEASE = "pw.in", "pw.err", ".lease"
_POLL = 0.2
_FULL = 65536
"""Bytes; a disk with less is full."""


class PwRunError(RuntimeError):
    """A pw.x run failed; one line says how, and its files are kept."""


class DirectoryBusyError(RuntimeError):
    """Another process is labelling in this directory."""


@contextmanager
def lease(directory: Path, timeout: float, program: str = "pw.x") -> Iterator[int]:
    """Hold the directory alone; yields the descriptor that children inherit.

    Args:
        directory: made where it is missing.
        timeout: seconds to wait for others to leave.
        program: name of the executable whose stray ranks are awaited.

    Raises:
        DirectoryBusyError: it was still held after ``timeout`` seconds.
    """
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory / LEASE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + timeout
        while not _locked(descriptor) or _strays(directory, program):
            if time.monotonic() > deadline:
                raise DirectoryBusyError(
                    f"another process has been labelling in {directory} for over {timeout:g} s; wait for it to end"
                )
            time.sleep(_POLL)
        yield descriptor
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
    """The finished run in ``directory``, if it is complete, converged and of exactly this input."""
    try:
        if (directory / INPUT).read_text() != text:
            return None
        return read_pw_output(directory / STDOUT, directory / XML)
    except (OSError, PwOutputError):
        return None


def run_point(
    directory: Path,
    text: str,
    code: PwCode,
    *,
    name: str,
    lease_descriptor: int,
    start_from: Path | None = None,
) -> PwOutput:
    """Run one SCF from scratch in ``directory``, whatever half-finished run it holds.

    Args:
        directory: of this point alone; emptied first.
        text: pw.x input.
        code: how to run pw.x.
        name: of the point, for messages.
        lease_descriptor: from ``lease``.
        start_from: directory of a finished point whose scratch files this one starts from.

    Raises:
        PwRunError: pw.x was killed, failed, did not converge or left no readable output.
        OSError: the disk is full or not writable.
    """
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    if start_from is not None:
        _copy_scratch(start_from, directory, name)
    (directory / INPUT).write_text(text)
    code_or_signal = _execute(directory, code, name, lease_descriptor)
    _check_exit(directory, code_or_signal, name)
    try:
        output = read_pw_output(directory / STDOUT, directory / SCRATCH / f"{PREFIX}.xml")
    except PwOutputError as error:
        if shutil.disk_usage(directory).free < _FULL:  # pw.x then ends with status 0
            raise PwRunError(f"No space left on device at {name}") from error
        raise PwRunError(f"no complete output at {name}: {error}") from error
    if start_from is None:
        _keep_phases(directory)
    # The XML at its final place marks the point as finished, so it comes last and at once.
    partial = directory / f"{XML}.part"
    shutil.copyfile(directory / SCRATCH / f"{PREFIX}.xml", partial)
    partial.replace(directory / XML)
    return output


def _keep_phases(directory: Path) -> None:
    """The phases that a run wrote stand beside its output, as labels need them after the scratch files are gone."""
    for file in (directory / SCRATCH).glob(f"{PREFIX}.{PHASES}*"):
        shutil.copyfile(file, directory / file.name.removeprefix(f"{PREFIX}."))


def has_scratch(directory: Path) -> bool:
    """Wavefunctions and density of a finished point are still there to start from."""
    save = directory / SCRATCH / f"{PREFIX}.save"
    return any(save.glob("charge-density.*")) and any(save.glob("wfc*"))


def drop_scratch(directory: Path) -> None:
    """Remove the large files of a point; its input, outputs and phases stay."""
    shutil.rmtree(directory / SCRATCH, ignore_errors=True)


def link_pseudopotentials(directory: Path, pseudopotentials: dict[str, Pseudopotential]) -> None:
    """Links under ``directory/pseudo``: inputs then hold no absolute path and can be run by hand."""
    folder = directory / "pseudo"
    folder.mkdir(parents=True, exist_ok=True)
    for pseudopotential in pseudopotentials.values():
        link = folder / pseudopotential.path.name
        link.unlink(missing_ok=True)
        link.symlink_to(pseudopotential.path.resolve())


def _copy_scratch(source: Path, target: Path, name: str) -> None:
    try:
        shutil.copytree(source / SCRATCH, target / SCRATCH)
    except shutil.Error as error:  # one entry per file
        reason = str(error.args[0][0][2])
        if "No space left on device" in reason:
            raise PwRunError(f"No space left on device at {name}") from error
        raise PwRunError(f"cannot copy the files of {source.name} for {name}: {reason}") from error
    (target / SCRATCH / f"{PREFIX}.xml").unlink(missing_ok=True)


def _execute(directory: Path, code: PwCode, name: str, lease_descriptor: int) -> int:
    """Run pw.x to its end and return its exit status, negative for a signal."""
    with (directory / STDOUT).open("wb") as stdout, (directory / STDERR).open("wb") as stderr:
        process = subprocess.Popen(
            [*code.argv(), "-in", INPUT],
            cwd=directory,
            env=_environment(code),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            pass_fds=(lease_descriptor,),
            start_new_session=True,
            preexec_fn=partial(die_with_parent, os.getpid()),  # noqa: PLW1509  (the hook makes two system calls)
        )
        try:
            return process.wait(timeout=code.timeout)
        except subprocess.TimeoutExpired as error:
            raise PwRunError(f"pw.x exceeded its {code.timeout:g} s at {name}") from error
        finally:
            # Also on KeyboardInterrupt: the whole group, as a launcher has children.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _environment(code: PwCode) -> dict[str, str]:
    """One thread per rank; containers run as root; ranks of two frames must not be bound to the same cores."""
    defaults = {
        "OMP_NUM_THREADS": "1",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_hwloc_base_binding_policy": "none",
    }
    if not code.launcher:
        # A single process needs neither Open MPI's daemon nor its networks, which take 0.3 s to start.
        defaults |= {"OMPI_MCA_ess_singleton_isolated": "1", "OMPI_MCA_btl": "self", "OMPI_MCA_pml": "ob1"}
    return {**os.environ, **defaults, **code.environment}


def _check_exit(directory: Path, status: int, name: str) -> None:
    if status == 0:
        return
    stderr = (directory / STDERR).read_text(errors="replace")
    if "No space left on device" in stderr or shutil.disk_usage(directory).free < _FULL:
        raise PwRunError(f"No space left on device at {name}")
    killed_by = -status if status < 0 else status - 128 if 128 < status < 160 else 0
    if killed_by:
        raise PwRunError(f"pw.x was killed (signal {killed_by}) at {name}")
    if reason := failure_reason((directory / STDOUT).read_text(errors="replace")):
        raise PwRunError(f"{reason} at {name}")
    last = next((line.strip() for line in reversed(stderr.splitlines()) if line.strip()), "no message")
    raise PwRunError(f"pw.x failed (exit {status}) at {name}: {last}")
