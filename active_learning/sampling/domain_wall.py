"""Domain walls: half of a polar crystal with its polarization reversed, two 180 degree walls in a periodic cell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, PositiveInt

from ...dft_inputs.quantities import Length
from ...dft_inputs.records import Frame, Proposal
from .frames import Sampled, SeedError, SourceSettings, distinct_frames
from .polar_path import PolarMode, polar_mode
from .rattle import rattle

_CHARGED = 0.2
"""Of the longest displacement; more of it along the normal makes a charged wall."""
_SAME_PLANE = 0.5
"""A; atoms of one species within it are one plane."""


class DomainWallSettings(SourceSettings):
    """Neutral 180 degree walls: planes that hold the polar axis, between domains of opposite polarization.

    Attributes:
        supercell: copies of the parent along its lattice vectors. A campaign has one cell for all frames: start it
            from the supercell, and leave this at 1.
        axis: the lattice vector (0, 1, 2) from wall to wall; across the polarization.
        centres: species on whose planes the walls lie, taken in turn, e.g. ``[Ba, Ti]`` for walls on BaO and on TiO2.
        widths: w of the profile tanh(s / w), A, taken in turn; 0 for a sharp wall.
        amplitudes: standard deviations of a rattle on top, A, taken in turn.
        other: file of the crystal with opposite polarization; made by inversion where None.
        farthest: largest displacement of an atom between the two, A.
    """

    kind: Literal["domain-wall"] = "domain-wall"
    supercell: tuple[PositiveInt, PositiveInt, PositiveInt] = (1, 1, 1)
    axis: Literal[0, 1, 2] = 0
    centres: tuple[str, ...] = Field(min_length=1)
    widths: tuple[Annotated[Length, Field(ge=0.0)], ...] = Field(default=(0.0,), min_length=1)
    amplitudes: tuple[Annotated[Length, Field(ge=0.0)], ...] = Field(default=(0.02, 0.05), min_length=1)
    other: Path | None = None
    farthest: Annotated[Length, Field(gt=0.0)] = 1.0

    @property
    def files(self) -> tuple[Path, ...]:
        """The opposite structure."""
        return () if self.other is None else (self.other,)


def wall_frames(parent: Frame, settings: DomainWallSettings) -> list[Sampled]:
    """Frames with two walls each; centres change fastest, then widths, then amplitudes.

    Raises:
        SeedError: a parent that is not polar, walls that would be charged, or a cell too short for two walls.
    """
    mode = polar_mode(parent, settings.other, settings.farthest)
    _check_neutral(mode, settings.axis)
    crystal = repeated_mode(mode, settings.supercell)
    centres, widths, amplitudes = settings.centres, settings.widths, settings.amplitudes
    walls = {species: wall_places(crystal, species, settings.axis) for species in centres}

    def draw(rng: np.random.Generator, index: int) -> Sampled:
        species, rest = centres[index % len(centres)], index // len(centres)
        width = widths[rest % len(widths)]
        sigma = amplitudes[rest // len(widths) % len(amplitudes)]
        profile = wall_profile(crystal, walls[species], settings.axis, width)
        frame = crystal.frame(profile, rattle(rng, len(profile), sigma) if sigma else 0.0)
        shape = f"of width {width:g} A" if width else "sharp"
        reason = f"180 degree walls on {species} planes, {shape}, rattled by {sigma:.3f} A"
        return frame, Proposal(origin="domain-wall", parent_frame_id=parent.frame_id, reason=reason)

    hint = "with walls: give more amplitudes, or lower them or min_contact"
    return distinct_frames(parent, settings, settings.kind, draw, hint)


def repeated_mode(mode: PolarMode, copies: tuple[int, int, int]) -> PolarMode:
    """The mode in a supercell; atom i of each copy in turn."""
    parent = mode.parent
    origins = np.array(list(np.ndindex(*copies)), dtype=float) @ parent.cell
    positions = (origins[:, None] + parent.positions).reshape(-1, 3)
    species = parent.species * len(origins)
    cell = parent.cell * np.array(copies)[:, None]
    crystal = Frame(species=species, positions=positions, cell=cell, pbc=parent.pbc)
    return PolarMode(crystal, np.tile(mode.half, (len(origins), 1)), mode.cell_change * np.array(copies)[:, None])


def wall_places(mode: PolarMode, species: str, axis: int) -> tuple[float, float]:
    """Heights of two planes of a species along the walls' normal, half a cell apart where that is possible, A.

    Raises:
        SeedError: fewer than two planes.
    """
    heights, period = _heights(mode, axis)
    ordered = np.sort(np.mod(heights[np.array(mode.parent.species) == species], period))
    if not len(ordered):
        raise SeedError(f"there is no {species} in {mode.parent.formula} to centre a wall on")
    # A plane begins after a gap; the gap before the first one goes round the cell.
    gaps = np.diff(ordered, prepend=ordered[-1] - period)
    planes = ordered[gaps > _SAME_PLANE]
    if len(planes) < 2:
        raise SeedError(
            f"only {len(planes)} plane of {species} along lattice vector {axis + 1}, two walls need two: "
            "take a supercell along it"
        )
    return float(planes[0]), float(planes[len(planes) // 2])


def wall_profile(mode: PolarMode, walls: tuple[float, float], axis: int, width: float) -> np.ndarray:
    """x of each atom: +1 in the parent's domain, -1 in the other, 0 on a wall, (N,).

    Args:
        mode: the polar distortion.
        walls: heights of the walls, A.
        axis: the lattice vector from wall to wall.
        width: w of tanh(s / w), A.
    """
    heights, period = _heights(mode, axis)
    first, second = (heights - wall - period * np.round((heights - wall) / period) for wall in walls)
    nearest = np.minimum(np.abs(first), np.abs(second))
    strength = np.tanh(nearest / width) if width > 0 else np.where(nearest < _SAME_PLANE / 2, 0.0, 1.0)
    return np.where(np.mod(heights - walls[0], period) < walls[1] - walls[0], -strength, strength)


def _heights(mode: PolarMode, axis: int) -> tuple[np.ndarray, float]:
    """Heights of the undistorted atoms along the normal of the walls, (N,), and their period, A."""
    normal = np.linalg.inv(mode.parent.cell)[:, axis]
    period = 1.0 / float(np.linalg.norm(normal))
    return (mode.parent.positions - mode.half) @ normal * period, period


def _check_neutral(mode: PolarMode, axis: int) -> None:
    """Refuse walls across the polar axis: they carry charge, which bends bands and needs no help from us.

    Raises:
        SeedError: the atoms move along the normal of the walls.
    """
    normal = np.linalg.inv(mode.parent.cell)[:, axis]
    along = np.abs(mode.half @ normal).max() / float(np.linalg.norm(normal))
    if along > _CHARGED * float(np.linalg.norm(mode.half, axis=1).max()):
        raise SeedError(
            f"walls along lattice vector {axis + 1} would be charged, as the polar distortion points along it: "
            "choose another axis"
        )
