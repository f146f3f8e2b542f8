"""Electric fields in time, E(t) in V/A with t in fs, as settings files spell them.

Every protocol is a frozen dataclass that is called with a time. In YAML a field is its three components (static) or a
mapping with its ``kind``; numbers are in V/A and fs, text has its unit::

    fields:
      - [0.0, 0.0, 0.01]
      - {kind: sinusoidal, amplitude: [0, 0, 2 MV/cm], period: 10 ps}
      - {kind: tabulated, file: pulse.txt, direction: [0, 0, 1]}
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from pydantic import BeforeValidator, ConfigDict, Field, FiniteFloat, model_validator
from pydantic.dataclasses import dataclass
from scipy.interpolate import CubicSpline

from ...dft_inputs.quantities import FieldStrength, Time

_CLOSED = ConfigDict(extra="forbid")
_Component = Annotated[FieldStrength, Field(allow_inf_nan=False)]
FieldVector = tuple[_Component, _Component, _Component]
Moment = Annotated[Time, Field(allow_inf_nan=False)]
Duration = Annotated[Time, Field(gt=0, allow_inf_nan=False)]


class FieldProtocol(Protocol):
    """A uniform electric field that depends on time."""

    def __call__(self, time_fs: float) -> np.ndarray:
        """Field at a time, V/A, (3,)."""
        ...


@dataclass(frozen=True, config=_CLOSED)
class StaticField:
    """E(t) = vector.

    Attributes:
        vector: V/A.
    """

    vector: FieldVector = (0.0, 0.0, 0.0)
    kind: Literal["static"] = "static"

    def __call__(self, time_fs: float) -> np.ndarray:
        """Field at a time, V/A, (3,)."""
        return np.array(self.vector)


@dataclass(frozen=True, config=_CLOSED)
class SinusoidalField:
    """E(t) = offset + amplitude sin(2 pi t / period + phase).

    Attributes:
        amplitude: V/A.
        period: fs.
        phase: radians; pi/2 makes it a cosine.
        offset: V/A.
    """

    amplitude: FieldVector
    period: Duration
    phase: FiniteFloat = 0.0
    offset: FieldVector = (0.0, 0.0, 0.0)
    kind: Literal["sinusoidal"] = "sinusoidal"

    def __call__(self, time_fs: float) -> np.ndarray:
        """Field at a time, V/A, (3,)."""
        return np.array(self.offset) + np.array(self.amplitude) * np.sin(2 * np.pi * time_fs / self.period + self.phase)


@dataclass(frozen=True, config=_CLOSED)
class RampedField:
    """A linear ramp between two fields, constant before and after.

    Attributes:
        start: field until ``begin``, V/A.
        end: field from ``begin + duration`` on, V/A.
        duration: fs.
        begin: fs.
    """

    start: FieldVector
    end: FieldVector
    duration: Duration
    begin: Moment = 0.0
    kind: Literal["ramped"] = "ramped"

    def __call__(self, time_fs: float) -> np.ndarray:
        """Field at a time, V/A, (3,)."""
        done = min(max((time_fs - self.begin) / self.duration, 0.0), 1.0)
        return (1.0 - done) * np.array(self.start) + done * np.array(self.end)


@dataclass(frozen=True, config=_CLOSED)
class PulsedField:
    """A Gaussian pulse, E(t) = offset + amplitude exp(-(t - centre)^2 / (2 width^2)) cos(2 pi (t - centre) / period).

    Attributes:
        amplitude: V/A.
        centre: time of the maximum, fs.
        width: standard deviation of the envelope, fs.
        period: of the carrier wave, fs; no carrier where it is not given.
        offset: V/A.
    """

    amplitude: FieldVector
    centre: Moment
    width: Duration
    period: Duration | None = None
    offset: FieldVector = (0.0, 0.0, 0.0)
    kind: Literal["pulsed"] = "pulsed"

    def __call__(self, time_fs: float) -> np.ndarray:
        """Field at a time, V/A, (3,)."""
        since = time_fs - self.centre
        carrier = 1.0 if self.period is None else np.cos(2 * np.pi * since / self.period)
        return np.array(self.offset) + np.array(self.amplitude) * np.exp(-0.5 * (since / self.width) ** 2) * carrier


@dataclass(frozen=True, config=_CLOSED)
class TabulatedField:
    """A field between points in time, constant before the first and after the last.

    Attributes:
        times: ascending, fs, (T,).
        vectors: V/A, (T, 3).
        interpolation: ``linear``, or ``cubic`` for the spline through the points whose second derivative is continuous
            (not a knot at the second and the last but one); it can overshoot between them.
    """

    times: tuple[Moment, ...]
    vectors: tuple[FieldVector, ...]
    interpolation: Literal["linear", "cubic"] = "linear"
    kind: Literal["tabulated"] = "tabulated"

    @model_validator(mode="after")
    def _consistent(self) -> TabulatedField:
        if len(self.times) != len(self.vectors):
            raise ValueError(f"{len(self.times)} times for {len(self.vectors)} vectors")
        if len(self.times) < 2 or np.any(np.diff(self.times) <= 0):
            raise ValueError("a table of the field needs two or more times in ascending order")
        return self

    @classmethod
    def from_file(
        cls, path: Path | str, direction: tuple[float, float, float] | None = None, **options: Any
    ) -> TabulatedField:
        """Read columns t (fs), Ex, Ey, Ez (V/A), or t and E along a direction; ``#`` begins a comment.

        Args:
            path: text file.
            direction: of a field of one column; its length does not matter.
            options: ``interpolation``.

        Raises:
            ValueError: no such columns, or no direction for one column.
        """
        try:
            table = np.loadtxt(path, ndmin=2)
        except (OSError, ValueError) as error:
            raise ValueError(f"no table of a field in {path}: {error}") from error
        if table.shape[1] == 4 and direction is None:
            vectors = table[:, 1:]
        elif table.shape[1] == 2 and direction is not None and np.linalg.norm(direction) > 0:
            vectors = table[:, 1:] * np.array(direction) / np.linalg.norm(direction)
        else:
            raise ValueError(
                f"{path} has {table.shape[1]} columns: give t, Ex, Ey, Ez, or t and E with a direction for them"
            )
        rows = tuple((float(x), float(y), float(z)) for x, y, z in vectors)
        return cls(times=tuple(table[:, 0].tolist()), vectors=rows, **options)

    def __call__(self, time_fs: float) -> np.ndarray:
        """Field at a time, V/A, (3,)."""
        times, vectors = self._table
        if time_fs <= times[0] or time_fs >= times[-1]:
            return vectors[0 if time_fs <= times[0] else -1].copy()
        if self._spline is not None:
            return self._spline(time_fs)
        return np.array([np.interp(time_fs, times, vectors[:, axis]) for axis in range(3)])

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array(self.times), np.array(self.vectors)

    @cached_property
    def _spline(self) -> CubicSpline | None:
        return CubicSpline(*self._table) if self.interpolation == "cubic" else None


def peak_field(protocol: FieldProtocol, duration: float, samples: int = 10_001) -> float:
    """Largest |E(t)| of a protocol over a run, on a grid of times, V/A.

    Args:
        protocol: E(t).
        duration: fs.
        samples: times of the grid.
    """
    return max(float(np.linalg.norm(protocol(t))) for t in np.linspace(0, duration, samples))


def _spelled_out(value: Any) -> Any:
    """A bare vector is a static field, a file a table."""
    if isinstance(value, list | tuple | np.ndarray):
        return {"kind": "static", "vector": value}
    if isinstance(value, dict) and value.get("kind") == "tabulated" and "file" in value:
        options = {name: given for name, given in value.items() if name not in ("kind", "file")}
        unknown = set(options) - {"direction", "interpolation"}
        if unknown:
            raise ValueError(f"a table from a file has a direction and an interpolation, not {', '.join(unknown)}")
        return TabulatedField.from_file(value["file"], **options)
    return value


AnyField = Annotated[
    Annotated[StaticField | SinusoidalField | RampedField | PulsedField | TabulatedField, Field(discriminator="kind")],
    BeforeValidator(_spelled_out),
]
"""A field as it stands in a settings file."""
