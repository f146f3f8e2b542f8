"""Trajectories: whatever happens to the process, what was written can be read, also while it runs.

A directory holds ``meta.json``, the frames in ``segment_00001.npz``, ``segment_00002.npz``, ..., Born effective charges
in ``responses_00001.npz``, ... and the scalars of every step in ``series.dat``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from ...dft_inputs.records import Frame, Record
from ...dft_inputs.units import BOLTZMANN
from .segments import Arrays, find_segments, joined, load_segment, split_by_replica
from .series import Series, read_rows, series_of
from .settings import DynamicsSettings

META = "meta.json"
FRAMES, RESPONSES = "segment", "responses"


class TrajectoryMeta(Record):
    """What a trajectory is of.

    Attributes:
        frames: where each replica started: species and periodicity hold for the run.
        settings: of the run.
        model_digest: identifies the weights.
    """

    frames: tuple[Frame, ...]
    settings: DynamicsSettings
    model_digest: str
    schema_version: int = 1


@dataclass(frozen=True)
class ReplicaTrajectory:
    """T frames of one replica.

    Attributes:
        start: the frame it started from.
        step: (T,).
        time: fs, (T,).
        positions: unwrapped, A, (T, N, 3).
        velocities: A/fs, (T, N, 3).
        cell: A, (T, 3, 3).
        field: V/A, (T, 3).
        enthalpy: eV, (T,).
        kinetic: eV, (T,).
        polarization: cell dipole, e A, (T, 3).
        conserved: K + U + integral P.dE + energies of bath and cell, eV, (T,).
    """

    start: Frame
    step: np.ndarray
    time: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray
    cell: np.ndarray
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
        return Frame(species=start.species, positions=self.positions[index], cell=self.cell[index], pbc=start.pbc)

    def temperature(self, degrees_of_freedom: int | None = None) -> np.ndarray:
        """Kinetic temperature 2 K / (f k_B), K, (T,).

        Args:
            degrees_of_freedom: f; 3 N where not given, 3 N - 3 is right for NVE with zero total momentum.
        """
        return 2 * self.kinetic / ((degrees_of_freedom or 3 * len(self.start)) * BOLTZMANN)


@dataclass(frozen=True)
class ReplicaResponses:
    """Electric responses of one replica at T moments.

    Attributes:
        step: (T,).
        time: fs, (T,).
        field: V/A, (T, 3).
        born_effective_charges: e, (T, N, 3, 3), index [atom, field a, displacement b].
        polarizability: e^2 A^2/eV, (T, 3, 3).
    """

    step: np.ndarray
    time: np.ndarray
    field: np.ndarray
    born_effective_charges: np.ndarray
    polarizability: np.ndarray

    def __len__(self) -> int:
        return len(self.step)


@dataclass(frozen=True)
class Trajectory:
    """All replicas of a run; segments are read when a replica is asked for.

    Attributes:
        meta: what it is of.
        segments: of frames; files, or arrays in memory.
        response_segments: of Born effective charges and polarizabilities, likewise.
        rows: of the series, see ``series``; a directory where they lie in a file.
    """

    meta: TrajectoryMeta
    segments: tuple[Path | Arrays, ...]
    response_segments: tuple[Path | Arrays, ...]
    rows: Path | np.ndarray

    @property
    def n_replicas(self) -> int:
        """Number of replicas that started."""
        return len(self.meta.frames)

    @property
    def last_step(self) -> int:
        """Step of the last frame; -1 where there is none yet."""
        return int(load_segment(self.segments[-1])["step"][-1]) if self.segments else -1

    def replica(self, index: int) -> ReplicaTrajectory:
        """The frames of one replica."""
        return self.replicas([index])[0]

    def replicas(self, indices: Sequence[int] | None = None) -> list[ReplicaTrajectory]:
        """The frames of several replicas (all by default), reading each segment once."""
        wanted = range(self.n_replicas) if indices is None else indices
        pieces = split_by_replica(self.segments, wanted, self._counts())
        return [self._frames_of(index, pieces[index]) for index in wanted]

    def responses(self, index: int) -> ReplicaResponses:
        """Born effective charges and polarizabilities of one replica, see ``responses_every``."""
        pieces = split_by_replica(self.response_segments, [index], self._counts())[index]
        atoms = len(self.meta.frames[index])
        shapes = {
            **{"step": (), "time": (), "field": (3,)},
            **{"born_effective_charges": (atoms, 3, 3), "polarizability": (3, 3)},
        }
        return ReplicaResponses(**joined(pieces, shapes))

    def series(self, index: int) -> Series:
        """The scalars of one replica, see ``series_every``."""
        return series_of(read_rows(self.rows) if isinstance(self.rows, Path) else self.rows, index)

    def _counts(self) -> list[int]:
        return [len(frame) for frame in self.meta.frames]

    def _frames_of(self, index: int, pieces: list[Arrays]) -> ReplicaTrajectory:
        start = self.meta.frames[index]
        for piece in pieces:
            # Written before cells could move.
            piece.setdefault("cell", np.broadcast_to(start.cell, (len(piece["step"]), 3, 3)))
        scalars = ("step", "time", "enthalpy", "kinetic", "conserved")
        shapes: dict[str, tuple[int, ...]] = {
            **dict.fromkeys(scalars, ()),
            **dict.fromkeys(("positions", "velocities"), (len(start), 3)),
            **{"cell": (3, 3), "field": (3,), "polarization": (3,)},
        }
        return ReplicaTrajectory(start=start, **joined(pieces, shapes))


def read_trajectory(directory: Path | str) -> Trajectory:
    """Open the trajectory of a run, finished or not.

    Args:
        directory: that of ``run_dynamics``, or the folder ``trajectory`` of ``fieldloop md``.

    Raises:
        FileNotFoundError: the directory holds none.
        ValueError: its ``meta.json`` is not one of ours.
    """
    directory = Path(directory)
    meta = read_meta(directory)
    if meta is None:
        raise FileNotFoundError(f"no trajectory in {directory}: {META} is missing")
    frames, responses = (tuple(find_segments(directory, prefix)) for prefix in (FRAMES, RESPONSES))
    return Trajectory(meta, frames, responses, directory)


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
