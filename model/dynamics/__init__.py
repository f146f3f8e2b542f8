"""Batched molecular dynamics in electric fields that may depend on time.

The names are loaded on first use, so that settings and trajectories can be read without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine import DynamicsResult, run_dynamics
    from .fields import AnyField, FieldProtocol, PulsedField, RampedField, SinusoidalField, StaticField, TabulatedField
    from .observation import Observation, Observer, Progress
    from .outcomes import ReplicaOutcome
    from .series import Series
    from .settings import DynamicsSettings
    from .trajectory import ReplicaResponses, ReplicaTrajectory, Trajectory, read_trajectory

__all__ = [
    "AnyField",
    "DynamicsResult",
    "DynamicsSettings",
    "FieldProtocol",
    "Observation",
    "Observer",
    "Progress",
    "PulsedField",
    "RampedField",
    "ReplicaOutcome",
    "ReplicaResponses",
    "ReplicaTrajectory",
    "Series",
    "SinusoidalField",
    "StaticField",
    "TabulatedField",
    "Trajectory",
    "read_trajectory",
    "run_dynamics",
]

_FILES = {
    "ReplicaOutcome": "outcomes",
    "DynamicsResult": "engine",
    "run_dynamics": "engine",
    "Observation": "observation",
    "Observer": "observation",
    "Progress": "observation",
    "Series": "series",
    "DynamicsSettings": "settings",
    "ReplicaResponses": "trajectory",
    "ReplicaTrajectory": "trajectory",
    "Trajectory": "trajectory",
    "read_trajectory": "trajectory",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its file on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_FILES.get(name, 'fields')}", __name__), name)
