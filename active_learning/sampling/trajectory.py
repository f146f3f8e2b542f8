"""Frames of trajectories that users bring, in any format that ASE reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from ...dft_inputs.quantities import Length
from ...dft_inputs.records import Frame, Proposal
from ..plausibility import implausible
from .frames import Sampled, SeedError, SourceSettings
from .strain import LARGEST_STRAIN
from .structures import check_same_crystal, matched, minimum_image, read_structures


class TrajectorySettings(SourceSettings):
    """Which frames of a file are taken.

    Attributes:
        file: the trajectory.
        count: most frames taken.
        start: first frame looked at; ``every``: then every n-th.
        unwrap: let each atom go on from where it was in the frame before, the first frame near the parent, as P
            depends on unwrapped positions. Atoms must move by less than half a cell between frames of the file.
        apart: frames nearer than this to one taken before are passed over: root mean square over atoms of the
            displacement, nearest image, without a common shift, A.
        max_strain: largest strain (or turn) of a frame's cell from the parent's.
    """

    kind: Literal["trajectory"] = "trajectory"
    file: Path
    count: PositiveInt = 100
    start: NonNegativeInt = 0
    every: PositiveInt = 1
    unwrap: bool = True
    apart: Annotated[Length, Field(ge=0.0)] = 0.01
    max_strain: float = Field(default=LARGEST_STRAIN, ge=0.0)

    @property
    def files(self) -> tuple[Path, ...]:
        """The trajectory."""
        return (self.file,)


def trajectory_frames(parent: Frame, settings: TrajectorySettings) -> list[Sampled]:
    """Plausible frames of a trajectory, each at a distance from those before; implausible ones are passed over.

    Atoms are brought into the parent's order where the file has another one.

    Raises:
        SeedError: a file that cannot be read, other atoms or another cell than the parent's, or no frame to take.
    """
    path = read_structures(settings.file)[settings.start :]
    for index, frame in enumerate(path, settings.start):
        check_same_crystal(parent, frame, settings.max_strain, f"frame {index} of {settings.file.name}")
        if frame.species != path[0].species:
            raise SeedError(
                f"frame {index} of {settings.file.name} has its atoms in another order than frame {settings.start}: "
                "give each order a file of its own"
            )
    path = ordered(parent, path, unwrap=settings.unwrap)
    taken: list[Frame] = [parent]
    sampled: list[Sampled] = []
    reasons = []
    for index, frame in list(enumerate(path, settings.start))[:: settings.every]:
        if len(sampled) == settings.count:
            break
        if trouble := implausible(frame, settings.rules):
            reasons.append(trouble)
        elif any(distance(frame, other) < settings.apart for other in taken) or frame == parent:
            reasons.append("near one taken before")
        else:
            taken.append(frame)
            proposal = Proposal(
                origin="trajectory", parent_frame_id=parent.frame_id, reason=f"frame {index} of {settings.file.name}"
            )
            sampled.append((frame, proposal))
    if not sampled:
        said = f", the first of which is {reasons[0]}" if reasons else ""
        raise SeedError(f"nothing to take from the {len(path)} frames of {settings.file}{said}")
    return sampled


def ordered(parent: Frame, path: list[Frame], *, unwrap: bool) -> list[Frame]:
    """A trajectory in the parent's order of atoms.

    Args:
        parent: the crystal.
        path: frames of the same composition, all in one order.
        unwrap: each atom goes on from where it was in the frame before, in the first one from the parent.
    """
    if not path:
        return []
    first = path[0]
    here = first.positions @ np.linalg.solve(first.cell, parent.cell)
    order = np.arange(len(parent)) if first.species == parent.species else matched(parent, here, first.species)[0]
    before = parent.positions @ np.linalg.inv(parent.cell)
    frames = []
    for frame in path:
        positions = frame.positions[order]
        if unwrap:
            positions = before @ frame.cell + minimum_image(positions - before @ frame.cell, frame.cell)
            before = positions @ np.linalg.inv(frame.cell)
        frames.append(Frame(species=parent.species, positions=positions, cell=frame.cell, pbc=parent.pbc))
    return frames


def distance(one: Frame, other: Frame) -> float:
    """Root mean square distance of the atoms of two frames in one order, A; the strain between cells is added."""
    moves = one.positions - other.positions @ np.linalg.solve(other.cell, one.cell)
    moves = minimum_image(moves - moves[0], one.cell)
    moves = moves - moves.mean(axis=0)
    stretch = np.linalg.norm(one.cell - other.cell)
    return float(np.sqrt(np.square(moves).sum(axis=1).mean()) + stretch)
