"""Thermal motion against closed formulas and against phonopy's own mean square displacements."""

from pathlib import Path

import numpy as np
import phonopy
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from fieldloop.active_learning.sampling.frames import SeedError
from fieldloop.active_learning.sampling.phonons import (
    HarmonicCrystal,
    PhononSettings,
    differenced_crystal,
    harmonic_frames,
    mode_amplitudes,
    normal_modes,
    phonon_frames,
)
from fieldloop.dft_inputs.records import Frame
from fieldloop.dft_inputs.units import AMU_SQUARE_ANGSTROM_PER_SQUARE_FS_IN_EV, BOLTZMANN
from phonopy.structure.atoms import PhonopyAtoms
from pydantic import ValidationError
from scipy import constants as si

MODEL = Path(__file__).parents[2] / "data" / "models" / "alas"


def settings(**changes) -> PhononSettings:
    return PhononSettings(**{"force_constants": Path("given.yaml"), "softest": 0.0, **changes})


def chain(atoms: int, stiffness: float = 5.0, spacing: float = 2.5) -> HarmonicCrystal:
    """A ring of copper atoms joined by springs along x, held to their axis by springs to nobody but neighbours."""
    constants = np.zeros((atoms, atoms, 3, 3))
    for i in range(atoms):
        for j in ((i + 1) % atoms, (i - 1) % atoms):
            constants[i, i] += stiffness * np.eye(3)
            constants[i, j] -= stiffness * np.eye(3)
    positions = np.arange(atoms)[:, None] * [spacing, 0.0, 0.0]
    cell = np.diag([atoms * spacing, 4.0, 4.0])
    return HarmonicCrystal(Frame(species=("Cu",) * atoms, positions=positions, cell=cell), constants)


def mean_squares(crystal: HarmonicCrystal, temperature: float, statistics="classical") -> np.ndarray:
    """Mean square displacement of each component, (N, 3), summed over modes."""
    modes = normal_modes(crystal)
    amplitudes = mode_amplitudes(modes.frequencies, temperature, statistics)
    return np.einsum("m,mia->ia", amplitudes**2, modes.patterns**2)


def test_frequencies_of_a_chain():
    """w(q) = 2 sqrt(K/m) |sin(q a / 2)|, three polarizations, the translations left out."""
    n, stiffness, mass = 12, 5.0, 63.546
    frequencies = normal_modes(chain(n, stiffness)).frequencies
    q = 2 * np.pi * np.arange(1, n) / n
    stiffness_si = stiffness * si.e / si.angstrom**2
    expected = 2 * np.sqrt(stiffness_si / (mass * si.atomic_mass)) * np.abs(np.sin(q / 2)) / (2 * np.pi) / si.tera
    assert np.sort(frequencies) == pytest.approx(np.sort(np.repeat(expected, 3)), rel=1e-5)


def test_classical_mean_square_displacement_of_a_chain():
    """<u^2> = kT/(4 K N) sum_q 1/sin^2(q a/2) = kT (N^2 - 1)/(12 K N), as sum_q 1/sin^2(pi q/N) = (N^2 - 1)/3."""
    n, stiffness = 12, 5.0
    expected = BOLTZMANN * 300 * (n**2 - 1) / (12 * stiffness * n)
    assert mean_squares(chain(n, stiffness), 300) == pytest.approx(np.full((n, 3), expected))


def test_einstein_oscillators():
    """Two atoms on one spring are one oscillator of the reduced mass; kT/K, and coth at low temperature."""
    stiffness, mass, temperature = 8.0, 63.546, 40.0
    spring = stiffness * np.array([[1, -1], [-1, 1]])[:, :, None, None] * np.eye(3)
    frame = Frame(species=("Cu", "Cu"), positions=[[0, 0, 0], [2.5, 0, 0]], cell=np.eye(3) * 8)
    crystal = HarmonicCrystal(frame, spring)
    relative = 4 * mean_squares(crystal, temperature)  # u_1 = -u_2, a quarter of the relative one each
    assert relative == pytest.approx(BOLTZMANN * temperature / stiffness)
    omega = np.sqrt(stiffness * si.e / si.angstrom**2 / (mass / 2 * si.atomic_mass))
    quantum = si.hbar / (2 * mass / 2 * si.atomic_mass * omega) / si.angstrom**2
    assert 4 * mean_squares(crystal, 0.0, "quantum") == pytest.approx(quantum, rel=1e-5)
    thermal = quantum / np.tanh(si.hbar * omega / (2 * si.k * temperature))
    assert 4 * mean_squares(crystal, temperature, "quantum") == pytest.approx(thermal, rel=1e-5)
    assert 4 * mean_squares(crystal, 5000.0, "quantum") == pytest.approx(4 * mean_squares(crystal, 5000.0), rel=2e-3)


def test_frames_are_the_gaussian_ensemble_of_the_force_constants():
    """The classical covariance is kT times the inverse of the force constants, translations out: no modes needed."""
    crystal = chain(6)
    frames = harmonic_frames(crystal.frame, crystal, settings(count=1500, statistics="classical", min_contact=0.2))
    moved = np.array([frame.positions - crystal.frame.positions for frame, _ in frames]).reshape(1500, 18)
    hessian = crystal.force_constants.transpose(0, 2, 1, 3).reshape(18, 18)
    expected = BOLTZMANN * 300 * np.linalg.pinv(hessian)
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert np.abs(moved.T @ moved / 1500 - expected).max() < 5 / np.sqrt(1500) * scale.max()
    assert np.mean(moved**2) == pytest.approx(np.diag(expected).mean(), rel=0.05)
    kicked = 0.5 * np.einsum("sa,ab,sb->s", moved, hessian, moved)
    assert kicked.mean() == pytest.approx(15 / 2 * BOLTZMANN * 300, rel=0.05)  # equipartition
    assert len({frame.frame_id for frame, _ in frames}) == 1500


@pytest.fixture(scope="module")
def copper():
    """Primitive copper in a supercell of 3 x 3 x 3 with the effective medium potential, by phonopy itself."""
    atoms = bulk("Cu", "fcc", a=3.61)
    cell = PhonopyAtoms(symbols=["Cu"], cell=atoms.cell.array, positions=atoms.positions)
    phonons = phonopy.Phonopy(cell, supercell_matrix=[3, 3, 3], primitive_matrix=np.eye(3), log_level=0)
    phonons.generate_displacements(distance=0.01)
    forces = []
    for displaced in phonons.supercells_with_displacements:
        image = Atoms(displaced.symbols, positions=displaced.positions, cell=displaced.cell, pbc=True, calculator=EMT())
        forces.append(image.get_forces())
    phonons.forces = forces
    phonons.produce_force_constants(show_drift=False)
    phonons.symmetrize_force_constants(show_drift=False)
    return phonons


@pytest.mark.parametrize("temperature", [20.0, 300.0])
def test_quantum_motion_agrees_with_phonopys_own(copper, temperature):
    parent = Frame.from_atoms(bulk("Cu", "fcc", a=3.61))
    made = differenced_crystal(parent, EMT(), settings(supercell=(3, 3, 3)))
    assert len(made.frame) == 27
    ours = mean_squares(made, temperature, "quantum")
    # The same sum over the commensurate q-points; Gamma's translations left out.
    copper.run_mesh([3, 3, 3], with_eigenvectors=True, is_mesh_symmetry=False, is_gamma_center=True)
    copper.run_thermal_displacements(temperatures=[temperature], freq_min=1e-2)
    theirs = copper.thermal_displacements.thermal_displacements[0]
    assert ours.mean(axis=0) == pytest.approx(theirs, rel=2e-3)
    assert ours == pytest.approx(np.full((27, 3), ours[0, 0]), rel=1e-6)


def test_a_phonopy_file_in_the_parents_order_and_place(copper, tmp_path):
    copper.save(tmp_path / "phonopy_params.yaml", settings={"force_constants": True})
    supercell = copper.supercell
    order = np.random.default_rng(0).permutation(27)
    positions = supercell.positions[order] + 0.02
    positions[3] += supercell.cell[0]
    parent = Frame(species=("Cu",) * 27, positions=positions, cell=supercell.cell)
    chosen = settings(force_constants=tmp_path / "phonopy_params.yaml", count=8, temperatures=("200 K", "400 K"))
    frames = phonon_frames(parent, chosen)
    moved = np.array([frame.positions - positions for frame, _ in frames])
    assert np.abs(moved).max() < 0.5  # unwrapped atoms stay where they were
    assert np.abs(moved.mean(axis=1)).max() < 1e-9
    assert [proposal.temperature for _, proposal in frames] == [200.0, 400.0] * 4
    assert frames[0][1].origin == "phonon"
    assert phonon_frames(parent, chosen.model_copy(update={"count": 3})) == frames[:3]
    # The energy of the motion under the potential that the force constants came from.
    atoms = parent.to_atoms()
    atoms.calc = EMT()
    rest = atoms.get_potential_energy()
    energies = []
    for frame, _ in phonon_frames(
        parent, chosen.model_copy(update={"count": 200, "temperatures": (100.0,), "statistics": "classical"})
    ):
        atoms.positions = frame.positions
        energies.append(atoms.get_potential_energy() - rest)
    assert np.mean(energies) == pytest.approx(78 / 2 * BOLTZMANN * 100, rel=0.06)
    # Another crystal than the parent's cell gives frames of the file's supercell.
    primitive = Frame.from_atoms(bulk("Cu", "fcc", a=3.61))
    assert len(phonon_frames(primitive, chosen)[0][0]) == 27


def test_forces_of_a_model(alas):
    chosen = PhononSettings(model=MODEL, count=2, max_force=5.0, imaginary="freeze")
    frames = phonon_frames(alas, chosen)
    assert all(frame.species == alas.species for frame, _ in frames)
    moved = np.array([frame.positions - alas.positions for frame, _ in frames])
    assert 0.01 < np.sqrt(np.mean(moved**2)) < 0.5


class Saddle(Calculator):
    """Springs of a chain to the sites, one direction of which is unstable."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        bond = self.atoms.get_distance(0, 1, mic=True, vector=True) - [1.5, 1.5, 1.5]
        pull = np.array([4.0, 4.0, -1.0]) * bond
        self.results = {"energy": 0.5 * pull @ bond, "forces": np.array([pull, -pull])}


def test_imaginary_modes_are_refused_or_frozen_and_said_so():
    frame = Frame(species=("Na", "Cl"), positions=[[0, 0, 0], [1.5, 1.5, 1.5]], cell=np.diag([4.0, 4.1, 4.2]))
    crystal = differenced_crystal(frame, Saddle(), settings())
    with pytest.raises(SeedError, match=r"1 imaginary modes, down to .*i THz.*imaginary: freeze"):
        harmonic_frames(frame, crystal, settings())
    frames = harmonic_frames(frame, crystal, settings(imaginary="freeze", count=20))
    moved = np.array([f.positions - frame.positions for f, _ in frames])
    assert np.abs(moved[..., 2]).max() < 1e-9
    assert np.abs(moved[..., 0]).max() > 0.01
    assert "1 imaginary modes frozen" in frames[0][1].reason


def test_soft_modes_are_bounded():
    frequencies = np.array([-1.0, 0.0, 0.01, 0.5, 8.0])
    amplitudes = mode_amplitudes(frequencies, 300, "classical", softest=0.5)
    assert amplitudes[:2] == pytest.approx(0)
    assert amplitudes[2] == amplitudes[3] > amplitudes[4]
    omega = 2 * np.pi * 0.5e-3
    expected = BOLTZMANN * 300 / (omega**2 * AMU_SQUARE_ANGSTROM_PER_SQUARE_FS_IN_EV)
    assert amplitudes[3] ** 2 == pytest.approx(expected)


def test_a_parent_that_is_not_at_rest_is_refused(rng):
    atoms = bulk("Cu", "fcc", a=3.61, cubic=True)
    atoms.positions += rng.normal(scale=0.1, size=(4, 3))
    with pytest.raises(SeedError, match="not at rest"):
        differenced_crystal(Frame.from_atoms(atoms), EMT(), settings())


def test_unusable_files_are_refused_in_one_line(alas, tmp_path):
    for content in (None, "nothing", "unit_cell: 3"):
        if content is not None:
            (tmp_path / "phonopy.yaml").write_text(content)
        with pytest.raises(SeedError) as error:
            phonon_frames(alas, settings(force_constants=tmp_path / "phonopy.yaml"))
        assert "phonopy" in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(SeedError, match="no readable model"):
        phonon_frames(alas, PhononSettings(model=tmp_path))
    with pytest.raises(ValidationError, match="either force_constants"):
        PhononSettings()
