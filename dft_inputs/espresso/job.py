"""The pw.x runs of one label: which start from which, and what they say.

A plain SCF at zero field comes first. Its Berry phases fix the branch of all others, which start from its
wavefunctions; the second and later points of a field axis start from extrapolated ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..attempts import repair_lines
from ..branches import string_counts
from ..engine import ORIGIN, FieldJob, FieldRun
from ..errors import EngineError
from ..identity import planned_provenance
from ..insulators import gap_of_bands, strong_field
from ..pseudopotentials import Pseudopotential
from ..records import Provenance
from ..stencil import ZERO
from .code import PwCode
from .handlers import closed_gap, run_with_remedies
from .inputs import CODE, PREFIX, SCRATCH, field_input, occupied_bands, zero_input
from .outputs import PwOutput
from .phases import dipole_from_phases, read_phases, string_phases, write_phases
from .points import check_neutral, electrons_per_quantum, field_point, zero_point
from .run import ended_point, link_pseudopotentials, set_up_point, stored_point
from .save_files import SaveFileError
from .scratch import drop_scratch, has_scratch, require_space, scratch_bytes
from .settings import PwSettings
from .warm_start import extrapolation_weights, write_extrapolated


@dataclass(frozen=True, kw_only=True)
class PwJob(FieldJob):
    """One frame to label, with all that its runs need."""

    settings: PwSettings
    code: PwCode
    pseudopotentials: dict[str, Pseudopotential]

    def provenance(self) -> Provenance:
        """What is known before anything is run."""
        return planned_provenance(CODE, self.settings, self.pseudopotentials, self.stencil)

    def write(self, name: str) -> None:
        """Empty the directory of a run and put its input and first wavefunctions there."""
        link_pseudopotentials(self.directory, self.pseudopotentials)
        start, prepare = self._start(name)
        text = self.text(name)
        set_up_point(self.folder(name), text, self.code, name=name, start_from=start, prepare=prepare)

    def run(self, name: str, lease_descriptor: int) -> FieldRun:
        """Make a run that is not on disk, with remedies where it fails."""
        link_pseudopotentials(self.directory, self.pseudopotentials)
        start, prepare = self._start(name)
        output = run_with_remedies(
            self.folder(name),
            self.text(name),
            self.code,
            name=name,
            lease_descriptor=lease_descriptor,
            start_from=start,
            prepare=prepare,
            hopeless=partial(self._hopeless, name),
        )
        if name == self.first:
            self._keep_phases()
        return self._said(name, output)

    def read(self, name: str) -> FieldRun | None:
        """A finished run of exactly this input; one that a kill kept from being marked as such is marked now."""
        output = ended_point(self.folder(name), self.text(name), self.code)
        if output is not None and name == self.first and not self._has_phases() and self.has_files(name):
            self._keep_phases()
        return self._said(name, output) if output is not None and self._has_phases() else None

    def sources(self, name: str) -> tuple[str, ...]:
        """The runs whose files a run starts from; the first one lends them."""
        return tuple(self.weights(name))

    def has_files(self, name: str) -> bool:
        """Wavefunctions and density are there to start from."""
        return has_scratch(self.folder(name))

    def drop_files(self, name: str) -> None:
        """Remove wavefunctions and density."""
        drop_scratch(self.folder(name))

    def require_space(self) -> None:
        """Refuse a label whose wavefunctions would not fit."""
        electrons = sum(self.pseudopotentials[symbol].z_valence for symbol in self.frame.species)
        # The point at work, and those that it starts from.
        points = 1 + max(len(self.sources(name)) for name in self.fields)
        require_space(scratch_bytes(self.frame, self.settings, electrons, points), self.code, self.directory)

    def weights(self, name: str) -> dict[str, float]:
        """The runs that a run starts from, with their weights in the extrapolation."""
        if name == self.first:
            return {}
        if name == ZERO:
            return {ORIGIN: 1.0}
        axis, target = self.place(self.fields[name])
        known = {0: ZERO}
        for other, field in self.fields.items():
            if other == name:
                break
            if other not in (ORIGIN, ZERO) and self.place(field)[0] == axis:
                known[self.place(field)[1]] = other
        return {known[place]: weight for place, weight in extrapolation_weights(list(known), target).items()}

    def save(self, name: str) -> Path:
        """Where pw.x leaves wavefunctions and density of a run."""
        return self.folder(name) / SCRATCH / f"{PREFIX}.save"

    def text(self, name: str) -> str:
        """Input of a run."""
        comment = f"label {self.label_id}, point {name}"
        if name == self.first:
            return zero_input(self.frame, self.settings, self.pseudopotentials, comment)
        return field_input(
            self.frame,
            self.settings,
            self.pseudopotentials,
            self.fields[name],
            extrapolated=len(self.sources(name)) > 1,
            comment=comment,
        )

    def reference_dipole(self) -> np.ndarray:
        """Electronic dipole at zero field, its k-strings on one branch, e A, (3,).

        Raises:
            OSError, ValueError: the phases are missing or broken.
        """
        folder = self.folder(self.first)
        phases = read_phases(folder)
        if [one.shape for one in phases] != [(self.settings.nspin, n) for n in string_counts(self.settings.mesh)]:
            raise ValueError(f"the Berry phases in {folder} are not those of all k-strings")
        return dipole_from_phases(phases, self.frame.cell)

    def _has_phases(self) -> bool:
        """The Berry phases of the zero-field run are beside its output, and whole."""
        try:
            self.reference_dipole()
        except (OSError, ValueError):
            return False
        return True

    def _said(self, name: str, output: PwOutput) -> FieldRun:
        """What a run says, with what pw.x leaves out.

        Raises:
            EngineError: a charged cell, or an output without forces or dipole.
        """
        try:
            reference, gap = self.reference_dipole(), None
        except ValueError as error:
            raise EngineError(str(error)) from error
        if name == self.first:
            check_neutral(output)
            gap = self._gap(output)
            point = zero_point(output, reference)
        else:
            point = field_point(name, output, reference, relative=True)
        return FieldRun(
            point=point,
            gap=gap,
            version=output.version,
            cpu_seconds=output.cpu_time,
            electrons_per_quantum=electrons_per_quantum(output),
            fft_grid=output.fft_grid,
            repairs=repair_lines(self.folder(name), name),
        )

    def _gap(self, zero: PwOutput) -> float:
        return gap_of_bands(zero.eigenvalues, occupied_bands(self.frame, self.pseudopotentials), zero.nspin)

    def _start(self, name: str) -> tuple[Path | None, Callable[[Path], None] | None]:
        """Directory whose files a run starts from, and what changes them before it does."""
        sources = self.sources(name)
        start = self.folder(sources[0]) if sources else None
        return start, partial(self._extrapolate, name) if len(sources) > 1 else None

    def _hopeless(self, name: str) -> str | None:
        """Why no remedy helps a run that does not converge: a closed gap, too strong a field for the mesh; or None."""
        if name == self.first:
            return closed_gap(self.frame, self.settings, self.code, self.directory)
        zero = stored_point(self.folder(self.first), self.text(self.first))
        if zero is None:
            return None
        return strong_field(self.fields[name], self._gap(zero), self.frame.cell, self.settings.mesh)

    def _extrapolate(self, name: str, directory: Path) -> None:
        """Change the files copied from the first source to what the next point should look like."""
        weights = {self.save(source): weight for source, weight in self.weights(name).items()}
        try:
            write_extrapolated(weights, directory / SCRATCH / f"{PREFIX}.save")
        except SaveFileError as error:
            raise EngineError(f"no start for {name}: {error}") from error

    def _keep_phases(self) -> None:
        """Berry phases of the zero-field run beside its output and among the files that the others start from."""
        occupied = occupied_bands(self.frame, self.pseudopotentials)
        try:
            phases = string_phases(self.save(self.first), self.settings.mesh, occupied)
        except SaveFileError as error:
            raise EngineError(f"no Berry phases at zero field: {error}") from error
        folder = self.folder(self.first)
        write_phases(folder / SCRATCH, phases, prefix=f"{PREFIX}.")
        write_phases(folder, phases)
