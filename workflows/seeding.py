"""First frames on disk: made once, found again by what determines them, and checked against the campaign."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..active_learning.sampling.frames import Sampled
from ..active_learning.sampling.lammps_run import Progress
from ..active_learning.sampling.seeds import SeedSettings, seed_frames
from ..dft_inputs.files import write_atomically
from ..dft_inputs.records import Frame, Proposal
from .config import CampaignConfig, ConfigError
from .keys import content_key

FOLDER = "seeds"
"""Of a campaign's directory."""

_FRAMES = TypeAdapter(list[tuple[Frame, Proposal]])


def first_frames(
    parent: Frame, seeds: SeedSettings, directory: Path, progress: Progress | None = None
) -> Sequence[Sampled]:
    """The parent and the frames made from it; those of sources are kept, so that they never change nor are made twice.

    Args:
        parent: the crystal.
        seeds: how the frames are made.
        directory: of the campaign.
        progress: is told how much is done, from 0 to 1.

    Raises:
        SeedError: see ``seed_frames``.
        ConfigError: a directory that cannot be written.
    """
    if not seeds.sources:
        return seed_frames(parent, seeds)
    try:
        kept = directory / FOLDER / f"{_identity(parent, seeds)[:16]}.json"
        content = kept.read_bytes() if kept.is_file() else None
    except OSError as error:
        raise ConfigError(f"seeds: cannot read {error.filename}: {error.strerror}") from error
    if content is not None:
        try:
            return _FRAMES.validate_json(content)
        except ValidationError as error:
            raise ConfigError(f"{kept} is damaged: remove it, and its frames are made again") from error
    frames = seed_frames(parent, seeds, progress)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, _FRAMES.dump_json(frames))
    except OSError as error:
        raise ConfigError(f"cannot write {kept}: {error.strerror}") from error
    return frames


def campaign_frames(parent: Frame, config: CampaignConfig, progress: Progress | None = None) -> Sequence[Sampled]:
    """The first frames of a campaign.

    Raises:
        SeedError: see ``seed_frames``.
        ConfigError: too few frames.
    """
    frames = first_frames(parent, config.seeds, config.directory, progress)
    if len(frames) < (least := config.committee.validation_every):
        raise ConfigError(f"seeds: {len(frames)} frames leave none to validate on: make at least {least}")
    return frames


def _identity(parent: Frame, seeds: SeedSettings) -> str:
    """Hash of the parent, the settings and the files they name, wherever these lie."""
    files = [[hashlib.sha256(path.read_bytes()).hexdigest() for path in source.files] for source in seeds.sources]
    settings = [_without_paths(source.model_dump()) for source in seeds.sources]
    return content_key("first frames", parent, settings, files)


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_paths(item) for key, item in value.items() if not isinstance(item, Path)}
    return value
