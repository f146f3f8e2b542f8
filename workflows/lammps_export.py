"""A model as a file for ``pair_style mliap unified`` of a LAMMPS with the packages ML-IAP and PYTHON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..model.dynamics.fields import StaticField, peak_field
from .config import ConfigError
from .lammps_files import read_lammps_section
from .md_files import beyond_labels, model_directory


@dataclass(frozen=True)
class ExportRequest:
    """What the user asks for.

    Attributes:
        model: folder of a model or of a training.
        output: the file.
        field: three numbers, and their unit if it is not V/A; None for no field.
        species: chemical symbol of each atom type, for the lines of the script; the model's where not given.
        charges_by_efield: the script has a ``fix efield`` for the reference charges.
        compile: compile the derivatives at the start of a run.
        beyond_range: also a field that the labels of the model do not reach.
    """

    model: Path
    output: Path
    field: str | None = None
    species: Sequence[str] | None = None
    charges_by_efield: bool = False
    compile: bool = False
    beyond_range: bool = False


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        path: of it.
        model_id: hash of the model.
        lines: of a script of LAMMPS that uses it.
        warning: one line, or None.
    """

    path: Path
    model_id: str
    lines: tuple[str, ...]
    warning: str | None


def export_model(request: ExportRequest) -> Exported:
    """Check a model and its field, and write them for LAMMPS.

    Raises:
        ConfigError: no readable model, unknown species, or a field that cannot be honoured.
    """
    from ..model.files import ModelFileError, load_model, model_id  # noqa: PLC0415  (torch is imported where one runs)
    from ..model.interfaces.lammps_wheel import LammpsError  # noqa: PLC0415
    from ..model.interfaces.mliap import MliapSettings, efield_lines, write_mliap  # noqa: PLC0415

    field = read_lammps_section(None, (), request.field).field
    assert isinstance(field, StaticField)  # noqa: S101  (three numbers are)
    directory = model_directory(request.model)
    try:
        network = load_model(directory)
        species = network.species if request.species is None else tuple(request.species)
        if unknown := sorted(set(species) - set(network.species)):
            raise ConfigError(f"the model knows {', '.join(network.species)}, not {', '.join(unknown)}")
        warning = beyond_labels(peak_field(field, 0.0, 1), directory, request.beyond_range)
        settings = MliapSettings(
            field=field.vector, charges_by_efield=request.charges_by_efield, compile=request.compile
        )
        write_mliap(directory, request.output, settings)
    except (ModelFileError, LammpsError) as error:
        raise ConfigError(str(error)) from error
    lines = (
        f"pair_style mliap unified {request.output} 0",
        f"pair_coeff * * {' '.join(species)}",
        *efield_lines(network, species, field.vector),
    )
    return Exported(request.output, model_id(network), lines, warning)
