"""Writes what a run leaves behind: frames, responses and the series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...dft_inputs.files import write_atomically
from ..responses import Responses
from .integrators import Integrator
from .segments import SegmentWriter
from .series import ROW, SeriesWriter
from .state import State
from .trajectory import FRAMES, META, RESPONSES, Trajectory, TrajectoryMeta


class Recorder:
    """Records the moments of a run as its settings say, in a directory or in memory."""

    def __init__(self, directory: Path | None, meta: TrajectoryMeta) -> None:
        """Start or go on.

        Args:
            directory: an existing directory; None keeps everything in memory.
            meta: what the run is.
        """
        self._directory, self._meta = directory, meta
        most = meta.settings.segment_frames
        self._frames = SegmentWriter(directory, FRAMES, most)
        self._responses = SegmentWriter(directory, RESPONSES, most)
        self._series = SeriesWriter(directory)
        if directory is not None:
            write_atomically(directory / META, meta.model_dump_json())

    def truncate(self, step: int) -> None:
        """Remove what lies after a step."""
        for writer in (self._frames, self._responses, self._series):
            writer.truncate(step)

    def record(self, replicas: Sequence[int], state: State, integrator: Integrator) -> None:
        """The row and the frame of a moment, where they are due."""
        settings = self._meta.settings
        row_due, frame_due = state.step % settings.series_every == 0, state.step % settings.save_every == 0
        if not (row_due or frame_due):
            return
        conserved = integrator.conserved(state)
        kinetic = integrator.particles.kinetic_energy(state.velocities)
        if row_due:
            self._series.append(self._rows(replicas, state, integrator, kinetic, conserved))
        if frame_due:
            tensors = {
                "positions": state.positions,
                "velocities": state.velocities,
                "cell": state.cell,
                "field": state.field,
                "enthalpy": state.enthalpy,
                "kinetic": kinetic,
                "polarization": state.polarization,
                "conserved": conserved,
            }
            self._frames.append(replicas, self._moment(state, tensors))

    def record_responses(self, replicas: Sequence[int], state: State, out: Responses) -> None:
        """Born effective charges and polarizabilities of a moment."""
        if out.born_effective_charges is None or out.polarizability is None:
            raise ValueError("these responses hold no Born effective charges")
        tensors = {
            "field": state.field,
            "born_effective_charges": out.born_effective_charges,
            "polarizability": out.polarizability,
        }
        self._responses.append(replicas, self._moment(state, tensors))

    def close_segments(self) -> None:
        """Close what is open, as the set of replicas changes."""
        self._frames.close()
        self._responses.close()

    def flush(self) -> None:
        """Bring everything to the disk."""
        self.close_segments()
        self._series.flush(durable=True)

    def trajectory(self) -> Trajectory:
        """What has been written."""
        rows = self._series.rows() if self._directory is None else self._directory
        return Trajectory(self._meta, tuple(self._frames.closed), tuple(self._responses.closed), rows)

    def _rows(
        self, replicas: Sequence[int], state: State, integrator: Integrator, kinetic: Tensor, conserved: Tensor
    ) -> np.ndarray:
        rows = np.zeros(len(replicas), dtype=ROW)
        rows["step"], rows["replica"] = state.step, replicas
        rows["time"] = self._time(state)
        pressure = torch.full_like(kinetic, torch.nan)
        if integrator.barostat is not None:
            pressure = integrator.barostat.internal_pressure(state.velocities, state.stress, state.cell)
        scalars = {
            "enthalpy": state.enthalpy,
            "kinetic": kinetic,
            "conserved": conserved,
            "temperature": integrator.particles.temperature(kinetic),
            "volume": state.volume,
            "pressure": pressure,
        }
        # One transfer from the device.
        values = _numpy(torch.cat([state.field, state.polarization, torch.stack(list(scalars.values()), 1)], 1))
        rows["field"], rows["polarization"] = values[:, :3], values[:, 3:6]
        for name, column in zip(scalars, values[:, 6:].T, strict=True):
            rows[name] = column
        return rows

    def _moment(self, state: State, tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
        arrays = {name: _numpy(tensor) for name, tensor in tensors.items()}
        return {"step": np.array(state.step), "time": np.array(self._time(state)), **arrays}

    def _time(self, state: State) -> float:
        return state.step * self._meta.settings.timestep


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
