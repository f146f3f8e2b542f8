"""ABINIT against pw.x with the same pseudopotentials, and against itself by strain."""

from dataclasses import replace

import numpy as np
import pytest
from fieldloop.dft_inputs.abinit.engine import on_branch
from fieldloop.dft_inputs.abinit.outputs import read_abinit_output
from fieldloop.dft_inputs.espresso import PwCode, PwEngine, PwSettings
from fieldloop.dft_inputs.labelling import label_frame
from fieldloop.dft_inputs.polarization import fold, quantum_lattice
from fieldloop.dft_inputs.stencil import Stencil

FIELD = (0.05, -0.03, 0.02)
"""V/A: a strong one, so that what it adds to the stress is seen."""


@pytest.fixture(scope="module")
def both(engine, alas, files, tmp_path_factory):
    """Labels by both codes with the same pseudopotentials, functional, cutoff and mesh."""
    forward, folder = Stencil(order=1), tmp_path_factory.mktemp("both")
    settings = PwSettings(ecutwfc=12, kpoints=(2, 2, 2), conv_thr=1e-13, mixing_beta=0.5)
    pw = label_frame(PwEngine(settings, PwCode(pseudo_dir=str(files))), alas, forward, folder / "pw")
    like = replace(engine, settings=engine.settings.model_copy(update={"ixc": 2}))
    abinit = label_frame(like, alas, forward, folder / "abinit")
    assert (pw.failure, abinit.failure) == (None, None)
    return pw, abinit


def test_two_codes_give_one_label(both):
    pw, abinit = (label.response for label in both)
    assert abinit.enthalpy == pytest.approx(pw.enthalpy, abs=1e-4)
    assert abinit.forces == pytest.approx(pw.forces, abs=1e-4)
    assert abinit.born_effective_charges == pytest.approx(pw.born_effective_charges, abs=2e-3)
    assert abinit.polarizability == pytest.approx(pw.polarizability, abs=1e-3)
    quanta = quantum_lattice(both[0].frame.cell)
    assert np.abs(fold(abinit.polarization - pw.polarization, quanta)).max() < 1e-5


def test_two_codes_are_as_far_from_the_critical_field(both):
    pw, abinit = (label.quality.critical_field_fraction for label in both)
    assert abinit == pytest.approx(pw, rel=1e-4)


def test_stress_is_the_slope_of_the_enthalpy_at_fixed_field(engine, alas, runs, strained, tmp_path):
    """By a shear, for which the basis set matters least; without the field, and what the field adds."""
    stencil = Stencil(base=FIELD)
    shear = np.zeros((3, 3))
    shear[0, 1] = shear[1, 0] = 0.002
    engine = replace(engine, settings=engine.settings.model_copy(update={"ecut": 12, "kpoints": (1, 1, 1)}))
    said = runs(engine, alas, tmp_path / "0", "origin", "zero", stencil=stencil)
    enthalpies = {}
    for sign in (1, -1):
        frame = strained(alas, sign * shear)
        found = runs(engine, frame, tmp_path / str(sign), "origin", "zero", stencil=stencil)
        # P moves with the cell, so its branch is that of the strained lattice of quanta.
        expected = said["zero"].point.polarization @ (np.eye(3) + sign * shear)
        point = found["zero"].point
        jump = point.polarization - expected - fold(point.polarization - expected, quantum_lattice(frame.cell))
        enthalpies[sign] = (found["origin"].point.enthalpy, point.enthalpy + point.field @ jump)
    slopes = (np.array(enthalpies[1]) - np.array(enthalpies[-1])) / (2 * 2 * 0.002 * alas.volume)
    stresses = [said[name].point.stress[0, 1] for name in ("origin", "zero")]
    assert stresses[0] == pytest.approx(slopes[0], abs=1e-4)
    assert stresses[1] - stresses[0] == pytest.approx(slopes[1] - slopes[0], abs=1e-5)
    assert abs(slopes[1] - slopes[0]) > 5e-5


def test_zero_field_is_the_same_run_in_a_field_or_out_of_it(engine, alas, runs, tmp_path):
    """The point of a stencil about a finite field that lies at E = 0."""
    stencil = Stencil(base=(0.004, 0.0, 0.0), step=0.004)
    found = runs(engine, alas, tmp_path, "origin", "zero", "-x", stencil=stencil)
    plain, again = found["origin"].point, found["-x"].point
    assert not again.field.any()
    assert again.enthalpy == pytest.approx(plain.enthalpy, abs=1e-9)
    assert again.polarization == pytest.approx(plain.polarization, abs=1e-6)
    assert again.forces == pytest.approx(plain.forces, abs=1e-5)


def test_order_of_atoms_and_handedness_of_the_cell_do_not_matter(engine, alas, runs, tmp_path):
    positions, cell = alas.positions[::-1].copy(), alas.cell[[1, 0, 2]]
    swapped = alas.model_copy(update={"species": alas.species[::-1], "positions": positions, "cell": cell})
    one, other = (runs(engine, f, tmp_path / f.species[0], "+x")["+x"].point for f in (alas, swapped))
    assert other.forces[::-1] == pytest.approx(one.forces, abs=1e-5)
    assert other.enthalpy == pytest.approx(one.enthalpy, abs=1e-7)
    assert other.polarization == pytest.approx(one.polarization, abs=1e-5)


def test_strings_on_either_side_of_a_jump(engine, alas, runs, tmp_path):
    """A translation takes the electronic phases to +-1, where ABINIT warns of them and folds their mean."""
    shift = np.full(3, 0.125) @ alas.cell
    frames = (alas, alas.model_copy(update={"positions": alas.positions + shift}))
    found = [runs(engine, frame, tmp_path / str(n), "zero", "+x") for n, frame in enumerate(frames)]
    assert "huge variation" in (tmp_path / "1" / "zero" / "abinit.log").read_text()
    steps = [run["+x"].point.polarization - run["zero"].point.polarization for run in found]
    assert steps[1] == pytest.approx(steps[0], abs=2e-5)
    quanta = quantum_lattice(alas.cell)
    moved = found[1]["zero"].point.polarization - found[0]["zero"].point.polarization
    assert np.abs(fold(moved, quanta)).max() < 1e-3


def test_a_string_that_hops_is_brought_back(engine, alas, runs, tmp_path):
    """One k-string of four on another branch, and the mean folded by 2 e: P is what it was."""
    runs(engine, alas, tmp_path, "zero")
    output = read_abinit_output(tmp_path / "zero")
    first, second, third = output.string_phases
    hopped = first.copy()
    hopped[1] += 2
    moved = replace(
        output,
        string_phases=(hopped, second - 4, third),
        electronic_phases=output.electronic_phases + np.array([2 / 4, 0, 0]),
    )
    assert on_branch(moved, output.string_phases) == pytest.approx(output.electronic_phases, abs=1e-12)
    assert on_branch(output, output.string_phases) == pytest.approx(output.electronic_phases, abs=1e-12)
