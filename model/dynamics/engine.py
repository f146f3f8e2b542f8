"""Dynamics of a batch of replicas in electric fields: different structures, temperatures and fields at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...dft_inputs.records import Frame
from ..interface import EnthalpyModel
from .batch import Batch, sees_the_field
from .checkpoint import Checkpoint
from .fields import StaticField
from .files import locked
from .identity import model_digest, require_same_run
from .noise import NoiseStream
from .observation import Observation, Observer, Progress, ProgressCallback, frames_at
from .outcomes import ReplicaOutcome
from .particles import maxwell_boltzmann
from .recorder import Recorder
from .settings import DynamicsSettings
from .state import State
from .trajectory import Trajectory, TrajectoryMeta

_PROGRESS_SECONDS = 0.5


@dataclass(frozen=True)
class DynamicsResult:
    """A finished run.

    Attributes:
        outcomes: how each replica ended, in the order of the frames.
        trajectory: of all replicas.
        steps: steps done in this call.
        seconds: wall time of this call.
    """

    outcomes: tuple[ReplicaOutcome, ...]
    trajectory: Trajectory
    steps: int
    seconds: float


def run_dynamics(
    model: EnthalpyModel,
    frames: Sequence[Frame],
    settings: DynamicsSettings,
    *,
    directory: Path | str | None = None,
    velocities: Sequence[np.ndarray] | None = None,
    observer: Observer | None = None,
    progress: ProgressCallback | None = None,
) -> DynamicsResult:
    """Run all replicas in one batch on the model's device; go on from the checkpoint if the directory holds one.

    On one machine a resumed run on the CPU is bitwise equal to one that was never interrupted. A run whose ``steps``
    were raised is extended. A replica that explodes ends with its last good frame; the others go on.

    Args:
        model: the electric enthalpy.
        frames: where each replica starts.
        settings: of the run.
        directory: for trajectory and checkpoints; without one the trajectory stays in memory.
        velocities: initial velocities of each replica, A/fs; Maxwell-Boltzmann without them.
        observer: called every ``observe_every`` steps, from step 0 on. Calls after the last checkpoint are repeated
            on resuming.
        progress: called about twice a second.

    Raises:
        ValueError: input that does not fit together, a field for a model that has none as input, or a directory of a
            different run.
        RuntimeError: another process works in the directory.
    """
    frames = tuple(frames)
    _check(model, frames, settings)
    directory = None if directory is None else Path(directory)
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
    with nullcontext() if directory is None else locked(directory):
        run = _Run(model, frames, settings, directory)
        checkpoint = run.find_checkpoint()
        if checkpoint is None:
            run.start(_initial_velocities(frames, velocities), observer)
        else:
            run.resume(checkpoint)
        return run.finish(observer, progress)


class _Run:
    def __init__(
        self, model: EnthalpyModel, frames: tuple[Frame, ...], settings: DynamicsSettings, directory: Path | None
    ) -> None:
        self.model, self.frames, self.settings, self.directory = model, frames, settings, directory
        self.device = model.device
        self.temperatures = settings.temperatures_of(len(frames))
        self.protocols = settings.fields_of(len(frames))
        self.seeds = settings.seeds_of(len(frames))
        self.outcomes: list[ReplicaOutcome] = []
        meta = TrajectoryMeta(frames=frames, settings=settings, model_digest=model_digest(model))
        if directory is not None:
            require_same_run(directory, meta)
        self.recorder = Recorder(directory, meta)

    def find_checkpoint(self) -> Checkpoint | None:
        """The checkpoint to go on from; what was written later is removed."""
        checkpoint = None if self.directory is None else Checkpoint.load(self.directory, self.device)
        self.recorder.truncate(-1 if checkpoint is None else checkpoint.state.step)
        return checkpoint

    def start(self, velocities: list[Tensor | None], observer: Observer | None) -> None:
        """Step 0."""
        generators = [torch.Generator(device=self.device).manual_seed(seed) for seed in self.seeds]
        positions = torch.tensor(np.concatenate([f.positions for f in self.frames]), device=self.device)
        cell = torch.tensor(np.stack([f.cell for f in self.frames]), device=self.device)
        self.activate(tuple(range(len(self.frames))), (positions, cell))
        masses = torch.split(self.batch.particles.masses, [len(frame) for frame in self.frames])
        drawn = [
            maxwell_boltzmann(masses[i], self.temperatures[i], generators[i]) if given is None else given
            for i, given in enumerate(velocities)
        ]
        self.noise = NoiseStream(generators, [len(frame) for frame in self.frames])
        moving = torch.cat([v.to(self.device) for v in drawn])
        self.state = self.batch.integrator.start(positions, moving, cell, self.control_at(0))
        self.after_step(None, observer)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Be where the checkpoint was written."""
        self.outcomes = list(checkpoint.outcomes)
        self.state = checkpoint.state
        self.activate(checkpoint.active, (checkpoint.reference, checkpoint.reference_cell))
        if self.active:
            counts = [len(self.frames[i]) for i in checkpoint.active]
            self.noise = NoiseStream.resumed(checkpoint.noise_states, checkpoint.noise_block, counts, self.device)

    def activate(self, active: tuple[int, ...], reference: tuple[Tensor, Tensor]) -> None:
        """Make the batch of the active replicas."""
        self.active = active
        if active:
            starts = [self.frames[i] for i in active]
            self.batch = Batch(self.model, starts, self.temperatures[list(active)], self.settings, reference)

    def finish(self, observer: Observer | None, progress: ProgressCallback | None) -> DynamicsResult:
        """All steps that remain."""
        began = last = time.monotonic()
        first = self.state.step
        atom_steps = 0
        while self.active and self.state.step < self.settings.steps:
            previous = self.state
            control = self.control_at(previous.step + 1)
            self.state = self.batch.integrator.step(previous, control, self.noise.at)
            atom_steps += len(previous.positions)
            self.after_step(previous, observer)
            now = time.monotonic()
            at_end = not self.active or self.state.step == self.settings.steps
            if progress is not None and (now - last > _PROGRESS_SECONDS or at_end):
                last = now
                progress(self.progress(first, now - began, atom_steps))
        if self.state.step > first:
            self.checkpoint()
        ended = [self.outcome(i, "finished", "", self.state) for i in range(len(self.active))]
        outcomes = tuple(sorted([*self.outcomes, *ended], key=lambda outcome: outcome.replica))
        return DynamicsResult(outcomes, self.recorder.trajectory(), self.state.step - first, time.monotonic() - began)

    def progress(self, first: int, seconds: float, atom_steps: int) -> Progress:
        """How far the run is, after seconds for the steps since the first."""
        seconds = max(seconds, 1e-9)
        return Progress(
            step=self.state.step,
            steps=self.settings.steps,
            active=len(self.active),
            ns_per_day=(self.state.step - first) * self.settings.timestep * 1e-6 * 86400 / seconds,
            atom_steps_per_second=atom_steps / seconds,
            blocks=self.batch.blocks,
        )

    def after_step(self, previous: State | None, observer: Observer | None) -> None:
        """Limits, output, observer and checkpoint of the step just done, in this order."""
        step, settings = self.state.step, self.settings
        reasons = self.batch.limits.exploded(self.state, previous, self.batch.graph)
        if reasons:
            good = self.state if previous is None else previous
            self.end({i: self.outcome(i, "exploded", reason, good) for i, reason in reasons.items()})
        if self.active:
            self.recorder.record(self.active, self.state, self.batch.integrator)
            if settings.responses_every is not None and step % settings.responses_every == 0:
                self.recorder.record_responses(self.active, self.state, self.batch.electric_responses(self.state))
        if self.active and observer is not None and step % settings.observe_every == 0:
            self.observe(observer)
        if step % settings.checkpoint_every == 0:
            self.checkpoint()

    def observe(self, observer: Observer) -> None:
        """Ask the observer, and stop the replicas that it names."""
        state = self.state
        observation = Observation(
            step=state.step,
            time=self.time_of(state),
            replicas=self.active,
            graph=self.batch.graph_at(state.positions, state.cell, state.field),
            state=state,
            temperatures=self.temperatures[list(self.active)],
            starts=tuple(self.frames[i] for i in self.active),
        )
        answer = observer(state.step, observation)
        if answer is None:
            return
        stop = np.asarray(answer.cpu() if isinstance(answer, Tensor) else answer, dtype=bool)
        if stop.shape != (len(self.active),):
            raise ValueError(f"the observer must return one bool for each of {len(self.active)} active replicas")
        reason = "stopped by the observer"
        self.end({int(i): self.outcome(int(i), "stopped", reason, state) for i in np.flatnonzero(stop)})

    def end(self, outcomes: dict[int, ReplicaOutcome]) -> None:
        """Take replicas (by their place in the batch) out of it."""
        if not outcomes:
            return
        self.recorder.close_segments()
        self.outcomes.extend(outcomes.values())
        keep = [i for i in range(len(self.active)) if i not in outcomes]
        if not keep:
            self.active = ()
            return
        places = torch.tensor(keep, device=self.device)
        atoms = torch.isin(self.batch.particles.structure, places)
        self.state = self.state.keep(atoms, places)
        self.noise = self.noise.keep(keep)
        neighbours = self.batch.neighbours
        reference = neighbours.reference[atoms], neighbours.reference_cell[places]
        self.activate(tuple(self.active[i] for i in keep), reference)

    def control_at(self, step: int) -> Tensor:
        """What is held for the active replicas, V/A, (A, 3), float64."""
        moment = step * self.settings.timestep
        return torch.tensor(np.stack([self.protocols[i](moment) for i in self.active]), device=self.device)

    def time_of(self, state: State) -> float:
        """Time of a state, fs."""
        return state.step * self.settings.timestep

    def outcome(self, place: int, status: str, reason: str, state: State) -> ReplicaOutcome:
        """How the replica at a place in the batch ended."""
        replica = self.active[place]
        positions = state.positions[self.batch.particles.structure == place]
        return ReplicaOutcome(
            replica=replica,
            status=status,  # type: ignore[arg-type]
            reason=reason,
            step=state.step,
            time=self.time_of(state),
            frame=frames_at([self.frames[replica]], positions, state.cell[place][None])[0],
            field=state.field[place].cpu().numpy(),
            temperature=float(self.temperatures[replica]),
        )

    def checkpoint(self) -> None:
        """Bring the output to the disk, then write the checkpoint: no segment reaches beyond one."""
        self.recorder.flush()
        if self.directory is None:
            return
        Checkpoint(
            state=self.state,
            active=self.active,
            reference=self.batch.neighbours.reference,
            reference_cell=self.batch.neighbours.reference_cell,
            noise_states=tuple(self.noise.states),
            noise_block=self.noise.block,
            outcomes=tuple(self.outcomes),
        ).save(self.directory)


def _check(model: EnthalpyModel, frames: Sequence[Frame], settings: DynamicsSettings) -> None:
    """Refuse what cannot run."""
    if not frames:
        raise ValueError("dynamics needs at least one frame")
    if settings.moving_cell and not all(all(frame.pbc) for frame in frames):
        raise ValueError(f"ensemble: {settings.ensemble} needs frames that are periodic in all three directions")
    if settings.fixed == "displacement" and not all(all(frame.pbc) for frame in frames):
        raise ValueError("fixed: displacement needs frames that are periodic in all three directions")
    in_field = settings.fixed == "displacement" or any(field != StaticField() for field in settings.fields)
    if in_field and not sees_the_field(model, frames[0]):
        raise ValueError("the model has no field as input: train one that has, or run without a field")


def _initial_velocities(frames: Sequence[Frame], velocities: Sequence[np.ndarray] | None) -> list[Tensor | None]:
    if velocities is None:
        return [None] * len(frames)
    if len(velocities) != len(frames):
        raise ValueError(f"{len(velocities)} sets of velocities for {len(frames)} frames")
    for i, (frame, given) in enumerate(zip(frames, velocities, strict=True)):
        if np.shape(given) != (len(frame), 3) or not np.isfinite(given).all():
            raise ValueError(f"velocities of frame {i} must be finite and of shape ({len(frame)}, 3)")
    return [torch.tensor(np.asarray(given, dtype=float)) for given in velocities]
