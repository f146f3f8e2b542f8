"""The campaign file: one YAML that says what to label, train, explore and when to stop.

Every section is the settings model of the part it configures, so a key means the same in YAML and in Python.
Unknown keys and wrong units are refused with the place where they stand.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    model_validator,
)

from ..active_learning.criteria import StopCriterion
from ..active_learning.sampling.seeds import SeedSettings
from ..active_learning.sampling.sources import located
from ..active_learning.selection import SelectionSettings
from ..dft_inputs.abinit.code import AbinitCode
from ..dft_inputs.codes import CODES, DEFAULT_CODE
from ..dft_inputs.espresso.code import PwCode
from ..dft_inputs.program import Program
from ..dft_inputs.quantities import FieldStrength, Temperature, Time
from ..dft_inputs.stencil import DEFAULT_STEP
from ..dft_inputs.vasp.code import VaspCode
from ..model.settings import NetworkConfig, TrainingSettings


class ConfigError(ValueError):
    """A campaign file that cannot be run; the message is one line for people."""


C = TypeVar("C", bound="ProjectConfig")
_LONGEST_RUN = 86400.0
"""s; a run of DFT that takes longer hangs, where the file does not say otherwise."""
_FOLDERS = ("pseudo_dir", "potcar_dir", "scratch_dir")
"""Settings of programs that are paths."""


class Section(BaseModel):
    """Base of the sections: frozen, closed to unknown keys, finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CodesSection(Section):
    """How the programs are run on this machine; nothing of this changes a number. Those not asked for may be missing.

    Attributes:
        pw: Quantum ESPRESSO.
        abinit: ABINIT.
        vasp: VASP.
    """

    pw: PwCode = PwCode()
    abinit: AbinitCode = AbinitCode()
    vasp: VaspCode = VaspCode()

    def program(self, code: str, pseudopotentials: Mapping[str, str] | None = None) -> Program:
        """How a code is run.

        Args:
            code: its name.
            pseudopotentials: file name by element, beside those of the section.

        Raises:
            ConfigError: names of files for a code that does not take them.
        """
        program: Program = getattr(self, CODES[code].program.section.removeprefix("codes."))
        changes: dict[str, Any] = {} if "timeout" in program.model_fields_set else {"timeout": _LONGEST_RUN}
        if pseudopotentials:
            if "pseudopotentials" not in type(program).model_fields:
                raise ConfigError("label.pseudopotentials: name POTCAR files in label.settings.potcars")
            changes["pseudopotentials"] = {**getattr(program, "pseudopotentials"), **pseudopotentials}  # noqa: B009
        return type(program).model_validate({**program.model_dump(), **changes})


def _known_code(name: str) -> str:
    if name not in CODES:
        raise ValueError(f"unknown code {name!r}; there are {', '.join(CODES)}")
    return name


class LabelSection(Section):
    """The level of theory and the stencil of the labels.

    Attributes:
        code: the DFT code: ``pw.x``, ``abinit`` or ``vasp``.
        protocol: ``fast``, ``standard`` or, but for VASP, ``paper``.
        settings: changes to the protocol, e.g. ``{kpoints: [2, 2, 2]}`` or ``{kpoint_density: 25}``; a mesh is that of
            the parent crystal, and supercells of it get as many k-points per length.
        pseudopotentials: file name by element; found by element in ``pseudo_dir`` where not given.
        field_step: step of the field stencil, or ``auto`` to choose it from the gap of the parent; what suits the code
            where not given.
        order: order of the stencil, 2 or 4; with 4 the responses of order 2 are stored beside.
        split_fields: a job for zero field and one for each axis, for frames that outlast a batch job.
    """

    code: Annotated[str, AfterValidator(_known_code)] = DEFAULT_CODE
    protocol: str = "standard"
    settings: dict[str, Any] = {}
    pseudopotentials: dict[str, str] = {}
    field_step: Annotated[
        Annotated[FieldStrength, Field(gt=0)] | None, BeforeValidator(lambda step: None if step == "auto" else step)
    ] = DEFAULT_STEP
    order: Literal[2, 4] = 2
    split_fields: bool = False


class CommitteeSection(Section):
    """The networks and how they are trained.

    Attributes:
        members: size of the committee.
        network: architecture (species are taken from the structure).
        training: of the first generation; with ``network.reference: many_body`` of all, each of which starts anew.
        retraining_epochs: of later generations, which start from the weights before.
        retraining_learning_rate: of later generations; that of ``training`` where not given. A third of that keeps what
            was learned.
        together: train all members in one job and one pass. Each costs less (half for small cells on a CPU, most of it
            on a GPU), but they share one processor.
        validation_every: every n-th first frame validates and is never trained on.
        seed: of the first member.
    """

    members: int = Field(default=3, ge=2)
    network: dict[str, Any] = {}
    training: TrainingSettings = TrainingSettings()
    retraining_epochs: PositiveInt = 60
    retraining_learning_rate: float | None = Field(default=None, gt=0)
    together: bool = False
    validation_every: int = Field(default=5, ge=2)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _compiled_alone(self) -> CommitteeSection:
        if self.together and self.training.compile:
            raise ValueError("training.compile is for networks that are trained one by one: set together: false")
        return self


class ExplorationSection(Section):
    """Langevin dynamics that looks for frames the committee is unsure of.

    Attributes:
        temperatures: K; each is run in each field.
        fields: static fields, V/A, (3,) components each.
        replicas: copies of each run, with their own random numbers.
        timestep: of the dynamics, fs.
        duration: of each run, fs.
        friction: 1/fs.
        candidate_every: time between frames whose uncertainty is measured, fs.
        stop_ratio: a replica is stopped where the raw spread of its forces passes this many times their bound.
    """

    temperatures: tuple[Annotated[Temperature, Field(ge=0)], ...] = Field(default=(300.0,), min_length=1)
    fields: tuple[tuple[FieldStrength, FieldStrength, FieldStrength], ...] = Field(default=((0, 0, 0),), min_length=1)
    replicas: PositiveInt = 1
    timestep: Annotated[Time, Field(gt=0)] = 1.0
    duration: Annotated[Time, Field(gt=0)] = 1000.0
    friction: float = Field(default=0.01, gt=0)
    candidate_every: Annotated[Time, Field(gt=0)] = 50.0
    stop_ratio: float = Field(default=5.0, gt=1)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _some_candidate(self) -> ExplorationSection:
        if not self.timestep <= self.candidate_every <= self.duration:
            raise ValueError(
                f"candidate_every ({self.candidate_every:g} fs) must lie between timestep ({self.timestep:g} fs) "
                f"and duration ({self.duration:g} fs)"
            )
        return self


class ProjectConfig(Section):
    """What every file says that has a crystal labelled.

    Attributes:
        name: of the project; a store remembers it.
        structure: file of the parent crystal, any format ASE reads, beside the YAML.
        directory: where everything is kept, beside the YAML.
        workers: DFT calculations and trainings at a time.
    """

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9_.-]+$")
    structure: Path
    directory: Path = Path("run")
    workers: PositiveInt = 2
    codes: CodesSection = CodesSection()
    label: LabelSection = LabelSection()


class CampaignConfig(ProjectConfig):
    """A campaign.

    Attributes:
        reference_charges: oxidation number of each element, e.
    """

    reference_charges: dict[str, int] = {}
    seeds: SeedSettings = SeedSettings()
    committee: CommitteeSection = CommitteeSection()
    exploration: ExplorationSection = ExplorationSection()
    selection: SelectionSettings
    stop: StopCriterion

    @model_validator(mode="after")
    def _enough_frames(self) -> CampaignConfig:
        if self.seeds.most < self.committee.validation_every:
            raise ValueError(
                f"seeds.count ({self.seeds.most}) leaves no validation frame: "
                f"make it at least committee.validation_every ({self.committee.validation_every})"
            )
        return self

    def network(self, species: tuple[str, ...]) -> NetworkConfig:
        """The architecture for the species of the structure, in alphabetical order.

        Raises:
            ConfigError: unknown keys, or reference charges that do not name these species.
        """
        settings = {"species": tuple(sorted(set(species))), "reference_charges": self.reference_charges}
        if known := settings.keys() & self.committee.network.keys():
            raise ConfigError(f"committee.network: {known.pop()} is known from elsewhere in the file, leave it out")
        try:
            return NetworkConfig(**{**settings, **self.committee.network})
        except (ValidationError, TypeError) as error:
            raise ConfigError(f"committee.network: {first_error(error)}") from error


class SamplingConfig(ProjectConfig):
    """A campaign as far as its first frames are concerned; its other sections may be missing."""

    name: str = "sampling"
    seeds: SeedSettings = SeedSettings()
    reference_charges: Any = None
    committee: Any = None
    exploration: Any = None
    selection: Any = None
    stop: Any = None


def load_config(path: Path) -> CampaignConfig:
    """Read a campaign file; see ``load_project``.

    Args:
        path: the YAML; relative paths in it are taken from its folder.

    Raises:
        ConfigError: no such file, invalid YAML, unknown keys, wrong units or values; one line with the place.
    """
    return load_project(path, CampaignConfig)


def load_project(path: Path, kind: type[C]) -> C:
    """Read a file of this kind; relative paths are taken from its folder.

    Raises:
        ConfigError: no such file, invalid YAML, unknown keys, wrong units or values; one line with the place.
    """
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), UniqueKeySafeLoader)  # noqa: S506  (a SafeLoader)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a text file: it must be YAML in UTF-8") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold a mapping with keys such as name and structure")
    try:
        config = kind(**data)
    except (ValidationError, TypeError) as error:
        raise ConfigError(f"{path}: {first_error(error)}") from error
    base = path.resolve().parent
    changes: dict[str, Any] = {
        "structure": base / config.structure.expanduser(),
        "directory": base / config.directory.expanduser(),
        "codes": CodesSection.model_validate({name: _program_beside(base, program) for name, program in config.codes}),
    }
    if isinstance(config, CampaignConfig | SamplingConfig):
        changes["seeds"] = located(config.seeds, base)
    return config.model_copy(update=changes)


def _program_beside(base: Path, program: Program) -> Program:
    """A program whose paths do not depend on the working directory, as it has its own."""
    changes = {"command": _placed(program.command, base)}
    changes |= {
        name: str(base / Path(path).expanduser())
        for name in _FOLDERS
        if (path := getattr(program, name, None)) is not None
    }
    return program.model_copy(update=changes)


def _placed(command: str, base: Path) -> str:
    """A command whose program, where it is a path, does not depend on the working directory."""
    program, *arguments = shlex.split(command)
    if "/" in program:
        program = str(base / Path(program).expanduser())
    return shlex.join([program, *arguments])


class UniqueKeySafeLoader(yaml.SafeLoader):
    """YAML lets a key come twice and takes the last one; a campaign file with two values for one key is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """A mapping; raises where a key comes twice."""
        seen = set()
        for key_node, _ in node.value:
            key = str(self.construct_object(key_node, deep=True))
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def first_error(error: Exception) -> str:
    """The first complaint of a validation in one line: place, what is wrong, and what was given."""
    if not isinstance(error, ValidationError):
        return " ".join(str(error).split())
    details = error.errors()[0]
    place = ".".join(str(part) for part in details["loc"])
    if details["type"] == "extra_forbidden":
        return f"unknown key {place}"
    if details["type"] == "missing":
        return f"{place} is missing"
    message = details["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
