"""Batched molecular dynamics in electric fields that may depend on time."""

from .checkpoint import ReplicaOutcome
from .engine import DynamicsResult, Observation, Progress, run_dynamics
from .fields import AnyField, FieldProtocol, PulsedField, RampedField, SinusoidalField, StaticField
from .settings import DynamicsSettings
from .trajectory import ReplicaTrajectory, Trajectory, read_trajectory

__all__ = [
    "AnyField",
    "DynamicsResult",
    "DynamicsSettings",
    "FieldProtocol",
    "Observation",
    "Progress",
    "PulsedField",
    "RampedField",
    "ReplicaOutcome",
    "ReplicaTrajectory",
    "SinusoidalField",
    "StaticField",
    "Trajectory",
    "read_trajectory",
    "run_dynamics",
]
