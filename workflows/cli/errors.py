"""Errors at the command line: one line that says what to do, never a traceback."""

from __future__ import annotations

import functools
import os
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import typer

BAD_INPUT = 2
FAILED = 1
INTERRUPTED = 130

P = ParamSpec("P")
R = TypeVar("R")


def complain(message: str) -> None:
    """One line on stderr."""
    typer.echo(f"fieldloop: {' '.join(message.split())}", err=True)


def refuse_place(path: Path) -> None:
    """Refuse a file that could not be written in the end, at the beginning.

    Raises:
        ConfigError: no such folder, one that cannot be written to, or a folder in the place of the file.
    """
    from ..config import ConfigError  # noqa: PLC0415  (slow to import)

    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigError(f"cannot write {path}: name a file in a folder that exists and can be written to")


def in_one_line(command: Callable[P, R]) -> Callable[P, R]:
    """Let a command end with one line: exit code 2 for bad input, 1 for a fault of our own, 130 for Ctrl-C."""

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except typer.Exit:
            raise
        except KeyboardInterrupt:
            complain("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            if isinstance(error, _user_errors()):
                complain(str(error))
                raise typer.Exit(BAD_INPUT) from None
            complain(f"unexpected {type(error).__name__}: {error} (traceback in {_keep(error)})")
            raise typer.Exit(FAILED) from None

    return guarded


def _user_errors() -> tuple[type[Exception], ...]:
    """Errors whose message tells the user what to do."""
    # Imported only where something went wrong, as these modules are slow to import.
    from ...active_learning.sampling.seeds import SeedError  # noqa: PLC0415
    from ...dft_inputs.conventions import ConventionError  # noqa: PLC0415
    from ...dft_inputs.errors import DirectoryBusyError, ProgramNotFoundError  # noqa: PLC0415
    from ...dft_inputs.pseudopotentials import PseudopotentialError  # noqa: PLC0415
    from ...model.checks import TrainingDataError  # noqa: PLC0415
    from ..config import ConfigError  # noqa: PLC0415
    from ..labelling import CampaignError  # noqa: PLC0415
    from ..queries import QueryError  # noqa: PLC0415
    from ..root_lock import RootInUse  # noqa: PLC0415
    from ..sqlite_file import StoreError  # noqa: PLC0415

    return (
        CampaignError,
        ConfigError,
        ConventionError,
        DirectoryBusyError,
        FloatingPointError,
        PseudopotentialError,
        ProgramNotFoundError,
        QueryError,
        RootInUse,
        SeedError,
        StoreError,
        TrainingDataError,
    )


def _keep(error: Exception) -> str:
    """The file that holds the traceback of an error."""
    with tempfile.NamedTemporaryFile("w", prefix="fieldloop-traceback-", suffix=".txt", delete=False) as file:
        file.write("".join(traceback.format_exception(error)))
    return file.name
