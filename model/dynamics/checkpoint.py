"""Checkpoints: all that a run needs to go on as if it had never stopped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .files import read_arrays, write_arrays
from .integrators import State
from .outcomes import ReplicaOutcome

CHECKPOINT = "checkpoint.npz"


@dataclass(frozen=True)
class Checkpoint:
    """A run between two steps.

    Attributes:
        state: of the active replicas.
        active: their indices.
        reference: positions at which their neighbours were listed, A, (N, 3).
        noise_states: of their random generators, bytes; one each.
        noise_block: the block of noise in use.
        outcomes: of the replicas that have ended.
    """

    state: State
    active: tuple[int, ...]
    reference: Tensor
    noise_states: tuple[Tensor, ...]
    noise_block: int
    outcomes: tuple[ReplicaOutcome, ...]

    def save(self, directory: Path) -> None:
        """Write ``checkpoint.npz`` atomically."""
        arrays = {
            f"state_{f.name}": _numpy(getattr(self.state, f.name)) for f in fields(self.state) if f.name != "step"
        }
        arrays["step"] = np.array(self.state.step)
        arrays["active"] = np.array(self.active, dtype=np.int64)
        arrays["reference"] = _numpy(self.reference)
        arrays["noise_states"] = _stacked(self.noise_states)
        arrays["noise_block"] = np.array(self.noise_block)
        arrays["outcomes"] = np.array(json.dumps([outcome.model_dump(mode="json") for outcome in self.outcomes]))
        write_arrays(directory / CHECKPOINT, arrays)

    @classmethod
    def load(cls, directory: Path, device: torch.device) -> Checkpoint | None:
        """Read the checkpoint of a run; None where there is none."""
        path = directory / CHECKPOINT
        if not path.exists():
            return None
        arrays = read_arrays(path)

        def tensor(name: str) -> Tensor:
            return torch.from_numpy(arrays[name]).to(device)

        state = {f.name: tensor(f"state_{f.name}") for f in fields(State) if f.name != "step"}
        return cls(
            state=State(step=int(arrays["step"]), **state),
            active=tuple(arrays["active"].tolist()),
            reference=tensor("reference"),
            noise_states=tuple(torch.from_numpy(row.copy()) for row in arrays["noise_states"]),
            noise_block=int(arrays["noise_block"]),
            outcomes=tuple(ReplicaOutcome.model_validate(item) for item in json.loads(arrays["outcomes"].item())),
        )


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _stacked(states: Sequence[Tensor]) -> np.ndarray:
    return np.stack([_numpy(state) for state in states]) if states else np.zeros((0, 0), dtype=np.uint8)
