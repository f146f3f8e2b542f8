"""Folders of VASP runs: every OUTCAR or vasprun.xml in a folder or below it is one label."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

from ..conventions import ConventionError, one_line
from ..records import LabelledFrame
from .entries import Unreadable

_NAMES = ("OUTCAR", "OUTCAR.gz", "vasprun.xml", "vasprun.xml.gz")


def read_labels(path: Path) -> Iterator[LabelledFrame | Unreadable]:
    """Labels of all runs of VASP at a path; what cannot be read is told and passed over.

    Raises:
        ConventionError: no output of VASP there.
    """
    found = [path] if path.is_file() else sorted(file for name in _NAMES for file in path.rglob(name))
    folders = sorted({file.parent for file in found})
    if not folders:
        raise ConventionError(f"{path}: there is no OUTCAR or vasprun.xml in this folder or below it")
    read: Callable[[Path], LabelledFrame] = import_module("..vasp.outputs", __package__).read_vasp_label
    for folder in folders:
        try:
            yield read(folder)
        except (ValueError, RuntimeError, OSError, KeyError) as error:
            yield Unreadable(str(folder), one_line(error))
