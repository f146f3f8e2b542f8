"""Stencils about a frame's own field, stencils of order 4 with the lower one beside, and what the SCF's errors do."""

import numpy as np
import pytest
from fieldloop.dft_inputs.espresso import PwEngine
from fieldloop.dft_inputs.insulators import STEP_FRACTION, STEP_RANGE, critical_field, step_from_gap
from fieldloop.dft_inputs.labelling import label_frame
from fieldloop.dft_inputs.quality import assemble
from fieldloop.dft_inputs.records import LabelledFrame
from fieldloop.dft_inputs.stencil import Stencil
from fieldloop.dft_inputs.units import RYDBERG_FIELD_IN_V_PER_ANGSTROM

BASE = (0.0, 0.0, 0.02)


@pytest.fixture(scope="module")
def biased(primitive_label, fast, code, tmp_path_factory):
    frame = primitive_label[0].frame
    return label_frame(PwEngine(fast, code), frame, Stencil(base=BASE), tmp_path_factory.mktemp("biased"))


@pytest.fixture(scope="module")
def fourth(primitive_label, fast, code, tmp_path_factory):
    frame = primitive_label[0].frame
    return label_frame(PwEngine(fast, code), frame, Stencil(order=4), tmp_path_factory.mktemp("fourth"))


def test_labels_at_a_base_field_follow_the_expansion_about_zero(primitive_label, biased):
    """F + Z*.E, P + alpha.E, U - P.E - E.alpha.E/2."""
    zero, response, field = primitive_label[0].response, biased.response, np.array(BASE)
    assert biased.trainable, (biased.failure, biased.quality)
    assert np.allclose(response.field, field)
    assert np.allclose(response.polarization, zero.polarization + zero.polarizability @ field, atol=2e-3)
    linear = zero.forces + np.einsum("iab,a->ib", zero.born_effective_charges, field)
    assert np.allclose(response.forces, linear, atol=2e-3)
    assert np.abs(response.forces - zero.forces).max() > 0.02
    expected = zero.enthalpy - zero.polarization @ field - field @ zero.polarizability @ field / 2
    assert response.enthalpy == pytest.approx(expected, abs=3e-5)
    assert response.stress is None
    assert biased.provenance.scf_count == 8
    assert biased.quality.enthalpy_slope_error < 1e-5
    assert biased.quality.critical_field_fraction > primitive_label[0].quality.critical_field_fraction


def test_charges_at_a_base_field_agree_with_wider_points(primitive_label, biased, fast, code, tmp_path):
    """A stencil of steps as long as the base field reaches from zero to twice the field."""
    frame = primitive_label[0].frame
    wide = label_frame(PwEngine(fast, code), frame, Stencil(base=BASE, step=BASE[2]), tmp_path)
    assert wide.status == "done", wide.failure
    low = {point.name: point for point in wide.field_points}["-z"]
    assert np.allclose(low.field, 0)
    assert np.allclose(low.forces, primitive_label[0].response.forces, atol=1e-5)
    narrow = biased.response.born_effective_charges
    # The field changes Z* by more than the difference of the two steps.
    change = np.abs(narrow - primitive_label[0].response.born_effective_charges).max()
    assert np.abs(wide.response.born_effective_charges - narrow).max() < min(0.02, change)


def test_a_base_field_above_half_the_critical_one_is_refused_after_one_run(primitive_label, fast, counted, tmp_path):
    code, log = counted
    label = label_frame(PwEngine(fast, code), primitive_label[0].frame, Stencil(base=(0.0, 0.1, 0.0)), tmp_path)
    assert label.status == "failed"
    assert "of the critical field of this frame" in label.failure
    assert "label it at 0.5 of it or less" in label.failure
    assert log.read_text().count("start") == 1


def test_a_strong_base_field_is_refused_after_one_run_of_a_perfect_crystal_too(primitive, fast, counted, tmp_path):
    """Along [111], which a rotation and mirrors of the crystal keep."""
    code, log = counted
    label = label_frame(PwEngine(fast, code), primitive, Stencil(base=(0.08, 0.08, 0.08)), tmp_path)
    assert "of the critical field of this frame" in label.failure
    assert log.read_text().count("start") == 1


def test_an_id_of_its_own_for_each_base_field(primitive_label, biased):
    assert biased.label_id != primitive_label[0].label_id
    assert biased.provenance.settings_hash == primitive_label[0].provenance.settings_hash
    assert biased.provenance.inputs_hash != primitive_label[0].provenance.inputs_hash


def test_order_four_stores_order_two_beside(primitive_label, fourth):
    (lower,) = fourth.lower_orders
    assert lower.order == 2
    second = primitive_label[0].response
    assert np.allclose(lower.born_effective_charges, second.born_effective_charges, atol=2e-3)
    assert np.allclose(lower.polarizability, second.polarizability, atol=2e-3)
    assert np.allclose(fourth.response.born_effective_charges, second.born_effective_charges, atol=3e-3)
    assert np.allclose(fourth.response.polarizability, second.polarizability, atol=2e-3)
    assert fourth.provenance.scf_count == 13
    difference = np.abs(fourth.response.born_effective_charges - lower.born_effective_charges).max()
    assert fourth.quality.stencil_error == pytest.approx(difference)
    assert 0 < fourth.quality.stencil_error < 3e-3
    assert primitive_label[0].quality.stencil_error is None
    assert primitive_label[0].lower_orders == ()
    assert LabelledFrame.model_validate_json(fourth.model_dump_json()) == fourth


def test_records_without_the_new_fields_still_read(fourth):
    old = fourth.model_dump(mode="json")
    del old["lower_orders"]
    for key in ("stencil_error", "polarization_accuracy", "born_effective_charges_accuracy", "magnetization_change"):
        del old["quality"][key]
    for key in ("settings_hash", "kpoints", "pseudopotential_family"):
        del old["provenance"][key]
    assert LabelledFrame.model_validate(old).lower_orders == ()


def test_errors_of_loose_scf_are_foreseen(primitive_label, fast, code, tmp_path):
    """The estimates bound what tighter convergence changes, and no more than twenty times too high."""
    reference = primitive_label[0].response
    settings = fast.model_copy(update={"conv_thr": 1e-8})
    loose = label_frame(PwEngine(settings, code), primitive_label[0].frame, Stencil(), tmp_path)
    error = np.abs(loose.response.born_effective_charges - reference.born_effective_charges).max()
    assert error < loose.quality.born_effective_charges_accuracy < 20 * error
    assert "born_effective_charges_accuracy" in loose.quality.flags
    assert np.abs(loose.response.polarization - reference.polarization).max() < loose.quality.polarization_accuracy
    assert primitive_label[0].quality.born_effective_charges_accuracy < 1e-3
    assert primitive_label[0].quality.polarization_accuracy < 1e-5


def test_step_from_the_gap(primitive_label):
    cell, mesh = primitive_label[0].frame.cell, (2, 2, 2)
    step = step_from_gap(1.3, cell, mesh)
    assert step == pytest.approx(STEP_FRACTION * critical_field(1.3, cell, mesh).min(), rel=0.05)
    digits = f"{step / RYDBERG_FIELD_IN_V_PER_ANGSTROM:.6e}"
    assert digits[3:8] == "00000"
    # A mesh as fine as you like leaves the smallest step; a wide gap the largest.
    assert step_from_gap(1.3, cell, (99, 99, 99)) == pytest.approx(STEP_RANGE[0], rel=0.02)
    assert step_from_gap(9.0, cell, (1, 1, 1)) == pytest.approx(STEP_RANGE[1], rel=0.02)
    with pytest.raises(ValueError, match="give field_step"):
        step_from_gap(0.0, cell, mesh)


def test_points_without_estimates_are_not_judged(stored):
    points, frame = stored("alas_primitive")
    bare = {name: point.model_copy(update={"polarization_accuracy": None}) for name, point in points.items()}
    assert assemble(bare, frame, Stencil())[1].polarization_accuracy is None
