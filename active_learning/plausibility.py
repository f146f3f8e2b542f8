"""Geometries no DFT calculation should be spent on: overlapping atoms, flown-apart cells, run-away coordinates.

Distances are judged relative to the sum of the covalent radii of the two atoms (Cordero et al., Dalton Trans. 2832
(2008), as tabulated by ASE): bonds lie between 0.75 (Ti-O in BaTiO3) and 1.2 (metals).
"""

from __future__ import annotations

import numpy as np
from ase.data import atomic_numbers, covalent_radii
from ase.geometry import complete_cell
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat

from ..dft_inputs.records import Frame

_FARTHEST = 1e5
"""A; beyond it a coordinate has run away, and a neighbour list would overflow."""
_SHORTEST_VECTOR = 0.5
"""A, of a periodic direction."""
_SMALLEST_VOLUME = 0.5
"""A^3 per atom; hydrogen under 400 GPa has more than twice as much."""


class Plausibility(BaseModel):
    """What a frame must satisfy to be worth a calculation.

    Attributes:
        min_contact: no pair of atoms is closer than this multiple of the sum of its covalent radii.
        max_gap: every atom has a neighbour within this multiple; raise it for noble gases, None sets no limit.
        max_score: no uncertainty exceeds its bound by more than this factor; None sets no limit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_contact: PositiveFloat = 0.6
    max_gap: float | None = Field(default=1.7, gt=1.0, le=4.0)
    max_score: float | None = Field(default=None, gt=1.0)


def nearest_contacts(frame: Frame, reach: float = 2.0) -> np.ndarray:
    """Distance of every atom to its nearest neighbour, in units of the sum of the two covalent radii.

    Periodic images count, the atom's own among them.

    Args:
        frame: a frame with finite volume and coordinates, see ``implausible``.
        reach: neighbours are looked for within this multiple.

    Returns:
        (N,); infinite where an atom has no neighbour within reach.
    """
    from vesin import NeighborList  # noqa: PLC0415  (it imports torch where that is installed; settings need neither)

    radii = covalent_radii[[atomic_numbers[symbol] for symbol in frame.species]]
    first, second, distance = NeighborList(cutoff=2 * reach * float(radii.max()), full_list=True).compute(
        points=frame.positions,
        box=np.asarray(complete_cell(frame.cell)),
        periodic=list(frame.pbc),
        quantities="ijd",
    )
    ratio = distance / (radii[first] + radii[second])
    nearest = np.full(len(frame), np.inf)
    within = ratio <= reach
    np.minimum.at(nearest, first[within], ratio[within])
    return nearest


def implausible(frame: Frame, rules: Plausibility) -> str | None:
    """Why a frame is not worth a calculation, as one line; None for a plausible frame.

    Args:
        frame: the geometry.
        rules: what counts as too close or too far.
    """
    farthest = float(np.abs(frame.positions).max())
    if farthest > _FARTHEST:
        return f"exploded: an atom is {farthest:.1e} A from the origin"
    shortest = min(
        (float(np.linalg.norm(a)) for a, periodic in zip(frame.cell, frame.pbc, strict=True) if periodic),
        default=np.inf,
    )
    if shortest < _SHORTEST_VECTOR:
        return f"collapsed: a lattice vector is {shortest:.2g} A long"
    volume = abs(float(np.linalg.det(np.asarray(complete_cell(frame.cell))))) / len(frame)
    if any(frame.pbc) and volume < _SMALLEST_VOLUME:
        return f"collapsed: the cell has {volume:.2g} A^3 per atom"
    contacts = nearest_contacts(frame, max(rules.max_gap or 0.0, rules.min_contact))
    closest = int(np.argmin(contacts))
    if contacts[closest] < rules.min_contact:
        return (
            f"overlapping: atom {closest} ({frame.species[closest]}) has a neighbour at {contacts[closest]:.2f} "
            f"of the covalent radii (least allowed {rules.min_contact:g})"
        )
    lonely = int(np.argmax(contacts))
    if rules.max_gap is not None and len(frame) > 1 and contacts[lonely] > rules.max_gap:
        return (
            f"exploded: atom {lonely} ({frame.species[lonely]}) has no neighbour within {rules.max_gap:g} "
            "of the covalent radii"
        )
    return None
