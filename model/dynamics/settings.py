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
)

from ...dft_inputs.quantities import Length, Temperature
from .fields import AnyField, Duration, FieldProtocol, StaticField

_Temperature = Annotated[Temperature, Field(ge=0, allow_inf_nan=False)]
_Length = Annotated[Length, Field(gt=0, allow_inf_nan=False)]


def _one_or_many(value: object) -> object:
    return (value,) if isinstance(value, int | float | str) else value


class DynamicsSettings(BaseModel):
    """Settings of a batch of replicas; a single temperature or field holds for all of them.

    Attributes:
        ensemble: ``nve`` (velocity Verlet) or ``langevin`` (BAOAB).
        timestep: fs.
        steps: length of the run.
        friction: of the Langevin thermostat, 1/fs.
        temperatures: K, one or one per replica; in ``nve`` that of the initial velocities.
        fields: one or one per replica.
        seed: an integer (replica i draws from the stream (seed, i)) or one per replica (replica i draws as if it ran
            alone with that seed).
        save_every: steps between frames of the trajectory.
        observe_every: steps between calls of the observer.
        checkpoint_every: steps between checkpoints.
        segment_frames: frames of a closed trajectory file at most.
        skin: of the neighbour list, A.
        max_temperature: a replica whose kinetic temperature exceeds it has exploded, K.
        max_displacement: so has one with an atom that moves farther in one step, A.
        min_distance_ratio: and one with a pair closer than this fraction of the sum of its covalent radii.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ensemble: Literal["nve", "langevin"] = "langevin"
    timestep: Duration = 1.0
    steps: NonNegativeInt
    friction: Annotated[FiniteFloat, Field(gt=0)] = 0.01
    temperatures: Annotated[tuple[_Temperature, ...], BeforeValidator(_one_or_many), Field(min_length=1)] = (300.0,)
    fields: Annotated[tuple[AnyField, ...], Field(min_length=1)] = (StaticField(),)
    seed: NonNegativeInt | tuple[NonNegativeInt, ...] = 0
    save_every: PositiveInt = 10
    observe_every: PositiveInt = 10
    checkpoint_every: PositiveInt = 1000
    segment_frames: PositiveInt = 100
    skin: _Length = 0.5
    max_temperature: _Temperature = 10_000.0
    max_displacement: _Length = 0.5
    min_distance_ratio: Annotated[FiniteFloat, Field(ge=0, lt=1)] = 0.5

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
