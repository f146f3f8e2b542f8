import numpy as np
import pytest
from ase.build import bulk
from fieldloop.active_learning.plausibility import Plausibility, implausible, nearest_contacts
from fieldloop.active_learning.sampling.seeds import SeedError, SeedSettings, random_strain, seed_frames
from fieldloop.dft_inputs.records import Frame
from pydantic import ValidationError


def strain_of(frame: Frame, parent: Frame) -> np.ndarray:
    return np.linalg.solve(parent.cell, frame.cell) - np.eye(3)


def displacements(frame: Frame, parent: Frame) -> np.ndarray:
    return frame.positions - parent.positions @ np.linalg.solve(parent.cell, frame.cell)


def test_parent_first_then_distinct_frames_of_the_asked_number(alas):
    frames = seed_frames(alas, SeedSettings(count=12))
    assert len(frames) == 12
    assert frames[0][0] == alas
    assert frames[0][1].origin == "parent"
    assert len({frame.frame_id for frame, _ in frames}) == 12
    assert all(proposal.parent_frame_id == alas.frame_id and proposal.reason for _, proposal in frames)


def test_same_seed_same_frames_and_a_larger_count_keeps_them(alas):
    few = seed_frames(alas, SeedSettings(count=5, seed=3))
    many = seed_frames(alas, SeedSettings(count=15, seed=3))
    assert many[:5] == few
    other = seed_frames(alas, SeedSettings(count=5, seed=4))
    assert not {f.frame_id for f, _ in other[1:]} & {f.frame_id for f, _ in few}


def test_displacements_have_the_asked_standard_deviations_and_no_common_shift(alas):
    amplitudes = (0.02, 0.05, 0.10)
    frames = seed_frames(alas, SeedSettings(count=301, rattle=amplitudes, strain=0.01, min_contact=0.4))
    moved = np.array([displacements(frame, alas) for frame, _ in frames[1:]])
    assert np.abs(moved.mean(axis=1)).max() < 1e-12
    for turn, sigma in enumerate(amplitudes):
        own = moved[turn::3]
        assert np.sqrt(np.mean(own**2)) == pytest.approx(sigma, rel=0.05)
        kurtosis = np.mean(own**4) / np.mean(own**2) ** 2
        assert kurtosis == pytest.approx(3.0, abs=0.4)  # Gaussian


def test_strains_are_symmetric_small_and_shared_evenly(alas):
    frames = seed_frames(alas, SeedSettings(count=101, strain=0.02, strained_share=0.4))
    strains = np.array([strain_of(frame, alas) for frame, _ in frames[1:]])
    strained = np.array([proposal.origin == "strain" for _, proposal in frames[1:]])
    assert strained.sum() == pytest.approx(40, abs=2)
    assert all(strained[turn::4].sum() == pytest.approx(10, abs=2) for turn in range(4))  # over all four amplitudes
    assert not strains[~strained].any(where=np.abs(strains[~strained]) > 1e-12)
    assert np.abs(strains - strains.transpose(0, 2, 1)).max() < 1e-12
    assert np.abs(np.linalg.eigvalsh(strains)).max() <= 0.02 + 1e-12
    volumes = np.array([frame.volume for frame, _ in frames]) / alas.volume
    assert volumes.min() >= 0.98**3 and volumes.max() <= 1.02**3


def test_strain_prefers_no_axis(rng):
    strains = np.array([random_strain(rng, 0.02) for _ in range(4000)])
    second = np.einsum("nij,nkl->ijkl", strains, strains) / len(strains)
    # <e_ij e_kl> of an isotropic ensemble: xxxx = xxyy + 2 xyxy.
    variances = [second[i, i, i, i] for i in range(3)]
    shears = [second[0, 1, 0, 1], second[1, 2, 1, 2], second[0, 2, 0, 2]]
    assert np.ptp(variances) < 0.1 * np.mean(variances)
    cross = np.mean([second[0, 0, 1, 1], second[1, 1, 2, 2], second[0, 0, 2, 2]])
    assert np.mean(variances) == pytest.approx(cross + 2 * np.mean(shears), rel=0.05)
    # The trace is that of three independent uniform principal strains.
    assert np.var(np.trace(strains, axis1=1, axis2=2)) == pytest.approx(0.02**2, rel=0.1)


def test_overlapping_atoms_are_redrawn(alas):
    settings = SeedSettings(count=30, rattle=(0.3,), strain=0.0, min_contact=0.75)
    loose = seed_frames(alas, settings.model_copy(update={"min_contact": 0.1}))
    assert min(nearest_contacts(frame).min() for frame, _ in loose) < 0.75  # it does happen
    frames = seed_frames(alas, settings)
    assert min(nearest_contacts(frame).min() for frame, _ in frames) >= 0.75


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (SeedSettings(rattle=(5.0,), min_contact=0.8), "lower seeds.rattle"),
        (SeedSettings(min_contact=1.1), "parent structure is unusable"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_line(alas, settings, message):
    with pytest.raises(SeedError, match=message) as error:
        seed_frames(alas, settings)
    assert "\n" not in str(error.value)


def test_one_atom_cannot_be_rattled_and_a_slab_not_strained(alas):
    copper = Frame.from_atoms(bulk("Cu"))
    with pytest.raises(SeedError, match="larger cell"):
        seed_frames(copper, SeedSettings(strain=0.0))
    slab = alas.model_copy(update={"pbc": (True, True, False)})
    with pytest.raises(SeedError, match="strain to 0"):
        seed_frames(slab, SeedSettings())
    assert len(seed_frames(slab, SeedSettings(strain=0.0, count=3))) == 3


@pytest.mark.parametrize(
    "bad",
    [
        {"strain": 0.05},
        {"rattle": ()},
        {"rattle": (-0.1,)},
        {"rattle": (float("nan"),)},
        {"rattle": ("0.1 eV",)},
        {"count": 0},
        {"ratle": (0.1,)},
    ],
)
def test_settings_refuse_nonsense(bad):
    with pytest.raises(ValidationError):
        SeedSettings(**bad)


def test_lengths_may_carry_a_unit():
    assert SeedSettings(rattle=("5 pm", 0.1)).rattle == (0.05, 0.1)


def test_contacts_see_periodic_images_and_unwrapped_positions(alas):
    bond = np.sqrt(3) / 4 * 5.66
    assert nearest_contacts(alas) == pytest.approx(np.full(8, bond / (1.21 + 1.19)))
    shifted = alas.positions.copy()
    shifted[0] += 3 * alas.cell[0] - 7 * alas.cell[2]
    assert nearest_contacts(alas.model_copy(update={"positions": shifted})) == pytest.approx(nearest_contacts(alas))
    assert nearest_contacts(Frame.from_atoms(bulk("Cu")))[0] == pytest.approx(3.61 / np.sqrt(2) / (2 * 1.32))


@pytest.mark.parametrize(
    ("symbol", "lattice"), [("NaCl", "rocksalt"), ("GaAs", "zincblende"), ("CsCl", "cesiumchloride")]
)
def test_crystals_at_rest_are_plausible(symbol, lattice):
    constants = {"NaCl": 5.64, "GaAs": 5.65, "CsCl": 4.12}
    assert implausible(Frame.from_atoms(bulk(symbol, lattice, a=constants[symbol])), Plausibility()) is None


def test_elements_at_rest_are_plausible():
    for symbol in ("Al", "Cu", "Na", "K", "Si", "C", "Fe", "Mg", "Ti", "W"):
        assert implausible(Frame.from_atoms(bulk(symbol)), Plausibility()) is None, symbol


def test_broken_geometries_are_named(alas):
    rules = Plausibility()
    close = alas.positions.copy()
    close[1] = close[0] + [0.3, 0.0, 0.0]
    assert "overlapping" in str(implausible(alas.model_copy(update={"positions": close}), rules))
    far = alas.positions.copy()
    far[3] *= 1e9
    far[3] += 1e9
    assert "exploded" in str(implausible(alas.model_copy(update={"positions": far}), rules))
    blown = Frame(species=alas.species, positions=2 * alas.positions, cell=2 * alas.cell)
    assert "no neighbour" in str(implausible(blown, rules))
    flat = Frame(species=alas.species, positions=alas.positions, cell=alas.cell * [1.0, 1.0, 0.0])
    assert "lattice vector" in str(implausible(flat, rules))
    squeezed = Frame(species=alas.species, positions=0.1 * alas.positions, cell=0.1 * alas.cell)
    assert "collapsed" in str(implausible(squeezed, rules))
    molecule = Frame(
        species=("H", "H"), positions=[[0, 0, 0], [0, 0, 0.74]], cell=np.zeros((3, 3)), pbc=(False, False, False)
    )
    assert implausible(molecule, rules) is None
