"""What a DFT code must offer to make labels: one protocol behind which every code works.

An ``Engine`` is a level of theory and a way to run one code. It prepares a ``FieldJob``: the runs of one label in a
directory of its own, each of which it can write, run and read. ``labelling.label_frame`` drives them, whatever the
code: what is on disk, the gap and the critical field, symmetry, branches, responses, checks, provenance.

Whatever the code prints, a ``FieldRun`` speaks the conventions of the project (``docs/conventions.md``): eV, A, e, V/A;
fields with the physical sign; an enthalpy that holds -E.P with the very P that is stored; P the dipole of the cell with
the ions where the frame has them, unwrapped; atoms in the order of the frame.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from .insulators import BandGap
from .meshes import Mesh
from .program import Program
from .records import ElectricResponse, FieldPoint, Frame, Provenance
from .stencil import ZERO, Stencil
from .symmetry import Operation, irreducible_points

ORIGIN = "origin"
"""The E = 0 run that precedes a stencil about a finite field."""


@dataclass(frozen=True)
class FieldRun:
    """What one finished SCF says.

    Attributes:
        point: absolute field, enthalpy, forces and P; iterations and seconds are those of all attempts at it.
        gap: on the mesh of the label, eV, zero or less for a metal; None where the run does not tell (in a field).
        version: of the code.
        cpu_seconds: of one rank.
        electrons_per_quantum: of the lattice of quanta of P, see ``polarization.quantum_lattice``.
        fft_grid: points of the density grid along the lattice vectors, None where not known.
        repairs: what it took to converge, one line each; none where the first attempt did.
    """

    point: FieldPoint
    gap: float | None = None
    version: str = ""
    cpu_seconds: float = 0.0
    electrons_per_quantum: int = 1
    fft_grid: tuple[int, int, int] | None = None
    repairs: tuple[str, ...] = ()


class LevelOfTheory(Protocol):
    """The settings that determine the numbers of a label, apart from frame, pseudopotentials and stencil."""

    @property
    def protocol(self) -> str:
        """Name of the level of theory, for people."""
        ...

    @property
    def nspin(self) -> int:
        """1, or 2 for a spin-polarized insulator."""
        ...

    @property
    def mesh(self) -> Mesh:
        """The k-mesh; ValueError where it follows from a density and a cell."""
        ...

    @classmethod
    def from_protocol(cls, name: str, **overrides: Any) -> Self:
        """A named level of theory with single settings replaced; ValueError for an unknown one."""
        ...

    def for_cell(self, cell: np.ndarray, parent_cell: np.ndarray | None = None) -> Self:
        """The settings with the mesh of one cell, see ``meshes.mesh_for_cell``."""
        ...

    def model_dump(self, *, mode: str = "python", exclude: set[str] | None = None) -> dict[str, Any]:
        """All settings by name, as of any pydantic model."""
        ...

    def identity(self) -> dict[str, Any]:
        """What determines the converged numbers, resolved; ValueError as long as the mesh is not known."""
        ...


@dataclass(frozen=True, kw_only=True)
class FieldJob(ABC):
    """The runs of one label. A code fills in how a single one is written, run and read.

    ``run`` and ``read`` are called under the lease of the directory (``program.lease``); points of different axes may
    be at work at the same time, see ``labelling.label_part``.

    Attributes:
        frame: the geometry.
        stencil: field points.
        settings: level of theory with the mesh of this cell.
        code: how to run it.
        directory: of this label alone.
        label_id: what the label is called.
        operations: symmetry of the crystal and its mesh that is used to leave points out.
    """

    one_branch: ClassVar[bool] = True
    """All runs of a label are on the Berry-phase branch of its run at zero field. Where a code cannot promise it, the
    driver moves each P, and the enthalpy with it, to the branch closest to that of the zero point."""

    frame: Frame
    stencil: Stencil
    settings: LevelOfTheory
    code: Program
    directory: Path
    label_id: str
    operations: tuple[Operation, ...] = ()

    @abstractmethod
    def provenance(self) -> Provenance:
        """All that is known before anything is run: code, protocol, hashes, mesh, pseudopotentials."""

    @abstractmethod
    def write(self, name: str) -> None:
        """Empty the directory of a run and put its inputs and the files it starts from there; its sources are done.

        Raises:
            EngineError: no place for its files, or what it starts from is gone.
            OSError: the disk is full or not writable.
        """

    @abstractmethod
    def run(self, name: str, lease_descriptor: int) -> FieldRun:
        """Make a run that is not on disk: from its start, or from where an earlier attempt stopped at its time limit.

        What may help is tried where it fails; ``repairs`` says so. The program never outlives this process.

        Raises:
            EngineError: it failed, did not converge or left nothing readable; ``kind`` tells, one line says how.
            OSError: the disk is full or not writable.
        """

    @abstractmethod
    def read(self, name: str) -> FieldRun | None:
        """A finished, complete, converged run of exactly this input, or None; never a number from half a run."""

    def sources(self, name: str) -> tuple[str, ...]:
        """The runs whose large files a run starts from."""
        if name == self.first:
            return ()
        return (self.first,) if name == ZERO else (ZERO,)

    def has_files(self, name: str) -> bool:
        """The large files of a finished run, which others start from, are still there."""
        return self.folder(name).is_dir()

    def drop_files(self, name: str) -> None:  # noqa: B027  (a code may write none)
        """Remove the large files of a finished run that no other is still to start from."""

    def require_space(self) -> None:  # noqa: B027  (a code may not be able to tell)
        """Refuse a label whose files would not fit, before anything is run.

        Raises:
            EngineError: of kind ``Failure.DISK``.
        """

    def verify(self, response: ElectricResponse) -> None:  # noqa: B027  (a code may have no such trap)
        """Refuse responses by which this code shows that it was not understood.

        Raises:
            EngineError: e.g. a field of the other sign.
        """

    @cached_property
    def fields(self) -> dict[str, np.ndarray]:
        """Field of each run by name, in the order of running: zero field first, then each axis outwards, V/A, (3,)."""
        computed = irreducible_points(self.stencil, self.operations)
        points = {name: field for name, field in self.stencil.points().items() if name in computed}
        ordered = sorted(points, key=lambda name: _rank(self.place(points[name])))
        origin = {ORIGIN: np.zeros(3)} if any(self.stencil.base) else {}
        return {**origin, **{name: points[name] for name in ordered}}

    @property
    def first(self) -> str:
        """The run at zero field."""
        return next(iter(self.fields))

    def place(self, field: np.ndarray) -> tuple[int, int]:
        """Axis of a field of the stencil, and multiple of its step from the base field."""
        steps = np.rint((field - np.array(self.stencil.base)) / self.stencil.step).astype(int)
        axis = int(np.abs(steps).argmax())
        return axis, int(steps[axis])

    def folder(self, name: str) -> Path:
        """Directory of a run."""
        return self.directory / (name if name[0] not in "+-" else f"field{name}")


class Engine(Protocol):
    """A DFT code that computes crystals in a homogeneous field, at one level of theory."""

    name: ClassVar[str]
    """``pw.x``, ``abinit``, ``vasp``; the ``code`` of a label's provenance."""
    done_file: ClassVar[str]
    """The file in the directory of a run that tells, for progress bars, that it is finished."""
    smallest_field: ClassVar[float]
    """V/A; the code ignores field components below."""
    default_step: ClassVar[float]
    """V/A; the field step where none is asked for: what the digits and the noise of the code's outputs allow."""

    @property
    def settings(self) -> LevelOfTheory:
        """The level of theory."""
        ...

    @property
    def code(self) -> Program:
        """How the code is run here; it changes no number and enters no identity."""
        ...

    def check(self, frame: Frame) -> None:
        """Refuse what cannot be labelled here, as far as can be told without running.

        Args:
            frame: the geometry; the settings have its mesh.

        Raises:
            ProgramNotFoundError: the code is not installed.
            PseudopotentialError: an element without a usable file.
            ValueError: a mesh or a number of electrons that the code, or a field, cannot do.
        """
        ...

    def pseudopotentials(self, species: Iterable[str]) -> dict[str, str]:
        """SHA-256 of the checked file of each element.

        Raises:
            PseudopotentialError: an element without a usable file.
        """
        ...

    def label_id(self, frame: Frame, stencil: Stencil) -> str:
        """Hash of geometry, resolved inputs, pseudopotentials by content, base field and stencil; no paths."""
        ...

    def prepare(self, frame: Frame, stencil: Stencil, directory: Path) -> FieldJob:
        """The runs of a label, after all checks of ``check``; nothing is written yet.

        Args:
            frame: the geometry.
            stencil: field points.
            directory: of this label alone; need not exist.

        Raises:
            As ``check``.
        """
        ...

    def band_gap(self, frame: Frame, directory: Path) -> BandGap:
        """The gap on the mesh of the labels, from one run at zero field; found where it is on disk.

        ``labelling.gap_at_zero_field`` serves codes whose run at zero field tells it.

        Raises:
            EngineError: the run failed.
            DirectoryBusyError: another process works in this directory.
        """
        ...


def _rank(place: tuple[int, int]) -> tuple[int, int, int]:
    axis, multiple = place
    return (axis if multiple else -1, abs(multiple), -multiple)
