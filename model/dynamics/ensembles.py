"""From settings to an integrator."""

from __future__ import annotations

from torch import Tensor

from .barostat import Barostat
from .electrics import Electrics, Evaluate, FixedDisplacement, FixedField, FixedVoltage
from .integrators import Integrator
from .particles import Particles
from .settings import DynamicsSettings
from .thermostats import CHAIN, Langevin, NoseHoover, StochasticRescaling, Thermostat


def make_integrator(
    settings: DynamicsSettings, particles: Particles, temperatures: Tensor, evaluate: Evaluate, electrics: Electrics
) -> Integrator:
    """The integrator of an ensemble.

    Args:
        settings: of the run.
        particles: the atoms.
        temperatures: of each replica, K, (B,).
        evaluate: the model.
        electrics: what is held.
    """
    barostat = None
    if settings.moving_cell:
        barostat = Barostat(settings.cell, settings.pressure, particles, temperatures, settings.barostat_time)
    return Integrator(
        particles=particles,
        evaluate=evaluate,
        electrics=electrics,
        timestep=settings.timestep,
        thermostat=_thermostat(settings, particles, barostat, temperatures),
        barostat=barostat,
        chain_length=CHAIN if settings.bath == "nose-hoover" else 0,
    )


def make_electrics(
    settings: DynamicsSettings, start: Tensor, evaluate_polarizability: Evaluate, *, single_precision: bool
) -> Electrics:
    """What a run holds.

    Args:
        settings: of the run.
        start: cells at the start, A, (B, 3, 3).
        evaluate_polarizability: responses with the polarizability.
        single_precision: of the model: its P has noise, and the field is solved for less tightly.
    """
    if settings.fixed == "displacement":
        return FixedDisplacement(evaluate_polarizability, 1e-5 if single_precision else 1e-8)
    return FixedVoltage(start) if settings.fixed == "voltage" and settings.moving_cell else FixedField()


def _thermostat(
    settings: DynamicsSettings, particles: Particles, barostat: Barostat | None, temperatures: Tensor
) -> Thermostat | None:
    if settings.bath == "none":
        return None
    if settings.bath == "langevin":
        return Langevin(particles, barostat, temperatures, settings.friction, settings.timestep)
    kind = StochasticRescaling if settings.bath == "csvr" else NoseHoover
    return kind(particles, barostat, temperatures, settings.thermostat_time, settings.timestep)
