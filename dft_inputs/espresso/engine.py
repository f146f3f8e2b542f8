"""pw.x behind the protocol of all codes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from ..insulators import BandGap
from ..records import Frame
from ..stencil import DEFAULT_STEP, Stencil
from ..units import RYDBERG_FIELD_IN_V_PER_ANGSTROM
from .code import PwCode
from .gap import band_gap
from .inputs import CODE, SMALLEST_FIELD, label_id
from .job import PwJob
from .outputs import XML
from .settings import PwSettings


@dataclass(frozen=True)
class PwEngine:
    """Labels by Quantum ESPRESSO's pw.x.

    Attributes:
        settings: level of theory.
        code: how pw.x is run here.
    """

    name: ClassVar[str] = CODE
    done_file: ClassVar[str] = XML
    smallest_field: ClassVar[float] = SMALLEST_FIELD * RYDBERG_FIELD_IN_V_PER_ANGSTROM

    default_step: ClassVar[float] = DEFAULT_STEP

    settings: PwSettings
    code: PwCode = field(default_factory=PwCode)

    def check(self, frame: Frame) -> None:
        """Refuse what pw.x cannot label: no program, no pseudopotential, a mesh or cell that it gets wrong."""
        self.code.argv()
        pseudopotentials = self.code.find_pseudopotentials(frame.species)
        self._at(frame).check_cell(frame.cell)
        self.settings.check_electrons(frame.species, pseudopotentials)

    def pseudopotentials(self, species: Iterable[str]) -> dict[str, str]:
        """SHA-256 of the file of each element."""
        return {element: found.sha256 for element, found in self.code.find_pseudopotentials(species).items()}

    def label_id(self, frame: Frame, stencil: Stencil) -> str:
        """Name of a label."""
        return label_id(frame, self._at(frame), self.code.find_pseudopotentials(frame.species), stencil)

    def prepare(self, frame: Frame, stencil: Stencil, directory: Path) -> PwJob:
        """The runs of a label, after ``check``."""
        self.check(frame)
        settings, pseudopotentials = self._at(frame), self.code.find_pseudopotentials(frame.species)
        return PwJob(
            frame=frame,
            stencil=stencil,
            settings=settings,
            code=self.code,
            directory=directory,
            label_id=label_id(frame, settings, pseudopotentials, stencil),
            pseudopotentials=pseudopotentials,
        )

    def band_gap(self, frame: Frame, directory: Path) -> BandGap:
        """The gap from a run of its own with many empty bands, which a metal survives too."""
        return band_gap(frame, self._at(frame), self.code, directory)

    def _at(self, frame: Frame) -> PwSettings:
        """The settings with a mesh; the frame is its own parent where they name none."""
        return self.settings if self.settings.kpoints else self.settings.for_cell(frame.cell)
