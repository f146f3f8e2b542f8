"""Crystals, settings and the real pw.x for the tests of finite-field labels."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from fieldloop.dft_inputs.espresso import PwCode, PwEngine, PwSettings, read_pw_output
from fieldloop.dft_inputs.espresso.phases import dipole_from_phases, read_phases
from fieldloop.dft_inputs.espresso.points import field_point
from fieldloop.dft_inputs.labelling import label_frame
from fieldloop.dft_inputs.records import FieldPoint, Frame
from fieldloop.dft_inputs.stencil import ZERO, Stencil

DATA = Path(__file__).parents[1] / "data" / "espresso"


@pytest.fixture(scope="session")
def data() -> Path:
    return DATA


@pytest.fixture(scope="session")
def goedecker() -> Path:
    return DATA.parent / "pseudopotentials"


@pytest.fixture(scope="session")
def code() -> PwCode:
    """The real pw.x; where it is missing the test fails with what to install."""
    code = PwCode()
    code.argv()
    return code


@pytest.fixture(scope="session")
def fast() -> PwSettings:
    return PwSettings.from_protocol("fast")


@pytest.fixture(scope="session")
def primitive() -> Frame:
    return Frame.from_atoms(bulk("AlAs", "zincblende", a=5.65))


@pytest.fixture(scope="session")
def displaced_primitive(primitive: Frame) -> Frame:
    positions = primitive.positions.copy()
    positions[0] += (0.12, -0.05, 0.03)
    return primitive.model_copy(update={"positions": positions})


@pytest.fixture(scope="session")
def rattled() -> Frame:
    atoms = bulk("AlAs", "zincblende", a=5.65, cubic=True)
    atoms.rattle(0.05, seed=1)
    return Frame.from_atoms(atoms)


@pytest.fixture(scope="session")
def primitive_label(displaced_primitive, fast, code, tmp_path_factory):
    """A real label of a low-symmetry primitive cell, with its directory."""
    directory = tmp_path_factory.mktemp("primitive")
    return label_frame(PwEngine(fast, code), displaced_primitive, Stencil(), directory), directory


@pytest.fixture
def counted(code: PwCode, tmp_path: Path):
    """The real pw.x behind a launcher that logs when each run starts and ends."""
    log, script = tmp_path / "runs.log", tmp_path / "launch.sh"
    log.touch()
    script.write_text(
        f'#!/bin/bash\necho "start $(date +%s.%N)" >> {log}\n"$@"\nstatus=$?\n'
        f'echo "end $(date +%s.%N)" >> {log}\nexit $status\n'
    )
    script.chmod(0o755)
    return code.model_copy(update={"launcher": (str(script),)}), log


@pytest.fixture
def fake_code(code: PwCode, tmp_path: Path):
    """Something in the place of pw.x, for failures that a healthy machine cannot show."""

    def make(body: str) -> PwCode:
        script = tmp_path / "fake_pw.sh"
        script.write_text(f"#!/bin/bash\n{body}\n")
        script.chmod(0o755)
        return code.model_copy(update={"command": str(script)})

    return make


@pytest.fixture
def copied(tmp_path: Path):
    """A writable copy of a fixture directory."""

    def copy(source: Path) -> Path:
        return Path(shutil.copytree(source, tmp_path / source.name))

    return copy


def moved(frame: Frame, atom: int, shift: np.ndarray) -> Frame:
    positions = frame.positions.copy()
    positions[atom] = positions[atom] + shift
    return frame.model_copy(update={"positions": positions})


@pytest.fixture(scope="session")
def move():
    return moved


def read_points(directory: Path, stencil: Stencil) -> tuple[dict[str, FieldPoint], Frame]:
    """The points of a label's directory, put together by hand from the public pieces."""
    zero = read_pw_output(directory / ZERO)
    reference = dipole_from_phases(read_phases(directory / ZERO), zero.frame.cell)
    points = {ZERO: field_point(ZERO, zero, reference, relative=False)}
    for name in stencil.points():
        if name != ZERO:
            points[name] = field_point(name, read_pw_output(directory / f"field{name}"), reference, relative=True)
    return points, zero.frame


@pytest.fixture(scope="session")
def stored(data: Path):
    """Points and frame of a fixture by name."""
    return lambda name: read_points(data / name, Stencil())
