"""What formats have in common: frames that could not be read, and packages that are not installed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

from ..conventions import ConventionError


@dataclass(frozen=True)
class Unreadable:
    """A frame, or the rest of a file, that could not be read.

    Attributes:
        where: ``frame 3``, or the name of a folder.
        reason: one line for people.
    """

    where: str
    reason: str


def optional_package(name: str, extra: str) -> ModuleType:
    """A package that only some formats need.

    Raises:
        ConventionError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ConventionError(f"this format needs the package {name}: pip install 'fieldloop[{extra}]'") from error


@contextmanager
def replacing_path(path: Path) -> Iterator[Path]:
    """A path of the same suffix that takes the place of ``path`` when the block ends, for writers that open files.

    After an error nothing has changed.
    """
    part = path.with_name(f".{os.getpid()}.part.{path.name}")
    try:
        yield part
        if path.is_dir() and part.is_dir():
            old = path.with_name(f".{os.getpid()}.old.{path.name}")
            path.replace(old)
            part.replace(path)
            shutil.rmtree(old)
        else:
            part.replace(path)
    finally:
        for left in path.parent.glob(f".{os.getpid()}.part.{path.name}*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
