"""Symmetry against physics that knows of no groups: an explicit local enthalpy, stored pw.x runs, and pw.x itself."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.spacegroup import crystal
from fieldloop.dft_inputs.espresso import PwCode, PwEngine, PwSettings, read_pw_output
from fieldloop.dft_inputs.espresso.phases import dipole_from_phases, read_phases
from fieldloop.dft_inputs.espresso.points import field_point
from fieldloop.dft_inputs.labelling import label_frame
from fieldloop.dft_inputs.quality import assemble
from fieldloop.dft_inputs.records import ElectricResponse, FieldPoint, Frame
from fieldloop.dft_inputs.stencil import ZERO, Stencil
from fieldloop.dft_inputs.symmetry import (
    asymmetry,
    finite_field_operations,
    full_stencil,
    irreducible_points,
    rotate_point,
    space_group,
    symmetrized,
)

DATA = Path(__file__).parents[1] / "data" / "espresso"
CUTOFF = 4.5
CHARGES = {"Al": 3, "As": -3, "Si": 4, "O": -2, "Ba": 2, "Ti": 4, "Zn": 2}
IDENTITY_ONLY = {ZERO, "-x", "+x", "-y", "+y", "-z", "+z"}


def primitive() -> Frame:
    return Frame.from_atoms(bulk("AlAs", "zincblende", a=5.65))


def cubic() -> Frame:
    return Frame.from_atoms(bulk("AlAs", "zincblende", a=5.65, cubic=True))


def scrambled() -> Frame:
    """The cubic cell, its atoms in another order and in other cells, its origin at no special point."""
    frame, rng = cubic(), np.random.default_rng(3)
    order = rng.permutation(len(frame))
    images = rng.integers(-2, 3, size=(len(frame), 3)) @ frame.cell
    positions = (frame.positions + images + (0.31, -0.12, 0.77))[order]
    return Frame(species=tuple(frame.species[i] for i in order), positions=positions, cell=frame.cell)


def quartz() -> Frame:
    """P3_121."""
    sites = [(0.4697, 0, 1 / 3), (0.4133, 0.2672, 0.2145)]
    return Frame.from_atoms(crystal(("Si", "O"), sites, spacegroup=152, cellpar=(4.9137, 4.9137, 5.4047, 90, 90, 120)))


def wurtzite() -> Frame:
    """P6_3mc: screw axes, glide planes and a polar axis."""
    return Frame.from_atoms(bulk("ZnO", "wurtzite", a=3.25, c=5.21, u=0.385))


def tetragonal() -> Frame:
    """P4mm BaTiO3, polar along z."""
    coordinates = np.array([(0, 0, 0), (0.5, 0.5, 0.48), (0.5, 0.5, 0.03), (0.5, 0, 0.52), (0, 0.5, 0.52)])
    cell = np.diag([4.0, 4.0, 4.3])
    return Frame(species=("Ba", "Ti", "O", "O", "O"), positions=coordinates @ cell, cell=cell)


CRYSTALS = {f.__name__: f for f in (primitive, cubic, scrambled, quartz, wurtzite, tetragonal)}
ORDERS = {"primitive": 24, "cubic": 96, "scrambled": 96, "quartz": 6, "wurtzite": 12, "tetragonal": 8}


def local_enthalpy(frame: Frame, positions: torch.Tensor, field: torch.Tensor) -> torch.Tensor:
    """A local enthalpy with every coupling up to the third order in the field, and ions of integer charge.

    It is a function of bond vectors and the field alone, so it has the symmetry of any crystal put in.
    """
    cell = torch.tensor(frame.cell)
    reach = range(-7, 8)  # positions are unwrapped by up to four cells against each other
    images = torch.tensor(list(itertools.product(reach, repeat=3)), dtype=cell.dtype) @ cell
    numbers = torch.tensor([sorted(CHARGES).index(s) + 1.0 for s in frame.species], dtype=cell.dtype)
    charges = torch.tensor([CHARGES[s] for s in frame.species], dtype=cell.dtype)
    bonds = positions[None, :, None, :] - positions[:, None, None, :] + images
    distance = (bonds**2).sum(-1)
    near = (distance > 1e-6) & (distance < CUTOFF**2)
    centre, other, _ = torch.nonzero(near, as_tuple=True)
    bonds, distance = bonds[near], distance[near]
    weight = (1 - distance / CUTOFF**2) ** 4 * torch.cos(0.7 * numbers[centre] + 1.3 * numbers[other] + distance)
    along = bonds @ field
    dipole = torch.zeros_like(positions).index_add(0, centre, weight[:, None] * bonds)
    moment = dipole @ field
    energy = (weight * (1 + along + 0.3 * along**2 + 0.2 * along**3)).sum()
    energy = energy + (moment**2 + 0.5 * moment**3 + (dipole**2).sum(1) * moment).sum()
    return energy - 2.0 * (field @ field) - field @ (charges @ positions)


def exact_point(frame: Frame, name: str, field: np.ndarray) -> FieldPoint:
    positions = torch.tensor(frame.positions, requires_grad=True)
    at = torch.tensor(np.array(field, dtype=float), requires_grad=True)
    enthalpy = local_enthalpy(frame, positions, at)
    slope, dipole = torch.autograd.grad(enthalpy, (positions, at))
    return FieldPoint(
        name=name, field=field, enthalpy=enthalpy.item(), forces=-slope.numpy(), polarization=-dipole.numpy()
    )


def exact_points(frame: Frame, stencil: Stencil) -> dict[str, FieldPoint]:
    return {name: exact_point(frame, name, field) for name, field in stencil.points().items()}


def assert_same(points: dict[str, FieldPoint], expected: dict[str, FieldPoint], tolerance: float) -> None:
    assert list(points) == list(expected)
    for name, point in points.items():
        assert point.name == name
        assert np.array_equal(point.field, expected[name].field)
        assert point.enthalpy == pytest.approx(expected[name].enthalpy, abs=tolerance)
        assert np.allclose(point.polarization, expected[name].polarization, rtol=0, atol=tolerance)
        assert np.allclose(point.forces, expected[name].forces, rtol=0, atol=tolerance)


def stored_points(name: str) -> tuple[dict[str, FieldPoint], Frame, tuple[int, int, int]]:
    """The seven points of a stored label, and its mesh."""
    zero = read_pw_output(DATA / name / ZERO)
    reference = dipole_from_phases(read_phases(DATA / name / ZERO), zero.frame.cell)
    points = {ZERO: field_point(ZERO, zero, reference, relative=False)}
    for point in IDENTITY_ONLY - {ZERO}:
        output = read_pw_output(DATA / name / f"field{point}")
        points[point] = field_point(point, output, reference, relative=True)
    return {point: points[point] for point in Stencil().points()}, zero.frame, zero.kpoints


@pytest.mark.parametrize("name", CRYSTALS)
def test_operations_map_the_crystal_onto_itself(name):
    frame = CRYSTALS[name]()
    operations = space_group(frame)
    assert len(operations) == ORDERS[name]
    for operation in operations:
        assert np.allclose(operation.rotation @ operation.rotation.T, np.eye(3), atol=1e-12)
        mapped = frame.positions @ operation.rotation.T + operation.translation
        lattice = (mapped - frame.positions[operation.permutation]) @ np.linalg.inv(frame.cell)
        assert np.allclose(lattice, np.rint(lattice), atol=1e-4)
        assert [frame.species[i] for i in operation.permutation] == list(frame.species)
    assert np.array_equal(operations[0].rotation, np.eye(3))
    assert np.array_equal(operations[0].permutation, np.arange(len(frame)))


@pytest.mark.parametrize("name", CRYSTALS)
def test_operations_are_a_group(name):
    operations = space_group(CRYSTALS[name]())
    known = {(*o.rotation.round(6).ravel() + 0.0, *o.permutation) for o in operations}
    assert len(known) == len(operations)
    for a, b in itertools.product(operations[:12], operations):
        product = ((a.rotation @ b.rotation).round(6).ravel() + 0.0, a.permutation[b.permutation])
        assert (*product[0], *product[1]) in known


def test_a_rattled_frame_has_the_identity_alone():
    atoms = cubic().to_atoms()
    atoms.rattle(0.002, seed=1)
    operations = space_group(Frame.from_atoms(atoms))
    assert len(operations) == 1
    assert set(irreducible_points(Stencil(), operations)) == IDENTITY_ONLY


def test_the_tolerance_is_a_distance_in_angstrom():
    frame = cubic()
    for shift, order in ((3e-5, 96), (4e-4, 6)):
        positions = frame.positions.copy()
        positions[0] += shift / np.sqrt(3)
        assert len(space_group(frame.model_copy(update={"positions": positions}))) == order


def test_a_strain_beyond_the_tolerance_is_seen():
    frame = cubic()
    for strain, order in ((1e-6, 96), (1e-4, 32)):
        stretch = np.diag([1, 1, 1 + strain])
        strained = {"positions": frame.positions @ stretch, "cell": frame.cell @ stretch}
        assert len(space_group(frame.model_copy(update=strained))) == order


def test_kinds_tell_atoms_of_one_species_apart():
    frame = cubic()
    up_down = [1, 1, -1, -1, 1, 1, -1, -1]
    assert len(space_group(frame, kinds=up_down)) < len(space_group(frame))
    for operation in space_group(frame, kinds=up_down):
        assert [up_down[i] for i in operation.permutation] == up_down
    with pytest.raises(ValueError, match="8 atoms"):
        space_group(frame, kinds=[1])


def test_atoms_on_one_site_leave_the_identity():
    frame = Frame(species=("Si", "Si"), positions=np.zeros((2, 3)), cell=4 * np.eye(3))
    assert len(space_group(frame)) == 1


@pytest.mark.parametrize("order", [2, 4])
@pytest.mark.parametrize(
    ("name", "base", "computed"),
    [
        ("primitive", (0, 0, 0), 1),
        ("cubic", (0, 0, 0), 1),
        ("scrambled", (0, 0, 0), 1),
        ("scrambled", (0, 0.02, 0), 3),
        ("quartz", (0, 0, 0), 4),
        ("quartz", (0.01, 0, 0), 4),
        ("wurtzite", (0, 0, 0), 4),
        ("tetragonal", (0, 0, 0), 3),
        ("tetragonal", (0, 0, 0.02), 3),
        ("tetragonal", (0.01, 0, 0), 5),
    ],
)
def test_rotated_points_are_those_of_the_enthalpy(name, base, computed, order):
    """Forces, P and U at every point, with cells, origins and unwrapped images that make P(0) no invariant vector."""
    frame, stencil = CRYSTALS[name](), Stencil(step=0.01, base=base, order=order)
    operations = finite_field_operations(space_group(frame), (2, 2, 2), field=base, strings=False)
    expected = exact_points(frame, stencil)
    orbits = irreducible_points(stencil, operations)
    assert len(orbits) == 1 + computed * order // 2
    points = full_stencil({n: expected[n] for n in orbits}, stencil, operations)
    assert_same(points, expected, 1e-10)


def test_every_operation_rotates_a_point_of_any_field():
    """Not only among the points of a stencil, and with a P(0) that rotations move by quanta."""
    frame = scrambled()
    zero, field = exact_point(frame, ZERO, np.zeros(3)), np.array([0.02, -0.05, 0.03])
    point = exact_point(frame, "any", field)
    moved = 0
    for operation in space_group(frame):
        rotated = rotate_point(point, operation, zero, name="any")
        assert_same({"any": rotated}, {"any": exact_point(frame, "any", operation.rotation @ field)}, 1e-10)
        quanta = (zero.polarization - operation.rotation @ zero.polarization) @ np.linalg.inv(frame.cell)
        assert np.allclose(quanta, np.rint(quanta), atol=1e-9)
        moved += bool(np.abs(quanta).max() > 0.5)
    assert moved > 0


def test_the_runs_that_others_start_from_are_the_ones_to_compute():
    orbits = irreducible_points(Stencil(order=4), space_group(cubic()))
    assert list(orbits) == [ZERO, "+x", "+2x"]
    assert {image.name for image in orbits["+x"]} == {"-x", "+y", "-y", "+z", "-z"}
    assert orbits[ZERO] == ()


def test_a_mesh_of_less_symmetry_keeps_fewer_operations():
    operations = space_group(cubic())
    assert len(finite_field_operations(operations, (2, 2, 2))) == 96
    kept = finite_field_operations(operations, (2, 2, 4))
    assert len(kept) == 32
    assert all(abs(o.rotation[2, 2]) == pytest.approx(1) for o in kept)
    assert len(irreducible_points(Stencil(), kept)) == 3


def test_strings_keep_signed_permutations_of_the_reciprocal_vectors():
    operations = space_group(primitive())
    reciprocal = np.linalg.inv(primitive().cell).T
    kept = finite_field_operations(operations, (2, 2, 2))
    assert len(kept) == 6
    for operation in kept:
        for turned in reciprocal @ operation.rotation.T:
            assert min(np.abs(turned - s * b).max() for s in (1, -1) for b in reciprocal) < 1e-9


def test_a_density_grid_is_kept_by_some():
    """Centring translations of half a cell need an even number of points, and cubic rotations equal ones."""
    operations = space_group(cubic())
    for grid, on_grid in (((24, 24, 24), 96), ((25, 25, 25), 24), ((24, 24, 25), 16), (None, 0)):
        kept = finite_field_operations(operations, (2, 2, 2), fft_grid=grid)
        marks = [operation.keeps_grid for operation in kept]
        assert len(marks) == 96
        assert marks == [True] * on_grid + [False] * (96 - on_grid)


def test_an_error_of_the_density_grid_common_to_all_fields_drops_out():
    """Forces that break the symmetry alike at every field, as those on a grid do that the operations move."""
    frame, stencil = cubic(), Stencil()
    exact, eggbox = exact_points(frame, stencil), 1e-3 * np.random.default_rng(0).normal(size=(len(frame), 3))
    points = {n: p.model_copy(update={"forces": p.forces + eggbox}) for n, p in exact.items()}
    operations = finite_field_operations(space_group(frame), (2, 2, 2), fft_grid=(25, 25, 25))
    assert_same(full_stencil({n: points[n] for n in (ZERO, "+x")}, stencil, operations[24:]), points, 1e-10)


def test_a_missing_representative_is_named():
    stencil = Stencil()
    points = exact_points(tetragonal(), stencil)
    del points["+z"]
    with pytest.raises(ValueError, match=r"no point \+z"):
        full_stencil(points, stencil, space_group(tetragonal()))


def test_points_that_were_computed_are_kept():
    stencil, frame = Stencil(), cubic()
    points = exact_points(frame, stencil)
    assert full_stencil(points, stencil, space_group(frame)) == points


@pytest.mark.parametrize("name", CRYSTALS)
def test_a_symmetric_state_is_known_as_one(name):
    frame = CRYSTALS[name]()
    zero = exact_point(frame, ZERO, np.zeros(3))
    assert max(asymmetry(zero, space_group(frame), frame.cell)) < 1e-3


def test_a_state_of_less_symmetry_than_its_crystal_is_seen():
    """A field that the operations do not keep stands in for charge order: P is off by alpha (E - R E)."""
    frame, field = scrambled(), np.array([0.02, 0, 0])
    alpha = Stencil(step=0.02).polarizability(exact_points(frame, Stencil(step=0.02)))[0, 0]
    forces, dipole = asymmetry(exact_point(frame, "biased", field), space_group(frame), frame.cell)
    assert dipole == pytest.approx(2 * alpha * field[0], rel=0.02)
    assert forces > 0.01


def test_symmetrizing_takes_noise_away_and_nothing_else():
    frame, rng = quartz(), np.random.default_rng(0)
    operations, stencil = space_group(frame), Stencil(step=0.01)
    points = exact_points(frame, stencil)
    exact = ElectricResponse(
        forces=points[ZERO].forces,
        stress=np.diag([1.0, 1.0, 2.0]),
        born_effective_charges=stencil.born_effective_charges(points),
        polarizability=stencil.polarizability(points),
    )
    names = ("forces", "stress", "born_effective_charges", "polarizability")
    noise = {name: 1e-2 * rng.normal(size=getattr(exact, name).shape) for name in names}
    noisy = exact.model_copy(update={name: getattr(exact, name) + noise[name] for name in names})
    cleaned = symmetrized(noisy, operations)
    for name in names:
        before = np.linalg.norm(noise[name])
        assert np.linalg.norm(getattr(cleaned, name) - getattr(exact, name)) < 0.65 * before
        assert np.allclose(getattr(symmetrized(cleaned, operations), name), getattr(cleaned, name), atol=1e-12)
        assert np.allclose(getattr(symmetrized(exact, operations), name), getattr(exact, name), atol=1e-3)


@pytest.mark.parametrize(
    ("name", "grid", "computed"),
    [("alas_primitive", (18, 18, 18), {ZERO, "-x", "+x"}), ("quartz", (40, 40, 45), IDENTITY_ONLY - {"-z"})],
)
def test_stored_runs_of_pw(name, grid, computed):
    """The points that symmetry leaves out were computed too: they agree within the noise of the SCF."""
    points, frame, kpoints = stored_points(name)
    operations = finite_field_operations(space_group(frame), kpoints, fft_grid=grid)
    orbits = irreducible_points(Stencil(), operations)
    assert set(orbits) == computed
    full = full_stencil({n: points[n] for n in orbits}, Stencil(), operations)
    assert_same(full, points, 2e-6)
    assert_same_answer(full, points, frame)


@pytest.mark.parametrize("name", ["alas_primitive", "quartz"])
def test_stored_runs_of_pw_of_unknown_grid(name):
    points, frame, kpoints = stored_points(name)
    operations = finite_field_operations(space_group(frame), kpoints)
    computed = {n: points[n] for n in irreducible_points(Stencil(), operations)}
    assert max(asymmetry(points[ZERO], operations, frame.cell)) < 1e-4
    assert_same_answer(full_stencil(computed, Stencil(), operations), points, frame)


@pytest.mark.parametrize(("name", "deviation"), [("alas_primitive", 0.02), ("quartz", 0.004)])
def test_operations_that_turn_the_strings_are_not_symmetries_of_a_coarse_mesh(name, deviation):
    """Why they are left out: the crystal has them, the mesh has them, the discretized Berry phase has not."""
    points, frame, kpoints = stored_points(name)
    operations = finite_field_operations(space_group(frame), kpoints, strings=False)
    orbits = irreducible_points(Stencil(), operations)
    full = full_stencil({n: points[n] for n in orbits}, Stencil(), operations)
    alpha, reference = Stencil().polarizability(full), Stencil().polarizability(points)
    assert np.abs(alpha - reference).max() / reference[0, 0] > deviation


@pytest.mark.parametrize(("name", "runs"), [("cubic", 2), ("primitive", 3)])
def test_few_runs_of_pw_give_the_answer_of_seven(name, runs, tmp_path):
    frame, settings = CRYSTALS[name](), PwSettings.from_protocol("fast")
    label = label_frame(PwEngine(settings, PwCode()), frame, Stencil(), tmp_path)
    assert label.failure is None
    points = {point.name: point for point in label.field_points}
    operations = finite_field_operations(space_group(frame), settings.mesh)
    orbits = irreducible_points(Stencil(), operations)
    assert len(orbits) == runs
    assert max(asymmetry(points[ZERO], operations, frame.cell)) < 1e-4
    full = full_stencil({n: points[n] for n in orbits}, Stencil(), operations)
    assert_same_answer(full, points, frame)


def assert_same_answer(full: dict[str, FieldPoint], points: dict[str, FieldPoint], frame: Frame) -> None:
    """Z* within 1e-3 e, alpha within 0.1 %, and the checks pass."""
    ours, quality = assemble(full, frame, Stencil())
    reference, _ = assemble(points, frame, Stencil())
    assert quality.flags == ()
    assert np.allclose(ours.born_effective_charges, reference.born_effective_charges, atol=1e-3)
    alpha = reference.polarizability
    assert np.abs(ours.polarizability - alpha).max() < 1e-3 * np.trace(alpha) / 3
