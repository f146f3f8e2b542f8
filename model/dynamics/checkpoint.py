"""Checkpoints: all that a run needs to go on as if it had never stopped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .files import read_arrays, write_arrays
from .outcomes import ReplicaOutcome
from .state import State, tensor_names

CHECKPOINT = "checkpoint.npz"


@dataclass(frozen=True)
class Checkpoint:
    """A run between two steps.

    Attributes:
        state: of the active replicas.
        active: their indices.
        reference: positions at which their neighbours were listed, A, (N, 3).
        reference_cell: and the cells, A, (A, 3, 3).
        noise_states: of their random generators, bytes; one each.
        noise_block: the block of noise in use.
        outcomes: of the replicas that have ended.
    """

    state: State
    active: tuple[int, ...]
    reference: Tensor
    reference_cell: Tensor
    noise_states: tuple[Tensor, ...]
    noise_block: int
    outcomes: tuple[ReplicaOutcome, ...]

    def save(self, directory: Path) -> None:
        """Write ``checkpoint.npz`` atomically."""
        arrays = {f"state_{name}": _numpy(getattr(self.state, name)) for name in tensor_names()}
        arrays["step"] = np.array(self.state.step)
        arrays["active"] = np.array(self.active, dtype=np.int64)
        arrays["reference"] = _numpy(self.reference)
        arrays["reference_cell"] = _numpy(self.reference_cell)
        arrays["noise_states"] = _stacked(self.noise_states)
        arrays["noise_block"] = np.array(self.noise_block)
        arrays["outcomes"] = np.array(json.dumps([outcome.model_dump(mode="json") for outcome in self.outcomes]))
        write_arrays(directory / CHECKPOINT, arrays)

    @classmethod
    def load(cls, directory: Path, device: torch.device) -> Checkpoint | None:
        """Read the checkpoint of a run; None where there is none.

        Raises:
            ValueError: a checkpoint of another version.
        """
        path = directory / CHECKPOINT
        if not path.exists():
            return None
        arrays = read_arrays(path)
        missing = {"reference_cell", *(f"state_{name}" for name in tensor_names())} - set(arrays)
        if missing:
            raise ValueError(
                f"{path} was written by another version of fieldloop: finish the run with that one, "
                "or begin it again in an empty directory"
            )

        def tensor(name: str) -> Tensor:
            return torch.from_numpy(arrays[name]).to(device)

        return cls(
            state=State(step=int(arrays["step"]), **{name: tensor(f"state_{name}") for name in tensor_names()}),
            active=tuple(arrays["active"].tolist()),
            reference=tensor("reference"),
            reference_cell=tensor("reference_cell"),
            noise_states=tuple(torch.from_numpy(row.copy()) for row in arrays["noise_states"]),
            noise_block=int(arrays["noise_block"]),
            outcomes=tuple(ReplicaOutcome.model_validate(item) for item in json.loads(arrays["outcomes"].item())),
        )


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _stacked(states: Sequence[Tensor]) -> np.ndarray:
    return np.stack([_numpy(state) for state in states]) if states else np.zeros((0, 0), dtype=np.uint8)
