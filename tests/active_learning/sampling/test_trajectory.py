import numpy as np
import pytest
from ase.io import write
from fieldloop.active_learning.sampling.frames import SeedError
from fieldloop.active_learning.sampling.trajectory import TrajectorySettings, distance, trajectory_frames
from fieldloop.dft_inputs.records import Frame


@pytest.fixture
def walk(alas, rng):
    """Twenty frames; each atom drifts through the cell, unwrapped."""
    velocity = rng.normal(scale=0.02, size=(8, 3)) + np.array([0.5, 0.0, 0.0])
    wiggles = rng.normal(scale=0.05, size=(20, 8, 3))
    return [alas.positions + (step + 1) * velocity + wiggles[step] for step in range(20)]


@pytest.fixture
def written(alas, walk, tmp_path):
    def write_as(name, wrap=False, order=None, **options):
        images = []
        for positions in walk:
            atoms = alas.to_atoms()
            atoms.positions = positions
            if wrap:
                atoms.wrap()
            images.append(atoms if order is None else atoms[order])
        write(tmp_path / name, images, **options)
        return tmp_path / name

    return write_as


@pytest.mark.parametrize("name", ["walk.extxyz", "walk.traj", "XDATCAR"])
def test_wrapped_files_of_several_formats_are_unwrapped(alas, walk, written, name):
    options = {"format": "vasp-xdatcar"} if name == "XDATCAR" else {}
    frames = trajectory_frames(alas, TrajectorySettings(file=written(name, wrap=True, **options)))
    assert len(frames) == 20
    assert np.allclose([frame.positions for frame, _ in frames], walk, atol=1e-5)
    assert frames[3][1].reason == f"frame 3 of {name}"
    assert frames[3][1].origin == "trajectory"


def test_every_nth_frame_of_a_part_and_no_more_than_asked_for(alas, walk, written):
    settings = TrajectorySettings(file=written("walk.extxyz"), start=4, every=3, count=3)
    frames = trajectory_frames(alas, settings)
    assert np.allclose([frame.positions for frame, _ in frames], [walk[4], walk[7], walk[10]])
    assert trajectory_frames(alas, settings.model_copy(update={"count": 5}))[:3] == frames


def test_unwrapping_needs_the_frames_between(alas, walk, written):
    """With every tenth frame the atoms go 5 A in a cell of 5.66 A: only the path tells where they went."""
    frames = trajectory_frames(alas, TrajectorySettings(file=written("walk.extxyz", wrap=True), every=10))
    assert np.allclose([frame.positions for frame, _ in frames], [walk[0], walk[10]], atol=1e-6)


def test_atoms_are_brought_into_the_parents_order(alas, walk, written):
    order = [7, 0, 6, 1, 5, 2, 4, 3]
    for unwrap in (True, False):
        file = written("walk.extxyz", order=order)
        frames = trajectory_frames(alas, TrajectorySettings(file=file, unwrap=unwrap))
        assert all(frame.species == alas.species for frame, _ in frames)
        assert np.allclose([frame.positions for frame, _ in frames], walk, atol=1e-6)


def test_an_order_of_atoms_that_changes_within_a_file_is_refused(alas, walk, tmp_path):
    """Read in the order of the first frame, Al would come to stand where As is."""
    images = []
    for positions, order in zip(walk, (slice(None), slice(None), slice(None, None, -1)), strict=False):
        atoms = alas.to_atoms()
        atoms.positions = positions
        images.append(atoms[order])
    write(tmp_path / "mixed.extxyz", images)
    with pytest.raises(SeedError, match=r"frame 2 of mixed\.extxyz has its atoms in another order than frame 0"):
        trajectory_frames(alas, TrajectorySettings(file=tmp_path / "mixed.extxyz"))


def test_near_duplicates_and_the_parent_are_passed_over(alas, walk, tmp_path, rng):
    images = []
    for positions in (alas.positions, walk[0], walk[0] + 1.7, walk[0] + rng.normal(scale=1e-3, size=(8, 3)), walk[5]):
        atoms = alas.to_atoms()
        atoms.positions = positions
        images.append(atoms)
    write(tmp_path / "walk.extxyz", images)
    frames = trajectory_frames(alas, TrajectorySettings(file=tmp_path / "walk.extxyz", unwrap=False))
    assert [proposal.reason for _, proposal in frames] == ["frame 1 of walk.extxyz", "frame 4 of walk.extxyz"]
    all_but_exact = TrajectorySettings(file=tmp_path / "walk.extxyz", apart=1e-6, unwrap=False)
    assert len(trajectory_frames(alas, all_but_exact)) == 3


def test_distance_is_that_of_the_displacements_alone(alas):
    moved = alas.positions.copy()
    moved[2] += [0.0, 0.4, 0.0]
    shifted = moved + alas.cell[0] * 3 + 0.77
    one = Frame(species=alas.species, positions=shifted, cell=alas.cell)
    # one of eight atoms moved by d: the mean square about the common shift is d^2 (1/8)(1 - 1/8)
    assert distance(one, alas) == pytest.approx(0.4 * np.sqrt(7) / 8)
    assert distance(alas, alas) == pytest.approx(0.0, abs=1e-12)


def test_overlapping_frames_are_passed_over(alas, walk, tmp_path):
    images = []
    for positions in (walk[0], walk[1]):
        atoms = alas.to_atoms()
        atoms.positions = positions
        images.append(atoms)
    images[0].positions[0] = images[0].positions[1] + 0.2
    write(tmp_path / "walk.extxyz", images)
    frames = trajectory_frames(alas, TrajectorySettings(file=tmp_path / "walk.extxyz"))
    assert [proposal.reason for _, proposal in frames] == ["frame 1 of walk.extxyz"]


def test_what_does_not_fit_is_refused_in_one_line(alas, quartz, tmp_path):
    def refused(**changes):
        with pytest.raises(SeedError) as error:
            trajectory_frames(alas, TrajectorySettings(file=tmp_path / "walk.extxyz", **changes))
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "there is no file" in refused()
    (tmp_path / "walk.extxyz").write_bytes(b"\x00\x01 nothing")
    assert "cannot read" in refused()
    write(tmp_path / "walk.extxyz", [alas.to_atoms(), quartz.to_atoms()])
    assert "frame 1 of walk.extxyz holds O48Si24, the parent is Al4As4" in refused()
    strained = alas.to_atoms()
    strained.set_cell(strained.cell * 1.05, scale_atoms=True)
    write(tmp_path / "walk.extxyz", strained)
    assert "differs from the parent's by 5.00%" in refused()
    write(tmp_path / "walk.extxyz", alas.to_atoms())
    assert "nothing to take from the 1 frames" in refused()
    assert "nothing to take from the 0 frames" in refused(start=5)
