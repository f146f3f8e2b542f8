"""Polar paths and domain walls of BaTiO3."""

import numpy as np
import pytest
from ase.build import bulk
from ase.io import write
from fieldloop.active_learning.sampling.domain_wall import DomainWallSettings, wall_frames
from fieldloop.active_learning.sampling.frames import SeedError
from fieldloop.active_learning.sampling.polar_path import PolarPathSettings, path_frames, polar_mode
from fieldloop.dft_inputs.records import Frame

CHARGES = {"Ba": 2, "Ti": 4, "O": -2}


def dipoles(frame: Frame, parent: Frame) -> float:
    """Formal P along z from the displacements, e A, without an origin as charges sum to zero."""
    moved = frame.positions - parent.positions
    return float(sum(CHARGES[symbol] * move[2] for symbol, move in zip(frame.species, moved, strict=True)))


def spontaneous(parent: Frame, axis=2) -> float:
    """Formal P of tetragonal BaTiO3 by hand: from the places of Kwei et al."""
    return 4.0314 * (4 * 0.0224 + 2 * 0.0244 + 2 * 2 * 0.0105)


def test_the_path_of_batio3_runs_from_plus_to_minus_p(batio3):
    frames = path_frames(batio3, PolarPathSettings(count=8))
    x = np.array([1 + dipoles(frame, batio3) / spontaneous(batio3) for frame, _ in frames])
    assert x == pytest.approx([-1, 0, -0.5, 0.5, -0.75, -0.25, 0.25, 0.75], abs=1e-9)
    assert all(np.array_equal(frame.cell, batio3.cell) and frame.species == batio3.species for frame, _ in frames)
    # No atom leaves its line, and the whole does not shift.
    moved = np.array([frame.positions - batio3.positions for frame, _ in frames])
    assert np.abs(moved[..., :2]).max() < 1e-9
    assert np.abs(moved.mean(axis=1)).max() < 1e-9
    assert {proposal.origin for _, proposal in frames} == {"polar-path"}


def test_the_middle_has_a_centre_of_inversion_and_the_end_is_the_mirror_image(batio3):
    end, middle = (frame for frame, _ in path_frames(batio3, PolarPathSettings(count=2)))
    fractions = middle.positions @ np.linalg.inv(middle.cell)
    about_ba = 2 * fractions[0] - fractions
    for symbol in ("Ba", "Ti", "O"):
        own = np.array(middle.species) == symbol
        apart = about_ba[own][:, None] - fractions[own][None]
        assert np.abs(apart - np.round(apart)).max(axis=2).min(axis=1) == pytest.approx(0, abs=1e-9)
    # All distances between atoms are those of the parent.
    spectra = [np.sort(f.to_atoms().get_all_distances(mic=True).ravel()) for f in (batio3, end)]
    assert np.allclose(*spectra, atol=1e-9)


def test_a_given_end_in_another_order_and_wrapped_otherwise_gives_the_same_path(batio3, tmp_path):
    made = path_frames(batio3, PolarPathSettings(count=5))
    atoms = made[0][0].to_atoms()
    atoms.positions += [0.3, 0.1, 0.2]
    atoms.wrap()
    write(tmp_path / "minus.vasp", atoms[[4, 2, 0, 3, 1]], sort=True, direct=True)
    given = path_frames(batio3, PolarPathSettings(count=5, other=tmp_path / "minus.vasp"))
    for (one, _), (other, _) in zip(made, given, strict=True):
        assert np.allclose(one.positions, other.positions, atol=1e-6)


def test_a_strained_end_strains_the_path(batio3, tmp_path):
    atoms = path_frames(batio3, PolarPathSettings(count=1))[0][0].to_atoms()
    atoms.set_cell(atoms.cell * [1.0, 1.0, 1.01], scale_atoms=True)
    write(tmp_path / "minus.extxyz", atoms)
    frames = path_frames(batio3, PolarPathSettings(count=2, other=tmp_path / "minus.extxyz"))
    assert frames[0][0].cell[2, 2] == pytest.approx(1.01 * 4.0314)
    assert frames[1][0].cell[2, 2] == pytest.approx(1.005 * 4.0314)
    atoms.set_cell(atoms.cell * [1.1, 1.0, 1.0], scale_atoms=True)
    write(tmp_path / "minus.extxyz", atoms)
    with pytest.raises(SeedError, match=r"differs from the parent's by 10"):
        path_frames(batio3, PolarPathSettings(other=tmp_path / "minus.extxyz"))


def test_a_rattled_path_is_reproducible_and_grows(batio3):
    settings = PolarPathSettings(count=6, amplitude=0.03, reach=1.2)
    frames = path_frames(batio3, settings)
    assert path_frames(batio3, settings.model_copy(update={"count": 9}))[:6] == frames
    assert 1 + dipoles(frames[1][0], batio3) / spontaneous(batio3) == pytest.approx(1.2, abs=0.6)


def test_a_supercell_finds_its_atoms_too(batio3):
    big = Frame.from_atoms(batio3.to_atoms() * (3, 3, 3))
    end = path_frames(big, PolarPathSettings(count=1))[0][0]
    assert dipoles(end, big) == pytest.approx(-2 * 27 * spontaneous(batio3), rel=1e-9)


def test_what_has_no_opposite_is_refused(alas, quartz, batio3, tmp_path):
    with pytest.raises(SeedError, match="centre of inversion"):
        path_frames(Frame.from_atoms(bulk("NaCl", "rocksalt", a=5.64)), PolarPathSettings())
    with pytest.raises(SeedError, match="no distortions of one crystal"):
        path_frames(alas, PolarPathSettings())  # inversion exchanges the sublattices
    with pytest.raises(SeedError, match="no distortions of one crystal"):
        path_frames(quartz, PolarPathSettings(farthest=0.5))  # the other hand
    write(tmp_path / "other.vasp", alas.to_atoms())
    with pytest.raises(SeedError, match="holds Al4As4, the parent is Ba1O3Ti1"):
        path_frames(batio3, PolarPathSettings(other=tmp_path / "other.vasp"))


def by_plane(frame: Frame, cells: int, mode) -> np.ndarray:
    """x of the titanium of each cell along the first lattice vector."""
    own = np.array(frame.species) == "Ti"
    reference = frame.positions[own][:, 0]
    order = np.argsort(reference)
    height = frame.positions[own][order, 2]
    titanium = list(mode.parent.species).index("Ti")
    centre = mode.parent.positions[titanium, 2] - mode.half[titanium, 2]
    assert len(height) == cells
    return (height - centre) / mode.half[titanium, 2]


def test_sharp_walls_on_barium_planes_reverse_half_the_crystal(batio3):
    settings = DomainWallSettings(supercell=(6, 1, 1), centres=("Ba",), amplitudes=(0.0,), count=1)
    ((frame, proposal),) = wall_frames(batio3, settings)
    assert len(frame) == 30
    assert frame.formula == "Ba6O18Ti6"
    assert frame.cell == pytest.approx(batio3.cell * [[6], [1], [1]])
    assert by_plane(frame, 6, polar_mode(batio3, None, 1.0)) == pytest.approx([-1, -1, -1, 1, 1, 1])
    crystal = Frame.from_atoms(batio3.to_atoms() * (6, 1, 1))
    barium = np.array(frame.species) == "Ba"
    x = frame.positions[barium, 0] / 3.997
    moved = frame.positions[barium, 2] - frame.positions[barium, 2].min()
    # Barium planes 0 and 3 carry a wall: halfway between those of the two domains.
    ordered = moved[np.argsort(x)]
    assert ordered[0] == pytest.approx(ordered[3])
    assert ordered[0] == pytest.approx((ordered[1] + ordered[4]) / 2)
    assert frame.volume == pytest.approx(crystal.volume)
    assert proposal.origin == "domain-wall" and "Ba" in proposal.reason


def test_walls_on_titanium_planes_are_paraelectric_there(batio3):
    settings = DomainWallSettings(supercell=(4, 1, 1), centres=("Ti",), amplitudes=(0.0,), count=1)
    ((frame, _),) = wall_frames(batio3, settings)
    assert by_plane(frame, 4, polar_mode(batio3, None, 1.0)) == pytest.approx([0, -1, 0, 1], abs=1e-9)


def test_a_smooth_wall_follows_tanh(batio3):
    settings = DomainWallSettings(supercell=(8, 1, 1), centres=("Ba",), widths=("0.5 nm",), amplitudes=(0.0,), count=1)
    ((frame, _),) = wall_frames(batio3, settings)
    a = 3.997
    half = np.tanh(np.array([0.5, 1.5, 1.5, 0.5]) * a / 5.0)
    assert by_plane(frame, 8, polar_mode(batio3, None, 1.0)) == pytest.approx(np.concatenate([-half, half]))
    # No net polarization, of equal domains.
    crystal = Frame.from_atoms(batio3.to_atoms() * (8, 1, 1))
    order = [i * 5 + j for i in range(8) for j in range(5)]
    assert dipoles(frame, Frame.from_atoms(crystal.to_atoms()[order])) == pytest.approx(-8 * spontaneous(batio3))


def test_a_supercell_as_parent_keeps_its_atoms(batio3):
    parent = Frame.from_atoms(batio3.to_atoms() * (3, 3, 3))
    frames = wall_frames(parent, DomainWallSettings(centres=("Ba", "Ti"), count=12, widths=(0.0, 3.0)))
    assert len({frame.frame_id for frame, _ in frames}) == 12
    assert all(frame.species == parent.species and np.array_equal(frame.cell, parent.cell) for frame, _ in frames)
    assert wall_frames(parent, DomainWallSettings(centres=("Ba", "Ti"), count=5, widths=(0.0, 3.0))) == frames[:5]
    # Domains of one and two cells.
    assert dipoles(frames[0][0], parent) / (-2 * 9 * spontaneous(batio3)) == pytest.approx(1.0, abs=0.6)


def test_walls_that_cannot_be_are_refused(batio3):
    with pytest.raises(SeedError, match="take a supercell along it"):
        wall_frames(batio3, DomainWallSettings(centres=("Ba",)))
    with pytest.raises(SeedError, match="would be charged"):
        wall_frames(batio3, DomainWallSettings(centres=("Ba",), axis=2, supercell=(1, 1, 4)))
    with pytest.raises(SeedError, match="there is no Pb"):
        wall_frames(batio3, DomainWallSettings(centres=("Pb",), supercell=(4, 1, 1)))
    with pytest.raises(SeedError, match="give more amplitudes"):
        wall_frames(batio3, DomainWallSettings(centres=("Ba",), supercell=(4, 1, 1), amplitudes=(0.0,), count=2))
