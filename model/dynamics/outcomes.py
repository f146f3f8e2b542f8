"""How the replicas of a run ended."""

from __future__ import annotations

from typing import Literal

from ...dft_inputs.records import Frame, Record, Vector


class ReplicaOutcome(Record):
    """How a replica ended.

    Attributes:
        replica: its index.
        status: ``finished``, ``exploded`` or ``stopped`` (by the observer).
        reason: one line.
        step: of its last good frame.
        time: of its last good frame, fs.
        frame: its last good frame.
        field: at that time, V/A, (3,).
        temperature: of its thermostat, K.
    """

    replica: int
    status: Literal["finished", "exploded", "stopped"]
    reason: str = ""
    step: int
    time: float
    frame: Frame
    field: Vector
    temperature: float
