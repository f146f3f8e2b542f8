"""Content keys: finished work is recognized by what determines it, not by when or where it ran.

A content-keyed job is a pure function of its key. Its uuid follows from the key, so a store that holds its output
makes ``run_flow`` pass it by, in this run or in any later one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import UUID, uuid5

import numpy as np
from jobflow.core.job import Job
from pydantic import BaseModel

NAMESPACE = UUID("6f1d9c1e-5d0a-5b0e-9a59-3c2f3b5a7e41")
"""Namespace of the uuids of content-keyed jobs (RFC 9562, version 5)."""

_EXACT_INTEGER = 2**53


def content_key(*parts: Any) -> str:
    """Hash of the content of the parts, 32 hexadecimal digits of the SHA-256 of their canonical JSON.

    Numbers are compared by value (1 and 1.0, 0.0 and -0.0 are the same), tuples are lists, the order of dictionaries
    and sets does not matter, and the versions that MSONable objects carry are left out.

    Args:
        parts: JSON values, NumPy arrays, pydantic models, dataclasses, MSONable objects, enums, paths.

    Raises:
        TypeError: for an object whose content is not defined.
        ValueError: for NaN and infinite numbers.
    """
    text = json.dumps(_canonical(parts), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def content_uuid(key: str) -> str:
    """The uuid of the job with this content key."""
    return str(uuid5(NAMESPACE, key))


def content_job(job: Job, key: str, directory: str) -> Job:
    """Give a job the identity of its content, in place.

    Such a job may not return a replacement, detour or addition, nor stop the flow: only its output is stored, and the
    rest would be lost when it is found instead of run.

    Args:
        job: the job; references made from its output before this call follow only if they are ``job.output`` itself.
        key: from ``content_key``; covers everything that determines the output.
        directory: where the job runs, relative to the root of the project.

    Returns:
        The same job.

    Raises:
        ValueError: for a directory outside the root.
    """
    path = PurePosixPath(directory)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"the directory of a job must lie below the root of the project, not {directory!r}")
    job.set_uuid(content_uuid(key))
    job.metadata.update(content_key=key, directory=str(path))
    return job


def is_content_keyed(job: Job) -> bool:
    """True where the job's uuid is that of its content key.

    A job that replaces another one inherits its metadata, content key included, but is not the job of that key.
    """
    key = job.metadata.get("content_key")
    return isinstance(key, str) and job.index == 1 and job.uuid == content_uuid(key)


def _canonical(value: Any) -> Any:
    if value is None or (isinstance(value, str | bool | int) and not isinstance(value, Enum)):
        return value
    if isinstance(value, float | np.floating):
        return _canonical_float(float(value))
    if isinstance(value, Mapping):
        return {_name(key): _canonical(item) for key, item in value.items() if key != "@version"}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((_canonical(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    return _canonical(_plain(value))


def _canonical_float(value: float) -> float | int:
    if not math.isfinite(value):
        raise ValueError(f"a content key cannot hold {value}")
    return int(value) if value.is_integer() and abs(value) < _EXACT_INTEGER else value


def _plain(value: Any) -> Any:
    """The JSON-like content of a richer object."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "as_dict"):
        return value.as_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    raise TypeError(f"a content key cannot be made from {type(value).__name__} objects: {value!r}")


def _name(key: Any) -> str:
    if not isinstance(key, str | int) or isinstance(key, bool):
        raise TypeError(f"a content key needs dictionaries with text keys, not {key!r}")
    return str(key)
