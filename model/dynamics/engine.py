"""Dynamics of a batch of replicas in electric fields: different structures, temperatures and fields at once."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from ase.data import atomic_masses, atomic_numbers, covalent_radii
from torch import Tensor

from ...dft_inputs.records import Frame
from ..graph import Graph
from ..interface import EnthalpyModel
from ..responses import Responses, compute_responses
from .checkpoint import Checkpoint
from .files import locked
from .integrators import (
    Langevin,
    NoiseStream,
    Particles,
    State,
    advance,
    initial_state,
    masses_in_internal_units,
    maxwell_boltzmann,
)
from .limits import exploded
from .neighbours import SkinNeighbours
from .outcomes import ReplicaOutcome
from .settings import DynamicsSettings
from .trajectory import Trajectory, TrajectoryMeta, TrajectoryWriter, read_meta

_PROGRESS_SECONDS = 0.5


@dataclass(frozen=True)
class Observation:
    """A moment of the active replicas, as an observer sees it.

    Attributes:
        step: steps done.
        time: fs.
        replicas: index of each active replica, in the order of the graph's structures.
        graph: the batch at this moment, ready for another model with the same species and cutoff.
        state: positions, velocities and responses.
        temperatures: of the thermostats, K, (A,).
        starts: the frame each active replica started from.
    """

    step: int
    time: float
    replicas: tuple[int, ...]
    graph: Graph
    state: State
    temperatures: np.ndarray
    starts: tuple[Frame, ...]

    @property
    def frames(self) -> list[Frame]:
        """Geometry of each active replica."""
        return _frames_at(self.starts, self.state.positions)

    @property
    def fields(self) -> np.ndarray:
        """Field of each active replica, V/A, (A, 3)."""
        return self.state.field.cpu().numpy()


@dataclass(frozen=True)
class Progress:
    """How far a run is: ``ns_per_day`` of simulated time per replica, ``atom_steps_per_second`` over the batch."""

    step: int
    steps: int
    active: int
    ns_per_day: float
    atom_steps_per_second: float


Observer = Callable[[int, Observation], Sequence[bool] | np.ndarray | Tensor | None]
"""Called with (step, observation); may return which of the active replicas to stop."""

ProgressCallback = Callable[[Progress], None]


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
        ValueError: input that does not fit together, or a directory of a different run.
        RuntimeError: another process works in the directory.
    """
    frames = tuple(frames)
    if not frames:
        raise ValueError("dynamics needs at least one frame")
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
            _same_run(directory, meta)
        self.writer = TrajectoryWriter(directory, meta)

    def find_checkpoint(self) -> Checkpoint | None:
        """The checkpoint to go on from; later or orphaned segments are removed."""
        checkpoint = None if self.directory is None else Checkpoint.load(self.directory, self.device)
        self.writer.truncate(-1 if checkpoint is None else checkpoint.state.step)
        return checkpoint

    def start(self, velocities: list[Tensor | None], observer: Observer | None) -> None:
        """Step 0."""
        generators = [torch.Generator(device=self.device).manual_seed(seed) for seed in self.seeds]
        positions = torch.tensor(np.concatenate([f.positions for f in self.frames]), device=self.device)
        self.activate(tuple(range(len(self.frames))), positions)
        masses = torch.split(self.particles.masses, [len(frame) for frame in self.frames])
        drawn = [
            maxwell_boltzmann(masses[i], self.temperatures[i], generators[i]) if given is None else given
            for i, given in enumerate(velocities)
        ]
        self.noise = NoiseStream(generators, [len(frame) for frame in self.frames])
        moving = torch.cat([v.to(self.device) for v in drawn])
        self.state = initial_state(positions, moving, self.field_at(0), self.evaluate)
        self.after_step(None, observer)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Be where the checkpoint was written."""
        self.outcomes = list(checkpoint.outcomes)
        self.state = checkpoint.state
        self.activate(checkpoint.active, checkpoint.reference)
        if self.active:
            counts = [len(self.frames[i]) for i in checkpoint.active]
            self.noise = NoiseStream.resumed(checkpoint.noise_states, checkpoint.noise_block, counts, self.device)

    def activate(self, active: tuple[int, ...], reference: Tensor) -> None:
        """Make the batch of the active replicas."""
        self.active = active
        if not active:
            return
        starts = [self.frames[i] for i in active]
        numbers = np.array([atomic_numbers[symbol] for frame in starts for symbol in frame.species])
        structure = torch.tensor(np.repeat(np.arange(len(active)), [len(f) for f in starts]), device=self.device)
        masses = masses_in_internal_units(torch.tensor(atomic_masses[numbers], device=self.device))
        self.radii = torch.tensor(covalent_radii[numbers], device=self.device)
        self.particles = Particles(masses, structure, len(active))
        self.neighbours = SkinNeighbours(self.model, starts, self.settings.skin, reference)
        temperatures = torch.tensor(self.temperatures[list(active)], device=self.device)[structure]
        self.bath = Langevin(masses, temperatures, self.settings.friction, self.settings.timestep)

    def finish(self, observer: Observer | None, progress: ProgressCallback | None) -> DynamicsResult:
        """All steps that remain."""
        began = last = time.monotonic()
        first = self.state.step
        atom_steps = 0
        while self.active and self.state.step < self.settings.steps:
            previous = self.state
            self.state = self.step()
            atom_steps += len(self.particles.masses)
            self.after_step(previous, observer)
            now = time.monotonic()
            at_end = not self.active or self.state.step == self.settings.steps
            if progress is not None and (now - last > _PROGRESS_SECONDS or at_end):
                last = now
                seconds = max(now - began, 1e-9)
                rate = (self.state.step - first) * self.settings.timestep * 1e-6 * 86400 / seconds
                progress(Progress(self.state.step, self.settings.steps, len(self.active), rate, atom_steps / seconds))
        if self.state.step > first:
            self.checkpoint()
        ended = [self.outcome(i, "finished", "", self.state) for i in range(len(self.active))]
        outcomes = tuple(sorted([*self.outcomes, *ended], key=lambda outcome: outcome.replica))
        return DynamicsResult(outcomes, self.writer.trajectory(), self.state.step - first, time.monotonic() - began)

    def step(self) -> State:
        """The state one timestep later."""
        noise = self.noise.at(self.state.step) if self.settings.ensemble == "langevin" else None
        thermostat = None if noise is None else lambda velocities: self.bath(velocities, noise)
        field = self.field_at(self.state.step + 1)
        return advance(self.state, field, self.evaluate, self.particles, self.settings.timestep, thermostat)

    def after_step(self, previous: State | None, observer: Observer | None) -> None:
        """Limits, output, observer and checkpoint of the step just done, in this order."""
        step = self.state.step
        reasons = exploded(self.state, previous, self.graph, self.particles, self.radii, self.settings)
        if reasons:
            good = self.state if previous is None else previous
            self.end({i: self.outcome(i, "exploded", reason, good) for i, reason in reasons.items()})
        if self.active and step % self.settings.save_every == 0:
            self.writer.append(self.active, self.saved_frame())
        if self.active and observer is not None and step % self.settings.observe_every == 0:
            self.observe(observer)
        if step % self.settings.checkpoint_every == 0:
            self.checkpoint()

    def observe(self, observer: Observer) -> None:
        """Ask the observer, and stop the replicas that it names."""
        observation = Observation(
            step=self.state.step,
            time=self.time_of(self.state),
            replicas=self.active,
            graph=self.neighbours.graph(self.state.positions, self.state.field),
            state=self.state,
            temperatures=self.temperatures[list(self.active)],
            starts=tuple(self.frames[i] for i in self.active),
        )
        answer = observer(self.state.step, observation)
        if answer is None:
            return
        stop = np.asarray(answer.cpu() if isinstance(answer, Tensor) else answer, dtype=bool)
        if stop.shape != (len(self.active),):
            raise ValueError(f"the observer must return one bool for each of {len(self.active)} active replicas")
        reason = "stopped by the observer"
        self.end({int(i): self.outcome(int(i), "stopped", reason, self.state) for i in np.flatnonzero(stop)})

    def end(self, outcomes: dict[int, ReplicaOutcome]) -> None:
        """Take replicas (by their place in the batch) out of it."""
        if not outcomes:
            return
        self.writer.close_segment()
        self.outcomes.extend(outcomes.values())
        keep = [i for i in range(len(self.active)) if i not in outcomes]
        if not keep:
            self.active = ()
            return
        places = torch.tensor(keep, device=self.device)
        atoms = torch.isin(self.particles.structure, places)
        per_atom = ("positions", "velocities", "forces")
        kept = {
            f.name: getattr(self.state, f.name)[atoms if f.name in per_atom else places]
            for f in fields(self.state)
            if f.name != "step"
        }
        self.state = replace(self.state, **kept)
        self.noise = self.noise.keep(keep)
        self.activate(tuple(self.active[i] for i in keep), self.neighbours.reference[atoms])

    def evaluate(self, positions: Tensor, field: Tensor) -> Responses:
        """Enthalpy, forces and polarization of the batch."""
        self.graph = self.neighbours.graph(positions, field)
        return compute_responses(self.model, self.graph)

    def field_at(self, step: int) -> Tensor:
        """Field of the active replicas, V/A, (A, 3), float64."""
        moment = step * self.settings.timestep
        return torch.tensor(np.stack([self.protocols[i](moment) for i in self.active]), device=self.device)

    def time_of(self, state: State) -> float:
        """Time of a state, fs."""
        return state.step * self.settings.timestep

    def saved_frame(self) -> dict[str, np.ndarray]:
        """The state as the trajectory stores it."""
        state = self.state
        tensors = {
            "positions": state.positions,
            "velocities": state.velocities,
            "field": state.field,
            "enthalpy": state.enthalpy,
            "kinetic": self.particles.kinetic_energy(state.velocities),
            "polarization": state.polarization,
            "conserved": state.conserved(self.particles),
        }
        arrays = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
        return {"step": np.array(state.step), "time": np.array(self.time_of(state)), **arrays}

    def outcome(self, place: int, status: str, reason: str, state: State) -> ReplicaOutcome:
        """How the replica at a place in the batch ended."""
        replica = self.active[place]
        positions = state.positions[self.particles.structure == place]
        return ReplicaOutcome(
            replica=replica,
            status=status,  # type: ignore[arg-type]
            reason=reason,
            step=state.step,
            time=self.time_of(state),
            frame=_frames_at([self.frames[replica]], positions)[0],
            field=state.field[place].cpu().numpy(),
            temperature=float(self.temperatures[replica]),
        )

    def checkpoint(self) -> None:
        """Close the segment, then write the checkpoint: no segment reaches beyond one."""
        self.writer.close_segment()
        if self.directory is None:
            return
        Checkpoint(
            state=self.state,
            active=self.active,
            reference=self.neighbours.reference,
            noise_states=tuple(self.noise.states),
            noise_block=self.noise.block,
            outcomes=tuple(self.outcomes),
        ).save(self.directory)


def model_digest(model: EnthalpyModel) -> str:
    """SHA-256 of a model's kind, species, cutoff, ``config`` (where it has one) and weights."""
    config = getattr(model, "config", None)
    digest = hashlib.sha256(repr((type(model).__name__, model.species, model.cutoff, config)).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _same_run(directory: Path, meta: TrajectoryMeta) -> None:
    """Raise ValueError where the directory holds another run; the number of steps may differ."""
    found = read_meta(directory)
    if found is None:
        return
    differing = [
        name
        for name in DynamicsSettings.model_fields
        if name != "steps" and getattr(found.settings, name) != getattr(meta.settings, name)
    ]
    if found.frames != meta.frames:
        differing.append("frames")
    if found.model_digest != meta.model_digest:
        differing.append("model")
    if differing:
        raise ValueError(f"{directory} holds another run (different {', '.join(differing)}): choose a new directory")


def _initial_velocities(frames: Sequence[Frame], velocities: Sequence[np.ndarray] | None) -> list[Tensor | None]:
    if velocities is None:
        return [None] * len(frames)
    if len(velocities) != len(frames):
        raise ValueError(f"{len(velocities)} sets of velocities for {len(frames)} frames")
    for i, (frame, given) in enumerate(zip(frames, velocities, strict=True)):
        if np.shape(given) != (len(frame), 3) or not np.isfinite(given).all():
            raise ValueError(f"velocities of frame {i} must be finite and of shape ({len(frame)}, 3)")
    return [torch.tensor(np.asarray(given, dtype=float)) for given in velocities]


def _frames_at(starts: Sequence[Frame], positions: Tensor) -> list[Frame]:
    arrays = torch.split(positions.cpu(), [len(start) for start in starts])
    return [
        Frame(species=start.species, positions=array.numpy(), cell=start.cell, pbc=start.pbc)
        for start, array in zip(starts, arrays, strict=True)
    ]
