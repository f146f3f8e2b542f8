"""P follows the atoms without jumps, and jumps that are planted do not pass, for every engine."""

from dataclasses import replace

import numpy as np
import pytest
from fieldloop.dft_inputs.branches import enthalpy_residual, string_lattice
from fieldloop.dft_inputs.labelling import assemble_runs
from fieldloop.dft_inputs.polarization import fold, quantum_lattice
from fieldloop.dft_inputs.quality import DEFAULT_BOUNDS

PART = np.array([0.21, 0.33, -0.17])


@pytest.fixture(scope="session")
def translated(case, home):
    """All atoms moved by parts of the lattice vectors, and the cation by whole ones on top of that."""
    frame = case.moved(PART @ case.frame.cell)
    positions = frame.positions.copy()
    positions[case.cation] += np.array([1, -1, 2]) @ frame.cell
    frame = frame.model_copy(update={"positions": positions})
    return case.runs(frame, ("zero", "+x"), home / "translated")


def test_a_translation_changes_the_dipole_by_quanta_alone(case, job, translated, points):
    run = translated["zero"]
    quanta = quantum_lattice(case.frame.cell, run.electrons_per_quantum)
    # Without phases in common, strings may differ by a quantum each.
    lattice = quanta if job.one_branch else case.strings
    change = fold(run.point.polarization - points["zero"].polarization, lattice)
    assert np.abs(change).max() < case.tolerances.translation
    assert run.point.forces == pytest.approx(points["zero"].forces, abs=case.tolerances.translation)


def test_the_enthalpy_of_a_translated_crystal_holds_its_own_dipole(case, translated):
    zero = translated["zero"].point
    point = case.on_branch(translated["+x"].point, zero)
    assert abs(enthalpy_residual(point, zero)) < case.tolerances.dipole * case.stencil.step


def test_no_point_of_a_stencil_jumps(case, label, points):
    for point in points.values():
        linear = label.response.polarization + label.response.polarizability @ point.field
        assert np.abs(point.polarization - linear).max() < 0.02 * np.abs(case.strings).max()
        assert abs(enthalpy_residual(point, points["zero"])) < case.tolerances.dipole * case.stencil.step


def test_dipoles_follow_a_displacement(case, displaced, points):
    """From one side over the frame to the other, each step on the branch of the one before."""
    middle = case.on_branch(points["zero"], displaced[1]["zero"]).polarization
    halves = [displaced[1]["zero"].polarization - middle, middle - displaced[-1]["zero"].polarization]
    assert halves[0] == pytest.approx(halves[1], abs=4 * case.tolerances.dipole + 1e-3)


@pytest.mark.parametrize("what", ["dipole", "enthalpy", "both"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_planted_jump_is_repaired_or_flagged(case, job, label, points, what, whole):
    """By a quantum, or by a single string of k-points, at one field point."""
    lattice = quantum_lattice(case.frame.cell, 2) if whole else string_lattice(case.frame.cell, job.settings.mesh, 2)
    jump = lattice[np.abs(lattice[:, 0]).argmax()]
    runs = {name: job.read(name) for name in job.fields}
    point = runs["+x"].point
    changes = {
        "polarization": point.polarization + (jump if what != "enthalpy" else 0.0),
        "enthalpy": point.enthalpy - (float(jump @ point.field) if what != "dipole" else 0.0),
    }
    runs["+x"] = replace(runs["+x"], point=point.model_copy(update=changes))
    labels = assemble_runs(job, runs, runs["zero"].gap, DEFAULT_BOUNDS)
    if labels.quality.flags:
        return
    assert any(line.startswith("+x:") for line in labels.quality.repairs)
    assert labels.response.polarizability == pytest.approx(label.response.polarizability, abs=1e-9)
    assert labels.points["+x"].enthalpy == pytest.approx(points["+x"].enthalpy, abs=1e-9)
