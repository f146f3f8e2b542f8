"""Branches of dipole and enthalpy: repaired where a jump is a lattice vector, left alone where it is not."""

import numpy as np
import pytest
from ase.io import read
from fieldloop.dft_inputs.branches import align_dipoles, align_enthalpies, enthalpy_residual, string_lattice
from fieldloop.dft_inputs.espresso import PwOutputError, ingest, read_pw_output
from fieldloop.dft_inputs.espresso.phases import dipole_from_phases, read_phases
from fieldloop.dft_inputs.stencil import Stencil

FORWARD = {"zero": "E0", "+x": "Ex", "+y": "Ey", "+z": "Ez"}
SYSTEMS = {"alas_cubic_rattled": (2, 2, 2), "alas_primitive": (2, 2, 2), "quartz": (2, 2, 2)}


def published(data, name):
    """Our label from the raw runs, and the frame with the published labels."""
    folder = data / "allegro_pol"
    label = ingest({point: folder / name / run for point, run in FORWARD.items()}, Stencil(order=1))
    return label, read(folder / f"{name}.xyz")


@pytest.mark.parametrize("name", ["SiO2-T300", "BaTiO3-wall"])
def test_published_labels_are_reproduced(data, name):
    label, atoms = published(data, name)
    response = label.response
    assert np.allclose(label.frame.positions, atoms.positions, atol=1e-6)
    reference = atoms.arrays["born_charge"].reshape(-1, 3, 3)
    assert np.abs(response.born_effective_charges - reference).max() < 1e-4 * np.abs(reference).max()
    reference = np.array(atoms.info["polarizability"]).reshape(3, 3)
    assert np.abs(response.polarizability - reference).max() < 1e-4 * np.abs(reference).max()
    assert np.allclose(response.forces, atoms.get_forces(), atol=1e-5)
    assert np.allclose(response.stress, atoms.get_stress(voigt=False), atol=1e-8)
    # Published P was folded into the cell of e a_i, so ours differs by whole quanta of that.
    quanta = (response.polarization - atoms.calc.results["polarization"]) @ np.linalg.inv(label.frame.cell)
    assert np.allclose(quanta, np.rint(quanta), atol=1e-6)
    assert np.allclose(response.polarization_quanta, 2 * label.frame.cell)


def test_clean_frame_needs_no_repair(data):
    label, _ = published(data, "SiO2-T300")
    assert label.quality.repairs == ()
    assert label.quality.passed
    assert label.provenance.scf_count == 4


def test_domain_wall_enthalpy_jump_is_found_repaired_and_recorded(data):
    label, _ = published(data, "BaTiO3-wall")
    (repair,) = label.quality.repairs
    assert repair.startswith("+z: enthalpy moved")
    assert f"(0.0000, 0.0000, {label.frame.cell[2, 2]:.4f}) e A" in repair
    raw = read_pw_output(data / "allegro_pol" / "BaTiO3-wall" / "Ez")
    stored = {point.name: point for point in label.field_points}
    moved = (raw.enthalpy - stored["+z"].enthalpy) / raw.field[2]
    assert moved == pytest.approx(label.frame.cell[2, 2], rel=1e-9)
    assert np.allclose(stored["+z"].polarization, raw.electronic_dipole + raw.ionic_dipole)
    assert label.quality.enthalpy_slope_error < 1e-3


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("jump", [(1, 0, 0), (0, -1, 0), (0, 1, 2), (-3, 1, 0)])
def test_planted_jumps_are_taken_back(stored, name, jump):
    points, frame = stored(name)
    lattice = string_lattice(frame.cell, SYSTEMS[name], 2)
    vector = np.array(jump) @ lattice
    for point in ("+x", "-y", "+z"):
        hopped = points[point].model_copy(update={"polarization": points[point].polarization + vector})
        mended, repairs = align_dipoles({**points, point: hopped}, lattice)
        assert len(repairs) == 1
        assert repairs[0].startswith(f"{point}: dipole moved")
        assert np.allclose(mended[point].polarization, points[point].polarization)
        lower = points[point].enthalpy - points[point].field @ vector
        mended, repairs = align_enthalpies(
            {**points, point: points[point].model_copy(update={"enthalpy": lower})}, lattice
        )
        assert len(repairs) == (abs(points[point].field @ vector) > 1e-9)
        assert mended[point].enthalpy == pytest.approx(points[point].enthalpy, abs=1e-9)


@pytest.mark.parametrize("name", SYSTEMS)
def test_nothing_is_repaired_in_runs_that_share_phases(stored, name):
    points, frame = stored(name)
    assert align_dipoles(points, string_lattice(frame.cell, SYSTEMS[name], 2)) == (points, [])
    assert align_enthalpies(points, string_lattice(frame.cell, SYSTEMS[name])) == (points, [])
    for point in points.values():
        assert abs(enthalpy_residual(point, points["zero"])) < 1e-7


def test_an_error_that_is_no_jump_is_left_for_the_checks(stored):
    points, frame = stored("alas_primitive")
    wrong = points["+x"].enthalpy + 0.1 * points["+x"].field[0]
    points = {**points, "+x": points["+x"].model_copy(update={"enthalpy": wrong})}
    assert align_enthalpies(points, string_lattice(frame.cell, (2, 2, 2)))[1] == []


@pytest.mark.parametrize("name", SYSTEMS)
def test_phases_give_the_printed_dipole(data, name):
    """Where all strings lie on the principal branch, the mean of their phases is what pw.x prints."""
    zero = read_pw_output(data / name / "zero")
    dipole = dipole_from_phases(read_phases(data / name / "zero"), zero.frame.cell)
    lattice = string_lattice(zero.frame.cell, SYSTEMS[name], 2)
    quanta = (dipole - zero.electronic_dipole) @ np.linalg.inv(lattice)
    assert np.allclose(quanta, np.rint(quanta), atol=1e-8)


def test_strings_that_straddle_pi_are_put_on_one_branch():
    cell = np.diag([4.0, 5.0, 6.0])
    angles = np.array([3.1, -3.1, 3.05, -3.12])
    phases = [np.exp(1j * angles)[None], np.exp(0.1j * angles)[None], np.ones((1, 4), complex)]
    dipole = dipole_from_phases(phases, cell)
    middle = np.mean(np.where(angles < 0, angles + 2 * np.pi, angles))
    shift = (dipole[0] - 2 * middle / (2 * np.pi) * 4.0) / 8.0
    assert shift == pytest.approx(round(shift), abs=1e-12)
    assert dipole[1] == pytest.approx(2 * 0.1 * angles.mean() / (2 * np.pi) * 5.0)
    assert dipole[2] == 0


def test_broken_phase_files(tmp_path):
    with pytest.raises(OSError, match=r"phase\.data1"):
        read_phases(tmp_path)
    (tmp_path / "phase.data1").write_text("1 1 (0.5,0.1)\n2 1 (0.5")
    with pytest.raises(ValueError, match="broken"):
        read_phases(tmp_path)


def test_ingest_refuses_what_does_not_fit(data):
    folder = data / "allegro_pol" / "SiO2-T300"
    runs = {point: folder / run for point, run in FORWARD.items()}
    with pytest.raises(PwOutputError, match="no run given for -x, -y, -z"):
        ingest(runs, Stencil(order=2))
    with pytest.raises(PwOutputError, match="its field is"):
        ingest({**runs, "+x": folder / "Ey"}, Stencil(order=1))
    with pytest.raises(PwOutputError, match="structure or k-points differ"):
        ingest({**runs, "+x": data / "allegro_pol" / "BaTiO3-wall" / "Ex"}, Stencil(order=1))
