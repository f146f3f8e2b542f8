"""Closed segments: arrays of a run over several moments, each file written once and atomically.

The set of replicas is constant within a segment; a replica that stopped is absent from later ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .files import read_arrays, write_arrays

Arrays = dict[str, np.ndarray]

_PER_ATOM = ("positions", "velocities", "born_effective_charges")
_PER_MOMENT = ("step", "time")


class SegmentWriter:
    """Collects moments and closes segments, in a directory or in memory."""

    def __init__(self, directory: Path | None, prefix: str, most_moments: int) -> None:
        """Start or go on with the segments in a directory.

        Args:
            directory: an existing one; None keeps the segments in memory.
            prefix: files are ``prefix_00001.npz``, ``prefix_00002.npz``, ...
            most_moments: of a segment.
        """
        self._directory, self._prefix, self._most_moments = directory, prefix, most_moments
        self._replicas: np.ndarray = np.zeros(0, dtype=np.int64)
        self._open: list[Arrays] = []
        self.closed: list[Path | Arrays] = [] if directory is None else [*find_segments(directory, prefix)]

    def append(self, replicas: Sequence[int], moment: Arrays) -> None:
        """Add one moment of the replicas: arrays without their leading T."""
        self._replicas = np.array(replicas, dtype=np.int64)
        self._open.append(moment)
        if len(self._open) >= self._most_moments:
            self.close()

    def close(self) -> None:
        """Write what has been collected; nothing happens where there is none."""
        if not self._open:
            return
        arrays = {name: np.stack([moment[name] for moment in self._open]) for name in self._open[0]}
        arrays["replicas"] = self._replicas
        if self._directory is None:
            self.closed.append(arrays)
        else:
            path = self._directory / f"{self._prefix}_{len(self.closed) + 1:05d}.npz"
            write_arrays(path, arrays)
            self.closed.append(path)
        self._open = []

    def truncate(self, step: int) -> None:
        """Remove the segments that begin after a step (segments are closed at every checkpoint, so none straddles)."""
        while self.closed and load_segment(self.closed[-1])["step"][0] > step:
            last = self.closed.pop()
            if isinstance(last, Path):
                last.unlink()


def find_segments(directory: Path, prefix: str) -> list[Path]:
    """The segments in a directory, in order."""
    return sorted(directory.glob(f"{prefix}_*.npz"), key=lambda path: int(path.stem.rpartition("_")[2]))


def load_segment(source: Path | Arrays) -> Arrays:
    """The arrays of a segment: (T, ...) each, and the indices of its replicas (A,)."""
    return read_arrays(source) if isinstance(source, Path) else source


def split_by_replica(
    sources: Sequence[Path | Arrays], wanted: Sequence[int], counts: Sequence[int]
) -> dict[int, list[Arrays]]:
    """What the segments hold of each replica, reading each segment once.

    Args:
        sources: the segments.
        wanted: indices of replicas.
        counts: atoms of every replica of the run.
    """
    pieces: dict[int, list[Arrays]] = {index: [] for index in wanted}
    for source in sources:
        segment = load_segment(source)
        replicas = segment["replicas"]
        ends = np.cumsum([counts[i] for i in replicas])
        for column, index in enumerate(replicas.tolist()):
            if index in pieces:
                atoms = slice(ends[column] - counts[index], ends[column])
                pieces[index].append(_one_replica(segment, column, atoms))
    return pieces


def joined(pieces: Sequence[Arrays], empty: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Pieces one after the other; without any, arrays of no moment with these shapes."""
    if not pieces:
        return {
            name: np.zeros((0, *shape), dtype=np.int64 if name == "step" else float) for name, shape in empty.items()
        }
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in empty}


def _one_replica(segment: Arrays, column: int, atoms: slice) -> Arrays:
    piece = {}
    for name, array in segment.items():
        if name in _PER_MOMENT:
            piece[name] = array
        elif name != "replicas":
            piece[name] = array[:, atoms] if name in _PER_ATOM else array[:, column]
    return piece
