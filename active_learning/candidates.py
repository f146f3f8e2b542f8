"""Frames that a run met, with what the models thought of them: what a selection chooses from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..dft_inputs.records import Frame, Proposal
from ..model.dynamics.files import read_arrays, write_arrays
from .labels import BOUNDED


@dataclass(frozen=True)
class Candidates:
    """Frames met by a run with the committee's raw spread at the field of the run.

    Attributes:
        frames: the geometries.
        proposals: where each was met.
        descriptors: learned, (n, D).
        spreads: by label name, (n,).
    """

    frames: Sequence[Frame]
    proposals: Sequence[Proposal]
    descriptors: np.ndarray
    spreads: Mapping[str, np.ndarray]

    def save(self, path: Path) -> None:
        """Write an ``.npz`` file atomically."""
        arrays = {f"spread_{name}": values for name, values in self.spreads.items()}
        arrays["frames"] = np.array([frame.model_dump_json() for frame in self.frames], dtype=np.str_)
        arrays["proposals"] = np.array([proposal.model_dump_json() for proposal in self.proposals], dtype=np.str_)
        write_arrays(path, {**arrays, "descriptors": self.descriptors})

    def joined(self, more: Candidates) -> Candidates:
        """These and then more of them."""
        if not len(self.frames):
            return more
        return Candidates(
            frames=[*self.frames, *more.frames],
            proposals=[*self.proposals, *more.proposals],
            descriptors=np.concatenate([self.descriptors, more.descriptors]),
            spreads={name: np.concatenate([values, more.spreads[name]]) for name, values in self.spreads.items()},
        )

    @classmethod
    def load(cls, path: Path) -> Candidates:
        """Read what ``save`` wrote."""
        arrays = read_arrays(path)
        return cls(
            frames=[Frame.model_validate_json(text) for text in arrays["frames"].tolist()],
            proposals=[Proposal.model_validate_json(text) for text in arrays["proposals"].tolist()],
            descriptors=arrays["descriptors"],
            spreads={name: arrays[f"spread_{name}"] for name in BOUNDED},
        )
