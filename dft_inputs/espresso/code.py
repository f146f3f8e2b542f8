"""How pw.x is run on this machine: nothing here changes a number."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from ..pseudopotentials import Pseudopotential, PseudopotentialError, find_pseudopotentials
from ..quantities import Size

LAUNCHERS = {
    "mpirun": ("mpirun", "-np", "{ranks}"),
    "mpiexec": ("mpiexec", "-n", "{ranks}"),
    # One step of the allocation on cores of its own, so that several frames share an allocation.
    "srun": ("srun", "--ntasks={ranks}", "--exact", "--kill-on-bad-exit=1"),
}
"""What the bare name of a launcher stands for."""
_MARGIN = 120.0
"""Seconds before the end of a batch job at which pw.x begins to write its files."""
_POOLS = ("-nk", "-nks", "-npool", "-npools", "-nb", "-nband", "-nbgrp", "-nimage", "-ni", "-nimages")


class PwNotFoundError(RuntimeError):
    """pw.x, or what launches it, is not on this machine; the message says how to get it."""


class PwCode(BaseModel):
    """How pw.x is run here. None of this changes the numbers, so none of it enters a label's hash.

    Attributes:
        command: the program, e.g. ``pw.x`` or ``/opt/qe/bin/pw.x``.
        launcher: what runs it in parallel: ``mpirun``, ``mpiexec`` or ``srun``, or words of your own in which
            ``{ranks}`` stands for the number of processes, e.g. ``srun --mpi=pmix -n {ranks}``; a string is split like
            a shell line.
        ranks: processes of one pw.x; more than one without a launcher means ``mpirun``.
        max_seconds: pw.x stops by itself, with its files written, once an SCF has taken this long, and the next call
            goes on from there; None for no limit but that of the batch job, where Slurm tells it.
        timeout: seconds after which an SCF that did not stop by itself is killed; None for no limit.
        scratch_dir: fast local disk for wavefunctions; beside the inputs where None.
        scratch_quota: most bytes of wavefunctions a label may hold at a time; only the free space limits where None.
        environment: further environment variables.
        pseudo_dir: folder of the pseudopotential files.
        pseudopotentials: file name by element, where the folder holds several.
        lease_timeout: seconds to wait for a directory in which another process is at work.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: Annotated[str, Field(min_length=1)] = "pw.x"
    launcher: Annotated[tuple[str, ...], BeforeValidator(lambda v: shlex.split(v) if isinstance(v, str) else v)] = ()
    ranks: PositiveInt = 1
    max_seconds: PositiveFloat | None = None
    timeout: PositiveFloat | None = None
    scratch_dir: str | None = None
    scratch_quota: Annotated[Size, Field(gt=0)] | None = None
    environment: dict[str, str] = {}
    pseudo_dir: str = "/usr/share/espresso/pseudo"
    pseudopotentials: dict[str, str] = {}
    lease_timeout: float = 20.0

    @model_validator(mode="after")
    def _parallel(self) -> PwCode:
        if pools := next((word for word in shlex.split(self.command) if word in _POOLS), None):
            raise ValueError(f"pw.x refuses {pools} in an electric field: leave it out, and set ranks")
        if self.ranks > 1 and self.launcher and not any("{ranks}" in word for word in self.launch_words):
            raise ValueError(
                f"launcher {shlex.join(self.launcher)!r} does not say where the {self.ranks} ranks go: write "
                f"'mpirun -np {{ranks}}' or the like, or the bare name of one of {', '.join(LAUNCHERS)}"
            )
        return self

    @property
    def launch_words(self) -> tuple[str, ...]:
        """The launcher as a template in ``{ranks}``, empty for a single process."""
        if not self.launcher:
            return LAUNCHERS["mpirun"] if self.ranks > 1 else ()
        if len(self.launcher) == 1 and self.launcher[0] in LAUNCHERS:
            return LAUNCHERS[self.launcher[0]]
        return self.launcher

    @property
    def program(self) -> str:
        """Name of the executable as the system lists it; the ``.x`` file where a container's command precedes it."""
        names = [Path(word).name for word in shlex.split(self.command)]
        return next((name for name in names if name.endswith(".x")), names[0])

    def argv(self) -> list[str]:
        """The command line up to ``-in``.

        Raises:
            PwNotFoundError: the program or its launcher is missing.
        """
        launcher = [word.replace("{ranks}", str(self.ranks)) for word in self.launch_words]
        return [word for part in (launcher, shlex.split(self.command)) for word in self._found(part)]

    def seconds_left(self) -> float | None:
        """For the next SCF: the smaller of ``max_seconds`` and what a Slurm job has left, less time to write files."""
        limits = [self.max_seconds] if self.max_seconds else []
        end = self.environment.get("SLURM_JOB_END_TIME", os.environ.get("SLURM_JOB_END_TIME", ""))
        if end.isdigit():
            limits.append(int(end) - time.time() - _MARGIN)
        return min(limits, default=None)

    def _found(self, words: Sequence[str]) -> list[str]:
        """The words with the program at its absolute path, as pw.x runs in another directory."""
        if not words:
            return []
        program = shutil.which(
            words[0], path=_outside_this_environment(self.environment.get("PATH") or os.environ.get("PATH", ""))
        )
        if program is None:
            raise PwNotFoundError(
                f"{words[0]} not found: load the module of Quantum ESPRESSO, or install it "
                "(conda install -c conda-forge qe; apt-get install quantum-espresso), or set codes.pw.command"
            )
        return [str(Path(program).absolute()), *words[1:]]

    def find_pseudopotentials(self, elements: Iterable[str]) -> dict[str, Pseudopotential]:
        """One checked file per element.

        Raises:
            PseudopotentialError: see ``find_pseudopotentials``; also for names of files that are not used by mistake.
        """
        unknown = [name for name in self.pseudopotentials.values() if Path(name).name != name]
        if unknown:
            raise PseudopotentialError(f"name pseudopotentials by file, not by path: {unknown[0]}; set pseudo_dir")
        return find_pseudopotentials(self.pseudo_dir, elements, self.pseudopotentials)


def _outside_this_environment(path: str) -> str:
    """Search path with Python's own environment last: the MPI of a PyPI package is not that of pw.x.

    With it ``mpirun -np 2 pw.x`` would start two single processes in one directory.
    """
    own = Path(sys.prefix) / "bin"
    folders = path.split(os.pathsep)
    return os.pathsep.join(sorted(folders, key=lambda folder: bool(folder) and Path(folder) == own))
