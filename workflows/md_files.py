"""Molecular dynamics outside of a campaign: a model and a structure, settings from YAML, everything else in one folder.

The folder holds trajectory, settings and the frames that a committee was unsure of. The same request finds its run
there and goes on with it; another one is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import PositiveInt, ValidationError, model_validator

from ..active_learning.candidates import Candidates
from ..active_learning.plausibility import Plausibility, implausible
from ..active_learning.sampling.structures import read_structures
from ..active_learning.uncertainty.committee import UncertaintyError
from ..active_learning.uncertainty.watch import Flagged, UncertaintyWatch, WatchSettings
from ..dft_inputs.files import write_atomically
from ..dft_inputs.records import Frame
from ..dft_inputs.units import MV_PER_CM_IN_V_PER_ANGSTROM
from ..model.dynamics.fields import peak_field
from ..model.dynamics.settings import DynamicsSettings
from .config import ConfigError, Section, first_error
from .dynamics import judged
from .frame_files import write_frames
from .train_files import MODEL, read_mapping, set_key

if TYPE_CHECKING:
    from ..model.dynamics import DynamicsResult
    from ..model.dynamics.observation import ProgressCallback
    from ..model.interface import EnthalpyModel
    from ..model.network import EnthalpyNetwork

TRAJECTORY, REQUEST = "trajectory", "request.json"
UNCERTAIN_FRAMES, CANDIDATES = "uncertain.extxyz", "uncertain.npz"
Expansion = Literal["full", "quadratic", "first-order"]


class MdSection(Section):
    """What is run: the file of ``--settings``.

    Attributes:
        dynamics: ensemble, times, temperatures, fields, output.
        replicas: copies of the structure in one batch; as many as there are temperatures, fields or seeds by default.
        supercell: repetitions of the structure along its lattice vectors.
        expansion: ``full`` uses the model at the field; ``quadratic`` and ``first-order`` expand it about zero field.
        uncertainty: bounds on the uncertainty of a committee.
        compile: compile the derivatives of the driving model (``CompiledModel``), which takes a minute or more at the
            start.
        devices: what PyTorch calls them, such as ``cuda:0`` and ``cuda:1``, to share the replicas, or the atoms of a
            large system; the GPU where there is one, else the CPU by default.
    """

    dynamics: DynamicsSettings
    replicas: PositiveInt | None = None
    supercell: tuple[PositiveInt, PositiveInt, PositiveInt] = (1, 1, 1)
    expansion: Expansion = "full"
    uncertainty: WatchSettings = WatchSettings()
    compile: bool = False
    devices: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _full_model(self) -> MdSection:
        for key, value in (("compile: true", self.compile), ("devices", self.devices)):
            if value and self.expansion != "full":
                raise ValueError(f"{key} is for the full model, not for expansion: {self.expansion}")
        return self

    @property
    def n_replicas(self) -> int:
        """Copies of the structure."""
        dynamics = self.dynamics
        seeds = 1 if isinstance(dynamics.seed, int) else len(dynamics.seed)
        return self.replicas or max(len(dynamics.temperatures), len(dynamics.fields), seeds)


@dataclass(frozen=True)
class MdRequest:
    """What the user asks for.

    Attributes:
        models: folders of models; the first one drives, all of them judge.
        structure: file of the structure, in any format that ASE reads; its last image is taken.
        out: the folder.
        section: what is run.
        beyond_range: run also in fields that the labels of the model do not reach.
    """

    models: tuple[Path, ...]
    structure: Path
    out: Path
    section: MdSection
    beyond_range: bool = False


@dataclass(frozen=True)
class PreparedRun:
    """A request whose models and structure were read and checked; nothing has been run.

    Attributes:
        request: as given.
        members: the committee.
        model: what drives.
        model_id: of the first member.
        frames: where the replicas start.
        warnings: one line each.
    """

    request: MdRequest
    members: tuple[EnthalpyNetwork, ...]
    model: EnthalpyModel
    model_id: str
    frames: tuple[Frame, ...]
    warnings: tuple[str, ...] = field(default=())

    @property
    def settings(self) -> DynamicsSettings:
        """Of the dynamics."""
        return self.request.section.dynamics


def read_md_section(path: Path | None, changes: Sequence[str] = ()) -> MdSection:
    """Settings of a run from a file, then ``key.key=value`` changes.

    Raises:
        ConfigError: a file that cannot be read, unknown keys, wrong values; one line with the place.
    """
    data: dict[str, Any] = {} if path is None else read_mapping(path, "dynamics and uncertainty")
    for change in changes:
        set_key(data, change, "dynamics.steps=1000")
    data.setdefault("dynamics", {})
    try:
        return MdSection(**data)
    except (ValidationError, TypeError) as error:
        raise ConfigError(f"{path or '--set'}: {first_error(error)}") from error


def prepare_md(request: MdRequest) -> PreparedRun:
    """Read and check models, structure and fields.

    Raises:
        ConfigError: models or settings that do not fit together, a structure that cannot be run, a field beyond the
            range of the labels, or a folder of another run.
        SeedError: a structure that cannot be read.
    """
    from ..model.committee import load_committee  # noqa: PLC0415  (torch is imported where one runs)
    from ..model.files import ModelFileError, model_id  # noqa: PLC0415

    if request.out.exists() and not request.out.is_dir():
        raise ConfigError(f"{request.out} is a file: name a folder")
    frame = repeated(read_structures(request.structure, "-1:")[0], request.section.supercell)
    directories = [model_directory(path) for path in request.models]
    try:
        members = tuple(load_committee(directories))
    except ModelFileError as error:
        raise ConfigError(str(error)) from error
    _check_structure(frame, request, members)
    warning = _beyond_labels(request, directories[0])
    prepared = PreparedRun(
        request=request,
        members=members,
        model=driving(members[0], request.section),
        model_id=model_id(members[0]),
        frames=(frame,) * request.section.n_replicas,
        warnings=(warning,) if warning else (),
    )
    _check_settings(prepared)
    return prepared


def run_md(
    prepared: PreparedRun, progress: ProgressCallback | None = None
) -> tuple[DynamicsResult, UncertaintyWatch | None]:
    """Run, or go on, and leave trajectory, uncertain frames and request in the folder.

    Args:
        prepared: from ``prepare_md``.
        progress: called about twice a second.

    Raises:
        RootInUse: another process runs in this folder.
        ConfigError: settings that do not fit the structure.
    """
    from ..model.dynamics import run_dynamics  # noqa: PLC0415  (torch is imported where one runs)
    from .root_lock import root_lock  # noqa: PLC0415

    request = prepared.request
    watch = _watch(prepared)
    with root_lock(request.out):
        write_atomically(request.out / REQUEST, request.section.model_dump_json(indent=1) + "\n")
        try:
            result = run_dynamics(
                prepared.model,
                prepared.frames,
                prepared.settings,
                directory=request.out / TRAJECTORY,
                observer=watch,
                progress=progress,
            )
        except ValueError as error:  # by its contract: input that does not fit together
            raise ConfigError(str(error)) from error
    return result, watch


def driving(model: EnthalpyNetwork, section: MdSection) -> EnthalpyModel:
    """The model, compiled or not and on how many devices, or its expansion about zero field.

    Raises:
        ConfigError: a device that cannot be used.
    """
    from ..model.compiled import CompiledModel  # noqa: PLC0415
    from ..model.expansions import FirstOrderExpansion, QuadraticExpansion  # noqa: PLC0415
    from ..model.spread import SpreadModel  # noqa: PLC0415

    if section.expansion == "full":
        driver = CompiledModel(model) if section.compile else model
        try:
            return SpreadModel(driver, section.devices) if section.devices else driver
        except ValueError as error:
            raise ConfigError(str(error)) from error
    return QuadraticExpansion(model) if section.expansion == "quadratic" else FirstOrderExpansion(model)


def repeated(frame: Frame, supercell: tuple[int, int, int]) -> Frame:
    """A supercell."""
    return frame if supercell == (1, 1, 1) else Frame.from_atoms(frame.to_atoms().repeat(supercell))


def model_directory(path: Path) -> Path:
    """A model, or the folder of a training that holds it."""
    return path / MODEL if (path / MODEL).is_dir() else path


def _check_structure(frame: Frame, request: MdRequest, members: Sequence[EnthalpyNetwork]) -> None:
    from ..model.graph import species_index  # noqa: PLC0415

    try:
        for member in members:
            species_index([frame], member.species)
    except ValueError as error:
        raise ConfigError(f"{request.structure}: {error}") from error
    closest = request.section.dynamics.min_distance_ratio or 0.3
    if trouble := implausible(frame, Plausibility(min_contact=closest, max_gap=None)):
        raise ConfigError(f"{request.structure}: {trouble}")
    charges = members[0].config.reference_charges
    total = sum(charges.get(symbol, 0) for symbol in frame.species)
    if total and any(frame.pbc):
        raise ConfigError(
            f"{request.structure}: the model's reference charges of {frame.formula} add up to {total:+g} e"
        )


def _check_settings(prepared: PreparedRun) -> None:
    """Refuse what the engine would refuse, before anything is written."""
    from ..model.dynamics.identity import model_digest, require_same_run  # noqa: PLC0415
    from ..model.dynamics.trajectory import TrajectoryMeta  # noqa: PLC0415

    settings, frames = prepared.settings, prepared.frames
    try:
        settings.temperatures_of(len(frames))
        settings.fields_of(len(frames))
        settings.seeds_of(len(frames))
        meta = TrajectoryMeta(frames=frames, settings=settings, model_digest=model_digest(prepared.model))
        require_same_run(prepared.request.out / TRAJECTORY, meta)
        _watch(prepared)
    except (ValueError, UncertaintyError) as error:
        raise ConfigError(str(error)) from error


def _beyond_labels(request: MdRequest, directory: Path) -> str | None:
    """What is to be said of the field of a run."""
    dynamics = request.section.dynamics
    if dynamics.fixed == "displacement":
        return f"at constant displacement the field follows P: it may pass the range of the labels of {directory}"
    duration = dynamics.steps * dynamics.timestep
    largest = max(peak_field(protocol, duration) for protocol in dynamics.fields_of(len(dynamics.fields)))
    return beyond_labels(largest, directory, request.beyond_range)


def beyond_labels(largest: float, directory: Path, allowed: bool) -> str | None:
    """A warning where a field passes what a model was trained on, or where that is not known.

    Args:
        largest: |E|, V/A.
        directory: of the model.
        allowed: whether it may pass.

    Raises:
        ConfigError: it passes and may not.
    """
    from ..model.files import read_label_range  # noqa: PLC0415

    if largest == 0:
        return None
    reach = read_label_range(directory)
    asked = f"the field reaches {largest / MV_PER_CM_IN_V_PER_ANGSTROM:.3g} MV/cm"
    if reach is None:
        return f"{asked}; {directory} does not say up to which field its labels reach"
    if largest <= reach.largest_field * (1 + 1e-6):
        return None
    trained = f"{asked}, the labels of {directory} {reach.largest_field / MV_PER_CM_IN_V_PER_ANGSTROM:.3g} MV/cm"
    if not allowed:
        raise ConfigError(f"{trained}: train it on labels at such fields, or run it all the same with --beyond-range")
    return f"{trained}: beyond, the response is extrapolated"


def _watch(prepared: PreparedRun) -> UncertaintyWatch | None:
    """What judges the run; None where no bound is set.

    Raises:
        UncertaintyError: members that cannot be compared.
    """
    settings, out = prepared.request.section.uncertainty, prepared.request.out
    if not settings.judged:
        return None
    files = _FlaggedFiles(prepared.members, out)
    return UncertaintyWatch(
        prepared.members, settings, model_id=prepared.model_id, known=files.known(), on_flag=files.write
    )


class _FlaggedFiles:
    """Uncertain frames in two forms: for the selection of a campaign, and for anything that reads extended XYZ."""

    def __init__(self, members: Sequence[EnthalpyNetwork], folder: Path) -> None:
        self._members, self._folder = members, folder
        path = folder / CANDIDATES
        self._candidates = Candidates.load(path) if path.is_file() else judged(members, [], [])

    def known(self) -> list[Flagged]:
        """Those of a run before."""
        return [Flagged(*pair) for pair in zip(self._candidates.frames, self._candidates.proposals, strict=True)]

    def write(self, flagged: Sequence[Flagged]) -> None:
        """Judge the new ones by all labels and write them all."""
        new = flagged[len(self._candidates.frames) :]
        more = judged(self._members, [item.frame for item in new], [item.proposal for item in new])
        self._candidates = self._candidates.joined(more)
        self._candidates.save(self._folder / CANDIDATES)
        write_frames([(item.frame, item.proposal) for item in flagged], self._folder / UNCERTAIN_FRAMES)
