"""What all sources of first frames share: common settings, and drawing frames until they are new and plausible."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from math import sqrt
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveFloat, PositiveInt

from ...dft_inputs.records import Frame, Proposal
from ..plausibility import Plausibility, implausible

GOLDEN = (sqrt(5) - 1) / 2
"""Multiples of it modulo 1 are spread evenly, however many are taken."""

_ATTEMPTS = 100

Sampled = tuple[Frame, Proposal]
"""A frame and where it comes from."""

Draw = Callable[[np.random.Generator, int], Sampled]
"""From random numbers and the index of a frame to a frame."""


class SeedError(ValueError):
    """The asked frames cannot be made from this parent."""


class SourceSettings(BaseModel):
    """What every source can be told.

    Attributes:
        count: number of frames; a larger one keeps the frames of a smaller one.
        min_contact: closest pair of atoms allowed, in units of the sum of the covalent radii.
        seed: of the random numbers; two sources of one kind need different ones.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    count: PositiveInt = 10
    min_contact: PositiveFloat = 0.65
    seed: NonNegativeInt = 0

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that determine the frames besides the settings."""
        return ()

    @property
    def rules(self) -> Plausibility:
        """What a frame must satisfy."""
        return Plausibility(min_contact=self.min_contact, max_gap=None)


def moved(parent: Frame, displacements: np.ndarray) -> Frame:
    """The parent with its atoms displaced, A, (N, 3)."""
    positions = parent.positions + displacements
    return Frame(species=parent.species, positions=positions, cell=parent.cell, pbc=parent.pbc)


def check_parent(parent: Frame, rules: Plausibility) -> None:
    """Refuse a parent from which no frame can be made.

    Raises:
        SeedError: overlapping atoms, or no cell to speak of.
    """
    if trouble := implausible(parent, rules):
        raise SeedError(f"the parent structure is unusable, {trouble}; check the structure or lower seeds.min_contact")


def distinct_frames(parent: Frame, settings: SourceSettings, kind: str, draw: Draw, hint: str) -> list[Sampled]:
    """Draw ``settings.count`` frames, distinct from each other and from the parent.

    The random numbers of a frame depend on the seed, the kind of source and the frame's index alone.

    Args:
        parent: the crystal.
        settings: count, seed and rules.
        kind: of the source.
        draw: makes one frame.
        hint: what to change where no frame can be drawn.

    Raises:
        SeedError: an unusable parent, or no plausible new frame in a hundred draws.
    """
    check_parent(parent, settings.rules)
    taken, frames = {parent.frame_id}, []
    for index in range(settings.count):
        rng = np.random.default_rng([settings.seed, index, zlib.crc32(kind.encode())])
        frame, proposal = distinct_frame(draw, rng, index, settings.rules, taken, hint)
        frames.append((frame, proposal))
        taken.add(frame.frame_id)
    return frames


def distinct_frame(
    draw: Draw, rng: np.random.Generator, index: int, rules: Plausibility, taken: set[str], hint: str
) -> Sampled:
    """Draw a frame until it is plausible and its ``frame_id`` is not taken.

    Raises:
        SeedError: a hundred draws gave none.
    """
    for _ in range(_ATTEMPTS):
        frame, proposal = draw(rng, index)
        if frame.frame_id not in taken and implausible(frame, rules) is None:
            return frame, proposal
    raise SeedError(f"no new frame without overlapping atoms in {_ATTEMPTS} draws {hint}")
