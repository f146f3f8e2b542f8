"""Conservation laws and symmetries of velocity Verlet in a field."""

import numpy as np
import pytest
from fieldloop.model.dynamics import DynamicsSettings, SinusoidalField, run_dynamics

STATIC = (0.05, -0.03, 0.1)
WAVE = SinusoidalField(amplitude=(0.0, 0.05, 0.2), period=150.0, phase=0.3)


def nve(model, frame, steps, timestep=1.0, field=(0.0, 0.0, 0.0), temperature=400.0, velocities=None):
    settings = DynamicsSettings(
        ensemble="nve", timestep=timestep, steps=steps, temperatures=temperature, fields=(field,), save_every=1, seed=3
    )
    given = None if velocities is None else [velocities]
    return run_dynamics(model, [frame], settings, velocities=given).trajectory.replica(0)


@pytest.mark.parametrize("field", [STATIC, WAVE], ids=["static", "oscillating"])
def test_error_of_the_conserved_quantity_is_of_second_order(morse, crystal, field):
    frame = crystal(rattle=0.05)
    errors = [np.ptp(nve(morse, frame, int(200 / dt), dt, field).conserved) for dt in (2.0, 1.0, 0.5)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.1)


def test_kinetic_plus_enthalpy_is_conserved_in_a_static_field(morse, crystal):
    run = nve(morse, crystal(rattle=0.05), 2500, 2.0, STATIC)
    total = run.kinetic + run.enthalpy
    assert run.conserved == pytest.approx(total, abs=1e-12)
    slope = np.polyfit(run.time, total, 1)[0]
    assert abs(slope) * 10_000 / 8 < 1e-5  # eV/atom in 10 ps
    assert np.ptp(total) < 5e-3 * np.ptp(run.kinetic)


def test_a_changing_field_does_the_work_minus_integral_of_P_dE(morse, crystal):
    run = nve(morse, crystal(rattle=0.05), 400, 0.5, WAVE)
    steps = 0.5 * (run.polarization[1:] + run.polarization[:-1]) * np.diff(run.field, axis=0)
    work = np.concatenate([[0.0], np.cumsum(steps.sum(1))])
    total = run.kinetic + run.enthalpy
    assert run.conserved == pytest.approx(total + work, abs=1e-10)
    assert np.ptp(total + work) < 1e-4 * np.ptp(total)


def test_dynamics_is_reversible_in_time(morse, crystal):
    frame = crystal(rattle=0.05)
    there = nve(morse, frame, 200, 2.0, STATIC)
    back = nve(morse, there.frame(-1), 200, 2.0, STATIC, velocities=-there.velocities[-1])
    assert back.positions[-1] == pytest.approx(frame.positions, abs=1e-9)
    assert back.velocities[-1] == pytest.approx(-there.velocities[0], abs=1e-9)


def momentum(run):
    from ase.data import atomic_masses, atomic_numbers

    masses = atomic_masses[[atomic_numbers[s] for s in run.start.species]]
    return np.einsum("n,tnx->tx", masses, run.velocities)


@pytest.mark.parametrize("field", [(0.0, 0.0, 0.0), STATIC])
def test_momentum_of_a_neutral_cell_stays_zero(morse, crystal, field):
    run = nve(morse, crystal(rattle=0.05), 200, 2.0, field)
    assert np.abs(momentum(run)).max() < 1e-10


def test_a_charged_cell_is_accelerated_by_QE(crystal, morse):
    from ase.units import _amu, _e

    morse.charges[1] = -0.75  # total charge of four formula units: +1 e
    run = nve(morse, crystal(rattle=0.05), 100, 1.0, STATIC)
    gained = momentum(run)[-1] * _amu * 1e5  # u A/fs in kg m/s
    assert gained == pytest.approx(_e * np.array(STATIC) * 1e10 * 100e-15, rel=1e-6)


def test_inverted_structure_and_field_give_the_inverted_trajectory(morse, crystal):
    frame = crystal(rattle=0.05)
    velocities = np.random.default_rng(1).normal(scale=0.005, size=(8, 3))
    inverted = frame.model_copy(update={"positions": -frame.positions})
    run = nve(morse, frame, 150, 2.0, STATIC, velocities=velocities)
    mirror = nve(morse, inverted, 150, 2.0, tuple(-x for x in STATIC), velocities=-velocities)
    assert mirror.positions == pytest.approx(-run.positions, abs=1e-9)
    assert mirror.polarization == pytest.approx(-run.polarization, abs=1e-9)
    assert mirror.enthalpy == pytest.approx(run.enthalpy, abs=1e-9)


def test_the_polarization_belongs_to_the_enthalpy(morse, crystal):
    """Two short runs in fields a little apart: P = -dU/dE at the common first frame."""
    frame, step = crystal(rattle=0.05), 1e-4
    up, down = (nve(morse, frame, 0, field=(0.0, 0.0, 0.1 + sign * step)) for sign in (1, -1))
    middle = nve(morse, frame, 0, field=(0.0, 0.0, 0.1))
    slope = -(up.enthalpy[0] - down.enthalpy[0]) / (2 * step)
    assert middle.polarization[0, 2] == pytest.approx(slope, rel=1e-8)


def test_agrees_with_the_velocity_verlet_of_ase(morse, crystal):
    from ase import units
    from ase.md.verlet import VelocityVerlet
    from fieldloop.model.interfaces.ase import EnthalpyCalculator

    frame = crystal(rattle=0.05)
    velocities = np.random.default_rng(2).normal(scale=0.005, size=(8, 3))
    run = nve(morse, frame, 50, 2.0, STATIC, velocities=velocities)
    atoms = frame.to_atoms()
    atoms.calc = EnthalpyCalculator(morse, field=STATIC)
    atoms.set_velocities(velocities / units.fs)
    VelocityVerlet(atoms, timestep=2.0 * units.fs).run(50)
    assert run.positions[-1] == pytest.approx(atoms.positions, abs=1e-6)
    assert run.kinetic[-1] == pytest.approx(atoms.get_kinetic_energy(), rel=1e-5)
    assert run.polarization[-1] == pytest.approx(atoms.calc.get_property("polarization", atoms), abs=1e-6)


def test_the_network_conserves_its_enthalpy_in_an_oscillating_field(crystal):
    from fieldloop.model.network import EnthalpyNetwork
    from fieldloop.model.settings import NetworkConfig

    config = NetworkConfig(
        species=("Al", "As"), reference_charges={"Al": 3, "As": -3}, cutoff=4.0, scalars=8, tensors=4, radial=4
    )
    network = EnthalpyNetwork(config, seed=1)
    frame = crystal(rattle=0.05)
    runs = [nve(network, frame, int(60 / dt), dt, WAVE) for dt in (2.0, 1.0)]
    errors = [np.ptp(run.conserved) for run in runs]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.15)
    assert errors[1] < 1e-3 * np.ptp(runs[1].kinetic + runs[1].enthalpy)
