"""Exploration by field dynamics as a job: replicas in one batch, uncertainty of the committee along the way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jobflow.core.job import Job, job
from jobflow.core.maker import Maker

from ..active_learning.candidates import Candidates
from ..active_learning.labels import LabelBounds
from ..active_learning.uncertainty.watch import UncertaintyWatch, WatchSettings
from ..dft_inputs.records import Frame, Proposal
from .keys import content_job, content_key
from .paths import located, recorded
from .records import Exploration, ReplicaSummary, TrainedModel

if TYPE_CHECKING:
    from ..model.committee import CommitteePrediction
    from ..model.dynamics import DynamicsResult, Observer
    from ..model.network import EnthalpyNetwork

CANDIDATES = "candidates.npz"
SPREADS = ("forces", "polarization", "born_effective_charges", "polarizability")


@dataclass
class DynamicsMaker(Maker):
    """Langevin dynamics with a committee's first member, at every temperature in every field.

    Attributes:
        temperatures: K.
        fields: static fields, V/A.
        replicas: copies of each run.
        timestep: fs.
        duration: of each run, fs.
        candidate_every: time between frames whose uncertainty is measured, fs.
        friction: 1/fs.
        stop_spread: a replica is stopped where the committee's spread of the force on any atom passes it, eV/A;
            None for never.
        seed: of the random numbers.
    """

    name: str = "explore"  # pyright: ignore[reportIncompatibleMethodOverride]
    temperatures: tuple[float, ...] = (300.0,)
    fields: tuple[tuple[float, float, float], ...] = ((0.0, 0.0, 0.0),)
    replicas: int = 1
    timestep: float = 1.0
    duration: float = 1000.0
    friction: float = 0.01
    candidate_every: float = 50.0
    stop_spread: float | None = 1.0
    seed: int = 0

    def make(self, models: Sequence[TrainedModel], starts: Sequence[Frame], generation: int = 0) -> Job:
        """A job whose output is the ``Exploration``.

        Args:
            models: the committee.
            starts: frames to start from, in turn.
            generation: its number; enters the random seed, so that each generation walks elsewhere.
        """
        key = content_key("explore", [m.model_id for m in models], [f.frame_id for f in starts], self, generation)
        exploration = explore(list(models), list(starts), self, generation)
        exploration.name = f"{self.name} {generation}"
        return content_job(exploration, key, f"exploration/{key[:16]}")

    def conditions(self) -> list[tuple[float, tuple[float, float, float]]]:
        """Temperature and field of each replica."""
        return [pair for pair in product(self.temperatures, self.fields) for _ in range(self.replicas)]


@job
def explore(models: list[TrainedModel], starts: list[Frame], maker: DynamicsMaker, generation: int) -> Exploration:
    """Run the replicas in the current directory and measure the uncertainty of the frames they meet."""
    from ..model.committee import load_committee  # noqa: PLC0415  (torch is imported by the worker alone)
    from ..model.dynamics.engine import run_dynamics  # noqa: PLC0415
    from ..model.dynamics.fields import StaticField  # noqa: PLC0415
    from ..model.dynamics.settings import DynamicsSettings  # noqa: PLC0415

    here, began = Path.cwd(), time.monotonic()
    members = load_committee([located(model.directory) for model in models])
    conditions = maker.conditions()
    every = max(1, round(maker.candidate_every / maker.timestep))
    # Whole multiples of the time between candidates, so that the trajectory holds every candidate.
    save = next(n for n in range(min(10, every), 0, -1) if every % n == 0)
    settings = DynamicsSettings(
        ensemble="langevin",
        timestep=maker.timestep,
        steps=round(maker.duration / maker.timestep),
        friction=maker.friction,
        temperatures=tuple(temperature for temperature, _ in conditions),
        fields=tuple(StaticField(vector=vector) for _, vector in conditions),
        seed=maker.seed + 1000 * generation,
        save_every=save,
        observe_every=every,
        checkpoint_every=10 * every,
    )
    # Each generation starts where the one before left off, so that new frames come to their turn.
    first = generation * len(conditions)
    frames = [starts[(first + index) % len(starts)] for index in range(len(conditions))]
    result = run_dynamics(
        members[0],
        frames,
        settings,
        directory=here / "trajectory",
        observer=_stopping(members, maker.stop_spread),
    )
    candidates = _candidates(members, models, result, every, generation)
    candidates.save(here / CANDIDATES)
    return Exploration(
        generation=generation,
        model_ids=tuple(model.model_id for model in models),
        directory=recorded(here),
        replicas=tuple(_summary(result, index) for index in range(len(conditions))),
        candidates=len(candidates.frames),
        seconds=time.monotonic() - began,
    )


def _stopping(members: Sequence[EnthalpyNetwork], limit: float | None) -> Observer | None:
    """Stops replicas where the members disagree on the force on any atom by more than the limit; not at the start."""
    if limit is None:
        return None
    watch = UncertaintyWatch(members, WatchSettings(stop=LabelBounds(forces=limit)))
    return lambda step, observation: watch(step, observation) if step else None


def read_candidates(exploration: Exploration, root: Path | None = None) -> Candidates:
    """The candidates that an exploration wrote."""
    return Candidates.load(located(exploration.directory, root) / CANDIDATES)


def spread_of(prediction: CommitteePrediction, frame: Frame) -> dict[str, float]:
    """Raw committee spread of a prediction, by label name; NaN where a member predicts no numbers."""
    from ..active_learning.uncertainty.committee import Committee, UncertaintyError, committee_spread  # noqa: PLC0415

    committee = Committee(
        forces=prediction.forces,
        polarization=prediction.polarization,
        born_effective_charges=prediction.born_effective_charges,
        polarizability=prediction.polarizability,
        polarization_quanta=frame.cell,
    )
    try:
        return committee_spread(committee).by_label()
    except UncertaintyError:
        # One lost frame must not cost the exploration: the selection refuses it and counts it as flagged.
        return dict.fromkeys(SPREADS, float("nan"))


def _candidates(
    members: Sequence[EnthalpyNetwork],
    models: Sequence[TrainedModel],
    result: DynamicsResult,
    every: int,
    generation: int,
) -> Candidates:
    frames, proposals = [], []
    for index, replica in enumerate(result.trajectory.replicas()):
        temperature = float(result.outcomes[index].temperature)
        for place in np.flatnonzero((replica.step % every == 0) & (replica.step > 0)):
            frames.append(replica.frame(int(place)))
            proposals.append(
                Proposal(
                    origin="dynamics",
                    generation=generation + 1,
                    parent_frame_id=replica.start.frame_id,
                    model_id=models[0].model_id,
                    temperature=temperature,
                    field=replica.field[place],
                    time=float(replica.time[place]),
                )
            )
    return judged(members, frames, proposals)


def judged(members: Sequence[EnthalpyNetwork], frames: Sequence[Frame], proposals: Sequence[Proposal]) -> Candidates:
    """Frames with descriptors and the committee's raw spread of every label, each at the field of its proposal."""
    from ..model.committee import predict  # noqa: PLC0415  (torch is imported by the worker alone)

    fields = np.array([proposal.field for proposal in proposals]).reshape(-1, 3)
    predictions = predict(members, frames, fields) if frames else []
    spreads = [spread_of(prediction, frame) for prediction, frame in zip(predictions, frames, strict=True)]
    return Candidates(
        frames=frames,
        proposals=proposals,
        descriptors=np.array([prediction.descriptor for prediction in predictions]),
        spreads={name: np.array([spread[name] for spread in spreads]) for name in SPREADS},
    )


def _summary(result: DynamicsResult, index: int) -> ReplicaSummary:
    outcome, replica = result.outcomes[index], result.trajectory.replica(index)
    excursion = np.ptp(replica.conserved) if len(replica) else 0.0
    return ReplicaSummary(
        temperature=outcome.temperature,
        field=outcome.field,
        steps=outcome.step,
        stopped=None if outcome.status == "finished" else outcome.reason,
        drift=float(excursion / len(replica.start)),
    )
