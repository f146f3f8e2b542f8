"""How ABINIT is run on this machine: nothing here changes a number."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from ..program import Command, Program
from ..pseudopotentials import Pseudopotential, PseudopotentialError, find_pseudopotentials

SUFFIXES = (".psp8", ".gth", ".hgh")


class AbinitCode(Program):
    """How ABINIT is run here. None of this changes the numbers, so none of it enters a label's hash.

    ABINIT distributes k-points over the ranks, in a field too.

    Attributes:
        pseudo_dir: folder of the pseudopotential files.
        pseudopotentials: file name by element, where the folder holds several.
    """

    section: ClassVar[str] = "codes.abinit"
    advice: ClassVar[str] = (
        "load the module of ABINIT, or install it (conda install -c conda-forge abinit; apt-get install abinit)"
    )

    command: Command = "abinit"
    pseudo_dir: str = "/usr/share/abinit/psp"
    pseudopotentials: dict[str, str] = Field(default_factory=dict)

    def find_pseudopotentials(self, elements: Iterable[str]) -> dict[str, Pseudopotential]:
        """One checked file per element.

        Raises:
            PseudopotentialError: see ``find_pseudopotentials``; also for names that are paths, and for kinds of files
                that ABINIT does not read.
        """
        for name in self.pseudopotentials.values():
            if Path(name).name != name:
                raise PseudopotentialError(f"name pseudopotentials by file, not by path: {name}; set pseudo_dir")
            if Path(name).suffix.lower() not in SUFFIXES:
                raise PseudopotentialError(f"ABINIT labels take {', '.join(SUFFIXES)} files, not {name}; name another")
        return find_pseudopotentials(self.pseudo_dir, elements, self.pseudopotentials, suffixes=SUFFIXES)
