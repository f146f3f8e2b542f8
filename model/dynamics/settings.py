"""What a dynamics run is: ensemble, times, temperatures, fields, limits and output."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    model_validator,
)

from ...dft_inputs.quantities import Length, Pressure, Temperature
from .fields import AnyField, Duration, FieldProtocol, StaticField

_Temperature = Annotated[Temperature, Field(ge=0, allow_inf_nan=False)]
_Length = Annotated[Length, Field(gt=0, allow_inf_nan=False)]
_Pressure = Annotated[Pressure, Field(allow_inf_nan=False)]

Ensemble = Literal["nve", "langevin", "csvr", "nose-hoover", "nph", "npt"]
Held = Literal["field", "voltage", "displacement"]
CellMotion = Literal["isotropic", "anisotropic", "flexible"]


def _one_or_many(value: object) -> object:
    return (value,) if isinstance(value, int | float | str) else value


class DynamicsSettings(BaseModel):
    """Settings of a batch of replicas; a single temperature or field holds for all of them.

    Attributes:
        ensemble: ``nve`` (velocity Verlet), ``langevin`` (BAOAB), ``csvr`` (stochastic velocity rescaling),
            ``nose-hoover`` (chains); with a cell that moves at constant ``pressure``: ``nph`` (no bath) and ``npt``.
        timestep: fs.
        steps: length of the run.
        friction: of the Langevin thermostat, 1/fs.
        thermostat: of ``npt``.
        thermostat_time: relaxation time of ``csvr`` and ``nose-hoover``, fs.
        pressure: eV/A^3, or text such as ``1 GPa``.
        barostat_time: tau of the cell's mass, (f + 3) k_B T tau^2 / 3, fs; a hard crystal rings several times faster.
        cell: what moves: ``isotropic``, all lengths by one factor; ``anisotropic``, along x, y and z each by its own;
            ``flexible``, all strains. The cell does not turn.
        temperatures: K, one or one per replica; in ``nve`` and ``nph`` that of the initial velocities.
        fields: one or one per replica.
        fixed: what follows ``fields``: the ``voltage``, E.a_i as in the cell at the start, which is the field itself in
            a cell that does not move; the ``field`` also where the cell moves, whose stress depends on the branch of P;
            or the ``displacement``, (D - D_0)/eps0 in V/A as well, with D = eps0 E + P/V and D_0 that of the start
            without a field.
        seed: an integer (replica i draws from the stream (seed, i)) or one per replica (replica i draws as if it ran
            alone with that seed).
        series_every: steps between rows of the series: time, field, polarization, energies, temperature, volume.
        save_every: steps between frames of the trajectory.
        responses_every: steps between Born effective charges and polarizabilities; None for none.
        observe_every: steps between calls of the observer.
        checkpoint_every: steps between checkpoints.
        segment_frames: frames of a closed trajectory file at most.
        skin: of the neighbour list, A.
        max_temperature: a replica whose kinetic temperature exceeds it has exploded, K.
        max_displacement: so has one with an atom that moves farther in one step, A.
        max_expansion: and one whose volume grew or shrank by more than this factor since the start.
        min_distance_ratio: and one with a pair closer than this fraction of the sum of its covalent radii.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ensemble: Ensemble = "langevin"
    timestep: Duration = 1.0
    steps: NonNegativeInt
    friction: Annotated[FiniteFloat, Field(gt=0)] = 0.01
    thermostat: Literal["langevin", "csvr", "nose-hoover"] = "csvr"
    thermostat_time: Duration = 100.0
    pressure: _Pressure = 0.0
    barostat_time: Duration = 1000.0
    cell: CellMotion = "isotropic"
    temperatures: Annotated[tuple[_Temperature, ...], BeforeValidator(_one_or_many), Field(min_length=1)] = (300.0,)
    fields: Annotated[tuple[AnyField, ...], Field(min_length=1)] = (StaticField(),)
    fixed: Held = "voltage"
    seed: NonNegativeInt | tuple[NonNegativeInt, ...] = 0
    series_every: PositiveInt = 1
    save_every: PositiveInt = 10
    responses_every: PositiveInt | None = None
    observe_every: PositiveInt = 10
    checkpoint_every: PositiveInt = 1000
    segment_frames: PositiveInt = 100
    skin: _Length = 0.5
    max_temperature: _Temperature = 10_000.0
    max_displacement: _Length = 0.5
    max_expansion: Annotated[FiniteFloat, Field(gt=1)] = 2.0
    min_distance_ratio: Annotated[FiniteFloat, Field(ge=0, lt=1)] = 0.5

    @model_validator(mode="after")
    def _consistent(self) -> DynamicsSettings:
        if self.moving_cell and self.fixed == "displacement":
            raise ValueError(
                "fixed: displacement needs a fixed cell: choose another ensemble, or hold field or voltage"
            )
        if (self.moving_cell or self.bath == "nose-hoover") and min(self.temperatures) <= 0:
            raise ValueError(
                f"ensemble: {self.ensemble} needs temperatures above zero: they give thermostat and cell mass"
            )
        return self

    @property
    def moving_cell(self) -> bool:
        """Does the cell move?"""
        return self.ensemble in ("nph", "npt")

    @property
    def bath(self) -> Literal["none", "langevin", "csvr", "nose-hoover"]:
        """The thermostat in use."""
        if self.ensemble in ("nve", "nph"):
            return "none"
        return self.thermostat if self.ensemble == "npt" else self.ensemble  # pyright: ignore[reportReturnType]

    def temperatures_of(self, n_replicas: int) -> np.ndarray:
        """Temperature of each replica, K, (n,)."""
        return np.array(
            [self.temperatures[i] for i in self._indices("temperatures", len(self.temperatures), n_replicas)]
        )

    def fields_of(self, n_replicas: int) -> tuple[FieldProtocol, ...]:
        """Field of each replica."""
        return tuple(self.fields[i] for i in self._indices("fields", len(self.fields), n_replicas))

    def seeds_of(self, n_replicas: int) -> list[int]:
        """A well-mixed 64-bit seed for the generator of each replica."""
        if isinstance(self.seed, int):
            keys = [(self.seed, i) for i in range(n_replicas)]
        elif len(self.seed) == n_replicas:
            keys = [(seed, 0) for seed in self.seed]
        else:
            raise ValueError(f"{len(self.seed)} seeds for {n_replicas} replicas: give one for all or one for each")
        return [int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1)) for key in keys]

    @staticmethod
    def _indices(name: str, given: int, n_replicas: int) -> list[int]:
        if given == 1:
            return [0] * n_replicas
        if given != n_replicas:
            raise ValueError(f"{given} {name} for {n_replicas} replicas: give one for all or one for each")
        return list(range(n_replicas))
