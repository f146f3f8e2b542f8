"""Thermostats and barostat against the ensembles they are to sample, on cells whose thermodynamics is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fieldloop.dft_inputs.units import BOLTZMANN

KT = BOLTZMANN * 300
FIELD = (0.5, 0.0, 0.0)


def walk(model, make_integrator, steps, replicas, field=(0.0, 0.0, 0.0), **settings):
    """Integrator and states of replicas, every second one after a quarter of the steps with Langevin's bath."""
    warm = {**settings, "thermostat": "langevin", "friction": 0.03}
    if settings["ensemble"] in ("csvr", "nose-hoover"):
        warm["ensemble"] = "langevin"
    integrator, state, draw = make_integrator(model, model.frame(), replicas, fields=(field,), **warm)
    for _ in range(steps // 4):
        state = integrator.step(state, state.control, draw)
    integrator, _, draw = make_integrator(model, model.frame(), replicas, fields=(field,), **settings)
    velocities = state.velocities
    if integrator.particles.degrees[0] % 12:  # without the momentum that Langevin's bath gives
        momenta = integrator.particles.sum_replicas(integrator.particles.masses[:, None] * velocities)
        total = integrator.particles.sum_replicas(integrator.particles.masses)
        velocities = velocities - (momenta / total[:, None])[integrator.particles.structure]
    moved = integrator.start(state.positions, velocities, state.cell, state.control)
    state, states = replace(moved, rate=state.rate), []
    for step in range(steps - steps // 4):
        state = integrator.step(state, state.control, draw)
        if step % 2 == 0:
            states.append(state)
    return integrator, states


@pytest.mark.parametrize("bath", ["langevin", "csvr", "nose-hoover"])
def test_canonical_kinetic_and_configurational_energies(soft_cell, make_integrator, bath):
    """<K> = f kT/2, var K = f (kT)^2/2, <u.dU/du> = f kT: anharmonic ions."""
    model, replicas = soft_cell(stiffness=0.5, quartic=20.0), 150
    times = {"friction": 0.03, "thermostat_time": 40.0}
    integrator, states = walk(model, make_integrator, 700, replicas, ensemble=bath, timestep=3.0, **times)
    degrees = float(integrator.particles.degrees[0])
    kinetic = torch.stack([integrator.particles.kinetic_energy(s.velocities) for s in states])
    sites = torch.tensor(model.frame().positions).repeat(replicas, 1)
    virial = torch.stack([-(s.forces * (s.positions - sites)).sum() for s in states]) / replicas
    assert float(kinetic.mean()) == pytest.approx(degrees * KT / 2, rel=0.03)
    assert float(kinetic.var()) == pytest.approx(degrees * KT**2 / 2, rel=0.1)
    assert float(virial.mean()) == pytest.approx(9 * KT, rel=0.05)


def volume_distribution(model, fixed, field, pressure):
    """Mean and variance of the volume by quadrature; the ions give exp(beta sum q^2 E^2 / 2 k), independent of V."""
    volume = np.linspace(95.0, 155.0, 6001)
    square = np.dot(field, field) * (volume / 125.0) ** (-2 / 3 if fixed == "voltage" else 0)
    ions = 4 * model.charge**2 / (2 * float(model.stiffness.detach()))
    free = model.bulk / 2 * (volume - model.rest) ** 2 + pressure * volume - (model.chi / 2 * volume + ions) * square
    weight = np.exp(-(free - free.min()) / KT)
    weight /= weight.sum()
    mean = float(weight @ volume)
    return mean, float(weight @ (volume - mean) ** 2)


@pytest.mark.parametrize(
    ("thermostat", "fixed", "field", "pressure"),
    [
        ("langevin", "field", FIELD, 0.0),
        ("csvr", "voltage", FIELD, 0.02),
        ("nose-hoover", "field", (0.0, 0.0, 0.0), 0.02),
    ],
)
def test_the_volume_is_distributed_as_at_constant_pressure(
    soft_cell, make_integrator, thermostat, fixed, field, pressure
):
    model = soft_cell()
    settings = {"ensemble": "npt", "thermostat": thermostat, "fixed": fixed, "pressure": pressure, "timestep": 3.0}
    times = {"friction": 0.03, "thermostat_time": 40.0, "barostat_time": 600.0}
    _, states = walk(model, make_integrator, 400, 80, field, **settings, **times)
    volumes = torch.stack([state.volume for state in states])
    mean, variance = volume_distribution(model, fixed, field, pressure)
    assert abs(mean - 125) > 2  # far from the volume at the start
    assert float(volumes.mean()) == pytest.approx(mean, abs=0.5)
    assert float(volumes.var()) == pytest.approx(variance, rel=0.15)


def test_a_flexible_cell_has_the_energy_of_its_six_strains(soft_cell, make_integrator):
    model = soft_cell(quartic=20.0)
    settings = {"ensemble": "npt", "cell": "flexible", "barostat_time": 600.0, "thermostat_time": 40.0, "timestep": 3.0}
    integrator, states = walk(model, make_integrator, 280, 70, **settings)
    cells = torch.stack([integrator.barostat.kinetic_energy(state.rate) for state in states])
    assert float(cells.mean()) == pytest.approx(6 * KT / 2, rel=0.08)
    rates = torch.stack([state.rate for state in states])
    assert torch.allclose(rates, rates.transpose(-1, -2))
    assert float(rates[..., 0, 1].abs().max()) > 0


@pytest.mark.parametrize("motion", ["isotropic", "anisotropic", "flexible"])
def test_only_free_strains_move(soft_cell, make_integrator, motion):
    model = soft_cell()
    _, states = walk(model, make_integrator, 20, 2, FIELD, ensemble="nph", cell=motion, barostat_time=500.0)
    change = (states[-1].cell - 5.0 * torch.eye(3)).abs()
    lengths = change.diagonal(dim1=1, dim2=2)
    off_diagonal = change - torch.diag_embed(lengths)
    assert float(lengths.max()) > 1e-4
    assert (float(np.ptp(lengths[0].numpy())) < 1e-12) == (motion == "isotropic")
    assert (float(off_diagonal.max()) < 1e-12) == (motion != "flexible")
