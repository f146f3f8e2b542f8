"""What names a label: hashes of its frame and of all that determines its numbers, the same way for every code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from .engine import LevelOfTheory
from .pseudopotentials import Pseudopotential, family_hash
from .records import Frame, Provenance
from .stencil import Stencil


def content_hash(content: Mapping[str, Any]) -> str:
    """SHA-256 of JSON values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def label_name(frame: Frame, inputs: str) -> str:
    """``label_id`` of the label of a frame.

    Args:
        frame: the geometry.
        inputs: hash of what determines its numbers, from ``inputs_hash``.
    """
    return content_hash({"frame": frame.frame_id, "inputs": inputs})[:16]


def inputs_hash(
    code: str, settings: LevelOfTheory, pseudopotentials: Mapping[str, Pseudopotential], stencil: Stencil | None
) -> str:
    """Hash of the level of theory: resolved inputs, pseudopotentials by content, base field and stencil.

    Neither paths nor parallelism enter.

    Args:
        code: name of the DFT code.
        settings: with a mesh.
        pseudopotentials: by element.
        stencil: field points; None for a run at zero field alone.
    """
    return content_hash(
        {
            "code": code,
            "settings": settings.identity(),
            "pseudopotentials": {element: p.sha256 for element, p in sorted(pseudopotentials.items())},
            "fields": {n: [float(v) for v in f] for n, f in stencil.points().items()} if stencil else None,
        }
    )


def settings_hash(settings: LevelOfTheory) -> str:
    """Hash of the settings that all labels of a data set share.

    The mesh belongs to a cell, pseudopotentials to its elements: these are compared by themselves.
    """
    return content_hash({key: value for key, value in settings.identity().items() if key != "kpoints"})[:16]


def planned_provenance(
    code: str, settings: LevelOfTheory, pseudopotentials: Mapping[str, Pseudopotential], stencil: Stencil
) -> Provenance:
    """What is known of a label before anything is run; arguments as of ``inputs_hash``."""
    return Provenance(
        code=code,
        protocol=settings.protocol,
        inputs_hash=inputs_hash(code, settings, pseudopotentials, stencil),
        settings_hash=settings_hash(settings),
        kpoints=settings.mesh,
        pseudopotentials={element: file.sha256 for element, file in pseudopotentials.items()},
        pseudopotential_family=family_hash(pseudopotentials),
    )
