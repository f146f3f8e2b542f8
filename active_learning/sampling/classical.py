"""Frames met by classical molecular dynamics with a potential of LAMMPS: hot crystals at no cost of DFT."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from ...dft_inputs.quantities import Temperature, Time
from ...dft_inputs.records import Frame, Proposal
from ..plausibility import implausible
from .frames import Sampled, SeedError, SourceSettings, check_parent, moved
from .lammps_run import Dynamics, Potential, Progress, run_dynamics


class ClassicalSettings(SourceSettings):
    """Classical dynamics in the parent's cell.

    Attributes:
        potential: of LAMMPS, e.g. ``{preset: vashishta-SiO2}``.
        temperatures: one run each; frames are taken from them in turn.
        interval: time between frames of a run.
        equilibration: time before the first one.
        timestep: of the dynamics.
        damping: relaxation time of the Langevin thermostat.
    """

    kind: Literal["classical-md"] = "classical-md"
    potential: Potential
    temperatures: tuple[Annotated[Temperature, Field(gt=0)], ...] = Field(default=(300.0,), min_length=1)
    interval: Annotated[Time, Field(gt=0)] = 1000.0
    equilibration: Annotated[Time, Field(ge=0)] = 5000.0
    timestep: Annotated[Time, Field(gt=0)] = 1.0
    damping: Annotated[Time, Field(gt=0)] = 100.0

    @model_validator(mode="after")
    def _some_steps(self) -> ClassicalSettings:
        if self.interval < self.timestep:
            raise ValueError(f"interval ({self.interval:g} fs) is shorter than timestep ({self.timestep:g} fs)")
        return self

    @property
    def files(self) -> tuple[Path, ...]:
        """Parameter files of the potential."""
        return self.potential.files

    def dynamics(self, run: int) -> Dynamics:
        """The run at the temperature of this index, as long as its share of the frames asks for."""
        return Dynamics(
            temperature=self.temperatures[run],
            timestep=self.timestep,
            damping=self.damping,
            equilibration=round(self.equilibration / self.timestep),
            interval=round(self.interval / self.timestep),
            frames=len(range(run, self.count, len(self.temperatures))),
            seed=int(np.random.default_rng([self.seed, run]).integers(1, 900_000_000)),
        )


def classical_frames(parent: Frame, settings: ClassicalSettings, progress: Progress | None = None) -> list[Sampled]:
    """Frames of classical dynamics that starts from the parent; with one and the same LAMMPS always the same.

    Args:
        parent: the crystal, periodic in every direction.
        settings: potential and runs.
        progress: is told how much is done, from 0 to 1.

    Raises:
        SeedError: LAMMPS is missing or fails, or the crystal falls apart.
    """
    check_parent(parent, settings.rules)
    if not all(parent.pbc):
        raise SeedError("classical dynamics needs a cell periodic in every direction")
    runs = [settings.dynamics(run) for run in range(min(settings.count, len(settings.temperatures)))]
    total, done, paths = sum(run.steps for run in runs), 0, []
    for run in runs:
        share, before = run.steps / total, done / total
        paths.append(run_dynamics(parent, settings.potential, run, _part(progress, before, share)))
        done += run.steps
    return [
        _sampled(parent, settings, runs[i % len(runs)], i // len(runs), paths[i % len(runs)])
        for i in range(settings.count)
    ]


def _part(progress: Progress | None, before: float, share: float) -> Progress | None:
    return None if progress is None else lambda fraction: progress(before + share * fraction)


def _sampled(parent: Frame, settings: ClassicalSettings, run: Dynamics, index: int, path: np.ndarray) -> Sampled:
    frame = moved(parent, path[index] - parent.positions)
    time = (run.equilibration + (index + 1) * run.interval) * run.timestep
    if trouble := implausible(frame, settings.rules):
        raise SeedError(
            f"classical dynamics at {run.temperature:g} K came to a frame that is {trouble}: take a smaller timestep, "
            "a lower temperature or another potential"
        )
    reason = f"classical dynamics at {run.temperature:g} K, {time / 1000:g} ps"
    proposal = Proposal(
        origin="classical-md",
        parent_frame_id=parent.frame_id,
        temperature=run.temperature,
        time=time,
        reason=reason,
    )
    return frame, proposal
