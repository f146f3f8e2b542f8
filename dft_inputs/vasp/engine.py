"""VASP behind the protocol of all codes: the plain program, run for each point.

``workflows.vasp`` runs the same inputs by atomate2's Makers and custodian; its labels have the same names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from ..insulators import BandGap, half_filled
from ..labelling import gap_at_zero_field
from ..pseudopotentials import Pseudopotential
from ..records import Frame
from ..stencil import Stencil
from .code import VaspCode
from .inputs import CODE, SMALLEST_FIELD, VASP_STEP, check_lists, field_incar, vasp_label_id
from .job import DONE, VaspJob
from .settings import VaspSettings


@dataclass(frozen=True)
class VaspEngine:
    """Labels by VASP.

    Attributes:
        settings: level of theory.
        code: how VASP is run here.
    """

    name: ClassVar[str] = CODE
    done_file: ClassVar[str] = DONE
    smallest_field: ClassVar[float] = SMALLEST_FIELD
    default_step: ClassVar[float] = VASP_STEP

    settings: VaspSettings
    code: VaspCode = field(default_factory=VaspCode)

    def check(self, frame: Frame) -> None:
        """Refuse what VASP cannot label: no program, no POTCAR, an odd number of electrons."""
        self.code.argv()
        self._check_frame(frame, self._potcars(frame))

    def pseudopotentials(self, species: Iterable[str]) -> dict[str, str]:
        """SHA-256 of the POTCAR of each element."""
        return {element: one.sha256 for element, one in self.code.find_potcars(species, self.settings).items()}

    def label_id(self, frame: Frame, stencil: Stencil) -> str:
        """Name of a label."""
        return vasp_label_id(frame, self._at(frame), stencil, self._potcars(frame))

    def prepare(self, frame: Frame, stencil: Stencil, directory: Path) -> VaspJob:
        """The runs of a label, after ``check``; fields too small for VASP are refused too."""
        self.code.argv()
        settings, potcars = self._at(frame), self._potcars(frame)
        self._check_frame(frame, potcars)
        for applied in stencil.points().values():
            field_incar(settings, applied)
        return VaspJob(
            frame=frame,
            stencil=stencil,
            settings=settings,
            code=self.code,
            directory=directory,
            label_id=vasp_label_id(frame, settings, stencil, potcars),
            potcars=potcars,
        )

    def band_gap(self, frame: Frame, directory: Path) -> BandGap:
        """The gap, from a run at zero field."""
        electrons = sum(self._potcars(frame)[symbol].z_valence for symbol in frame.species)
        return half_filled(electrons) or gap_at_zero_field(self, frame, directory)

    def _potcars(self, frame: Frame) -> dict[str, Pseudopotential]:
        return self.code.find_potcars(frame.species, self.settings)

    def _check_frame(self, frame: Frame, potcars: Mapping[str, Pseudopotential]) -> None:
        check_lists(frame, self.settings)
        verdict = half_filled(sum(potcars[symbol].z_valence for symbol in frame.species))
        if verdict is not None and self.settings.nspin == 1:
            raise ValueError(verdict.reason)

    def _at(self, frame: Frame) -> VaspSettings:
        """The settings with a mesh; the frame is its own parent where they name none."""
        return self.settings if self.settings.kpoints else self.settings.for_cell(frame.cell)
