"""Piezoelectric tensors against finite differences of P, with atoms that follow and without."""

import numpy as np
import pytest
import torch
from ase.build import bulk
from fieldloop.dft_inputs.records import Frame
from fieldloop.model.graph import build_graph
from fieldloop.model.network import EnthalpyNetwork
from fieldloop.model.piezoelectric import piezoelectric_tensor, voigt
from fieldloop.model.responses import compute_responses
from fieldloop.model.settings import NetworkConfig

SHEAR = np.array([[0.3, 0.1, -0.2], [0.1, -0.4, 0.5], [-0.2, 0.5, 0.2]])
TURN = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
TURN = TURN * np.linalg.det(TURN)


@pytest.fixture(scope="module")
def network():
    config = NetworkConfig(
        species=("Al", "As"), reference_charges={"Al": 3, "As": -3}, cutoff=3.5, scalars=8, tensors=4, radial=4
    )
    return EnthalpyNetwork(config, seed=1)


@pytest.fixture
def primitive():
    return Frame.from_atoms(bulk("AlAs", "zincblende", a=5.66))


def at(model, frame):
    graph = build_graph([frame], model.species, model.cutoff, None, model.dtype)
    return compute_responses(model, graph)


def strained(frame, strain):
    matrix = np.eye(3) + strain
    return frame.model_copy(update={"positions": frame.positions @ matrix.T, "cell": frame.cell @ matrix.T})


def at_rest(model, frame):
    """Newton's method with force constants by differences; the first atom stays."""
    h = 1e-4
    for _ in range(4):
        forces = at(model, frame).forces.numpy().ravel()[3:]
        columns = []
        for k in range(3, 3 * len(frame)):
            moves = np.zeros(3 * len(frame))
            moves[k] = h
            ends = [moved(frame, sign * moves.reshape(-1, 3)) for sign in (1, -1)]
            columns.append((at(model, ends[0]).forces - at(model, ends[1]).forces).numpy().ravel()[3:] / (2 * h))
        step = np.concatenate([np.zeros(3), -np.linalg.solve(np.array(columns).T, forces)])
        frame = moved(frame, step.reshape(-1, 3))
    return frame


def moved(frame, moves):
    return frame.model_copy(update={"positions": frame.positions + moves})


def slope_of_p(model, frame, follow, h=2e-4):
    """d(P/V)/d(strain along SHEAR), the improper one, by differences."""
    ends = [follow(model, strained(frame, sign * h * SHEAR)) for sign in (1, -1)]
    densities = [at(model, end).polarization[0].numpy() / end.volume for end in ends]
    return (densities[0] - densities[1]) / (2 * h)


def test_clamped_ions_are_the_slope_of_p(network, crystal):
    frame = crystal(rattle=0.1)
    found = piezoelectric_tensor(network, frame, relaxed=False)
    slope = slope_of_p(network, frame, lambda model, end: end)
    assert np.einsum("abc,bc->a", found.clamped_improper, SHEAR) == pytest.approx(slope, rel=1e-4, abs=1e-8)
    p = at(network, frame).polarization[0].numpy() / frame.volume
    proper = slope + np.trace(SHEAR) * p - SHEAR @ p
    assert np.einsum("abc,bc->a", found.clamped, SHEAR) == pytest.approx(proper, rel=1e-4, abs=1e-8)


def test_ions_that_follow_are_the_slope_of_p_at_rest(morse, primitive):
    found = piezoelectric_tensor(morse, primitive)
    slope = slope_of_p(morse, primitive, at_rest)
    assert np.einsum("abc,bc->a", found.relaxed_improper, SHEAR) == pytest.approx(slope, rel=1e-4, abs=1e-9)


def test_point_charges_move_no_current_unless_they_follow(morse, primitive):
    """Clamped ions of fixed charge are carried along: the proper tensor is zero, the improper one is that of P."""
    found = piezoelectric_tensor(morse, moved(primitive, np.array([[0.0, 0.0, 0.0], [5.66, 0.0, 0.0]])))
    assert np.abs(found.clamped).max() < 1e-12
    assert np.abs(found.clamped_improper).max() > 0.01
    assert np.abs(found.relaxed).max() > 0.01


def test_the_proper_tensor_knows_no_branch(network, crystal):
    frame = crystal(rattle=0.1)
    moves = np.zeros((8, 3))
    moves[3] = frame.cell[1]
    one, other = (piezoelectric_tensor(network, f, relaxed=False) for f in (frame, moved(frame, moves)))
    assert np.allclose(one.clamped, other.clamped, atol=1e-10)
    assert np.abs(one.clamped_improper - other.clamped_improper).max() > 0.01


def test_zincblende_has_one_constant_and_it_turns_with_the_crystal(network, primitive):
    rows = voigt(piezoelectric_tensor(network, primitive, relaxed=False).clamped)
    e14 = rows[0, 3]
    expected = np.zeros((3, 6))
    expected[[0, 1, 2], [3, 4, 5]] = e14
    assert abs(e14) > 1e-3
    assert rows == pytest.approx(expected, abs=1e-8)
    turned = strained(primitive, TURN - np.eye(3))
    there = piezoelectric_tensor(network, turned, relaxed=False).clamped
    here = piezoelectric_tensor(network, primitive, relaxed=False).clamped
    assert there == pytest.approx(np.einsum("ai,bj,ck,ijk->abc", TURN, TURN, TURN, here), abs=1e-9)


def test_frames_that_are_not_at_rest_are_refused(morse, crystal, sites):
    with pytest.raises(ValueError, match=r"not at rest \(largest force"):
        piezoelectric_tensor(morse, crystal(rattle=0.1))
    with pytest.raises(ValueError, match="periodic in all directions"):
        piezoelectric_tensor(morse, sites)
    with torch.no_grad():
        morse.depth.mul_(-1)
    with pytest.raises(ValueError, match="no minimum"):
        piezoelectric_tensor(morse, crystal())
