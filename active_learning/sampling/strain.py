"""Strained crystals, rattled in their strained cells."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from ...dft_inputs.quantities import Length
from ...dft_inputs.records import Frame, Proposal
from .frames import Sampled, SeedError, SourceSettings, distinct_frames
from .rattle import rattle

LARGEST_STRAIN = 0.02
"""Of the cells of one data set, whose product N_i |a_i| of k-mesh and cell must stay the same."""


class StrainSettings(SourceSettings):
    """How cells are strained.

    Strain is limited to 2 %, because a data set has one product N_i |a_i| of k-mesh and cell in every direction: the
    finite-field enthalpy is built on strings of N_i k-points, and what the mesh leaves out of P and of the
    polarizability depends on N_i |a_i|. Larger strains need a data set of their own.

    Attributes:
        strain: largest principal strain; directions and signs are random.
        amplitudes: standard deviations of the displacements on top, A, taken in turn; 0 for strain alone.
    """

    kind: Literal["strain"] = "strain"
    strain: float = Field(default=0.01, gt=0.0, le=LARGEST_STRAIN)
    amplitudes: tuple[Annotated[Length, Field(ge=0.0)], ...] = Field(default=(0.0,), min_length=1)


def strained_frames(parent: Frame, settings: StrainSettings) -> list[Sampled]:
    """Strained copies of a crystal.

    Raises:
        SeedError: a parent that is not periodic in every direction, or overlaps that no draw avoids.
    """
    check_strainable(parent)

    def draw(rng: np.random.Generator, index: int) -> Sampled:
        sigma = settings.amplitudes[index % len(settings.amplitudes)]
        strain = random_strain(rng, settings.strain)
        frame = displaced(parent, strain, rattle(rng, len(parent), sigma))
        reason = f"strained by up to {largest_principal(strain):.2%}" + (f", rattled by {sigma:.3f} A" if sigma else "")
        return frame, Proposal(origin="strain", parent_frame_id=parent.frame_id, reason=reason)

    hint = f"at strain {settings.strain:g}: lower its amplitudes or min_contact"
    return distinct_frames(parent, settings, settings.kind, draw, hint)


def check_strainable(parent: Frame) -> None:
    """Refuse what has no cell to strain.

    Raises:
        SeedError: a parent that is not periodic in every direction.
    """
    if not all(parent.pbc):
        raise SeedError("strain needs a cell periodic in every direction; set seeds.strain to 0")


def random_strain(rng: np.random.Generator, largest: float) -> np.ndarray:
    """A symmetric strain without preferred axes, (3, 3), its principal strains uniform in [-largest, largest]."""
    axes, upper = np.linalg.qr(rng.normal(size=(3, 3)))
    axes = axes * np.sign(np.diag(upper))  # makes the axes uniform (Haar): Mezzadri, Notices AMS 54, 592 (2007)
    strain = (axes * rng.uniform(-largest, largest, size=3)) @ axes.T
    return (strain + strain.T) / 2


def largest_principal(strain: np.ndarray) -> float:
    """Largest principal strain, in absolute value."""
    return float(np.abs(np.linalg.eigvalsh(strain)).max())


def displaced(parent: Frame, strain: np.ndarray, displacements: np.ndarray) -> Frame:
    """The parent in a homogeneously strained cell, (3, 3), with its atoms displaced from there, A, (N, 3)."""
    deformation = np.eye(3) + strain
    return Frame(
        species=parent.species,
        positions=parent.positions @ deformation + displacements,
        cell=parent.cell @ deformation,
        pbc=parent.pbc,
    )
