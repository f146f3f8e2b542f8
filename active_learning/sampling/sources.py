"""The sources of first frames, gathered: one list of settings, told apart by their ``kind``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field

from ...dft_inputs.records import Frame
from .classical import ClassicalSettings, classical_frames
from .domain_wall import DomainWallSettings, wall_frames
from .frames import Sampled, SeedError
from .lammps_run import Progress
from .phonons import PhononSettings, phonon_frames
from .polar_path import PolarPathSettings, path_frames
from .rattle import RattleSettings, rattled_frames
from .strain import StrainSettings, strained_frames
from .trajectory import TrajectorySettings, trajectory_frames

Source = Annotated[
    RattleSettings
    | StrainSettings
    | ClassicalSettings
    | PhononSettings
    | PolarPathSettings
    | DomainWallSettings
    | TrajectorySettings,
    Field(discriminator="kind"),
]

Model = TypeVar("Model", bound=BaseModel)

_QUICK: dict[type, Callable[[Frame, Any], list[Sampled]]] = {
    RattleSettings: rattled_frames,
    StrainSettings: strained_frames,
    PhononSettings: phonon_frames,
    PolarPathSettings: path_frames,
    DomainWallSettings: wall_frames,
    TrajectorySettings: trajectory_frames,
}


def sample(parent: Frame, source: Source, progress: Progress | None = None) -> list[Sampled]:
    """The frames of one source.

    Args:
        parent: the crystal.
        source: what to make of it.
        progress: is told how much is done, from 0 to 1.

    Raises:
        SeedError: see the source.
    """
    if isinstance(source, ClassicalSettings):
        return classical_frames(parent, source, progress)
    return _QUICK[type(source)](parent, source)


def sample_all(parent: Frame, sources: Sequence[Source], progress: Progress | None = None) -> list[Sampled]:
    """The frames of all sources in their order, without the parent and without any frame twice.

    Args:
        parent: the crystal.
        sources: what to make of it.
        progress: is told how much is done, from 0 to 1.

    Raises:
        SeedError: a source cannot make its frames, or makes none that the parent and the sources before have not.
    """
    taken, frames = {parent.frame_id}, []
    for index, source in enumerate(sources):
        try:
            made = sample(parent, source, _part(progress, index, len(sources)))
        except SeedError as error:
            raise SeedError(f"source {index + 1} ({source.kind}): {error}") from error
        new = {frame.frame_id: (frame, proposal) for frame, proposal in made if frame.frame_id not in taken}
        if not new:
            raise SeedError(
                f"source {index + 1} ({source.kind}) makes no frame that is not there already: give it another seed"
            )
        frames += new.values()
        taken.update(new)
        if progress is not None:
            progress((index + 1) / len(sources))
    return frames


def located(settings: Model, base: Path) -> Model:
    """Settings whose relative paths, those of nested settings too, are taken from a folder."""
    changes = {}
    for name, value in settings:
        if isinstance(value, Path):
            changes[name] = base / value.expanduser()
        elif isinstance(value, BaseModel):
            changes[name] = located(value, base)
        elif isinstance(value, tuple) and value and all(isinstance(item, BaseModel) for item in value):
            changes[name] = tuple(located(item, base) for item in value)
    return settings.model_copy(update=changes)


def _part(progress: Progress | None, index: int, parts: int) -> Progress | None:
    return None if progress is None else lambda fraction: progress((index + fraction) / parts)
