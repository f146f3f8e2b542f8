"""What the conformance suite must know of an engine: a small crystal, how it is run, and how to spoil its files.

A code takes part by a file ``case_<code>.py`` beside this one, with a function ``make_case(folder) -> Case``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from fieldloop.dft_inputs.branches import string_lattice
from fieldloop.dft_inputs.engine import Engine, FieldJob, FieldRun
from fieldloop.dft_inputs.labelling import run_fields
from fieldloop.dft_inputs.polarization import fold
from fieldloop.dft_inputs.program import lease
from fieldloop.dft_inputs.records import FieldPoint, Frame
from fieldloop.dft_inputs.stencil import Stencil

PATIENCE = 300.0
"""Seconds to wait for another worker of the test run that makes the same label."""
DIRECTION = np.array([0.48, 0.6, -0.64])
"""Along which the cation is moved: of length one, and along no axis."""
MOVE = 0.02
"""A: how far."""
DEFAULT_STENCIL = Stencil()


@dataclass(frozen=True)
class Tolerances:
    """How closely two routes to a quantity must agree.

    Attributes:
        charges: of Z*, e.
        forces: eV/A.
        dipole: e A.
        alpha: relative.
        translation: of P and forces when all atoms move together over the grid of the density, e A and eV/A.
    """

    charges: float = 5e-3
    forces: float = 2e-3
    dipole: float = 2e-4
    alpha: float = 5e-3
    translation: float = 1e-2


@dataclass(frozen=True)
class Case:
    """An engine on a crystal of low symmetry.

    Attributes:
        engine: with settings for which a label takes seconds at most.
        frame: an insulator without symmetry.
        metal: a crystal whose gap is closed, with an even number of electrons.
        cation: place in ``frame`` of an atom whose Z* is positive.
        library: the field of ``engine.code`` that names the folder of pseudopotentials.
        written_field: the field that the input files in the folder of a run ask for, V/A, (3,), read by constants and
            signs of the code's own documentation.
        outputs: files of a finished run that its numbers come from.
        matters: values of settings, each of which changes the numbers.
        neutral: settings that change none.
        hasty: settings with which no SCF converges.
        cut: lines of bash that run the command "$@" and leave half of its output.
        stencil: of the label.
        tolerances: for this crystal and these settings.
    """

    engine: Engine
    frame: Frame
    metal: Frame
    cation: int
    library: str
    written_field: Callable[[Path], np.ndarray]
    outputs: tuple[str, ...]
    matters: dict[str, Any]
    neutral: dict[str, Any]
    hasty: dict[str, Any]
    cut: str
    stencil: Stencil = DEFAULT_STENCIL
    tolerances: Tolerances = Tolerances()

    @property
    def strings(self) -> np.ndarray:
        """The finest lattice by which electrons can jump: a single k-string of bands, e A, (3, 3)."""
        settings = self.engine.settings
        return string_lattice(self.frame.cell, settings.mesh, 2 // settings.nspin)

    def run_by(self, **changes: Any) -> Engine:
        """The engine with other fields of its ``code``."""
        return replace(self.engine, code=self.engine.code.model_copy(update=changes))

    def with_settings(self, **changes: Any) -> Engine:
        """The engine at another level of theory."""
        return replace(self.engine, settings=self.engine.settings.model_copy(update=changes))

    def moved(self, shift: np.ndarray, atom: int | None = None) -> Frame:
        """The frame with an atom, or all of them, moved by a vector, A, (3,)."""
        positions = self.frame.positions.copy()
        positions[slice(None) if atom is None else atom] += shift
        return self.frame.model_copy(update={"positions": positions})

    def runs(self, frame: Frame, names: tuple[str, ...], directory: Path) -> dict[str, FieldRun]:
        """Single runs of the stencil, made where they are not on disk."""
        job = self.engine.prepare(frame, self.stencil, directory)
        with lease(directory, job.code) as descriptor:
            return dict(run_fields(job, descriptor, only=names))

    def on_branch(self, point: FieldPoint, reference: FieldPoint) -> FieldPoint:
        """A point with P on the branch closest to that of another, and the enthalpy that belongs to it."""
        near = reference.polarization + fold(point.polarization - reference.polarization, self.strings)
        shifted = point.enthalpy + float(point.field @ (point.polarization - near))
        return point.model_copy(update={"polarization": near, "enthalpy": shifted})


def read_all(job: FieldJob) -> dict[str, FieldRun | None]:
    """What each run of a job says, from disk alone."""
    return {name: job.read(name) for name in job.fields}
