"""How pw.x is run on this machine: nothing here changes a number."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from ..program import Command, Program
from ..pseudopotentials import Pseudopotential, PseudopotentialError, find_pseudopotentials
from ..quantities import Size

_POOLS = ("-nk", "-nks", "-npool", "-npools", "-nb", "-nband", "-nbgrp", "-nimage", "-ni", "-nimages")


class PwCode(Program):
    """How pw.x is run here. None of this changes the numbers, so none of it enters a label's hash.

    Attributes:
        scratch_dir: fast local disk for wavefunctions; beside the inputs where None.
        scratch_quota: most bytes of wavefunctions a label may hold at a time; only the free space limits where None.
        pseudo_dir: folder of the pseudopotential files; where not given that of the variable ``ESPRESSO_PSEUDO``
            (Quantum ESPRESSO's own), else Debian's.
        pseudopotentials: file name by element, where the folder holds several.
    """

    section: ClassVar[str] = "codes.pw"
    advice: ClassVar[str] = (
        "load the module of Quantum ESPRESSO, or install it "
        "(conda install -c conda-forge qe; apt-get install quantum-espresso)"
    )

    command: Command = "pw.x"
    scratch_dir: str | None = None
    scratch_quota: Annotated[Size, Field(gt=0)] | None = None
    pseudo_dir: str = Field(default_factory=lambda: os.environ.get("ESPRESSO_PSEUDO", "/usr/share/espresso/pseudo"))
    pseudopotentials: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _no_pools(self) -> Self:
        if pools := next((word for word in shlex.split(self.command) if word in _POOLS), None):
            raise ValueError(f"pw.x refuses {pools} in an electric field: leave it out, and set ranks")
        return self

    def find_pseudopotentials(self, elements: Iterable[str]) -> dict[str, Pseudopotential]:
        """One checked file per element.

        Raises:
            PseudopotentialError: see ``find_pseudopotentials``; also for names of files that are not used by mistake.
        """
        unknown = [name for name in self.pseudopotentials.values() if Path(name).name != name]
        if unknown:
            raise PseudopotentialError(f"name pseudopotentials by file, not by path: {unknown[0]}; set pseudo_dir")
        return find_pseudopotentials(self.pseudo_dir, elements, self.pseudopotentials)
