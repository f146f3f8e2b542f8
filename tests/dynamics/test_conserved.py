"""The conserved quantity of every ensemble: in a field as well as without one, whatever is held."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fieldloop.dft_inputs.units import VACUUM_PERMITTIVITY
from fieldloop.model.dynamics import DynamicsSettings, SinusoidalField, run_dynamics
from fieldloop.model.dynamics.thermostats import Momenta

WAVE = SinusoidalField(amplitude=(0.0, 0.05, 0.1), period=150.0, phase=0.3)
NPT = {"ensemble": "npt", "cell": "flexible", "barostat_time": 700.0, "thermostat_time": 50.0}
ENSEMBLES = {
    "nve": {"ensemble": "nve"},
    "langevin": {"ensemble": "langevin"},
    "csvr": {"ensemble": "csvr", "thermostat_time": 50.0},
    "nose-hoover": {"ensemble": "nose-hoover", "thermostat_time": 50.0},
    "nph": {"ensemble": "nph", "cell": "anisotropic", "barostat_time": 700.0},
    "npt": {**NPT, "fixed": "field"},
    "npt, voltage": {**NPT, "thermostat": "nose-hoover", "fixed": "voltage"},
}


@pytest.mark.parametrize("ensemble", ENSEMBLES.values(), ids=ENSEMBLES)
def test_drifts_no_more_in_a_field_than_without(morse, crystal, ensemble):
    """At rest, in 10 MV/cm and in a field that changes; of replicas that start alike and draw the same noise."""
    settings = DynamicsSettings(
        **ensemble, timestep=2.0, steps=200, temperatures=400.0, fields=((0, 0, 0), (0, 0, 0.1), WAVE), seed=(1, 1, 1)
    )
    trajectory = run_dynamics(morse, [crystal(rattle=0.05)] * 3, settings).trajectory
    runs = [trajectory.series(replica) for replica in range(3)]
    without, *in_field = [np.ptp(run.conserved) for run in runs]
    exchanged = [np.ptp(run.kinetic) for run in runs]
    assert without < 0.03 * exchanged[0]
    assert max(in_field) < max(1.5 * without, 0.005 * exchanged[0])


@pytest.mark.parametrize(
    "changes",
    [
        {"fields": (WAVE,), "fixed": "voltage", "ensemble": "nph", "cell": "flexible", "barostat_time": 600.0},
        {
            "fields": (WAVE,),
            "ensemble": "nph",
            "cell": "flexible",
            "barostat_time": 600.0,
            "pressure": 0.02,
            "fixed": "field",
        },
        {"fields": (WAVE,), "ensemble": "nose-hoover", "thermostat_time": 30.0},
        {
            "fields": (WAVE,),
            "ensemble": "npt",
            "thermostat": "nose-hoover",
            "thermostat_time": 30.0,
            "barostat_time": 600.0,
        },
        {"fields": (WAVE,), "ensemble": "nve", "fixed": "displacement"},
    ],
    ids=["voltage", "pressure", "chain", "chain and cell", "displacement"],
)
def test_its_error_is_of_second_order_in_the_timestep(soft_cell, make_integrator, changes):
    model = soft_cell(quartic=5.0)
    errors = []
    for timestep in (2.0, 1.0):
        integrator, state, draw = make_integrator(model, model.frame(), 4, timestep=timestep, **changes)
        conserved = []
        for step in range(int(160 / timestep)):
            control = torch.tensor(WAVE((step + 1) * timestep)).expand(4, 3)
            state = integrator.step(state, control, draw)
            conserved.append(integrator.conserved(state))
        errors.append(np.ptp(torch.stack(conserved).numpy(), axis=0))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.3)


@pytest.mark.parametrize("fixed", ["field", "voltage"])
def test_deterministic_ensembles_are_reversible_in_time(soft_cell, make_integrator, fixed):
    model = soft_cell(quartic=5.0)
    settings = {**NPT, "thermostat": "nose-hoover", "fixed": fixed, "fields": ((0.2, 0.1, -0.3),), "timestep": 2.0}
    integrator, start, draw = make_integrator(model, model.frame(), 2, **settings)
    state = start
    for _ in range(100):
        state = integrator.step(state, state.control, draw)
    assert float((state.cell - start.cell).abs().max()) > 1e-3
    chain = state.chain * torch.tensor([1.0, -1.0])[:, None]
    state = replace(state, velocities=-state.velocities, rate=-state.rate, chain=chain)
    for _ in range(100):
        state = integrator.step(state, state.control, draw)
    for name in ("positions", "cell", "field"):
        assert torch.allclose(getattr(state, name), getattr(start, name), atol=1e-9), name
    assert torch.allclose(state.velocities, -start.velocities, atol=1e-10)


def test_constant_displacement_is_held_and_stiffens_the_crystal(soft_cell, make_integrator):
    """Ions swing with w^2 = k/2m at fixed E, with (k/2 + q^2 / ((eps0 + chi) V)) / m at fixed D: LO above TO."""
    model = soft_cell(stiffness=8.0, chi=0.005)
    model.bulk = 0.0
    periods = {}
    for fixed in ("field", "displacement"):
        settings = {"ensemble": "nve", "fixed": fixed, "timestep": 1.0}
        integrator, state, draw = make_integrator(model, model.frame(2), 1, **settings)
        push = torch.zeros_like(state.velocities)
        push[:, 0] = 0.01 / integrator.particles.masses * torch.tensor([1.0, -1.0])
        state = integrator.start(state.positions, push, state.cell, state.control)
        along = []
        for _ in range(500):
            state = integrator.step(state, state.control, draw)
            along.append(float(state.polarization[0, 0] - 0.005 * 125.0 * state.field[0, 0]))
            if fixed == "displacement":
                flux = VACUUM_PERMITTIVITY * state.volume[:, None] * state.field + state.polarization
                assert float(flux.abs().max()) < 1e-7
        crossings = np.flatnonzero(np.diff(np.sign(along)))
        values = np.array(along)
        places = crossings - values[crossings] / (values[crossings + 1] - values[crossings])
        periods[fixed] = 2 * float(np.diff(places).mean())
    # ions at a distance d off their own: u1 = -u2 = d/2, energy k d^2 / 4, dipole q d
    stiffer = 1 + 2 / ((VACUUM_PERMITTIVITY + 0.005) * 125.0 * 8.0)
    assert len(crossings) > 4
    assert (periods["field"] / periods["displacement"]) ** 2 == pytest.approx(stiffer, rel=2e-3)


def test_a_displacement_that_changes_does_work(morse, crystal):
    """The Morse crystal has alpha(R): E follows from D through the polarizability of the moment."""
    wave = SinusoidalField(amplitude=(0.0, 0.0, 2.0), period=150.0)
    settings = DynamicsSettings(
        ensemble="nve", fixed="displacement", timestep=1.0, steps=120, temperatures=300.0, fields=(wave,)
    )
    frame = crystal(rattle=0.03)
    run = run_dynamics(morse, [frame], settings).trajectory.series(0)
    displacement = VACUUM_PERMITTIVITY * run.volume[:, None] * run.field + run.polarization
    expected = VACUUM_PERMITTIVITY * run.volume * np.array([wave(t)[2] for t in run.time])
    assert run.field[0] == pytest.approx(0, abs=1e-8)
    assert displacement[:, 2] - displacement[0, 2] == pytest.approx(expected, abs=1e-6)
    assert np.ptp(run.field[:, 2]) > 0.05
    energy = run.kinetic + run.enthalpy + (run.field * run.polarization).sum(1)
    assert np.ptp(run.conserved) < 0.02 * np.ptp(energy)


def test_a_chain_carries_its_energy(soft_cell, make_integrator):
    """What the chain takes from the momenta is what its own energy gains, to fourth order in the timestep."""
    errors = []
    for timestep in (8.0, 4.0):
        integrator, state, _ = make_integrator(
            soft_cell(), soft_cell().frame(), 3, ensemble="nose-hoover", thermostat_time=20.0, timestep=timestep
        )
        momenta = Momenta(state.velocities, state.rate, state.chain + 0.01)
        totals = []
        for _ in range(int(80 / timestep)):
            kinetic = integrator.kinetic_energies(momenta.velocities, momenta.rate)
            totals.append(kinetic.sum(-1) + integrator.thermostat.energy(replace(state, chain=momenta.chain)))
            momenta = integrator.thermostat(momenta, kinetic, None)
        errors.append(np.ptp(torch.stack(totals).numpy(), axis=0).max())
    assert errors[0] / errors[1] > 10
