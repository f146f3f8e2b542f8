"""The Langevin thermostat against exact results for charged oscillators."""

import numpy as np
import pytest
import torch
from fieldloop.dft_inputs.units import BOLTZMANN
from fieldloop.model.dynamics import DynamicsSettings, SinusoidalField, run_dynamics
from fieldloop.model.dynamics.particles import masses_in_internal_units, maxwell_boltzmann

FIELD = 0.1


def test_temperature_and_positions_are_boltzmann_distributed(oscillators, sites):
    temperatures = (100.0, 300.0, 900.0)
    settings = DynamicsSettings(
        timestep=5.0,
        steps=1000,
        friction=0.03,
        temperatures=temperatures,
        fields=((0.0, 0.0, FIELD),),
        save_every=4,
        max_temperature=1e5,
        seed=1,
    )
    result = run_dynamics(oscillators, [sites] * 3, settings)
    for temperature, run in zip(temperatures, result.trajectory.replicas(), strict=True):
        displaced = run.positions[50:] - sites.positions
        assert run.temperature()[50:].mean() == pytest.approx(temperature, rel=0.05)
        assert displaced.var(axis=(0, 1)) == pytest.approx(BOLTZMANN * temperature / 2.0 * np.ones(3), rel=0.12)
        expected = [0.0, 0.0, FIELD / 2.0]
        assert displaced.mean(axis=(0, 1)) == pytest.approx(expected, abs=0.1 * np.sqrt(BOLTZMANN * temperature))


def test_position_variance_is_exact_at_a_large_timestep(oscillators, sites):
    """BAOAB samples harmonic positions without error in the timestep (Leimkuhler and Matthews); omega dt is 0.8."""
    settings = DynamicsSettings(
        timestep=30.0, steps=1000, friction=0.02, temperatures=300.0, save_every=2, seed=2, max_displacement=5.0
    )
    run = run_dynamics(oscillators, [sites], settings).trajectory.replica(0)
    displaced = run.positions[100:] - sites.positions
    assert displaced.var() == pytest.approx(BOLTZMANN * 300 / 2.0, rel=0.03)
    assert run.temperature()[100:].mean() == pytest.approx(300 * (1 - 0.25 * (2.0 / 2796.3) * 30.0**2), rel=0.03)


def test_heat_of_the_bath_closes_the_balance(morse, crystal):
    wave = SinusoidalField(amplitude=(0.0, 0.0, 0.2), period=150.0)
    errors = []
    for timestep in (2.0, 1.0):
        settings = DynamicsSettings(
            timestep=timestep,
            steps=int(400 / timestep),
            temperatures=600.0,
            friction=0.02,
            fields=(wave,),
            save_every=1,
        )
        run = run_dynamics(morse, [crystal(rattle=0.02)], settings).trajectory.replica(0)
        errors.append(np.ptp(run.conserved))
        assert np.ptp(run.kinetic + run.enthalpy) > 100 * errors[-1]
    assert errors[1] < errors[0] / 2


def test_zero_temperature_cools(morse, crystal):
    settings = DynamicsSettings(timestep=2.0, steps=400, temperatures=0.0, friction=0.05, save_every=1)
    run = run_dynamics(morse, [crystal(rattle=0.1)], settings).trajectory.replica(0)
    assert run.kinetic[0] == 0
    assert run.enthalpy[-1] < run.enthalpy[0]
    assert run.kinetic[-1] < 1e-3 * run.kinetic.max()


def test_initial_velocities_have_the_temperature_and_no_momentum():
    masses = masses_in_internal_units(torch.tensor([26.98, 74.92] * 2000, dtype=torch.float64))
    velocities = maxwell_boltzmann(masses, 500.0, torch.Generator().manual_seed(0))
    energies = 0.5 * masses * (velocities**2).sum(-1)
    assert (masses[:, None] * velocities).sum(0).abs().max() < 1e-10
    for kind in (energies[::2], energies[1::2]):
        assert float(kind.mean()) == pytest.approx(1.5 * BOLTZMANN * 500, rel=0.06)
