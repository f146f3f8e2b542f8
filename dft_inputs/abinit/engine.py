"""ABINIT behind the protocol of all codes."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
from ase.data import chemical_symbols

from ..engine import FieldJob, FieldRun
from ..errors import EngineError, Failure
from ..identity import planned_provenance
from ..insulators import BandGap, gap_of_bands, half_filled, judged, strong_field
from ..labelling import gap_at_zero_field
from ..pseudopotentials import Pseudopotential
from ..records import FieldPoint, Frame, Provenance
from ..stencil import DEFAULT_STEP, ZERO, Stencil
from ..units import BOHR_IN_ANGSTROM
from .code import AbinitCode
from .inputs import (
    CODE,
    WAVEFUNCTIONS,
    field_input,
    label_id,
    link_pseudopotentials,
    occupied_bands,
    right_handed,
)
from .outputs import DONE, AbinitOutput, AbinitOutputError, read_eigenvalues, read_string_phases
from .run import INPUT, repair_lines, run_to_end, set_up, stored_run
from .settings import AbinitSettings

_SAME = 1e-6
"""A, e, Ha; V/A: to how much a run must have seen what it was asked for."""


@dataclass(frozen=True, kw_only=True)
class AbinitJob(FieldJob):
    """One frame to label, with all that its runs need.

    Runs are on one branch: the Berry phase of each k-string is taken next to that of the run at zero field.
    """

    settings: AbinitSettings
    code: AbinitCode
    pseudopotentials: dict[str, Pseudopotential]

    def provenance(self) -> Provenance:
        """What is known before anything is run."""
        return planned_provenance(CODE, self.settings, self.pseudopotentials, self.stencil)

    def write(self, name: str) -> None:
        """Empty the directory of a run and put its input there; it reads wavefunctions where their run left them."""
        link_pseudopotentials(self.directory, self.pseudopotentials.values())
        set_up(self.folder(name), self.text(name))

    def run(self, name: str, lease_descriptor: int) -> FieldRun:
        """Make a run that is not on disk, once more with remedies where its SCF is slow."""
        link_pseudopotentials(self.directory, self.pseudopotentials.values())
        output = run_to_end(
            self.folder(name),
            self.text(name),
            self.settings,
            self.code,
            name=name,
            lease_descriptor=lease_descriptor,
            hopeless=lambda: self._hopeless(name),
        )
        try:
            return self._said(name, output)
        except AbinitOutputError as error:
            raise EngineError(f"no usable output at {name}: {error}") from error

    def read(self, name: str) -> FieldRun | None:
        """A finished run of exactly this input."""
        output = stored_run(self.folder(name), self.text(name))
        try:
            return self._said(name, output) if output is not None else None
        except AbinitOutputError:
            return None

    def has_files(self, name: str) -> bool:
        """Wavefunctions are there to start from."""
        return (self.folder(name) / WAVEFUNCTIONS).is_file()

    def drop_files(self, name: str) -> None:
        """Remove the wavefunctions."""
        (self.folder(name) / WAVEFUNCTIONS).unlink(missing_ok=True)

    def require_space(self) -> None:
        """Refuse a label whose wavefunctions would not fit: plane waves are V k^3 / (6 pi^2), k^2 = 2 ecut in Ha."""
        waves = self.frame.volume / BOHR_IN_ANGSTROM**3 * (2 * self.settings.ecut) ** 1.5 / (6 * math.pi**2)
        # The points that others start from, and one that may stop at a time limit.
        sets = 2 + (self.first != ZERO)
        bands = occupied_bands(self.frame, self.pseudopotentials)
        needed = sets * 16 * math.prod(self.settings.mesh) * bands * waves
        existing = next(folder for folder in (self.directory, *self.directory.resolve().parents) if folder.exists())
        free = shutil.disk_usage(existing).free
        if needed > free:
            raise EngineError(
                f"this label needs about {needed / 1e9:.2g} GB and {self.directory} has {free / 1e9:.2g} GB free: "
                "make room, or lower kpoints or ecut",
                Failure.DISK,
            )

    def text(self, name: str) -> str:
        """Input of a run."""
        sources = self.sources(name)
        return field_input(
            self.frame,
            self.settings,
            self.pseudopotentials,
            self.fields[name],
            start=f"../{self.folder(sources[0]).name}/{WAVEFUNCTIONS}" if sources else None,
            keep=name in (self.first, ZERO),
            comment=f"label {self.label_id}, point {name}",
        )

    def _said(self, name: str, output: AbinitOutput) -> FieldRun:
        """A run in the conventions of the project.

        Raises:
            AbinitOutputError: it is of another input, or the Berry phases at zero field are not there.
        """
        self._check_same(name, output)
        strings = output.string_phases if name == self.first else self._zero_strings()
        polarization = on_branch(output, strings) @ output.cell + output.charges @ self.frame.positions
        efield = self.fields[name]
        # At fixed field instead of fixed E.a_i, as a strain of the cell turns P with it.
        improper = np.outer(efield, polarization) / self.frame.volume
        change = output.phase_change
        point = FieldPoint(
            name=name,
            field=efield,
            enthalpy=output.energy - float(efield @ polarization),
            forces=output.forces,
            polarization=polarization,
            stress=output.stress - (improper + improper.T) / 2 if self.settings.stress else None,
            scf_accuracy=abs(output.energy_change),
            scf_iterations=output.iterations,
            seconds=output.wall_time,
            polarization_accuracy=None if change is None else float(np.abs(change @ output.cell).max()),
        )
        return FieldRun(
            point=point,
            gap=self._gap(output.eigenvalues),
            version=output.version,
            cpu_seconds=output.cpu_time,
            electrons_per_quantum=2 if all(charge % 2 == 0 for charge in output.charges) else 1,
            fft_grid=output.fft_grid,
            repairs=repair_lines(self.folder(name), name),
        )

    def _check_same(self, name: str, output: AbinitOutput) -> None:
        """A run saw the crystal, the pseudopotentials and the field that it was asked for."""
        pairs = {
            "cell": (output.cell, right_handed(self.frame.cell)),
            "positions": (output.positions, self.frame.positions),
            "valences": (output.charges, [self.pseudopotentials[symbol].z_valence for symbol in self.frame.species]),
            "field": (output.field, self.fields[name]),
            "cutoff": (output.ecut, self.settings.ecut),
            "mesh": (output.kpoints, self.settings.mesh),
        }
        wrong = [what for what, (seen, asked) in pairs.items() if not _same(np.asarray(seen), np.asarray(asked))]
        if tuple(chemical_symbols[number] for number in output.atomic_numbers) != self.frame.species:
            wrong.append("species")
        if wrong:
            raise AbinitOutputError(f"{self.folder(name)}: a run of another {', '.join(wrong)}")

    def _gap(self, eigenvalues: np.ndarray) -> float | None:
        occupied = occupied_bands(self.frame, self.pseudopotentials)
        return gap_of_bands(eigenvalues, occupied) if eigenvalues.shape[1] > occupied else None

    def _zero_strings(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Berry phases of the k-strings at zero field.

        Raises:
            AbinitOutputError: they are not those of this label.
        """
        folder = self.folder(self.first)
        if not (folder / DONE).exists() or (folder / INPUT).read_text() != self.text(self.first):
            raise AbinitOutputError(f"{folder}: no finished run at zero field")
        return read_string_phases(folder)

    def closed_gap(self) -> BandGap | None:
        """The gap of a run at zero field, converged or not, where it is closed; None where it is open or not told."""
        try:
            gap = self._gap(read_eigenvalues(self.folder(self.first)))
        except AbinitOutputError:
            return None
        return judged(gap) if gap is not None and judged(gap).metallic else None

    def _hopeless(self, name: str) -> str | None:
        """Why more iterations are no remedy: a closed gap, or a field too strong for the mesh; or None."""
        if name == self.first:
            closed = self.closed_gap()
            return closed.reason if closed else None
        zero = self.read(self.first)
        if zero is None or zero.gap is None:
            return None
        return strong_field(self.fields[name], zero.gap, self.frame.cell, self.settings.mesh)


@dataclass(frozen=True)
class AbinitEngine:
    """Labels by ABINIT.

    Attributes:
        settings: level of theory.
        code: how ABINIT is run here.
    """

    name: ClassVar[str] = CODE
    done_file: ClassVar[str] = DONE
    smallest_field: ClassVar[float] = 0.0
    default_step: ClassVar[float] = DEFAULT_STEP

    settings: AbinitSettings
    code: AbinitCode = field(default_factory=AbinitCode)

    def check(self, frame: Frame) -> None:
        """Refuse what ABINIT cannot label: no program, no pseudopotential, an odd number of electrons."""
        self.code.argv()
        self.settings.check_electrons(frame.species, self.code.find_pseudopotentials(frame.species))

    def pseudopotentials(self, species: Iterable[str]) -> dict[str, str]:
        """SHA-256 of the file of each element."""
        return {element: found.sha256 for element, found in self.code.find_pseudopotentials(species).items()}

    def label_id(self, frame: Frame, stencil: Stencil) -> str:
        """Name of a label."""
        return label_id(frame, self._at(frame), self.code.find_pseudopotentials(frame.species), stencil)

    def prepare(self, frame: Frame, stencil: Stencil, directory: Path) -> AbinitJob:
        """The runs of a label, after ``check``."""
        self.check(frame)
        settings, pseudopotentials = self._at(frame), self.code.find_pseudopotentials(frame.species)
        return AbinitJob(
            frame=frame,
            stencil=stencil,
            settings=settings,
            code=self.code,
            directory=directory,
            label_id=label_id(frame, settings, pseudopotentials, stencil),
            pseudopotentials=pseudopotentials,
        )

    def band_gap(self, frame: Frame, directory: Path) -> BandGap:
        """The gap on the mesh of the labels; an odd number of electrons needs no run."""
        self.code.argv()
        pseudopotentials = self.code.find_pseudopotentials(frame.species)
        electrons = sum(pseudopotentials[symbol].z_valence for symbol in frame.species)
        if half := half_filled(electrons):
            return half
        try:
            return gap_at_zero_field(self, frame, directory)
        except EngineError as error:
            # With fixed occupations a metal may not converge; its bands tell all the same, but not those of a run that
            # was stopped early.
            unconverged = error.kind in (Failure.SLOW, Failure.STAGNANT)
            if unconverged and (closed := self.prepare(frame, Stencil(), directory).closed_gap()):
                return closed
            raise

    def _at(self, frame: Frame) -> AbinitSettings:
        """The settings with a mesh; the frame is its own parent where they name none."""
        return self.settings if self.settings.kpoints else self.settings.for_cell(frame.cell)


def _same(seen: np.ndarray, asked: np.ndarray) -> bool:
    return seen.shape == asked.shape and np.allclose(seen, asked, rtol=0, atol=_SAME)


def on_branch(output: AbinitOutput, reference: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    """Electronic phases, e, with each k-string closest to its reference; strings carry quanta of 2 e each, (3,)."""
    phases = []
    for phase, strings, others in zip(output.electronic_phases, output.string_phases, reference, strict=True):
        if len(strings) != len(others):
            raise AbinitOutputError("the Berry phases at zero field are of another mesh")
        near = (strings - 2 * np.rint((strings - others) / 2)).mean()
        step = 2 / len(strings)
        # The mean of the strings tells the branch, the netCDF file has the digits.
        phases.append(phase + step * np.rint((near - phase) / step))
    return np.array(phases)
