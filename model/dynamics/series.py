"""Scalars of a run, every step: one row per replica and moment in a file that only grows.

``series.dat`` holds rows of ``ROW``, nothing else, so that it can be read while it is written, and after a kill -9:

    rows = np.fromfile("series.dat", dtype=fieldloop.model.dynamics.series.ROW)
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SERIES = "series.dat"
_FLUSH_ROWS = 256

ROW = np.dtype(
    [
        ("step", "<i8"),
        ("replica", "<i8"),
        ("time", "<f8"),
        ("field", "<f8", (3,)),
        ("polarization", "<f8", (3,)),
        ("enthalpy", "<f8"),
        ("kinetic", "<f8"),
        ("conserved", "<f8"),
        ("temperature", "<f8"),
        ("volume", "<f8"),
        ("pressure", "<f8"),
    ]
)
"""A row of the file."""


@dataclass(frozen=True)
class Series:
    """T moments of one replica.

    Attributes:
        step: (T,).
        time: fs, (T,).
        field: V/A, (T, 3).
        polarization: cell dipole, e A, (T, 3).
        enthalpy: U(R, h, E), eV, (T,).
        kinetic: of the atoms, eV, (T,).
        conserved: K + U + integral P.dE + energies of bath and cell, eV, (T,).
        temperature: 2 K / (f k_B) with the degrees of freedom f of the ensemble, K, (T,).
        volume: A^3, (T,).
        pressure: internal, at what is held, eV/A^3, (T,); NaN in a fixed cell.
    """

    step: np.ndarray
    time: np.ndarray
    field: np.ndarray
    polarization: np.ndarray
    enthalpy: np.ndarray
    kinetic: np.ndarray
    conserved: np.ndarray
    temperature: np.ndarray
    volume: np.ndarray
    pressure: np.ndarray

    def __len__(self) -> int:
        return len(self.step)


def series_of(rows: np.ndarray, replica: int) -> Series:
    """The moments of one replica among rows of all."""
    own = rows[rows["replica"] == replica]
    return Series(**{name: np.ascontiguousarray(own[name]) for name in ROW.names or () if name != "replica"})


def read_rows(directory: Path | str) -> np.ndarray:
    """All rows of a run, finished or not, in order of steps; none where there is no file."""
    path = Path(directory) / SERIES
    if not path.exists():
        return np.zeros(0, dtype=ROW)
    return np.fromfile(path, dtype=ROW, count=path.stat().st_size // ROW.itemsize)


class SeriesWriter:
    """Appends rows, in a directory or in memory."""

    def __init__(self, directory: Path | None) -> None:
        """Start or go on with a series; None keeps it in memory."""
        self._path = None if directory is None else directory / SERIES
        self._waiting: list[np.ndarray] = []
        self._kept: list[np.ndarray] = []

    def append(self, rows: np.ndarray) -> None:
        """Add the rows of one moment, (A,) of ``ROW``."""
        self._waiting.append(rows)
        if sum(map(len, self._waiting)) >= _FLUSH_ROWS:
            self.flush()

    def flush(self, *, durable: bool = False) -> None:
        """Hand waiting rows to the operating system; ``durable`` waits until they are on the disk."""
        rows, self._waiting = self._waiting, []
        if self._path is None:
            self._kept += rows
            return
        with self._path.open("ab") as handle:
            handle.write(b"".join(row.tobytes() for row in rows))
            if durable:
                handle.flush()
                os.fsync(handle.fileno())

    def truncate(self, step: int) -> None:
        """Remove the rows after a step, and a torn one at the end."""
        if self._path is None or not self._path.exists():
            return
        rows = self._path.stat().st_size // ROW.itemsize
        steps = np.memmap(self._path, dtype=ROW, mode="r", shape=(rows,))["step"] if rows else np.zeros(0)
        kept = int(np.searchsorted(steps, step, side="right"))
        with self._path.open("r+b") as handle:
            handle.truncate(kept * ROW.itemsize)

    def rows(self) -> np.ndarray:
        """All rows written."""
        self.flush()
        if self._path is not None:
            return read_rows(self._path.parent)
        self._kept = [np.concatenate(self._kept)] if self._kept else []
        return self._kept[0] if self._kept else np.zeros(0, dtype=ROW)
