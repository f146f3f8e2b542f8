"""First frames of a campaign: the parent crystal and what its sources make of it."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from ...dft_inputs.quantities import Length
from ...dft_inputs.records import Frame, Proposal
from .frames import GOLDEN, Sampled, SeedError, SourceSettings, check_parent, distinct_frame
from .lammps_run import Progress
from .rattle import rattle
from .sources import Source, sample_all
from .strain import LARGEST_STRAIN, check_strainable, displaced, largest_principal, random_strain

__all__ = ["SeedError", "SeedSettings", "displaced", "random_strain", "rattle", "seed_frames"]


class SeedSettings(SourceSettings):
    """How the first frames are made: rattled and strained copies of the parent, or whatever ``sources`` says.

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
        sources: sources of frames besides the parent, in place of all other keys; each has a ``count`` of its own.
    """

    rattle: tuple[Annotated[Length, Field(gt=0.0)], ...] = Field(default=(0.02, 0.05, 0.10, 0.15), min_length=1)
    strain: float = Field(default=0.01, ge=0.0, le=LARGEST_STRAIN)
    strained_share: float = Field(default=0.5, ge=0.0, le=1.0)
    sources: tuple[Source, ...] = ()

    @model_validator(mode="after")
    def _one_form(self) -> SeedSettings:
        fields = type(self).model_fields.items()
        changed = [name for name, field in fields if name != "sources" and getattr(self, name) != field.default]
        if self.sources and changed:
            raise ValueError(
                f"sources stands in place of {changed[0]}: give {changed[0]} to the sources, or leave it out"
            )
        return self

    @property
    def most(self) -> int:
        """The number of frames, the parent included; a trajectory among the sources may hold fewer."""
        return 1 + sum(source.count for source in self.sources) if self.sources else self.count


def seed_frames(parent: Frame, settings: SeedSettings, progress: Progress | None = None) -> list[Sampled]:
    """The parent and distinct frames made from it, the same ones for the same settings.

    Args:
        parent: the crystal.
        settings: number, amplitudes, strain, or sources.
        progress: is told how much is done, from 0 to 1.

    Returns:
        Frames with where they come from, the parent first.

    Raises:
        SeedError: the parent has overlapping atoms, no frame without overlaps was found, strain is asked of a
            cell that is not periodic in every direction, or a source cannot make its frames.
    """
    check_parent(parent, settings.rules)
    first = (parent, Proposal(origin="parent", parent_frame_id=parent.frame_id, reason="the parent crystal"))
    if settings.sources:
        return [first, *sample_all(parent, settings.sources, progress)]
    if settings.strain > 0:
        check_strainable(parent)
    frames, taken = [first], {parent.frame_id}
    for index in range(1, settings.count):
        rng = np.random.default_rng([settings.seed, index])
        frames.append(_rattled_or_strained(parent, settings, rng, index, taken))
        taken.add(frames[-1][0].frame_id)
    return frames


def _rattled_or_strained(
    parent: Frame, settings: SeedSettings, rng: np.random.Generator, index: int, taken: set[str]
) -> Sampled:
    """Frame ``index`` of the short form; its random numbers depend on seed and index alone."""
    sigma = settings.rattle[(index - 1) % len(settings.rattle)]
    # The golden-ratio sequence spreads the strained frames evenly over all amplitudes, whatever the count.
    strained = settings.strain > 0 and (index * GOLDEN) % 1.0 < settings.strained_share

    def draw(rng: np.random.Generator, index: int) -> Sampled:
        strain = random_strain(rng, settings.strain) if strained else np.zeros((3, 3))
        frame = displaced(parent, strain, rattle(rng, len(parent), sigma))
        return frame, _proposal(parent, sigma, strain)

    hint = (
        f"at rattle {sigma:g} A: lower seeds.rattle or seeds.min_contact, "
        "or take a larger cell (one atom alone cannot be rattled)"
    )
    return distinct_frame(draw, rng, index, settings.rules, taken, hint)


def _proposal(parent: Frame, sigma: float, strain: np.ndarray) -> Proposal:
    reason = f"rattled by {sigma:.3f} A"
    if strain.any():
        reason += f", strained by up to {largest_principal(strain):.2%}"
    return Proposal(origin="strain" if strain.any() else "rattle", parent_frame_id=parent.frame_id, reason=reason)
