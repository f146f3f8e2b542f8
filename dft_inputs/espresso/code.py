"""How pw.x is run on this machine: nothing here changes a number."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveFloat

from ..pseudopotentials import Pseudopotential, PseudopotentialError, find_pseudopotentials


class PwNotFoundError(RuntimeError):
    """pw.x, or what launches it, is not on this machine; the message says how to get it."""


class PwCode(BaseModel):
    """How pw.x is run here. None of this changes the numbers, so none of it enters a label's hash.

    Attributes:
        command: the program, e.g. ``pw.x`` or ``/opt/qe/bin/pw.x``.
        launcher: what runs it in parallel, e.g. ``mpirun -np 4``; a string is split like a shell line.
        timeout: most seconds for one SCF; None for no limit.
        environment: further environment variables.
        pseudo_dir: folder of the pseudopotential files.
        pseudopotentials: file name by element, where the folder holds several.
        lease_timeout: seconds to wait for a directory in which another process is at work.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: Annotated[str, Field(min_length=1)] = "pw.x"
    launcher: Annotated[tuple[str, ...], BeforeValidator(lambda v: shlex.split(v) if isinstance(v, str) else v)] = ()
    timeout: PositiveFloat | None = None
    environment: dict[str, str] = {}
    pseudo_dir: str = "/usr/share/espresso/pseudo"
    pseudopotentials: dict[str, str] = {}
    lease_timeout: float = 20.0

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
        return [word for part in (self.launcher, shlex.split(self.command)) for word in self._found(part)]

    def _found(self, words: Sequence[str]) -> list[str]:
        """The words with the program at its absolute path, as pw.x runs in another directory."""
        if not words:
            return []
        program = shutil.which(words[0], path=self.environment.get("PATH", os.environ.get("PATH")))
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
