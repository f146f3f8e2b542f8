"""Goedecker pseudopotentials tabulated as UPF: the same physics."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from fieldloop.dft_inputs.espresso.goedecker import local_potential, projector, read_goedecker, write_upf
from fieldloop.dft_inputs.espresso.inputs import plain_input
from fieldloop.dft_inputs.espresso.run import link_pseudopotentials, run_point
from fieldloop.dft_inputs.espresso.settings import PwSettings
from fieldloop.dft_inputs.program import lease
from fieldloop.dft_inputs.pseudopotentials import read_pseudopotential
from fieldloop.dft_inputs.records import Frame
from scipy.integrate import quad


@pytest.mark.parametrize(("momentum", "index"), [(0, 1), (0, 2), (1, 1), (2, 1)])
def test_projectors_are_normalized(momentum, index):
    norm, _ = quad(lambda r: (r * projector(momentum, index, 0.45, np.array(r))) ** 2, 0, 12)
    assert norm == pytest.approx(1, abs=1e-8)


def test_local_potential_is_that_of_the_ion_outside(goedecker):
    silicon = read_goedecker(goedecker / "Si.gth")
    r = np.array([4.0, 8.0, 20.0])
    assert np.allclose(local_potential(silicon, r), -4 / r, rtol=1e-12)


@pytest.fixture
def silicon():
    """A displaced silicon cell."""
    atoms = bulk("Si", "diamond", a=5.40)
    atoms.positions[0] += (0.1, -0.03, 0.05)
    return Frame.from_atoms(atoms)


@pytest.fixture
def run(code, tmp_path):
    """Runs pw.x on a frame with a pseudopotential file."""
    settings = PwSettings(ecutwfc=30, kpoints=(2, 2, 2), conv_thr=1e-11)

    def run(frame, file, name):
        pseudopotential = {"Si": read_pseudopotential(file)}
        with lease(tmp_path / "runs", code) as descriptor:
            link_pseudopotentials(tmp_path / "runs", pseudopotential)
            text = plain_input(frame, settings, pseudopotential, name)
            return run_point(tmp_path / "runs" / name, text, code, name=name, lease_descriptor=descriptor)

    return run


def test_same_energy_and_forces_in_pw_and_a_right_stress(silicon, run, goedecker, tmp_path):
    """Of the analytic form pw.x 6.7 gets the shear wrong by a factor of two, so no stress is asked for."""
    table = write_upf(goedecker / "Si.gth", tmp_path / "Si.upf")
    analytic, tabulated = run(silicon, goedecker / "Si.gth", "analytic"), run(silicon, table, "tabulated")
    assert tabulated.enthalpy == pytest.approx(analytic.enthalpy, abs=1e-5)
    assert np.allclose(tabulated.forces, analytic.forces, atol=1e-4)
    assert np.allclose(tabulated.eigenvalues, analytic.eigenvalues, atol=1e-4)
    assert analytic.stress is None
    energies = []
    for sign in (1, -1):
        strain = np.eye(3)
        strain[0, 1] = strain[1, 0] = sign * 0.005
        sheared = silicon.model_copy(update={"cell": silicon.cell @ strain, "positions": silicon.positions @ strain})
        energies.append(run(sheared, table, f"sheared{sign}").enthalpy)
    shear = (energies[0] - energies[1]) / (2 * 2 * 0.005 * silicon.volume)
    assert tabulated.stress[0, 1] == pytest.approx(shear, rel=0.02)


def test_what_is_no_goedecker_file(goedecker, tmp_path):
    text = (goedecker / "Si.gth").read_text()
    for broken in ("", "\n".join(text.splitlines()[:6]), text.replace("10  1  1", " 8  1  1")):
        (tmp_path / "Si.gth").write_text(broken)
        with pytest.raises(ValueError, match=r"Si\.gth: no Goedecker pseudopotential of pspcod 10"):
            write_upf(tmp_path / "Si.gth", tmp_path / "Si.upf")
    assert not (tmp_path / "Si.upf").exists()
