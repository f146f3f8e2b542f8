"""Is the run in a directory the one that is asked for?"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from ..interface import EnthalpyModel
from .settings import DynamicsSettings
from .trajectory import TrajectoryMeta, read_meta


def model_digest(model: EnthalpyModel) -> str:
    """SHA-256 of a model's kind, species, cutoff, ``config`` (where it has one) and weights."""
    model = model.plain
    config = getattr(model, "config", None)
    digest = hashlib.sha256(repr((type(model).__name__, model.species, model.cutoff, config)).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def require_same_run(directory: Path, meta: TrajectoryMeta) -> None:
    """Raise ValueError where the directory holds another run; the number of steps may differ."""
    found = read_meta(directory)
    if found is None:
        return
    differing = [
        name
        for name in DynamicsSettings.model_fields
        if name != "steps" and getattr(found.settings, name) != getattr(meta.settings, name)
    ]
    if found.frames != meta.frames:
        differing.append("frames")
    if found.model_digest != meta.model_digest:
        differing.append("model")
    if differing:
        raise ValueError(f"{directory} holds another run (different {', '.join(differing)}): choose a new directory")
