"""ASE's own dynamics, optimizers, filters, constraints and phonons on a trained network, against the own engine."""

from pathlib import Path

import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.fd import calculate_numerical_stress
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.md.bussi import Bussi
from ase.md.langevin import Langevin
from ase.md.nose_hoover_chain import NoseHooverChainNVT
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS, FIRE
from ase.phonons import Phonons
from fieldloop.dft_inputs.records import Frame
from fieldloop.model.dynamics import DynamicsSettings, PulsedField, RampedField, SinusoidalField, run_dynamics
from fieldloop.model.expansions import QuadraticExpansion
from fieldloop.model.files import load_model, save_model
from fieldloop.model.graph import build_graph
from fieldloop.model.interface import EnthalpyModel
from fieldloop.model.interfaces.ase import EnthalpyCalculator, load_calculator
from fieldloop.model.label_range import LabelRange
from fieldloop.model.responses import compute_responses

MODEL = Path(__file__).parents[1] / "data" / "models" / "alas"
STATIC = (0.02, -0.05, 0.1)
FAST = SinusoidalField(amplitude=(0.0, 0.05, 0.1), period=60.0, phase=0.4)
A_PER_FS = units.fs  # ASE's velocities are in A per its own time


@pytest.fixture(scope="module")
def network():
    return load_model(MODEL)


@pytest.fixture
def crystal():
    """Eight atoms, rattled, with velocities of about 300 K."""
    atoms = bulk("AlAs", "zincblende", a=5.62, cubic=True)
    random = np.random.default_rng(3)
    atoms.positions += 0.02 * random.normal(size=(8, 3))
    atoms.set_velocities(0.003 / A_PER_FS * random.normal(size=(8, 3)))
    return atoms


def own_trajectory(network, atoms, field, steps, timestep=1.0):
    settings = DynamicsSettings(ensemble="nve", steps=steps, timestep=timestep, save_every=1, fields=(field,))
    velocities = [atoms.get_velocities() * A_PER_FS]
    return run_dynamics(network, [Frame.from_atoms(atoms)], settings, velocities=velocities).trajectory.replica(0)


@pytest.mark.parametrize("field", [(0.0, 0.0, 0.0), STATIC, FAST], ids=["none", "static", "in-time"])
def test_the_same_trajectory_as_the_own_engine(network, crystal, field):
    own = own_trajectory(network, crystal, field, steps=100)
    crystal.calc = EnthalpyCalculator(network, field=field)
    dynamics = VelocityVerlet(crystal, timestep=units.fs)
    if field is FAST:
        crystal.calc.follow(dynamics)
    positions, enthalpy, polarization = [], [], []

    def look():
        positions.append(crystal.positions.copy())
        enthalpy.append(crystal.get_potential_energy())
        polarization.append(crystal.calc.get_property("polarization", crystal))

    dynamics.attach(look)
    dynamics.run(60)
    dynamics.run(40)
    assert np.abs(own.positions - positions).max() < 1e-6
    assert np.abs(own.positions[-1] - own.positions[0]).max() > 0.05
    assert enthalpy == pytest.approx(own.enthalpy, rel=1e-8)
    assert np.array(polarization) == pytest.approx(own.polarization, abs=1e-6)
    last = build_graph([own.frame(-1)], network.species, network.cutoff, own.field[-1:])
    stress = compute_responses(network, last, stress=True).stress.numpy()[0]
    crystal.positions = own.positions[-1]
    assert np.abs(crystal.get_stress(voigt=False) - stress).max() < 1e-8 * np.abs(stress).max()


def test_a_crystal_at_rest_feels_a_field_that_rises_from_zero(network):
    """Nothing moves in the first step, and yet its end is in another field."""
    atoms = bulk("AlAs", "zincblende", a=5.62)
    field = SinusoidalField(amplitude=(0.0, 0.0, 0.2), period=40.0)
    own = own_trajectory(network, atoms, field, steps=20)
    atoms.calc = EnthalpyCalculator(network, field=field)
    dynamics = VelocityVerlet(atoms, timestep=units.fs)
    atoms.calc.follow(dynamics)
    dynamics.run(20)
    assert np.abs(own.positions[-1] - atoms.positions).max() < 1e-9
    assert np.abs(own.positions[-1] - own.positions[0]).max() > 1e-3


def test_one_evaluation_a_step(network, crystal, monkeypatch):
    calls = []
    forward = network.forward
    monkeypatch.setattr(network, "forward", lambda graph: calls.append(1) or forward(graph))
    crystal.calc = EnthalpyCalculator(network, field=FAST)
    dynamics = VelocityVerlet(crystal, timestep=units.fs)
    crystal.calc.follow(dynamics)
    crystal.get_forces()
    calls.clear()
    dynamics.run(10)
    assert len(calls) == 10


@pytest.mark.parametrize(
    "make",
    [
        lambda atoms: Langevin(atoms, units.fs, temperature_K=300, friction=0.01 / units.fs, fixcm=False),
        lambda atoms: Bussi(atoms, units.fs, temperature_K=300, taut=100 * units.fs),
    ],
    ids=["langevin", "bussi"],
)
def test_thermostats_of_ase_follow_a_field(network, crystal, make):
    seen = []
    pulse = PulsedField(amplitude=(0.0, 0.0, 0.1), centre=3.0, width=1.5)

    def field(time):
        seen.append(time)
        return pulse(time)

    crystal.calc = EnthalpyCalculator(network, field=field)
    dynamics = make(crystal)
    crystal.calc.follow(dynamics, start=2.0)
    dynamics.run(5)
    assert sorted(set(np.round(seen, 9))) == [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    assert crystal.calc.field_of(crystal) == pytest.approx(pulse(7.0))


def test_a_field_in_time_without_a_time_is_refused(network, crystal):
    crystal.calc = EnthalpyCalculator(network, field=FAST)
    with pytest.raises(ValueError, match="follow"):
        VelocityVerlet(crystal, timestep=units.fs).run(1)
    crystal.calc.time = 15.0
    assert np.isfinite(crystal.get_forces()).all()
    assert crystal.calc.field_of(crystal) == pytest.approx(FAST(15.0))


def test_dynamics_that_cannot_follow_are_refused(network, crystal):
    crystal.calc = EnthalpyCalculator(network, field=FAST)
    chain = NoseHooverChainNVT(crystal, timestep=units.fs, temperature_K=300, tdamp=100 * units.fs)
    with pytest.raises(ValueError, match="VelocityVerlet, Langevin or Bussi"):
        crystal.calc.follow(chain)
    verlet = VelocityVerlet(crystal, timestep=units.fs)
    crystal.calc.follow(verlet)
    with pytest.raises(ValueError, match="already"):
        crystal.calc.follow(verlet)


def test_a_function_that_gives_no_field_is_refused(network, crystal):
    crystal.calc = EnthalpyCalculator(network, field=lambda time: time)
    crystal.calc.time = 1.0
    with pytest.raises(ValueError, match="the field at 1 fs must be three finite numbers"):
        crystal.get_potential_energy()
    crystal.calc.field = None
    crystal.info["field"] = FAST
    with pytest.raises(ValueError, match="function of time to the calculator"):
        crystal.get_potential_energy()


class Blind(EnthalpyModel):
    """Springs that no field reaches."""

    species = ("Al", "As")
    cutoff = 3.0

    def forward(self, graph):
        return graph.sum_structures((graph.positions**2).sum(-1))


def test_a_field_for_a_model_without_one_is_refused(crystal):
    crystal.calc = EnthalpyCalculator(Blind(), field=STATIC)
    with pytest.raises(ValueError, match="no field as input"):
        crystal.get_forces()
    crystal.calc.field = (0.0, 0.0, 0.0)
    assert np.isfinite(crystal.get_forces()).all()


def test_a_field_beyond_the_bound_is_refused(network, crystal):
    crystal.calc = EnthalpyCalculator(network, field=(0.0, 0.0, 0.01), largest_field=0.01)
    crystal.get_potential_energy()
    crystal.info["field"] = (0.0, 0.0, 0.02)
    crystal.calc.field = None
    with pytest.raises(ValueError, match="beyond_range"):
        crystal.get_potential_energy()


def test_a_cell_that_changes_is_listed_anew(network, crystal):
    crystal.calc = EnthalpyCalculator(network, field=STATIC)
    crystal.get_potential_energy()
    crystal.set_cell(0.93 * crystal.cell, scale_atoms=True)
    again = crystal.copy()
    again.calc = EnthalpyCalculator(network, field=STATIC)
    assert crystal.get_potential_energy() == again.get_potential_energy()
    crystal.symbols[[0, 1]] = crystal.symbols[[1, 0]]
    again = crystal.copy()
    again.calc = EnthalpyCalculator(network, field=STATIC)
    assert crystal.get_potential_energy() == again.get_potential_energy()


def test_frozen_atoms_stay_and_the_others_conserve_energy_in_a_field(network, crystal):
    crystal.set_constraint(FixAtoms([0, 3]))
    crystal.set_momenta(crystal.get_momenta())
    crystal.calc = EnthalpyCalculator(network, field=STATIC)
    start, totals = crystal.positions.copy(), []
    dynamics = VelocityVerlet(crystal, timestep=0.5 * units.fs)
    dynamics.attach(lambda: totals.append(crystal.get_total_energy()))
    dynamics.run(60)
    assert np.array_equal(crystal.positions[[0, 3]], start[[0, 3]])
    assert np.abs(crystal.positions[[1, 2]] - start[[1, 2]]).max() > 0.02
    assert np.ptp(totals) < 0.01 * crystal.get_kinetic_energy()


def test_fire_relaxes_ions_by_the_force_of_the_field(network):
    """At rest in a field Al has moved by what force constant and effective charge say, to first order."""
    atoms = bulk("AlAs", "zincblende", a=5.62)
    atoms.calc = EnthalpyCalculator(network)
    born = atoms.calc.get_property("born_effective_charges", atoms)[0, 2, 2]
    moved = atoms.copy()
    moved.calc = atoms.calc
    moved.positions[0, 2] += 1e-3
    stiffness = -moved.get_forces()[0, 2] / 1e-3
    atoms.calc = EnthalpyCalculator(network, field=(0.0, 0.0, 0.01))
    separation = atoms.positions[0] - atoms.positions[1]
    assert FIRE(atoms, logfile=None).run(fmax=1e-5, steps=300)
    change = (atoms.positions[0] - atoms.positions[1] - separation)[2]
    assert change == pytest.approx(0.01 * born / stiffness, rel=0.02)


@pytest.mark.parametrize("held", [{"field": (0.0, 0.0, 0.05)}, {"voltages": (0.1, 0.1, 0.0)}], ids=["field", "voltage"])
def test_the_cell_relaxes_at_what_is_held(network, held):
    """In the end no strain lowers the enthalpy, by its differences at the same field or voltages."""
    atoms = bulk("AlAs", "zincblende", a=5.62)
    atoms.rattle(0.01, seed=1)
    atoms.calc = EnthalpyCalculator(network, **held)
    assert BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=2e-4, steps=150)
    assert np.abs(calculate_numerical_stress(atoms, eps=1e-4)).max() < 2e-5


def test_phonons_of_ase(network, tmp_path):
    """Acoustic modes at Gamma have no frequency, and the optical ones that of the 2 x 2 force constants."""
    atoms = bulk("AlAs", "zincblende", a=5.62)
    calculator = EnthalpyCalculator(network)
    phonons = Phonons(atoms, calculator, supercell=(2, 2, 2), delta=0.005, name=str(tmp_path / "phonons"))
    phonons.run()
    phonons.read(acoustic=True)
    found = phonons.band_structure([[0, 0, 0]])[0]
    atoms.calc = calculator
    moved = atoms.copy()
    moved.calc = calculator
    moved.positions[0, 2] += 5e-3
    stiffness = -moved.get_forces()[0, 2] / 5e-3
    reduced = 1 / (1 / atoms.get_masses()).sum()
    optical = units._hbar / units._e * np.sqrt(1e20 * stiffness / reduced * units._e / units._amu)
    assert np.abs(found[:3]).max() < 1e-3
    assert found[3:].real == pytest.approx(np.full(3, optical), rel=0.02)


def test_a_calculator_from_arguments_of_json(crystal):
    mapping = {"kind": "ramped", "start": [0, 0, 0], "end": [0, 0, "5 MV/cm"], "duration": "10 fs"}
    crystal.calc = load_calculator(str(MODEL), field=mapping, device="cpu")
    crystal.calc.time = 5.0
    assert crystal.calc.field_of(crystal) == pytest.approx([0, 0, 0.025])
    assert crystal.calc.field == RampedField(start=(0, 0, 0), end=(0, 0, 0.05), duration=10.0)
    crystal.calc = load_calculator(str(MODEL), field=[0.0, 0.0, 0.1])
    assert np.array_equal(crystal.calc.field, [0.0, 0.0, 0.1])
    with pytest.raises(ValueError, match="field"):
        load_calculator(MODEL, field={"kind": "sinus"})
    with pytest.raises(ValueError, match="no readable model"):
        load_calculator(MODEL / "nowhere")


def test_a_model_remembers_the_fields_of_its_labels(network, crystal, tmp_path):
    save_model(network, tmp_path, LabelRange(largest_field=0.01))
    crystal.calc = load_calculator(tmp_path, field=[0.0, 0.0, 0.02])
    with pytest.raises(ValueError, match=r"the field is 0\.02 V/A, the labels of the model reach 0\.01 V/A"):
        crystal.get_potential_energy()
    crystal.calc = load_calculator(tmp_path, field=[0.0, 0.0, 0.02], beyond_range=True)
    assert np.isfinite(crystal.get_potential_energy())


def test_expansions_run_too(network, crystal):
    crystal.calc = EnthalpyCalculator(QuadraticExpansion(network), field=(0.0, 0.0, 0.01))
    in_full = EnthalpyCalculator(network, field=(0.0, 0.0, 0.01))
    assert crystal.get_potential_energy() == pytest.approx(in_full.get_potential_energy(crystal), abs=1e-4)
