"""Insulators and metals, and the field at which a mesh breaks down."""

import numpy as np
import pytest
from ase.build import bulk
from fieldloop.dft_inputs.espresso import PwEngine, band_gap
from fieldloop.dft_inputs.insulators import critical_field, critical_fraction
from fieldloop.dft_inputs.labelling import label_frame
from fieldloop.dft_inputs.records import Frame
from fieldloop.dft_inputs.stencil import Stencil


def test_insulator_and_resume(primitive, fast, counted, tmp_path):
    code, log = counted
    found = band_gap(primitive, fast, code, tmp_path / "gap")
    assert not found.metallic
    assert 1.0 < found.gap < 2.0
    assert "insulator" in found.reason
    assert band_gap(primitive, fast, code, tmp_path / "gap") == found
    assert log.read_text().count("start") == 1


def test_gap_does_not_depend_on_the_cell_chosen(primitive, rattled, fast, code, tmp_path):
    """The eight-atom cell on 2x2x2 folds onto k-points of a finer fcc mesh, so its gap is at most a little smaller."""
    cubic = Frame.from_atoms(bulk("AlAs", "zincblende", a=5.65, cubic=True))
    large = band_gap(cubic, fast, code, tmp_path / "cubic")
    small = band_gap(primitive, fast.model_copy(update={"kpoints": (4, 4, 4)}), code, tmp_path / "primitive")
    assert large.gap == pytest.approx(small.gap, abs=0.2)


def test_odd_electrons_need_no_run(fast, code, tmp_path):
    aluminium = Frame.from_atoms(bulk("Al", "fcc", a=4.05))
    found = band_gap(aluminium, fast, code, tmp_path / "gap")
    assert found.metallic
    assert found.reason == "metallic: 3 electrons leave a band half filled; fields need an insulator"
    assert not (tmp_path / "gap").exists()
    with pytest.raises(ValueError, match="3 electrons leave a band half filled"):
        label_frame(PwEngine(fast, code), aluminium, Stencil(order=1), tmp_path / "label")
    assert not (tmp_path / "label").exists()


def test_a_frame_without_a_gap_meets_no_field(fast, code, tmp_path):
    aluminium = Frame.from_atoms(bulk("Al", "fcc", a=4.05, cubic=True))
    label = label_frame(PwEngine(fast, code), aluminium, Stencil(), tmp_path)
    assert label.status == "failed"
    assert "fields need an insulator" in label.failure
    assert "gap" in label.failure
    assert not list(tmp_path.rglob("field*"))


def test_metal_with_even_electrons(fast, code, tmp_path):
    aluminium = Frame.from_atoms(bulk("Al", "fcc", a=4.05, cubic=True))
    found = band_gap(aluminium, fast, code, tmp_path)
    assert found.metallic
    assert found.gap < 0
    assert "fields need an insulator" in found.reason


def test_critical_field_along_the_lattice_vectors(primitive, rattled):
    gap, mesh = 1.5, (2, 3, 4)
    for frame in (primitive, rattled):
        limits = critical_field(gap, frame.cell, mesh)
        for i, limit in enumerate(limits):
            vector = frame.cell[i]
            field = limit * vector / np.linalg.norm(vector)
            drops = np.abs(frame.cell @ field) * mesh
            assert drops[i] == pytest.approx(gap)
            assert critical_fraction(field, gap, frame.cell, mesh) == pytest.approx(drops.max() / gap)
    assert critical_fraction(np.zeros(3), 0.0, primitive.cell, mesh) == 0
    assert critical_fraction(np.ones(3), -0.1, primitive.cell, mesh) == np.inf


def test_fields_are_judged_by_the_gap_of_the_frame(primitive_label, fast, code, tmp_path):
    """The bands of the zero-field run of a label give the gap that a run of its own gives."""
    label, _ = primitive_label
    found = band_gap(label.frame, fast, code, tmp_path)
    fraction = max(critical_fraction(p.field, found.gap, label.frame.cell, fast.mesh) for p in label.field_points)
    assert label.quality.critical_field_fraction == pytest.approx(fraction, rel=1e-3)
