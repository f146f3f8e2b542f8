"""Insulators and metals, and the field at which a mesh breaks down."""

import numpy as np
import pytest
from ase.build import bulk
from fieldloop.dft_inputs.espresso import band_gap, critical_field, critical_fraction, label_frame
from fieldloop.dft_inputs.records import Frame
from fieldloop.dft_inputs.stencil import Stencil


def test_insulator_and_resume(primitive, fast, counted, tmp_path):
    code, log = counted
    found = band_gap(primitive, fast, code, tmp_path / "gap")
    assert not found.metallic
    assert found.n_occupied == 4
    assert 1.0 < found.gap < 2.0
    assert "insulator" in found.reason
    assert band_gap(primitive, fast, code, tmp_path / "gap") == found
    assert log.read_text().count("start") == 1


def test_gap_does_not_depend_on_the_cell_chosen(primitive, rattled, fast, code, tmp_path):
    """The eight-atom cell on 2x2x2 folds onto k-points of a finer fcc mesh, so its gap is at most a little smaller."""
    cubic = Frame.from_atoms(bulk("AlAs", "zincblende", a=5.65, cubic=True))
    large = band_gap(cubic, fast, code, tmp_path / "cubic")
    small = band_gap(primitive, fast.model_copy(update={"kpoints": (4, 4, 4)}), code, tmp_path / "primitive")
    assert large.n_occupied == 16
    assert large.gap == pytest.approx(small.gap, abs=0.2)


def test_odd_electrons_need_no_run(fast, code, tmp_path):
    aluminium = Frame.from_atoms(bulk("Al", "fcc", a=4.05))
    found = band_gap(aluminium, fast, code, tmp_path / "gap")
    assert found.metallic
    assert found.reason == "metallic: 3 electrons leave a band half filled; fields need an insulator"
    assert not (tmp_path / "gap").exists()
    label = label_frame(aluminium, fast, Stencil(order=1), code, tmp_path / "label")
    assert label.status == "failed"
    assert "smearing is needed at zero" in label.failure


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


def test_gap_given_flags_a_field_too_strong(primitive_label, fast, code):
    label, directory = primitive_label
    again = label_frame(label.frame, fast, Stencil(), code, directory, gap=1.5)
    fraction = max(critical_fraction(p.field, 1.5, label.frame.cell, fast.kpoints) for p in again.field_points)
    assert again.quality.critical_field_fraction == pytest.approx(fraction)
    assert again.quality.passed
    weak = label_frame(label.frame, fast, Stencil(), code, directory, gap=0.02)
    assert weak.quality.flags == ("critical_field_fraction",)
    assert not weak.trainable
