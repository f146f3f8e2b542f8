"""Stencils against models whose derivatives are known on paper."""

import numpy as np
import pytest
from fieldloop.dft_inputs.records import FieldPoint
from fieldloop.dft_inputs.stencil import DEFAULT_STEP, ZERO, Stencil, point_name
from fieldloop.dft_inputs.units import MV_PER_CM_IN_V_PER_ANGSTROM

NATOMS = 3
RNG = np.random.default_rng(20)
P0 = RNG.normal(size=3)
ALPHA = RNG.normal(size=(3, 3))
ALPHA = ALPHA + ALPHA.T
Z = RNG.normal(size=(NATOMS, 3, 3))  # [atom, field, displacement]
F0 = RNG.normal(size=(NATOMS, 3))


def fields_of(stencil, force_terms=(), dipole_terms=()):
    """Points of F = F0 + Z.E + sum of c E^k per component and P = P0 + alpha.E + the like."""
    points = {}
    for name, field in stencil.points().items():
        forces = F0 + np.einsum("iab,a->ib", Z, field)
        dipole = P0 + ALPHA @ field
        for power, coefficient in force_terms:
            forces = forces + coefficient * np.sum(field**power)
        for power, coefficient in dipole_terms:
            dipole = dipole + coefficient * np.sum(field**power)
        points[name] = FieldPoint(name=name, field=field, enthalpy=0.0, forces=forces, polarization=dipole)
    return points


@pytest.mark.parametrize("order", [1, 2, 4])
@pytest.mark.parametrize("base", [(0.0, 0.0, 0.0), (0.02, -0.01, 0.03)])
def test_linear_response_is_exact_at_every_order(order, base):
    stencil = Stencil(step=5e-3, order=order, base=base)
    points = fields_of(stencil)
    np.testing.assert_allclose(stencil.born_effective_charges(points), Z, atol=1e-11)
    np.testing.assert_allclose(stencil.polarizability(points), ALPHA, atol=1e-11)


@pytest.mark.parametrize(("order", "exact_up_to"), [(1, 1), (2, 2), (4, 4)])
def test_polynomials_are_exact_up_to_the_order(order, exact_up_to):
    """At E = 0 every power above one has no derivative; the first error term is the next power."""
    stencil = Stencil(step=0.1, order=order)
    for power in range(2, exact_up_to + 1):
        points = fields_of(stencil, force_terms=[(power, 7.0)], dipole_terms=[(power, -3.0)])
        np.testing.assert_allclose(stencil.born_effective_charges(points), Z, atol=1e-12)
        np.testing.assert_allclose(stencil.polarizability(points), ALPHA, atol=1e-12)
    points = fields_of(stencil, force_terms=[(exact_up_to + 1, 7.0)])
    assert np.abs(stencil.born_effective_charges(points) - Z).max() > 1e-5


@pytest.mark.parametrize("order", [1, 2, 4])
def test_error_falls_with_the_order(order):
    """d/dE of exp(3 E) at a finite base field."""
    base = (0.1, 0.2, -0.1)
    errors = []
    steps = np.array([0.08, 0.04, 0.02])
    for step in steps:
        stencil = Stencil(step=step, order=order, base=base)
        values = {name: np.exp(3 * field) for name, field in stencil.points().items()}
        errors.append([abs(stencil.derivative(values, a)[a] - 3 * np.exp(3 * base[a])) for a in range(3)])
    slopes = np.diff(np.log(errors), axis=0) / np.diff(np.log(steps))[:, None]
    np.testing.assert_allclose(slopes, order, atol=0.25)


def test_indices_are_atom_field_displacement_and_dipole_field():
    """A field along y alone moves atom 1 along z: Z[1, y, z]; and polarizes along x: alpha[x, y]."""
    stencil = Stencil()
    points = {}
    for name, field in stencil.points().items():
        forces, dipole = np.zeros((2, 3)), np.zeros(3)
        forces[1, 2], dipole[0] = 3.0 * field[1], 5.0 * field[1]
        points[name] = FieldPoint(name=name, field=field, enthalpy=0.0, forces=forces, polarization=dipole)
    charges, alpha = stencil.born_effective_charges(points), stencil.polarizability(points)
    assert charges[1, 1, 2] == pytest.approx(3.0)
    assert alpha[0, 1] == pytest.approx(5.0)
    assert np.abs(charges).sum() == pytest.approx(3.0)
    assert np.abs(alpha).sum() == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("order", "names"),
    [
        (1, ["zero", "+x", "+y", "+z"]),
        (2, ["zero", "-x", "+x", "-y", "+y", "-z", "+z"]),
        (4, ["zero", *(f"{s}{a}" for a in "xyz" for s in ("-2", "-", "+", "+2"))]),
    ],
)
def test_points_are_named_for_their_field(order, names):
    base = np.array([0.01, 0.0, -0.02])
    points = Stencil(step=1e-3, order=order, base=tuple(base)).points()
    assert list(points) == names
    for name, field in points.items():
        expected = np.zeros(3)
        if name != ZERO:
            size = 2 if "2" in name else 1
            expected["xyz".index(name[-1])] = size * (1e-3 if name[0] == "+" else -1e-3)
        np.testing.assert_allclose(field - base, expected, atol=1e-15)


def test_point_names():
    assert [point_name(2, m) for m in (-2, -1, 0, 1, 2)] == ["-2z", "-z", "zero", "+z", "+2z"]


def test_default_step_is_that_of_the_published_data_sets():
    assert pytest.approx(0.3636, rel=1e-3) == DEFAULT_STEP / MV_PER_CM_IN_V_PER_ANGSTROM


@pytest.mark.parametrize(
    ("options", "message"),
    [({"order": 3}, "order"), ({"step": 0.0}, "step"), ({"step": -1e-3}, "step"), ({"step": 2.0}, "step")],
)
def test_impossible_stencils_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Stencil(**options)
