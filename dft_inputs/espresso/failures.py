"""Why a pw.x run came to nothing: told from its exit status and what it printed, in one line and one kind."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ..errors import EngineError, Failure, disk_full, killed_by, ran_out_of_space
from .code import PwCode
from .outputs import failure_reason

_DIAGONALIZATION = ("cdiaghg", "c_bands", "cholesky", "not positive definite", "davidson", "diagonaliz")
_ACCURACY = re.compile(r"estimated scf accuracy\s+<\s+(\S+) Ry")
_WALL = re.compile(r"PWSCF\s+:.*CPU\s+(.*?)\s*WALL")
_PARTS = re.compile(r"([\d.]+)\s*([dhms])")
_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_GROWING, _WINDOW = 10, 15
"""Iterations after which a growing, or a stagnating, error counts as hopeless."""


def exit_error(
    status: int, text: str, stderr: str, *, places: Iterable[Path], name: str, limit: float | None
) -> EngineError | None:
    """What a run that ended has to be blamed for; None where it ended well.

    Args:
        status: exit status, negative for a signal.
        text: its standard output.
        stderr: its standard error.
        places: where its files lie. On a full disk pw.x may end with status 0 and JOB DONE, its wavefunctions cut off.
        name: of the point.
        limit: seconds it was given.
    """
    if ran_out_of_space(status, stderr + text, places):
        return disk_full(name, PwCode.section)
    if status == 0:
        return None
    if signal := killed_by(status):
        return EngineError(f"pw.x was killed (signal {signal}) at {name}", Failure.KILLED)
    if stopped := _stopped(text, name, limit):
        return stopped
    if reason := failure_reason(text):
        return EngineError(f"{reason} at {name}", _kind(text))
    last = next((line.strip() for line in reversed(stderr.splitlines()) if line.strip()), "no message")
    return EngineError(f"pw.x failed (exit {status}) at {name}: {last}")


def _stopped(text: str, name: str, limit: float | None) -> EngineError | None:
    """A run that stopped early with its files written."""
    iterations = len(scf_accuracies(text))
    if "Maximum CPU time exceeded" in text:
        seconds = "" if limit is None else f" of {limit:.4g} s"
        message = f"stopped at its time limit{seconds} at {name} after {iterations} iterations; run again to resume"
        return EngineError(message, Failure.TIME_LIMIT)
    if "Program stopped by user request" in text:
        if stagnates(text):
            return EngineError(f"SCF stagnates after {iterations} iterations at {name}", Failure.STAGNANT)
        return EngineError(f"stopped by request at {name}; run again to resume", Failure.TIME_LIMIT)
    return None


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
