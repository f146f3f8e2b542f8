"""What keeps a DFT run from its end, in one line for people and one kind for whoever decides what to do next."""

from __future__ import annotations

import errno
import shutil
import signal
from collections.abc import Iterable
from enum import Enum
from pathlib import Path

_NO_SPACE = ("No space left on device", "File too large", "Disk quota exceeded")
_FILE_TOO_LARGE = (-signal.SIGXFSZ, 128 + signal.SIGXFSZ)
_FULL = 65536
"""Bytes; a disk with less is full."""


class Failure(Enum):
    """What kept a run from its end, as far as that decides what to do next."""

    SLOW = "the SCF ran out of iterations while it still converged"
    STAGNANT = "the SCF does not converge"
    DIAGONALIZATION = "a diagonalization failed"
    TIME_LIMIT = "stopped at its time limit, with its files written"
    KILLED = "killed by a signal"
    DISK = "the disk is full"
    OTHER = "anything else"


class EngineError(RuntimeError):
    """A run failed, or gave nothing usable; one line says how, and its files are kept.

    Attributes:
        kind: what kept it from its end.
    """

    def __init__(self, message: str, kind: Failure = Failure.OTHER) -> None:
        super().__init__(message)
        self.kind = kind


class ProgramNotFoundError(RuntimeError):
    """A DFT program, or what launches it, is not on this machine; the message says how to get it."""


class DirectoryBusyError(RuntimeError):
    """Another process is labelling in this directory."""


def killed_by(status: int) -> int:
    """The signal that ended a process of this exit status, as the system or a shell tells it; 0 for none."""
    if status < 0:
        return -status
    return status - 128 if 128 < status < 160 else 0


def disk_full(name: str, section: str = "") -> EngineError:
    """The error of a point whose files do not fit.

    Args:
        name: of the point.
        section: of the campaign file that says where its files go, e.g. ``codes.pw``; empty where they lie beside its
            inputs.
    """
    room = f"make room or set {section}.scratch_dir" if section else "make room"
    return EngineError(f"No space left on device at {name}; {room}, then run again to resume", Failure.DISK)


def ran_out_of_space(status: int, text: str, places: Iterable[Path]) -> bool:
    """A run failed for want of space, or may have: some programs end with status 0 on a full disk, files cut off.

    Args:
        status: exit status, negative for a signal.
        text: all that it printed.
        places: where its files lie.
    """
    return status in _FILE_TOO_LARGE or (status != 0 and says_disk_full(text)) or is_full(*places)


def says_disk_full(text: str) -> bool:
    """A message that a file could not be written for want of space."""
    return any(words in text for words in _NO_SPACE)


def is_full(*places: Path) -> bool:
    """The disk of one of these folders, as far as they exist, is full."""
    return any(shutil.disk_usage(place).free < _FULL for place in places if place.exists())


def failure_words(error: Exception) -> str:
    """One line for the record; a full disk has no file to blame."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "No space left on device"
    return " ".join(str(error).split())
