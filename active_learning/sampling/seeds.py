"""First frames of a campaign: the parent crystal, rattled copies of it, and rattled copies in strained cells."""

from __future__ import annotations

from math import sqrt
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt

from ...dft_inputs.quantities import Length
from ...dft_inputs.records import Frame, Proposal
from ..plausibility import Plausibility, implausible

_ATTEMPTS = 100
_GOLDEN = (sqrt(5) - 1) / 2


class SeedError(ValueError):
    """The asked frames cannot be made from this parent."""


class SeedSettings(BaseModel):
    """How the first frames are drawn.

    Strain is limited to 2 %, because a data set has one product N_i |a_i| of k-mesh and cell in every direction: the
    finite-field enthalpy is built on strings of N_i k-points, and what the mesh leaves out of P and of the
    polarizability depends on N_i |a_i|. Primitive AlAs has eps 7.02 and 7.82 on meshes of 4^3 and 6^3 points, so at a
    fixed mesh 2 % of strain moves eps by 0.5 % for no physical reason. Larger strains need a data set of their own.

    Attributes:
        count: number of frames, the parent included.
        rattle: standard deviations of each Cartesian displacement in A (or ``5 pm``), taken in turn, from
            small (vibrations, where responses vary linearly) to large (hot configurations the dynamics will meet).
        strain: largest principal strain of the strained cells; 0 for none. Cells must be periodic in every direction.
        strained_share: share of the rattled frames that are strained too.
        min_contact: closest pair of atoms allowed, in units of the sum of the covalent radii; closer ones are redrawn.
        seed: of the random numbers. A larger ``count`` keeps the frames of a smaller one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    count: PositiveInt = 10
    rattle: tuple[Annotated[Length, Field(gt=0.0)], ...] = Field(default=(0.02, 0.05, 0.10, 0.15), min_length=1)
    strain: float = Field(default=0.01, ge=0.0, le=0.02)
    strained_share: float = Field(default=0.5, ge=0.0, le=1.0)
    min_contact: PositiveFloat = 0.65
    seed: NonNegativeInt = 0


def seed_frames(parent: Frame, settings: SeedSettings) -> list[tuple[Frame, Proposal]]:
    """The parent and ``count - 1`` distinct frames around it, the same ones for the same settings.

    Args:
        parent: the crystal.
        settings: number, amplitudes, strain.

    Returns:
        Frames with where they come from, the parent first.

    Raises:
        SeedError: the parent has overlapping atoms, no frame without overlaps was found, or strain is asked of a
            cell that is not periodic in every direction.
    """
    rules = Plausibility(min_contact=settings.min_contact, max_gap=None)
    if trouble := implausible(parent, rules):
        raise SeedError(f"the parent structure is unusable, {trouble}; check the structure or lower seeds.min_contact")
    if settings.strain > 0 and not all(parent.pbc):
        raise SeedError("strain needs a cell periodic in every direction; set seeds.strain to 0")
    frames = [(parent, Proposal(origin="parent", parent_frame_id=parent.frame_id, reason="the parent crystal"))]
    taken = {parent.frame_id}
    for index in range(1, settings.count):
        frame, proposal = _distinct_frame(parent, settings, index, rules, taken)
        frames.append((frame, proposal))
        taken.add(frame.frame_id)
    return frames


def _distinct_frame(
    parent: Frame, settings: SeedSettings, index: int, rules: Plausibility, taken: set[str]
) -> tuple[Frame, Proposal]:
    """Draw frame ``index`` until it is plausible and new; its random numbers depend on seed and index alone."""
    rng = np.random.default_rng([settings.seed, index])
    sigma = settings.rattle[(index - 1) % len(settings.rattle)]
    # The golden-ratio sequence spreads the strained frames evenly over all amplitudes, whatever the count.
    strained = settings.strain > 0 and (index * _GOLDEN) % 1.0 < settings.strained_share
    for _ in range(_ATTEMPTS):
        strain = random_strain(rng, settings.strain) if strained else np.zeros((3, 3))
        frame = displaced(parent, strain, rattle(rng, len(parent), sigma))
        if frame.frame_id not in taken and implausible(frame, rules) is None:
            return frame, _proposal(parent, sigma, strain)
    raise SeedError(
        f"no new frame without overlapping atoms in {_ATTEMPTS} draws at rattle {sigma:g} A: "
        "lower seeds.rattle or seeds.min_contact, or take a larger cell (one atom alone cannot be rattled)"
    )


def _proposal(parent: Frame, sigma: float, strain: np.ndarray) -> Proposal:
    reason = f"rattled by {sigma:.3f} A"
    if strain.any():
        reason += f", strained by up to {np.abs(np.linalg.eigvalsh(strain)).max():.2%}"
    return Proposal(origin="strain" if strain.any() else "rattle", parent_frame_id=parent.frame_id, reason=reason)


def rattle(rng: np.random.Generator, atoms: int, sigma: float) -> np.ndarray:
    """Gaussian displacements without a shift of the whole cell, A, (N, 3).

    A common shift changes no label. Taking it out lowers the variance by 1 - 1/N, which is put back, so that each
    component has the standard deviation ``sigma``.
    """
    if atoms == 1:
        return np.zeros((1, 3))
    displacements = rng.normal(scale=sigma, size=(atoms, 3))
    return (displacements - displacements.mean(axis=0)) * sqrt(atoms / (atoms - 1))


def random_strain(rng: np.random.Generator, largest: float) -> np.ndarray:
    """A symmetric strain without preferred axes, (3, 3), its principal strains uniform in [-largest, largest]."""
    axes, upper = np.linalg.qr(rng.normal(size=(3, 3)))
    axes = axes * np.sign(np.diag(upper))  # makes the axes uniform (Haar): Mezzadri, Notices AMS 54, 592 (2007)
    strain = (axes * rng.uniform(-largest, largest, size=3)) @ axes.T
    return (strain + strain.T) / 2


def displaced(parent: Frame, strain: np.ndarray, displacements: np.ndarray) -> Frame:
    """The parent in a homogeneously strained cell, (3, 3), with its atoms displaced from there, A, (N, 3)."""
    deformation = np.eye(3) + strain
    return Frame(
        species=parent.species,
        positions=parent.positions @ deformation + displacements,
        cell=parent.cell @ deformation,
        pbc=parent.pbc,
    )
