"""How VASP is run on this machine, and where its POTCAR files are: nothing here changes a number."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Self

from pydantic import model_validator

from ..program import Command, Program
from ..pseudopotentials import Pseudopotential
from .potcars import find_potcars
from .settings import VaspSettings


class VaspCode(Program):
    """How VASP is run here. None of this changes the numbers, so none of it enters a label's hash.

    Attributes:
        potcar_dir: the library of POTCAR files: a folder that holds ``O/POTCAR`` or ``POTCAR.O``, gzipped or not, or
            folders of functionals as pymatgen names them (``POT_GGA_PAW_PBE_54``); that of pymatgen's PMG_VASP_PSP_DIR
            where None.
    """

    section: ClassVar[str] = "codes.vasp"
    advice: ClassVar[str] = "load the module of VASP (it is licensed, so it cannot be installed from here)"

    command: Command = "vasp_std"
    potcar_dir: str | None = None

    @model_validator(mode="after")
    def _complex_orbitals(self) -> Self:
        if "vasp_gam" in self.command:
            raise ValueError("vasp_gam takes orbitals as real, which leaves no Berry phases: set vasp_std")
        return self

    def find_potcars(self, elements: Iterable[str], settings: VaspSettings) -> dict[str, Pseudopotential]:
        """One checked POTCAR for each element, in their order.

        Raises:
            PseudopotentialError: no library, no file, or one of another element.
        """
        return find_potcars(self.potcar_dir, elements, settings)
