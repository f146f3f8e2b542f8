"""Arrays of a run in files that are whole or absent, and a lock on its directory."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ...dft_inputs.files import replacing


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an ``.npz`` file atomically."""
    with replacing(path) as handle:
        np.savez(handle, **arrays)  # type: ignore[arg-type]


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read an ``.npz`` file; nothing is unpickled."""
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a directory for one process; the lock goes with the process, however it ends.

    Raises:
        RuntimeError: another process holds it.
    """
    with (directory / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RuntimeError(f"another process runs dynamics in {directory}: wait for it or end it") from None
        yield
