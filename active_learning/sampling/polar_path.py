"""Paths between a polar crystal and its opposite: the frames that decide how polarization switches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count as counter
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from ...dft_inputs.quantities import Length
from ...dft_inputs.records import Frame, Proposal
from .frames import Sampled, SeedError, SourceSettings, distinct_frames
from .rattle import rattle
from .strain import LARGEST_STRAIN
from .structures import check_same_crystal, matched, read_structures

_POLAR = 1e-3
"""A; a distortion below it is none."""


class PolarPathSettings(SourceSettings):
    """Straight paths from the parent (+P) to its opposite (-P).

    Attributes:
        other: file of the opposite end, with the same atoms in any order; made by inversion of the parent where None.
        reach: the path goes this many times as far as the ends.
        amplitude: standard deviation of a rattle on each frame, A.
        farthest: largest displacement of an atom between the ends, A; more is no distortion but another structure.
    """

    kind: Literal["polar-path"] = "polar-path"
    other: Path | None = None
    reach: float = Field(default=1.0, gt=0.0, le=1.5)
    amplitude: Annotated[Length, Field(ge=0.0)] = 0.0
    farthest: Annotated[Length, Field(gt=0.0)] = 1.0

    @property
    def files(self) -> tuple[Path, ...]:
        """The opposite structure."""
        return () if self.other is None else (self.other,)


@dataclass(frozen=True)
class PolarMode:
    """A straight path through a centre; at x = 1 is the parent, at x = -1 its opposite.

    Attributes:
        parent: the end at x = 1.
        cell_change: the cell at x = -1 less the parent's, A, (3, 3).
        half: displacement of each atom from the centre to the parent, A, (N, 3); at fixed fractional cell.
    """

    parent: Frame
    half: np.ndarray
    cell_change: np.ndarray

    def frame(self, x: float | np.ndarray, displacements: np.ndarray | float = 0.0) -> Frame:
        """The frame at x, or with an x for each atom, (N,), in the parent's cell.

        Args:
            x: 1 for the parent, -1 for the opposite.
            displacements: on top, A, (N, 3).
        """
        along = np.broadcast_to(np.asarray(x, dtype=float), (len(self.parent),))[:, None]
        positions = self.parent.positions + (along - 1) * self.half
        cell = self.parent.cell
        if np.ndim(x) == 0 and self.cell_change.any():
            cell = cell + (1 - float(x)) / 2 * self.cell_change
            positions = positions @ np.linalg.solve(self.parent.cell, cell)
        species, pbc = self.parent.species, self.parent.pbc
        return Frame(species=species, positions=positions + displacements, cell=cell, pbc=pbc)


def path_frames(parent: Frame, settings: PolarPathSettings) -> list[Sampled]:
    """Frames on the path: first the opposite end and the centre, then what lies halfway between those before.

    Raises:
        SeedError: a centrosymmetric parent, an opposite that is no distortion of it, or overlapping atoms.
    """
    mode = polar_mode(parent, settings.other, settings.farthest)
    places = list(islice(path_places(without_parent=settings.reach == 1.0), settings.count))

    def draw(rng: np.random.Generator, index: int) -> Sampled:
        x = settings.reach * places[index]
        frame = mode.frame(x, rattle(rng, len(parent), settings.amplitude) if settings.amplitude else 0.0)
        reason = f"polar path at {x:+.4g} (+1 is the parent, -1 its opposite)"
        reason += f", rattled by {settings.amplitude:.3f} A" if settings.amplitude else ""
        return frame, Proposal(origin="polar-path", parent_frame_id=parent.frame_id, reason=reason)

    return distinct_frames(parent, settings, settings.kind, draw, "on the polar path: lower its reach or amplitude")


def path_places(*, without_parent: bool) -> Iterator[float]:
    """-1, 0, then the middles of all intervals, and so on: each place once; 1 is the parent itself."""
    yield -1.0
    if not without_parent:
        yield 1.0
    yield 0.0
    for level in counter(1):
        yield from (-1 + (2 * i + 1) / 2**level for i in range(2**level))


def polar_mode(parent: Frame, other: Path | None, farthest: float) -> PolarMode:
    """The distortion between a crystal and its opposite, which is read from a file or made by inversion.

    Raises:
        SeedError: a centrosymmetric parent, or ends that are no distortion of each other.
    """
    if not all(parent.pbc):
        raise SeedError("a polar path needs a crystal periodic in every direction")
    if other is None:
        moves, cell_change = inverting_moves(parent), np.zeros((3, 3))
    else:
        moves, cell_change = _moves_to(parent, read_structures(other, "-1:")[0], other.name)
    lengths = np.linalg.norm(moves, axis=1)
    longest = int(np.argmax(lengths))
    if lengths[longest] < _POLAR:
        raise SeedError(f"{parent.formula} has a centre of inversion and no polar distortion: give a polar structure")
    if lengths[longest] > farthest:
        raise SeedError(
            f"atom {longest} ({parent.species[longest]}) would move by {lengths[longest]:.2f} A to the opposite "
            f"structure, more than farthest ({farthest:g} A): the two are no distortions of one crystal"
        )
    return PolarMode(parent, -moves / 2, cell_change)


def inverting_moves(parent: Frame) -> np.ndarray:
    """Displacements that take a crystal into its image under inversion, about the centre where they are smallest.

    Centres lie halfway between two atoms (or images) of the rarest species, up to a small common shift, which is
    taken out.

    Returns:
        A, (N, 3), with mean zero.
    """
    symbols = np.array(parent.species)
    rarest = min(sorted(set(parent.species)), key=parent.species.count)
    atoms = np.flatnonzero(symbols == rarest)
    candidates = []
    # The image of the first of them is one of them: -r_0 + shift = r_j.
    for j in atoms:
        shift = parent.positions[atoms[0]] + parent.positions[j]
        for _ in range(3):  # the assignment and the best common shift find each other at once, or in a few rounds
            _, moves = matched(parent, shift - parent.positions, parent.species)
            shift = shift - moves.mean(axis=0)
        _, moves = matched(parent, shift - parent.positions, parent.species)
        candidates.append(moves - moves.mean(axis=0))
    return min(candidates, key=lambda moves: round(float(np.square(moves).sum()), 9))


def _moves_to(parent: Frame, other: Frame, name: str) -> tuple[np.ndarray, np.ndarray]:
    check_same_crystal(parent, other, LARGEST_STRAIN, name)
    positions = other.positions @ np.linalg.solve(other.cell, parent.cell)
    _, moves = matched(parent, positions, other.species)
    # A common shift of all atoms is none: taken out, the atoms are matched once more.
    _, moves = matched(parent, positions - moves.mean(axis=0), other.species)
    return moves - moves.mean(axis=0), other.cell - parent.cell
