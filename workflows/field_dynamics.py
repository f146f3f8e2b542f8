"""Molecular dynamics in any field as a job: P, Born effective charges and the field stay with its output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase.io import write
from jobflow.core.job import Job, job
from jobflow.core.maker import Maker
from pydantic import ValidationError

from ..dft_inputs.records import AtomMatrices, Frame, Matrix, Record, StoredRecord, Vector
from .config import ConfigError, first_error
from .md_files import TRAJECTORY, MdRequest, MdSection, prepare_md, run_md
from .paths import recorded

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from ..model.dynamics import DynamicsResult

_START, _FOLDER = "start.extxyz", "md"


class FieldReplica(Record):
    """How one replica ended.

    Attributes:
        status: ``finished``, ``exploded`` or ``stopped``; ``reason`` says why.
        frame: the last one.
        time: of it, fs.
        field: then, V/A, (3,).
        polarization: then, the cell dipole, e A, (3,).
        mean_polarization: over the run, e A, (3,).
        mean_temperature: over the run, K.
        born_effective_charges: the last ones computed, e, (N, 3, 3), index [atom, field a, displacement b]; None
            without ``responses_every``.
        polarizability: of the same moment, e^2 A^2/eV, (3, 3).
    """

    status: str
    reason: str = ""
    frame: Frame
    time: float
    field: Vector
    polarization: Vector
    mean_polarization: Vector
    mean_temperature: float
    born_effective_charges: AtomMatrices | None = None
    polarizability: Matrix | None = None


class FieldDynamics(StoredRecord):
    """A run.

    Attributes:
        model_id: what drove.
        trajectory: directory with E, P and energies of every step, frames, and Z* every ``responses_every`` steps; for
            ``read_trajectory``.
        replicas: one each.
        warnings: one line each.
    """

    model_id: str
    trajectory: str
    replicas: tuple[FieldReplica, ...]
    warnings: tuple[str, ...] = ()


@dataclass
class FieldDynamicsMaker(Maker):
    """``fieldloop md`` as a job.

    Attributes:
        models: folders of models; the first drives, with two or more all of them judge.
        settings: as in the file of ``fieldloop md --settings``: ``dynamics``, ``replicas``, ``supercell``, ...
        beyond_range: run also in fields that the labels of the model do not reach.
    """

    name: str = "field dynamics"  # pyright: ignore[reportIncompatibleMethodOverride]
    models: Sequence[str] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    beyond_range: bool = False

    def make(self, structure: Structure | Frame) -> Job:
        """A job whose output is the ``FieldDynamics``.

        Args:
            structure: of pymatgen, or a frame; or the output of a job that is one.

        Raises:
            ConfigError: no model, or settings that cannot work.
        """
        if not self.models:
            raise ConfigError("models: name the folder of one model, or of several")
        self.section()
        # The job runs in another directory.
        made = run_field_dynamics(
            structure, replace(self, models=[str(Path(model).absolute()) for model in self.models])
        )
        made.name = self.name
        return made

    def section(self) -> MdSection:
        """The settings, checked.

        Raises:
            ConfigError: unknown keys or wrong values; one line.
        """
        try:
            return MdSection(**self.settings)
        except (ValidationError, TypeError) as error:
            raise ConfigError(f"settings: {first_error(error)}") from error


@job(output_schema=FieldDynamics)
def run_field_dynamics(structure: Structure | Frame, maker: FieldDynamicsMaker) -> FieldDynamics:
    """Run in the current directory; a run that was interrupted there goes on.

    Raises:
        ConfigError: as of ``prepare_md``.
    """
    here = Path.cwd()
    frame = structure if isinstance(structure, Frame) else Frame.from_structure(structure)
    write(here / _START, frame.to_atoms(), format="extxyz")
    models = tuple(Path(model) for model in maker.models)
    request = MdRequest(models, here / _START, here / _FOLDER, maker.section(), maker.beyond_range)
    prepared = prepare_md(request)
    result, _ = run_md(prepared)
    return FieldDynamics(
        model_id=prepared.model_id,
        trajectory=recorded(here / _FOLDER / TRAJECTORY),
        replicas=tuple(_replica(result, index) for index in range(len(result.outcomes))),
        warnings=prepared.warnings,
    )


def _replica(result: DynamicsResult, index: int) -> FieldReplica:
    outcome, series = result.outcomes[index], result.trajectory.series(index)
    responses = result.trajectory.responses(index)
    return FieldReplica(
        status=outcome.status,
        reason=outcome.reason,
        frame=outcome.frame,
        time=outcome.time,
        field=series.field[-1],
        polarization=series.polarization[-1],
        mean_polarization=series.polarization.mean(axis=0),
        mean_temperature=float(series.temperature.mean()),
        born_effective_charges=responses.born_effective_charges[-1] if len(responses) else None,
        polarizability=responses.polarizability[-1] if len(responses) else None,
    )
