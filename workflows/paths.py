"""Where a job stands in its campaign: records keep paths relative to the root, so a campaign may be moved."""

from __future__ import annotations

import os
from pathlib import Path

ROOT_VARIABLE = "FIELDLOOP_ROOT"
"""Set by the executor while a job runs; absent under other engines, where paths are then absolute."""


def campaign_root() -> Path | None:
    """Root of the campaign whose job runs in this process; None outside of ``run_flow``."""
    root = os.environ.get(ROOT_VARIABLE)
    return Path(root) if root else None


def recorded(path: Path) -> str:
    """A path as a record keeps it."""
    root = campaign_root()
    if root is None:
        return str(path.absolute())
    # A job sees its directory without symbolic links, but the root may have been named through one.
    root, path = root.resolve(), path.resolve()
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def located(recorded_path: str, root: Path | None = None) -> Path:
    """The file or directory that a record names.

    Args:
        recorded_path: from ``recorded``.
        root: of the campaign; the running job's where not given.
    """
    return (root or campaign_root() or Path()) / recorded_path
