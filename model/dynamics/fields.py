"""Electric fields in time, E(t) in V/A with t in fs, as settings files spell them.

Every protocol is a frozen dataclass that is called with a time. In YAML a field is its three components (static) or a
mapping with its ``kind``; numbers are in V/A and fs, text has its unit::

    fields:
      - [0.0, 0.0, 0.01]
      - {kind: sinusoidal, amplitude: [0, 0, 2 MV/cm], period: 10 ps}
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Protocol

import numpy as np
from pydantic import BeforeValidator, ConfigDict, Field, FiniteFloat
from pydantic.dataclasses import dataclass

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
    """E(t) = vector."""

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


def _bare_vector_is_static(value: Any) -> Any:
    return {"kind": "static", "vector": value} if isinstance(value, list | tuple | np.ndarray) else value


AnyField = Annotated[
    Annotated[StaticField | SinusoidalField | RampedField | PulsedField, Field(discriminator="kind")],
    BeforeValidator(_bare_vector_is_static),
]
"""A field as it stands in a settings file."""
