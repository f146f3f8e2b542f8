"""Why a pw.x run came to nothing: told from its exit status and what it printed, in one line and one kind."""

from __future__ import annotations

import re
import signal
from enum import Enum

from .outputs import failure_reason

_MAKE_ROOM = "make room or set codes.pw.scratch_dir, then run again to resume"
_NO_SPACE = ("No space left on device", "File too large", "Disk quota exceeded")
_FILE_TOO_LARGE = (-signal.SIGXFSZ, 128 + signal.SIGXFSZ)
_DIAGONALIZATION = ("cdiaghg", "c_bands", "cholesky", "not positive definite", "davidson", "diagonaliz")
_ACCURACY = re.compile(r"estimated scf accuracy\s+<\s+(\S+) Ry")
_WALL = re.compile(r"PWSCF\s+:.*CPU\s+(.*?)\s*WALL")
_PARTS = re.compile(r"([\d.]+)\s*([dhms])")
_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_GROWING, _WINDOW = 10, 15
"""Iterations after which a growing, or a stagnating, error counts as hopeless."""


class Failure(Enum):
    """What kept a run from its end, as far as that decides what to do next."""

    SLOW = "the SCF ran out of iterations while it still converged"
    STAGNANT = "the SCF does not converge"
    DIAGONALIZATION = "a diagonalization failed"
    TIME_LIMIT = "stopped at its time limit, with its files written"
    KILLED = "killed by a signal"
    DISK = "the disk is full"
    OTHER = "anything else"


class PwRunError(RuntimeError):
    """A pw.x run failed; one line says how, and its files are kept.

    Attributes:
        kind: what kept it from its end.
    """

    def __init__(self, message: str, kind: Failure = Failure.OTHER) -> None:
        super().__init__(message)
        self.kind = kind


def exit_error(status: int, text: str, stderr: str, *, full: bool, name: str, limit: float | None) -> PwRunError | None:
    """What a run that ended has to be blamed for; None where it ended well.

    Args:
        status: exit status, negative for a signal.
        text: its standard output.
        stderr: its standard error.
        full: its disk is full.
        name: of the point.
        limit: seconds it was given.
    """
    # On a full disk pw.x may end with status 0 and JOB DONE, its wavefunctions cut off.
    if full or status in _FILE_TOO_LARGE or (status and says_disk_full(stderr + text)):
        return disk_full(name)
    if status == 0:
        return None
    killed_by = -status if status < 0 else status - 128 if 128 < status < 160 else 0
    if killed_by:
        return PwRunError(f"pw.x was killed (signal {killed_by}) at {name}", Failure.KILLED)
    if stopped := _stopped(text, name, limit):
        return stopped
    if reason := failure_reason(text):
        return PwRunError(f"{reason} at {name}", _kind(text))
    last = next((line.strip() for line in reversed(stderr.splitlines()) if line.strip()), "no message")
    return PwRunError(f"pw.x failed (exit {status}) at {name}: {last}")


def _stopped(text: str, name: str, limit: float | None) -> PwRunError | None:
    """A run that stopped early with its files written."""
    iterations = len(scf_accuracies(text))
    if "Maximum CPU time exceeded" in text:
        seconds = "" if limit is None else f" of {limit:.4g} s"
        message = f"stopped at its time limit{seconds} at {name} after {iterations} iterations; run again to resume"
        return PwRunError(message, Failure.TIME_LIMIT)
    if "Program stopped by user request" in text:
        if stagnates(text):
            return PwRunError(f"SCF stagnates after {iterations} iterations at {name}", Failure.STAGNANT)
        return PwRunError(f"stopped by request at {name}; run again to resume", Failure.TIME_LIMIT)
    return None


def disk_full(name: str) -> PwRunError:
    """The error of a point whose files do not fit."""
    return PwRunError(f"No space left on device at {name}; {_MAKE_ROOM}", Failure.DISK)


def says_disk_full(text: str) -> bool:
    """A message that a file could not be written for want of space."""
    return any(words in text for words in _NO_SPACE)


def _kind(text: str) -> Failure:
    if "convergence NOT achieved" in text:
        return Failure.STAGNANT if stagnates(text) or not falls(text) else Failure.SLOW
    return Failure.DIAGONALIZATION if any(words in text for words in _DIAGONALIZATION) else Failure.OTHER


def scf_accuracies(text: str) -> list[float]:
    """Estimated energy error of each SCF iteration in an output, Ry."""
    return [float(value) for value in _ACCURACY.findall(text)]


def stagnates(text: str) -> bool:
    """The SCF has stopped converging: the estimated error has grown far, or not halved in many iterations.

    Args:
        text: standard output of pw.x, finished or not.
    """
    accuracies = scf_accuracies(text)
    if len(accuracies) >= _GROWING and min(accuracies[-_GROWING:]) > 100 * min(accuracies):
        return True
    if len(accuracies) < 2 * _WINDOW:
        return False
    return min(accuracies[-_WINDOW:]) > 0.5 * min(accuracies[:-_WINDOW])


def falls(text: str) -> bool:
    """The estimated error still falls: by a third at least over the last iterations."""
    accuracies = scf_accuracies(text)
    half = min(_WINDOW, len(accuracies) // 2)
    return half > 0 and min(accuracies[-half:]) < 0.67 * min(accuracies[:-half])


def wall_seconds(text: str) -> float:
    """Wall time a run printed, s; 0 where it printed none."""
    found = _WALL.findall(text)
    return sum(float(value) * _UNITS[unit] for value, unit in _PARTS.findall(found[-1])) if found else 0.0
