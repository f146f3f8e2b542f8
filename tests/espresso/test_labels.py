"""Labels against physics: two routes to Z*, laws of the enthalpy, symmetry, and linear response in a finite field."""

import numpy as np
import pytest
from fieldloop.dft_inputs.espresso import PwEngine, PwSettings, job
from fieldloop.dft_inputs.espresso.inputs import occupied_bands, zero_input
from fieldloop.dft_inputs.espresso.phases import dipole_from_phases, string_phases
from fieldloop.dft_inputs.espresso.points import field_point, zero_point
from fieldloop.dft_inputs.espresso.run import link_pseudopotentials, run_point
from fieldloop.dft_inputs.labelling import label_frame
from fieldloop.dft_inputs.polarization import fold
from fieldloop.dft_inputs.program import lease
from fieldloop.dft_inputs.quality import QualityBounds, assemble
from fieldloop.dft_inputs.records import Frame
from fieldloop.dft_inputs.stencil import Stencil

FIXTURES = ["alas_cubic_rattled", "alas_primitive", "quartz"]
DFPT_CHARGE_OF_AL = 2.148
"""ph.x, the same files, cutoff and 8x8x8 mesh."""


def responses(stored, name):
    points, frame = stored(name)
    return points, frame, *assemble(points, frame, Stencil())


def zero_field_polarization(frame, settings, code, directory):
    """P from one SCF at zero field, on whatever branch it lands."""
    pseudopotentials = code.find_pseudopotentials(frame.species)
    text = zero_input(frame, settings, pseudopotentials, "P")
    with lease(directory, code) as descriptor:
        link_pseudopotentials(directory, pseudopotentials)
        output = run_point(directory / "zero", text, code, name="zero", lease_descriptor=descriptor)
    save = directory / "zero" / "scratch" / "pwscf.save"
    phases = string_phases(save, settings.mesh, occupied_bands(frame, pseudopotentials))
    return zero_point(output, dipole_from_phases(phases, frame.cell)).polarization


def charge_from_displacement(frame, atom, axis, settings, code, directory, move, step=0.02):
    """dP_a/du_b of one atom for the displacement b = axis, by central difference, (3,)."""
    ends = [
        zero_field_polarization(move(frame, atom, sign * step * np.eye(3)[axis]), settings, code, directory / name)
        for sign, name in ((1, "plus"), (-1, "minus"))
    ]
    return fold(ends[0] - ends[1], frame.cell) / (2 * step)


@pytest.mark.parametrize("name", FIXTURES)
def test_enthalpy_law_and_slope(stored, name):
    _, _, _, quality = responses(stored, name)
    assert quality.enthalpy_law_error < 5e-3
    assert quality.enthalpy_slope_error < 1e-5
    assert quality.polarizability_asymmetry < 1e-4
    assert quality.flags == ()


@pytest.mark.parametrize("name", FIXTURES)
def test_sum_rules(stored, name):
    """Weak, as pw.x removes the net force; it guards the indices and the parsing."""
    _, _, response, _ = responses(stored, name)
    assert np.allclose(response.forces.sum(0), 0, atol=1e-5)
    assert np.allclose(response.born_effective_charges.sum(0), 0, atol=2e-3)


def test_primitive_alas_has_the_symmetry_of_its_lattice(stored):
    _, _, response, _ = responses(stored, "alas_primitive")
    for tensor in (response.polarizability, response.born_effective_charges[0]):
        assert np.allclose(tensor, tensor[0, 0] * np.eye(3), atol=0.03)
    assert np.allclose(response.polarization, response.polarization.mean(), atol=1e-5)
    quarters = 4 * response.polarization @ np.linalg.inv(response.polarization_quanta)
    assert np.allclose(quarters, np.rint(quarters), atol=0.02)


def test_quartz_has_a_threefold_axis(stored):
    """The hexagonal cell, in Cartesian axes: alpha is axial, and the three Si are rotations of one another."""
    _, frame, response, _ = responses(stored, "quartz")
    alpha = response.polarizability
    assert alpha[0, 0] == pytest.approx(alpha[1, 1], rel=0.01)
    assert np.abs(alpha - np.diag(np.diag(alpha))).max() < 0.01 * alpha[0, 0]
    eps = np.eye(3) + alpha / (5.526349e-3 * frame.volume)
    assert np.diag(eps) == pytest.approx([2.40, 2.39, 2.50], abs=0.01)
    turn = np.array([[-0.5, -np.sqrt(0.75), 0], [np.sqrt(0.75), -0.5, 0], [0, 0, 1]])
    charges = response.born_effective_charges
    for atom in np.flatnonzero(np.array(frame.species) == "Si"):
        image = turn @ frame.positions[atom] + [0, 0, frame.cell[2, 2] / 3]
        gaps = (image - frame.positions) @ np.linalg.inv(frame.cell)
        partner = int(np.argmin(np.linalg.norm((gaps - np.rint(gaps)) @ frame.cell, axis=1)))
        assert np.allclose(turn @ charges[atom] @ turn.T, charges[partner], atol=0.03)


@pytest.mark.parametrize(("displacement", "atom"), [(0.0, 0), (0.05, 2)])
def test_born_charges_from_forces_and_from_displacements(fast, code, tmp_path, move, displacement, atom):
    """dF/dE equals dP/du, for the perfect and for a rattled crystal of eight atoms."""
    from ase.build import bulk

    atoms = bulk("AlAs", "zincblende", a=5.65, cubic=True)
    atoms.rattle(displacement, seed=1)
    frame = Frame.from_atoms(atoms)
    label = label_frame(PwEngine(fast, code), frame, Stencil(), tmp_path / "label")
    assert label.status == "done"
    assert label.quality.enthalpy_law_error < 5e-3
    charges = label.response.born_effective_charges[atom]
    other = charge_from_displacement(frame, atom, 1, fast, code, tmp_path / "displaced", move)
    assert np.abs(other - charges[:, 1]).max() < 5e-3 * charges[1, 1]


def test_primitive_cell_near_dfpt(stored, data):
    """Z*(Al) at 8x8x8, from a stored run, within 2 % of density-functional perturbation theory."""
    charge = _charge_at_8x8x8(data / "alas_primitive_8x8x8")
    assert charge == pytest.approx(DFPT_CHARGE_OF_AL, rel=0.02)


def _charge_at_8x8x8(directory):
    from fieldloop.dft_inputs.espresso import read_pw_output

    plus, minus = (read_pw_output(directory / f"field{sign}x") for sign in "+-")
    assert plus.kpoints == (8, 8, 8)
    return (plus.forces - minus.forces)[0, 0] / (2 * plus.field[0])


@pytest.mark.slow
def test_primitive_cell_near_dfpt_for_real(primitive, code, data, tmp_path):
    settings = PwSettings.from_protocol("fast", kpoints=(8, 8, 8), conv_thr=1e-12)
    label = label_frame(PwEngine(settings, code), primitive, Stencil(), tmp_path)
    charges = label.response.born_effective_charges[0]
    assert np.diag(charges) == pytest.approx([DFPT_CHARGE_OF_AL] * 3, rel=0.02)
    assert charges[0, 0] == pytest.approx(_charge_at_8x8x8(data / "alas_primitive_8x8x8"), abs=2e-3)


def test_a_real_label_is_complete(primitive_label, displaced_primitive, fast):
    label, _ = primitive_label
    assert label.status == "done"
    assert label.trainable
    assert label.frame == displaced_primitive
    assert [point.name for point in label.field_points] == list(Stencil().points())
    assert set(label.response.labels) == {
        "enthalpy", "forces", "stress", "polarization", "born_effective_charges", "polarizability"
    }  # fmt: skip
    assert label.provenance.scf_count == 7
    assert label.provenance.protocol == "fast"
    assert set(label.provenance.pseudopotentials) == {"Al", "As"}
    assert label.quality.repairs == ()
    assert type(label).model_validate_json(label.model_dump_json()) == label


def test_enthalpy_of_every_point_is_absolute(primitive_label):
    """H(E) = H(0) - P.E - E.alpha.E/2 holds with the absolute P, which pw.x leaves out when it reads phases."""
    label, _ = primitive_label
    response = label.response
    for point in label.field_points:
        expected = response.enthalpy - response.polarization @ point.field
        expected -= point.field @ response.polarizability @ point.field / 2
        assert point.enthalpy == pytest.approx(expected, abs=2e-8)


def test_moving_an_ion_by_a_lattice_vector_changes_the_branch_only(primitive_label, fast, code, tmp_path, move):
    label, _ = primitive_label
    frame = label.frame
    far = label_frame(PwEngine(fast, code), move(frame, 0, frame.cell[0]), Stencil(), tmp_path).response
    near = label.response
    quanta = (far.polarization - near.polarization) @ np.linalg.inv(near.polarization_quanta)
    assert np.allclose(quanta, np.rint(quanta), atol=1e-5)
    assert np.rint(quanta).any()
    assert np.allclose(far.born_effective_charges, near.born_effective_charges, atol=3e-3)
    assert far.enthalpy == pytest.approx(near.enthalpy, abs=1e-7)


def test_bounds_flag_what_fails(stored):
    points, frame = stored("alas_primitive")
    strict = QualityBounds(enthalpy_law_error=1e-9, scf_accuracy=1e-20)
    _, quality = assemble(points, frame, Stencil(), bounds=strict, critical_field_fraction=0.9)
    assert quality.flags == ("scf_accuracy", "critical_field_fraction", "enthalpy_law_error")
    assert not quality.passed


def test_symmetry_of_a_perfect_crystal_saves_runs(primitive, stored, fast, code, tmp_path):
    """Three runs instead of seven; the label is that of the stored seven."""
    label = label_frame(PwEngine(fast, code), primitive, Stencil(), tmp_path)
    assert label.provenance.scf_count == 3
    assert {p.name: p.rotated_from for p in label.field_points if p.rotated_from} == {
        "+y": "+x", "+z": "+x", "-y": "-x", "-z": "-x"
    }  # fmt: skip
    _, frame, response, _ = responses(stored, "alas_primitive")
    assert np.allclose(frame.cell, primitive.cell, atol=1e-6)
    assert np.allclose(label.response.born_effective_charges, response.born_effective_charges, atol=2e-3)
    assert np.allclose(label.response.polarizability, response.polarizability, rtol=2e-3, atol=2e-3)
    assert label_frame(PwEngine(fast, code), primitive, Stencil(), tmp_path) == label


def test_what_is_repaired_at_a_point_that_others_are_rotated_from_is_told(primitive, fast, code, tmp_path, monkeypatch):
    """An enthalpy off by a whole quantum, of all strings at once: its images are mended with it."""
    label = label_frame(PwEngine(fast, code), primitive, Stencil(), tmp_path)

    def on_another_branch(name, output, *args, **kwargs):
        point = field_point(name, output, *args, **kwargs)
        jump = 2 * primitive.cell[1] if name == "+x" else np.zeros(3)
        return point.model_copy(update={"enthalpy": point.enthalpy - float(jump @ point.field)})

    monkeypatch.setattr(job, "field_point", on_another_branch)
    moved = label_frame(PwEngine(fast, code), primitive, Stencil(), tmp_path)
    (line,) = moved.quality.repairs
    assert line.startswith("+x: enthalpy moved by")
    assert moved.quality.enthalpy_law_error == pytest.approx(label.quality.enthalpy_law_error, abs=1e-6)
    assert moved.quality.passed
    for mended, point in zip(moved.field_points, label.field_points, strict=True):
        assert mended.enthalpy == pytest.approx(point.enthalpy, abs=1e-9)
