"""Trajectories as closed segments: whatever happens to the process, what was written can be read, also while it runs.

A directory holds ``meta.json`` and ``segment_00001.npz``, ``segment_00002.npz``, ... Each segment is written once,
atomically. The set of replicas is constant within a segment; a replica that stopped is absent from later ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from ...dft_inputs.files import write_atomically
from ...dft_inputs.records import Frame, Record
from ...dft_inputs.units import BOLTZMANN
from .files import read_arrays, write_arrays
from .settings import DynamicsSettings

META = "meta.json"
_PATTERN = "segment_*.npz"


class TrajectoryMeta(Record):
    """What a trajectory is of.

    Attributes:
        frames: where each replica started: species, cell and periodicity hold for the run.
        settings: of the run.
        model_digest: identifies the weights.
    """

    frames: tuple[Frame, ...]
    settings: DynamicsSettings
    model_digest: str
    schema_version: int = 1


@dataclass(frozen=True)
class Segment:
    """T frames of A replicas with N atoms in all.

    Attributes:
        step: (T,).
        time: fs, (T,).
        replicas: index of each replica, (A,).
        positions: unwrapped, A, (T, N, 3), atoms of the replicas one after the other.
        velocities: A/fs, (T, N, 3).
        field: V/A, (T, A, 3).
        enthalpy: eV, (T, A).
        kinetic: eV, (T, A).
        polarization: cell dipole, e A, (T, A, 3).
        conserved: K + U + integral P.dE - heat, eV, (T, A).
    """

    step: np.ndarray
    time: np.ndarray
    replicas: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray
    field: np.ndarray
    enthalpy: np.ndarray
    kinetic: np.ndarray
    polarization: np.ndarray
    conserved: np.ndarray


@dataclass(frozen=True)
class ReplicaTrajectory:
    """T frames of one replica.

    Attributes:
        start: the frame it started from.
        step: (T,).
        time: fs, (T,).
        positions: unwrapped, A, (T, N, 3).
        velocities: A/fs, (T, N, 3).
        field: V/A, (T, 3).
        enthalpy: eV, (T,).
        kinetic: eV, (T,).
        polarization: cell dipole, e A, (T, 3).
        conserved: K + U + integral P.dE - heat, eV, (T,).
    """

    start: Frame
    step: np.ndarray
    time: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray
    field: np.ndarray
    enthalpy: np.ndarray
    kinetic: np.ndarray
    polarization: np.ndarray
    conserved: np.ndarray

    def __len__(self) -> int:
        return len(self.step)

    def frame(self, index: int) -> Frame:
        """The geometry of a frame of the trajectory."""
        start = self.start
        return Frame(species=start.species, positions=self.positions[index], cell=start.cell, pbc=start.pbc)

    def temperature(self, degrees_of_freedom: int | None = None) -> np.ndarray:
        """Kinetic temperature 2 K / (f k_B), K, (T,).

        Args:
            degrees_of_freedom: f; 3 N where not given, 3 N - 3 is right for NVE with zero total momentum.
        """
        return 2 * self.kinetic / ((degrees_of_freedom or 3 * len(self.start)) * BOLTZMANN)


@dataclass(frozen=True)
class Trajectory:
    """All replicas of a run; segments are read when a replica is asked for."""

    meta: TrajectoryMeta
    segments: tuple[Path | Segment, ...]

    @property
    def n_replicas(self) -> int:
        """Number of replicas that started."""
        return len(self.meta.frames)

    @property
    def last_step(self) -> int:
        """Step of the last frame; -1 where there is none yet."""
        return int(_load(self.segments[-1]).step[-1]) if self.segments else -1

    def replica(self, index: int) -> ReplicaTrajectory:
        """The frames of one replica."""
        return self.replicas([index])[0]

    def replicas(self, indices: Sequence[int] | None = None) -> list[ReplicaTrajectory]:
        """The frames of several replicas (all by default), reading each segment once."""
        wanted = range(self.n_replicas) if indices is None else indices
        pieces: dict[int, list[dict[str, np.ndarray]]] = {index: [] for index in wanted}
        for source in self.segments:
            segment = _load(source)
            ends = np.cumsum([len(self.meta.frames[i]) for i in segment.replicas])
            for column, index in enumerate(segment.replicas.tolist()):
                if index in pieces:
                    atoms = slice(ends[column] - len(self.meta.frames[index]), ends[column])
                    pieces[index].append(_one_replica(segment, column, atoms))
        return [self._joined(index, pieces[index]) for index in wanted]

    def _joined(self, index: int, pieces: list[dict[str, np.ndarray]]) -> ReplicaTrajectory:
        start = self.meta.frames[index]
        if not pieces:
            pieces = [_no_frames(len(start))]
        joined = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        return ReplicaTrajectory(start=start, **joined)


def read_trajectory(directory: Path | str) -> Trajectory:
    """Open the trajectory of a run, finished or not.

    Raises:
        FileNotFoundError: the directory holds none.
        ValueError: its ``meta.json`` is not one of ours.
    """
    directory = Path(directory)
    meta = read_meta(directory)
    if meta is None:
        raise FileNotFoundError(f"no trajectory in {directory}: {META} is missing")
    return Trajectory(meta, tuple(sorted(directory.glob(_PATTERN))))


def read_meta(directory: Path) -> TrajectoryMeta | None:
    """What the trajectory in a directory is of; None where there is none."""
    path = directory / META
    if not path.exists():
        return None
    try:
        return TrajectoryMeta.model_validate_json(path.read_text())
    except ValidationError as error:
        raise ValueError(
            f"{path} does not describe a trajectory of this version: {error.errors()[0]['msg']}"
        ) from error


class TrajectoryWriter:
    """Collects frames and closes segments, in a directory or in memory."""

    def __init__(self, directory: Path | None, meta: TrajectoryMeta) -> None:
        """Start or go on with a trajectory.

        Args:
            directory: an existing directory; None keeps the trajectory in memory.
            meta: what it is of.
        """
        self._directory = directory
        self._meta = meta
        self._replicas: np.ndarray = np.zeros(0, dtype=np.int64)
        self._open: list[dict[str, np.ndarray]] = []
        self._closed: list[Path | Segment] = []
        if directory is not None:
            write_atomically(directory / META, meta.model_dump_json())
            self._closed = [*sorted(directory.glob(_PATTERN))]

    def append(self, replicas: Sequence[int], frame: dict[str, np.ndarray]) -> None:
        """Add one moment of the replicas: the arrays of ``Segment`` without their leading T."""
        self._replicas = np.array(replicas, dtype=np.int64)
        self._open.append(frame)
        if len(self._open) >= self._meta.settings.segment_frames:
            self.close_segment()

    def close_segment(self) -> None:
        """Write what has been collected; nothing happens where there is none."""
        if not self._open:
            return
        arrays = {name: np.stack([frame[name] for frame in self._open]) for name in self._open[0]}
        arrays["replicas"] = self._replicas
        if self._directory is None:
            self._closed.append(Segment(**arrays))
        else:
            path = self._directory / f"segment_{len(self._closed) + 1:05d}.npz"
            write_arrays(path, arrays)
            self._closed.append(path)
        self._open = []

    def truncate(self, step: int) -> None:
        """Remove the segments that begin after a step (segments are closed at every checkpoint, so none straddles)."""
        while self._closed and _load(self._closed[-1]).step[0] > step:
            last = self._closed.pop()
            if isinstance(last, Path):
                last.unlink()

    def trajectory(self) -> Trajectory:
        """What has been written."""
        return Trajectory(self._meta, tuple(self._closed))


_PER_ATOM = ("positions", "velocities")


def _load(source: Path | Segment) -> Segment:
    return source if isinstance(source, Segment) else Segment(**read_arrays(source))


def _one_replica(segment: Segment, column: int, atoms: slice) -> dict[str, np.ndarray]:
    piece = {"step": segment.step, "time": segment.time}
    for name in _PER_ATOM:
        piece[name] = getattr(segment, name)[:, atoms]
    for field in fields(segment):
        if field.name not in (*piece, "replicas"):
            piece[field.name] = getattr(segment, field.name)[:, column]
    return piece


def _no_frames(n_atoms: int) -> dict[str, np.ndarray]:
    scalars = ("time", "enthalpy", "kinetic", "conserved")
    return {
        "step": np.zeros(0, dtype=np.int64),
        **{name: np.zeros(0) for name in scalars},
        **{name: np.zeros((0, n_atoms, 3)) for name in _PER_ATOM},
        **{name: np.zeros((0, 3)) for name in ("field", "polarization")},
    }
