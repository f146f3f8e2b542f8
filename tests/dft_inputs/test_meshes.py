"""One N_i |a_i| for a data set: meshes by density, of supercells and of strained copies."""

import numpy as np
import pytest
from fieldloop.dft_inputs.espresso.settings import PwSettings, protocols
from fieldloop.dft_inputs.meshes import mesh_of_supercell, resolve_kpoints, string_lengths, supercell_multiples
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

CELL = np.array([[4.0, 0.0, 0.0], [-1.9, 3.5, 0.0], [0.3, 0.2, 6.1]])


@given(st.floats(3, 80), st.integers(0, 2))
def test_the_mesh_is_the_smallest_of_the_density(density, axis):
    mesh = resolve_kpoints(CELL, density)
    assert (string_lengths(CELL, mesh) >= density - 1e-4).all()
    coarser = list(mesh)
    coarser[axis] -= 1
    assert coarser[axis] == 0 or string_lengths(CELL, coarser)[axis] < density


def test_a_density_for_each_direction():
    assert resolve_kpoints(np.diag([4.0, 4.0, 8.0]), (8.0, 8.1, 1.0)) == (2, 3, 1)
    assert resolve_kpoints(np.diag([4.0, 4.0, 8.0]), 8.0) == (2, 2, 1)


@given(st.tuples(*[st.integers(1, 4)] * 3), st.tuples(*[st.integers(1, 3)] * 3), st.integers(0, 2**31))
def test_supercells_and_strained_copies_share_the_strings(multiples, divided, seed):
    strain = np.random.default_rng(seed).uniform(-0.03, 0.03, size=(3, 3))
    strained = np.diag(multiples) @ CELL @ (np.eye(3) + strain)
    assert supercell_multiples(strained, CELL) == multiples
    mesh = tuple(int(n) for n in np.multiply(multiples, divided))
    parent = PwSettings(ecutwfc=12, kpoints=mesh)
    assert parent.for_cell(strained, CELL).mesh == divided
    lengths = string_lengths(strained, divided) / string_lengths(CELL, mesh)
    assert np.allclose(lengths, 1, atol=0.1)


def test_a_density_is_resolved_once_for_the_parent():
    settings = PwSettings(ecutwfc=12, kpoint_density=15.9)
    assert settings.for_cell(CELL).mesh == (4, 4, 3)
    # A copy that is 3 % longer would need fewer points, and a shorter one more; both keep those of the parent.
    for scale in (0.97, 1.03):
        assert settings.for_cell(scale * CELL, CELL).mesh == (4, 4, 3)
    assert settings.for_cell(np.diag([2, 4, 3]) @ CELL, CELL).mesh == (2, 1, 1)


def test_a_mesh_that_cannot_be_divided_names_one_that_can():
    with pytest.raises(ValueError, match=r"k-mesh \[4, 4, 3\] .*1x3x2 supercell; \[4, 6, 4\] can"):
        mesh_of_supercell((4, 4, 3), (1, 3, 2))
    assert mesh_of_supercell((4, 6, 4), (1, 3, 2)) == (4, 2, 2)


@pytest.mark.parametrize("other", [np.eye(3) * 9.3, CELL[[1, 0, 2]], CELL * 1.2, -CELL])
def test_other_cells_are_refused(other):
    with pytest.raises(ValueError, match="no supercell of the parent crystal"):
        supercell_multiples(other, CELL)


@pytest.mark.parametrize("given", [{}, {"kpoints": (2, 2, 2), "kpoint_density": 20.0}])
def test_exactly_one_of_mesh_and_density(given):
    with pytest.raises(ValidationError, match="give one of kpoints"):
        PwSettings(ecutwfc=12, **given)


def test_the_identity_holds_resolved_integers():
    density = PwSettings(ecutwfc=12, kpoint_density=15.9)
    with pytest.raises(ValueError, match=r"call settings\.for_cell"):
        density.identity()
    assert density.for_cell(CELL).identity() == PwSettings(ecutwfc=12, kpoints=(4, 4, 3)).identity()


def test_a_mesh_replaces_the_density_of_a_protocol():
    assert PwSettings.from_protocol("standard", kpoints=(3, 3, 3)).mesh == (3, 3, 3)
    assert PwSettings.from_protocol("fast", kpoint_density=20).kpoints is None
    for name in protocols():
        assert min(PwSettings.from_protocol(name).for_cell(CELL).mesh) >= 2


def test_the_published_mesh_of_quartz():
    """72 atoms in a cell of 9.95 x 8.66 x 10.95 A had 2x2x2 points."""
    assert PwSettings.from_protocol("paper").for_cell(np.diag([9.95, 8.66, 10.95])).mesh == (2, 2, 2)
