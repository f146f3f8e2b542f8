"""Crystals and the real ABINIT for what the shared suite does not ask; where it is missing, tests fail with a line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from fieldloop.dft_inputs.abinit import AbinitCode, AbinitEngine, AbinitSettings
from fieldloop.dft_inputs.labelling import run_fields
from fieldloop.dft_inputs.program import lease
from fieldloop.dft_inputs.records import Frame
from fieldloop.dft_inputs.stencil import Stencil

FILES = Path(__file__).parents[2] / "data" / "pseudopotentials"


@pytest.fixture(scope="session")
def files() -> Path:
    return FILES


@pytest.fixture(scope="session")
def code() -> AbinitCode:
    code = AbinitCode(pseudo_dir=str(FILES))
    code.argv()
    return code


@pytest.fixture(scope="session")
def engine(code) -> AbinitEngine:
    return AbinitEngine(AbinitSettings(ecut=6, kpoints=(2, 2, 2)), code)


@pytest.fixture(scope="session")
def alas() -> Frame:
    """Two atoms off their sites."""
    atoms = bulk("AlAs", "zincblende", a=5.65)
    atoms.positions[0] += (0.12, -0.05, 0.03)
    return Frame.from_atoms(atoms)


@pytest.fixture(scope="session")
def runs():
    """Single runs of a stencil, made where they are not on disk."""

    def runs(engine, frame, directory, *names, stencil=None):
        job = engine.prepare(frame, stencil or Stencil(), directory)
        with lease(directory, engine.code) as descriptor:
            return dict(run_fields(job, descriptor, only=names))

    return runs


@pytest.fixture(scope="session")
def strained():
    """A frame with its cell and positions strained."""

    def strained(frame, strain):
        deformation = np.eye(3) + strain
        return frame.model_copy(update={"cell": frame.cell @ deformation, "positions": frame.positions @ deformation})

    return strained
