"""What no training can use, told before it starts in one line that names the frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from ase.data import atomic_numbers, covalent_radii
from vesin import NeighborList

from ..dft_inputs.records import LabelledFrame

_OVERLAP = 0.5
"""Of the sum of covalent radii: nothing is bonded that closely (the shortest bond, H2, stands at 1.2)."""

_FLAT = 1e-6
"""A^3: stress and the lattice of quanta need a volume."""


class TrainingDataError(ValueError):
    """Frames that cannot be trained on, or a checkpoint that cannot be gone on from; the message is one line."""


def check_frames(
    frames: Sequence[LabelledFrame], what: str, species: Sequence[str], charges: Mapping[str, int]
) -> None:
    """Refuse an empty set, and frames that would teach nonsense.

    Args:
        frames: of one set; ``what`` is its name.
        species: symbols that the network knows.
        charges: reference charge of each, e; empty for none.

    Raises:
        TrainingDataError: no frame, or one that failed or is flagged, has unknown species, labels of other sizes than
            its own, a cell without volume, overlapping atoms or a charge.
    """
    if not frames:
        raise TrainingDataError(f"the {what} set is empty")
    bad = [label for label in frames if not label.trainable]
    if bad:
        raise TrainingDataError(
            f"{len(bad)} {what} frames failed or are flagged (first: {_name(bad[0])}): leave them out"
        )
    for label in frames:
        fault = _unknown(label, species) or _wrong_shape(label) or _flat(label)
        fault = fault or overlap(label) or _charge(label, charges)
        if fault:
            raise TrainingDataError(f"{what} frame {_name(label)}: {fault}")


def overlap(label: LabelledFrame) -> str | None:
    """Two atoms in one place, in words."""
    frame = label.frame
    radii = np.array([covalent_radii[atomic_numbers[symbol]] for symbol in frame.species])
    finder = NeighborList(cutoff=2 * _OVERLAP * float(radii.max()), full_list=True)
    i, j, d = finder.compute(points=frame.positions, box=frame.cell, periodic=np.array(frame.pbc), quantities="ijd")
    closest = np.flatnonzero((i <= j) & (d < _OVERLAP * (radii[i] + radii[j])))
    if not len(closest):
        return None
    k = closest[np.argmin(d[closest])]
    return f"atoms {i[k]} ({frame.species[i[k]]}) and {j[k]} ({frame.species[j[k]]}) are {d[k]:.2f} A apart"


def _unknown(label: LabelledFrame, species: Sequence[str]) -> str | None:
    unknown = sorted(set(label.frame.species) - set(species))
    if not unknown:
        return None
    return f"the model knows {', '.join(species)}, not {', '.join(unknown)}: train it on these species first"


def _wrong_shape(label: LabelledFrame) -> str | None:
    for name in ("forces", "born_effective_charges"):
        value = getattr(label.response, name)
        if value is not None and len(value) != len(label.frame):
            return f"{name} of {len(value)} atoms, but it has {len(label.frame)}"
    return None


def _flat(label: LabelledFrame) -> str | None:
    return None if label.frame.volume > _FLAT else "its cell has no volume: put molecules and slabs into a box"


def _charge(label: LabelledFrame, charges: Mapping[str, int]) -> str | None:
    total = sum(charges.get(symbol, 0) for symbol in label.frame.species)
    if not total or not any(label.frame.pbc):
        return None
    return (
        f"reference charges of {label.frame.formula} add up to {total:+g} e: "
        "give oxidation numbers that make the cell neutral"
    )


def _name(label: LabelledFrame) -> str:
    return f"{label.label_id} ({label.frame.formula})"
