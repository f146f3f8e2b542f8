import numpy as np
import pytest
from ase.build import bulk
from fieldloop.active_learning.plausibility import nearest_contacts
from fieldloop.active_learning.sampling.frames import SeedError
from fieldloop.active_learning.sampling.rattle import (
    RattleSettings,
    displacement_waves,
    rattled_frames,
    wave_amplitudes,
)
from fieldloop.active_learning.sampling.strain import StrainSettings, strained_frames
from fieldloop.dft_inputs.records import Frame
from pydantic import ValidationError


@pytest.fixture
def copper() -> Frame:
    """A cubic lattice of 216 atoms with 2.5 A between neighbours; long enough for waves."""
    return Frame.from_atoms(bulk("Cu", "sc", a=2.5) * (6, 6, 6))


def moves(frames, parent):
    return np.array([frame.positions - parent.positions for frame, _ in frames])


def test_amplitudes_are_taken_in_turn_and_a_larger_count_keeps_frames(alas):
    settings = RattleSettings(count=200, amplitudes=("3 pm", 0.09))
    frames = rattled_frames(alas, settings)
    moved = moves(frames, alas)
    assert np.sqrt(np.mean(moved[0::2] ** 2)) == pytest.approx(0.03, rel=0.05)
    assert np.sqrt(np.mean(moved[1::2] ** 2)) == pytest.approx(0.09, rel=0.05)
    assert {proposal.origin for _, proposal in frames} == {"rattle"}
    assert rattled_frames(alas, settings.model_copy(update={"count": 7})) == frames[:7]
    other = rattled_frames(alas, settings.model_copy(update={"seed": 1, "count": 7}))
    assert not {f.frame_id for f, _ in other} & {f.frame_id for f, _ in frames}


def test_an_even_spectrum_covers_the_logarithm_of_the_amplitudes(alas):
    settings = RattleSettings(count=64, amplitudes=(0.01, 0.16), spread="even")
    logs = np.log2([settings.amplitude(index) / 0.01 for index in range(64)])
    assert np.histogram(logs, bins=8, range=(0, 4))[0] == pytest.approx(np.full(8, 8), abs=1)
    moved = moves(rattled_frames(alas, settings), alas)
    assert np.sqrt((moved**2).mean(axis=(1, 2))) / 0.01 == pytest.approx(2**logs, rel=0.5)


@pytest.mark.parametrize("exponent", [0.0, 2.0, 4.0])
def test_waves_have_unit_variance_and_the_power_law_of_their_exponent(copper, rng, exponent):
    waves = wave_amplitudes(copper, exponent)
    samples = np.array([displacement_waves(rng, copper.positions, *waves) for _ in range(600)])
    assert np.var(samples) == pytest.approx(1.0, rel=0.05)
    # An independent route: the power of the displacements at wavevectors of our own choice.
    length = 6 * 2.5
    power = {}
    for n in (1, 2):
        phases = np.exp(-2j * np.pi * n * copper.positions[:, 0] / length)
        power[n] = np.mean(np.abs(np.einsum("sia,i->sa", samples, phases)) ** 2)
    assert power[1] / power[2] == pytest.approx(2**exponent, rel=0.2)


def test_neighbours_move_together_in_waves_and_not_without(copper):
    def correlation(exponent):
        moved = moves(rattled_frames(copper, RattleSettings(count=40, amplitudes=(0.05,), exponent=exponent)), copper)
        cube = moved.reshape(40, 6, 6, 6, 3)
        return np.mean(cube * np.roll(cube, 1, axis=1)) / np.mean(cube**2)

    assert abs(correlation(None)) < 0.05
    assert correlation(2.0) > 0.3
    assert correlation(4.0) > correlation(2.0) + 0.1


def test_waves_are_as_many_as_atoms(copper):
    wavevectors, _ = wave_amplitudes(copper, 2.0)
    assert 2 * len(wavevectors) == pytest.approx(216, rel=0.1)
    assert len(np.unique(np.round(np.vstack([wavevectors, -wavevectors]), 6), axis=0)) == 2 * len(wavevectors)


def test_waves_fit_a_skew_cell(rng):
    frame = Frame.from_atoms(bulk("AlAs", "zincblende", a=5.66) * (3, 3, 3))
    wavevectors, amplitudes = wave_amplitudes(frame, 2.0)
    draws = [
        displacement_waves(np.random.default_rng(3), frame.positions + shift, wavevectors, amplitudes)
        for shift in (0, frame.cell[0], frame.cell[1] - 2 * frame.cell[2])
    ]
    assert np.allclose(draws[0], draws[1]) and np.allclose(draws[0], draws[2])


def test_what_cannot_hold_a_wave_is_refused(alas):
    primitive = Frame.from_atoms(bulk("AlAs", "zincblende", a=5.66))
    with pytest.raises(SeedError, match="take a supercell"):
        rattled_frames(primitive, RattleSettings(exponent=2))
    with pytest.raises(SeedError, match="periodic in every direction"):
        rattled_frames(alas.model_copy(update={"pbc": (True, True, False)}), RattleSettings(exponent=2))


def test_minimum_distances_are_kept(alas):
    settings = RattleSettings(count=30, amplitudes=(0.3,), min_contact=0.75)
    assert min(nearest_contacts(frame).min() for frame, _ in rattled_frames(alas, settings)) >= 0.75
    with pytest.raises(SeedError, match="lower its amplitudes"):
        rattled_frames(alas, RattleSettings(amplitudes=(5.0,), min_contact=0.8))


def test_strained_frames_are_strained_and_rattled(alas):
    frames = strained_frames(alas, StrainSettings(count=40, strain=0.02, amplitudes=(0.0, 0.05)))
    for index, (frame, proposal) in enumerate(frames):
        gradient = np.linalg.solve(alas.cell, frame.cell)
        assert np.allclose(gradient, gradient.T)
        assert 0 < np.abs(np.linalg.eigvalsh(gradient) - 1).max() <= 0.02
        moved = frame.positions - alas.positions @ gradient
        assert np.sqrt(np.mean(moved**2)) == pytest.approx(0.05 * (index % 2), rel=0.5, abs=1e-12)
        assert proposal.origin == "strain"
    assert strained_frames(alas, StrainSettings(count=3, strain=0.02, amplitudes=(0.0, 0.05))) == frames[:3]


@pytest.mark.parametrize("bad", [{"amplitudes": ()}, {"amplitudes": (0,)}, {"exponent": -1}, {"spread": "odd"}])
def test_nonsense_is_refused(bad):
    with pytest.raises(ValidationError):
        RattleSettings(**bad)
    with pytest.raises(ValidationError):
        StrainSettings(strain=0.05)
