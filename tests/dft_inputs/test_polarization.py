"""Branches: exact folding in any cell, and 35 published Berry-phase paths."""

import gzip
import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from fieldloop.dft_inputs.polarization import (
    closest_lattice_vector,
    fold,
    nearest_branch,
    quantum_lattice,
    track,
)
from fieldloop.dft_inputs.units import E_PER_SQUARE_ANGSTROM_IN_MICROCOULOMB_PER_SQUARE_CM as MICROCOULOMB

PATHS = json.loads(
    gzip.decompress((Path(__file__).parent.parent / "data" / "berry_paths" / "paths.json.gz").read_bytes())
)


def skew_cells(count, seed):
    """Cells with angles from 15 degrees up and axes of unequal length."""
    rng = np.random.default_rng(seed)
    cells = []
    while len(cells) < count:
        cell = rng.normal(size=(3, 3)) * rng.uniform(1, 10, size=(3, 1))
        if abs(np.linalg.det(cell)) > 0.05 * np.prod(np.linalg.norm(cell, axis=1)):
            cells.append(cell)
    return cells


def brute_force_distance(vector, lattice):
    """Distance to the closest lattice vector: every lattice vector within reach is tried.

    The closest one is no further than the rounded coordinates are, so its coordinates differ from the vector's by at
    most that distance times the length of the reciprocal vectors.
    """
    inverse = np.linalg.inv(lattice)
    coordinates = vector @ inverse
    reach = np.linalg.norm(vector - np.rint(coordinates) @ lattice) * np.linalg.norm(inverse, axis=0)
    ranges = [np.arange(np.floor(c - r), np.ceil(c + r) + 1) for c, r in zip(coordinates, reach, strict=True)]
    candidates = np.array(np.meshgrid(*ranges, indexing="ij")).reshape(3, -1).T @ lattice
    return np.linalg.norm(vector - candidates, axis=1).min()


@pytest.fixture(scope="module")
def cells():
    return skew_cells(1000, seed=7)


def test_folding_is_the_closest_vector_in_a_thousand_skew_cells(cells):
    rng = np.random.default_rng(11)
    beaten = 0
    for cell in cells:
        vectors = rng.uniform(-5, 5, size=(4, 3)) @ cell
        folded = fold(vectors, cell)
        expected = [brute_force_distance(vector, cell) for vector in vectors]
        np.testing.assert_allclose(np.linalg.norm(folded, axis=1), expected, rtol=1e-9, atol=1e-9)
        steps = (vectors - folded) @ np.linalg.inv(cell)
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-8)
        rounding = vectors - np.rint(vectors @ np.linalg.inv(cell)) @ cell
        beaten += int((np.linalg.norm(rounding, axis=1) > np.linalg.norm(folded, axis=1) + 1e-9).sum())
    assert beaten > 400, "rounding of coordinates should fail often in these cells, or the test is too easy"


def test_folding_does_not_depend_on_the_basis_of_the_lattice(cells):
    rng = np.random.default_rng(3)
    unimodular = np.array([[1, 2, 0], [0, 1, -3], [0, 0, 1]])
    for cell in cells[:100]:
        vector = rng.uniform(-3, 3, size=3) @ cell
        np.testing.assert_allclose(fold(vector, cell), fold(vector, unimodular @ cell), atol=1e-8)


def test_folding_ignores_lattice_vectors_and_sits_in_the_smallest_image(cells):
    rng = np.random.default_rng(5)
    for cell in cells[:100]:
        vectors = rng.uniform(-0.5, 0.5, size=(2, 5, 3)) @ cell
        shifts = rng.integers(-4, 5, size=(2, 5, 3)) @ cell
        folded = fold(vectors, cell)
        assert folded.shape == (2, 5, 3)
        np.testing.assert_allclose(fold(vectors + shifts, cell), folded, atol=1e-8)
        np.testing.assert_allclose(fold(folded, cell), folded, atol=1e-12)


def test_one_vector_and_a_stack_agree():
    cell = np.array([[4.0, 0, 0], [3.9, 1.0, 0], [0, 0, 5]])
    vectors = np.random.default_rng(0).normal(size=(6, 3)) * 10
    stacked = closest_lattice_vector(vectors, cell)
    np.testing.assert_array_equal(stacked, [closest_lattice_vector(v, cell) for v in vectors])


def test_quanta_are_twice_the_cell_for_paired_electrons():
    cell = np.diag([3.0, 4.0, 5.0])
    np.testing.assert_array_equal(quantum_lattice(cell), cell)
    np.testing.assert_array_equal(quantum_lattice(cell, 2), 2 * cell)


def test_nearest_branch_keeps_the_value_and_moves_by_whole_quanta():
    cell = quantum_lattice(np.array([[0, 2.83, 2.83], [2.83, 0, 2.83], [2.83, 2.83, 0]]), 2)
    reference = np.array([12.0, -7.0, 30.0])
    image = nearest_branch(np.array([0.1, 0.2, 0.3]), reference, cell)
    steps = (image - [0.1, 0.2, 0.3]) @ np.linalg.inv(cell)
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-12)
    around = image + np.array(list(product([-1, 0, 1], repeat=3))) @ cell
    distance = np.linalg.norm(image - reference)
    assert distance <= np.linalg.norm(around - reference, axis=1).min() + 1e-12


@pytest.mark.parametrize("entry", PATHS, ids=[f"{p['formula']}-{p['id'][-4:]}" for p in PATHS])
def test_published_paths_are_tracked_from_any_branches(entry):
    """Each image on a branch of its own; the polarization change is the published one."""
    cell = np.array(entry["cell"])
    axes = cell / np.linalg.norm(cell, axis=1, keepdims=True)
    quanta = quantum_lattice(cell) * MICROCOULOMB / abs(np.linalg.det(cell))
    path = np.array(entry["polarization"]) @ axes
    for seed in range(5):
        hops = np.random.default_rng(seed).integers(-6, 7, size=path.shape) @ quanta
        tracked = track(fold(path + hops, quanta) + hops[::-1], [quanta] * len(path))
        change = np.linalg.norm(tracked[-1] - tracked[0])
        assert change == pytest.approx(entry["polarization_change_norm"], abs=0.5)


def test_all_published_paths_are_there():
    assert len(PATHS) == 35
    assert sum(entry["polarization_change_norm"] > 50 for entry in PATHS) >= 5


def test_track_follows_a_steady_current_through_many_quanta():
    """An ion carried twice around the cell moves P by two quanta times its charge, seen modulo one quantum."""
    cell = np.array([[5.0, 0, 0], [1.0, 4.0, 0], [0.5, 0.5, 6.0]])
    steps = np.linspace(0, 2, 41)[:, None] * cell[1]
    tracked = track(fold(steps, cell), [cell] * len(steps))
    np.testing.assert_allclose(tracked - tracked[0], steps, atol=1e-10)
