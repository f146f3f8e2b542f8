"""Why a VASP run came to nothing: told from its exit status and what it printed, in one line and one kind."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import EngineError, Failure, disk_full, killed_by, ran_out_of_space
from .code import VaspCode

_WORDS = re.compile(r"error|forrtl|refuse|not implemented|incompatible|failed|cannot|abort|no such file", re.IGNORECASE)
_DIAGONALIZATION = ("EDDDAV", "EDDRMM", "ZHEGV", "PSSYEVX", "Sub-Space-Matrix", "ZPOTRF", "ZHEEV")
_FRAME = re.compile(r"^[\s|*!-]+|[\s|*!-]+$")


def exit_error(status: int, stdout: str, stderr: str, code: VaspCode, folder: Path, name: str) -> EngineError | None:
    """What a run has to be blamed for by the way it ended; None where its output may be read.

    Args:
        status: exit status, negative for a signal.
        stdout, stderr: what it printed.
        code: the program.
        folder: where its files lie.
        name: of the point.
    """
    if ran_out_of_space(status, stdout + stderr, (folder,)):
        return disk_full(name)
    if signal := killed_by(status):
        return EngineError(f"{code.program} was killed (signal {signal}) at {name}", Failure.KILLED)
    if status == 0:
        return None
    return EngineError(f"{code.program} failed (exit {status}) at {name}: {complaint(stdout, stderr)}", kind_of(stdout))


def complaint(stdout: str, stderr: str) -> str:
    """The line in which VASP says what is wrong; its last words where it does not."""
    lines = [_FRAME.sub("", line) for line in (*stdout.splitlines(), *stderr.splitlines())]
    lines = [line for line in lines if line]
    said = next((line for line in lines if _WORDS.search(line)), None)
    return said or (lines[-1] if lines else "no message")


def complains(stdout: str) -> bool:
    """It says that something is wrong: VASP may end with status 0 even so."""
    return any(_WORDS.search(line) for line in stdout.splitlines())


def kind_of(stdout: str) -> Failure:
    """A failed diagonalization may be helped by another algorithm."""
    return Failure.DIAGONALIZATION if any(word in stdout for word in _DIAGONALIZATION) else Failure.OTHER
