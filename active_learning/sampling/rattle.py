"""Rattled crystals: random displacements of independent atoms, or of atoms that move with their neighbours."""

from __future__ import annotations

from itertools import product
from math import ceil, pi, sqrt
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from ...dft_inputs.quantities import Length
from ...dft_inputs.records import Frame, Proposal
from .frames import GOLDEN, Sampled, SeedError, SourceSettings, distinct_frames, moved

_HINT = "at rattle {:g} A: lower its amplitudes or min_contact, or take a larger cell (one atom cannot be rattled)"


class RattleSettings(SourceSettings):
    """A displacement spectrum: how far atoms go, and over which distances they go together.

    Attributes:
        amplitudes: standard deviations of each Cartesian displacement in A (or ``5 pm``).
        spread: ``steps`` takes the amplitudes in turn; ``even`` spreads the frames evenly over the logarithm between
            the smallest and the largest.
        exponent: None for independent atoms. A number p for displacement waves whose mean square falls with the
            wavevector as q^-p: 2 is the law of thermal sound waves, a larger one makes larger groups move together.
    """

    kind: Literal["rattle"] = "rattle"
    amplitudes: tuple[Annotated[Length, Field(gt=0.0)], ...] = Field(default=(0.02, 0.05, 0.10, 0.15), min_length=1)
    spread: Literal["steps", "even"] = "steps"
    exponent: float | None = Field(default=None, ge=0.0, le=8.0)

    def amplitude(self, index: int) -> float:
        """Standard deviation of the displacements of a frame, A."""
        if self.spread == "steps":
            return self.amplitudes[index % len(self.amplitudes)]
        smallest, largest = min(self.amplitudes), max(self.amplitudes)
        return smallest * (largest / smallest) ** ((index + 1) * GOLDEN % 1.0)


def rattled_frames(parent: Frame, settings: RattleSettings) -> list[Sampled]:
    """Rattled copies of a crystal in its own cell.

    Raises:
        SeedError: overlaps that no draw avoids, or correlated displacements in a cell too small to hold a wave.
    """
    waves = None if settings.exponent is None else wave_amplitudes(parent, settings.exponent)

    def draw(rng: np.random.Generator, index: int) -> Sampled:
        sigma = settings.amplitude(index)
        if waves is None:
            moves, how = rattle(rng, len(parent), sigma), "independently"
        else:
            moves, how = (
                sigma * displacement_waves(rng, parent.positions, *waves),
                f"in waves of q^-{settings.exponent:g}",
            )
        reason = f"rattled {how} by {sigma:.3f} A"
        return moved(parent, moves), Proposal(origin="rattle", parent_frame_id=parent.frame_id, reason=reason)

    return distinct_frames(parent, settings, settings.kind, draw, _HINT.format(max(settings.amplitudes)))


def rattle(rng: np.random.Generator, atoms: int, sigma: float) -> np.ndarray:
    """Gaussian displacements without a shift of the whole cell, A, (N, 3).

    A common shift changes no label. Taking it out lowers the variance by 1 - 1/N, which is put back, so that each
    component has the standard deviation ``sigma``.
    """
    if atoms == 1:
        return np.zeros((1, 3))
    displacements = rng.normal(scale=sigma, size=(atoms, 3))
    return (displacements - displacements.mean(axis=0)) * sqrt(atoms / (atoms - 1))


def wave_amplitudes(parent: Frame, exponent: float) -> tuple[np.ndarray, np.ndarray]:
    """The displacement waves that a cell can hold, and their strengths.

    Waves fit the cell and are no shorter than the Debye wavelength 2 pi / (6 pi^2 n)^(1/3) of n atoms per volume: there
    are as many of them as atoms.

    Returns:
        Wavevectors in 1/A, one of each pair +-q, (Q, 3), and root mean squares of the waves, (Q,), whose squares sum
        to one.

    Raises:
        SeedError: a cell smaller than the Debye wavelength, or one that is not periodic in every direction.
    """
    if not all(parent.pbc):
        raise SeedError("correlated rattling needs a cell periodic in every direction: leave out its exponent")
    largest = (6 * pi**2 * len(parent) / parent.volume) ** (1 / 3)
    reciprocal = 2 * pi * np.linalg.inv(parent.cell).T
    # |m_i| = |q . a_i| / 2 pi, at most |q| |a_i| / 2 pi
    bounds = [ceil(largest * float(np.linalg.norm(vector)) / (2 * pi)) for vector in parent.cell]
    multiples = np.array([m for m in product(*(range(-bound, bound + 1) for bound in bounds)) if m > (0, 0, 0)])
    wavevectors = multiples @ reciprocal
    lengths = np.linalg.norm(wavevectors, axis=1)
    inside = lengths <= largest * (1 + 1e-9)
    if not inside.any():
        raise SeedError(
            f"{parent.formula} is smaller than the shortest displacement wave ({2 * pi / largest:.2f} A): "
            "leave out the exponent of the rattle or take a supercell"
        )
    strengths = lengths[inside] ** -exponent
    return wavevectors[inside], np.sqrt(strengths / strengths.sum())


def displacement_waves(
    rng: np.random.Generator, positions: np.ndarray, wavevectors: np.ndarray, amplitudes: np.ndarray
) -> np.ndarray:
    """A sum of random plane waves of displacements, (N, 3); each component of each atom has unit variance."""
    cosines, sines = rng.normal(size=(2, len(wavevectors), 3))
    phases = positions @ wavevectors.T
    return (np.cos(phases) * amplitudes) @ cosines + (np.sin(phases) * amplitudes) @ sines
