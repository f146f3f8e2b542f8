"""Frames with where they come from in a file that ASE reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from ..dft_inputs.files import replacing, write_atomically
from ..dft_inputs.records import Frame, Proposal

if TYPE_CHECKING:
    from ase import Atoms

    from ..model.dynamics import Trajectory


def write_frames(frames: Sequence[tuple[Frame, Proposal]], path: Path) -> None:
    """Write frames as extended XYZ with their provenance in the comment lines."""
    from ase.io import write  # noqa: PLC0415  (half a second)

    images = []
    for frame, proposal in frames:
        atoms = frame.to_atoms()
        known = {"frame_id": frame.frame_id, **proposal.model_dump(include={"origin", "parent_frame_id", "reason"})}
        known |= {"temperature": proposal.temperature, "time": proposal.time, "field": proposal.field}
        atoms.info = {key: value for key, value in known.items() if value is not None}
        images.append(atoms)
    text = StringIO()
    write(text, images, format="extxyz")
    write_atomically(path, text.getvalue())


def write_trajectory(trajectory: Trajectory, path: Path) -> int:
    """Write a trajectory as extended XYZ, replica by replica, and return the number of frames.

    Comment lines hold replica, step, time (fs), field (V/A), polarization (e A), enthalpy, kinetic and conserved energy
    (eV); velocities are in A/fs. Positions are unwrapped.
    """
    from ase.io import write  # noqa: PLC0415

    count = 0
    with replacing(path) as handle:
        for index in range(trajectory.n_replicas):
            for atoms in _images(trajectory, index):
                text = StringIO()
                write(text, atoms, format="extxyz")
                handle.write(text.getvalue().encode())
                count += 1
    return count


def _images(trajectory: Trajectory, index: int) -> Iterator[Atoms]:
    replica = trajectory.replica(index)
    for place in range(len(replica)):
        atoms = replica.frame(place).to_atoms()
        atoms.arrays["velocities"] = replica.velocities[place]
        atoms.info = {"replica": index, "step": int(replica.step[place]), "time": float(replica.time[place])}
        atoms.info |= {name: getattr(replica, name)[place] for name in ("field", "polarization")}
        atoms.info |= {name: float(getattr(replica, name)[place]) for name in ("enthalpy", "kinetic", "conserved")}
        yield atoms
