"""The jobs of a convergence study: checks of the crystal, a label for each setting, and the judgement of them all.

Labels are keyed by content, so a study that was killed, or to which values were added, runs only what is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import yaml
from ase import Atoms
from jobflow.core.flow import Flow
from jobflow.core.job import Job, JobConfig, job
from jobflow.core.maker import Maker
from jobflow.core.reference import OnMissing
from pymatgen.core import Structure

from ...dft_inputs.codes import DEFAULT_CODE, name_of
from ...dft_inputs.engine import LevelOfTheory
from ...dft_inputs.records import Frame, LabelledFrame, Proposal, Record
from ...dft_inputs.units import MV_PER_CM_IN_V_PER_ANGSTROM
from ..campaign import check_label_inputs, read_parent
from ..config import ConfigError
from ..keys import content_key, content_uuid
from ..labelling import LabelMaker, as_frame
from ..loop import label_maker
from ..records import ParentCheck
from .config import (
    CUTOFFS,
    THRESHOLDS,
    ConvergenceConfig,
    Parameter,
    Tolerances,
    VarySection,
    value_text,
    varied_settings,
)
from .judge import judge_series, recommend, responses
from .records import ConvergenceRow, ConvergenceStudy, Recommendation, Series, Setting

_ORDER = 1e-5
"""Largest distance, A, between an atom and itself in another record of the frame."""


@dataclass
class ConvergenceMaker(Maker):
    """Labels of one crystal with one setting at a time varied, and the protocol that follows.

    Attributes:
        label: the base level of theory.
        vary: values of each parameter.
        tolerances: the accuracy wanted.
    """

    vary: VarySection
    tolerances: Tolerances
    label: LabelMaker = field(default_factory=LabelMaker)
    name: str = "converge"  # pyright: ignore[reportIncompatibleMethodOverride]

    @classmethod
    def from_config(cls, config: ConvergenceConfig) -> ConvergenceMaker:
        """The study of a file.

        Raises:
            ConfigError: a section that cannot work.
        """
        return cls(vary=config.vary, tolerances=config.tolerances, label=label_maker(config), name=config.name)

    def makers(self, frame: Frame) -> dict[Parameter, list[LabelMaker]]:
        """The label maker of each value, by parameter; parameters that are not varied are left out.

        Raises:
            ConfigError: a parameter or value that the code cannot do.
        """
        base = self.base(frame)
        here = setting_of(base)
        makers: dict[Parameter, list[LabelMaker]] = {}
        if foreign := [name for name in self.vary.parameters if name not in here.parameters]:
            raise ConfigError(f"vary.{foreign[0]}: {name_of(base.settings)} has {', '.join(here.parameters)}")
        for parameter in here.parameters:
            if values := self.vary.series(parameter, here.value(parameter)):
                makers[parameter] = [_varied(base, parameter, value) for value in values]
        return makers

    def base(self, frame: Frame) -> LabelMaker:
        """The base with the mesh of this crystal.

        Raises:
            ConfigError: a base without a field step.
        """
        if self.label.step is None:
            raise ConfigError("label.field_step: name the step of the base, about which the others are varied")
        return replace(self.label, settings=self.label.settings_for(frame))

    def make_checks(self, frame: Frame) -> list[Job]:
        """Jobs that refuse a metal, and fields above the critical one of the meshes; the first is that of the base."""
        varied = self.makers(frame)
        # Steps run from large to small, meshes from coarse to dense.
        makers = [varied["field_step"][0] if "field_step" in varied else self.base(frame)]
        if "kpoints" in varied:
            makers.append(varied["kpoints"][-1])
        checks = [maker.make_check(frame) for maker in makers]
        return list({check.uuid: check for check in checks}.values())

    def label_ids(self, frame: Frame) -> list[str]:
        """``label_id`` of every label of the study, each once."""
        return list(dict.fromkeys(maker.label_id(frame) for makers in self.makers(frame).values() for maker in makers))

    def make(self, structure: Frame | Atoms | Structure) -> Flow:
        """The flow; the output of its last job is the ``ConvergenceStudy``.

        Args:
            structure: the crystal.
        """
        frame = as_frame(structure)
        checks = self.make_checks(frame)
        labels: dict[str, Job | Flow] = {}
        plans: list[SeriesPlan] = []
        for parameter, makers in self.makers(frame).items():
            settings = tuple(setting_of(maker) for maker in makers)
            ids = tuple(maker.label_id(frame) for maker in makers)
            plans.append(SeriesPlan(parameter=parameter, settings=settings, label_ids=ids))
            for maker, setting, identity in zip(makers, settings, ids, strict=True):
                if identity not in labels:
                    text = f"{parameter} {value_text(parameter, setting.value(parameter))}"
                    proposal = Proposal(origin="convergence", reason=text)
                    labels[identity] = maker.make(frame, proposal, gap=checks[-1].output.gap)
                    labels[identity].name = text
        study = judge(self, frame, plans, [check.output for check in checks], [one.output for one in labels.values()])
        # The same in every run of the same study; a label that has failed leaves its row empty.
        study.set_uuid(content_uuid(content_key("convergence", list(labels), self.tolerances, self.name)))
        study.metadata["directory"] = "study"
        study.config = JobConfig(on_missing_references=OnMissing.NONE)
        return Flow([*checks, *labels.values(), study], name=self.name)


class SeriesPlan(Record):
    """Settings of a series and the ``label_id`` of each."""

    parameter: Parameter
    settings: tuple[Setting, ...]
    label_ids: tuple[str, ...]


@dataclass(frozen=True)
class PreparedStudy:
    """A study whose inputs were all checked; nothing has been run."""

    config: ConvergenceConfig
    frame: Frame
    maker: ConvergenceMaker
    checks: list[Job]
    flow: Flow

    @property
    def study_uuid(self) -> str:
        """The job whose output is the study."""
        return self.flow.job_uuids[-1]


def prepare_study(config: ConvergenceConfig) -> PreparedStudy:
    """Check everything that can be checked without DFT.

    Raises:
        ConfigError: a structure, setting or unit that cannot work.
        ProgramNotFoundError, PseudopotentialError: see there.
    """
    frame = read_parent(config)
    maker = ConvergenceMaker.from_config(config)
    for makers in maker.makers(frame).values():
        for one in makers:
            check_label_inputs(one, [frame])
    return PreparedStudy(config, frame, maker, maker.make_checks(frame), maker.make(frame))


@job
def judge(
    maker: ConvergenceMaker,
    frame: Frame,
    plans: Sequence[SeriesPlan],
    checks: Sequence[ParentCheck],
    labels: Sequence[LabelledFrame | None],
) -> ConvergenceStudy:
    """Compare the labels of each series, and recommend."""
    return judge_study(maker, frame, plans, checks, [label for label in labels if label is not None])


def judge_study(
    maker: ConvergenceMaker,
    frame: Frame,
    plans: Sequence[SeriesPlan],
    checks: Sequence[ParentCheck],
    labels: Sequence[LabelledFrame],
) -> ConvergenceStudy:
    """The study that these labels make.

    Args:
        maker: what was varied, and the accuracy wanted.
        frame: the crystal.
        plans: the settings of each series and their labels.
        checks: of the crystal, the base first.
        labels: those that were made.
    """
    base = setting_of(maker.base(frame))
    by_id = {label.label_id: label for label in labels}
    share = 1 / len(plans)
    series = []
    for plan in plans:
        rows = [
            _row(frame, setting, identity, by_id.get(identity), base)
            for setting, identity in zip(plan.settings, plan.label_ids, strict=True)
        ]
        series.append(judge_series(plan.parameter, _with_costs(rows), maker.tolerances, share))
    gap = min(check.gap for check in checks)
    recommendation = recommend(series, base, frame, gap)
    return ConvergenceStudy(
        name=maker.name,
        formula=frame.formula,
        frame_id=frame.frame_id,
        species=frame.species,
        gap=gap,
        critical_field=checks[0].critical_field,
        base=base,
        tolerances=maker.tolerances,
        share=share,
        series=tuple(series),
        recommendation=recommendation.model_copy(update={"yaml": protocol_yaml(maker.label, recommendation, series)}),
    )


def setting_of(maker: LabelMaker) -> Setting:
    """What a study varies of a label maker whose mesh is known."""
    settings = maker.settings
    own = {name: value for name in (*CUTOFFS, *THRESHOLDS) if (value := getattr(settings, name, None)) is not None}
    return Setting.model_validate({"kpoints": settings.mesh, "field_step": maker.stencil.step, **own})


def protocol_yaml(maker: LabelMaker, recommendation: Recommendation, series: Sequence[Series]) -> str:
    """The ``label`` section of a campaign file, with the caveats as comments."""
    setting, settings = recommendation.setting, maker.settings
    named: list[Parameter] = [name for name in setting.parameters if name != "field_step"]
    for name in named:
        settings = varied_settings(settings, name, setting.value(name))
    code = name_of(settings)
    protocol = _protocol(settings)
    label: dict = {
        **({} if code == DEFAULT_CODE else {"code": code}),
        "protocol": protocol,
        "settings": _written(settings, protocol, named),
        "field_step": f"{setting.field_step / MV_PER_CM_IN_V_PER_ANGSTROM:.6g} MV/cm",
        "order": maker.order,
    }
    if files := getattr(maker.code, "pseudopotentials", None):
        label["pseudopotentials"] = dict(files)
    varied = ", ".join(one.parameter for one in series)
    head = [f"Varied one at a time: {varied}.", *(f"Caveat: {note}." for note in recommendation.notes)]
    text = yaml.safe_dump({"label": label}, sort_keys=False, default_flow_style=None, width=120)
    return "".join(f"# {line}\n" for line in head) + text


def _protocol(settings: LevelOfTheory) -> str:
    """The named level of theory to begin from."""
    try:
        type(settings).from_protocol(settings.protocol)
    except ValueError:
        return "standard"
    return settings.protocol


def _written(settings: LevelOfTheory, protocol: str, named: Sequence[Parameter]) -> dict[str, Any]:
    """Settings to write beside the name of a protocol: those that are not its own, even where they are defaults."""
    own = settings.model_dump(mode="json", exclude={"protocol", "kpoint_density"})
    theirs = type(settings).from_protocol(protocol).model_dump(mode="json")
    plain = type(settings)(**{name: own[name] for name in named}).model_dump(mode="json")
    changed = {key: value for key, value in own.items() if value != plain[key] or value != theirs[key]}
    return {**changed, **{name: own[name] for name in named}}


def _varied(base: LabelMaker, parameter: Parameter, value: tuple[int, int, int] | float) -> LabelMaker:
    if parameter == "field_step":
        return replace(base, step=value)
    return replace(base, settings=varied_settings(base.settings, parameter, value))


def _row(frame: Frame, setting: Setting, identity: str, label: LabelledFrame | None, base: Setting) -> ConvergenceRow:
    row = ConvergenceRow(
        setting=setting,
        label_id=identity,
        base=setting == base,
        string_length=float((np.linalg.norm(frame.cell, axis=1) * np.array(setting.kpoints)).min()),
    )
    failure = _failure(frame, label)
    if label is None or failure is not None:
        return row.model_copy(update={"failure": failure})
    cost = label.provenance
    return row.model_copy(
        update={
            "flags": label.quality.flags,
            "responses": responses(label),
            "scf_count": cost.scf_count,
            "scf_iterations": cost.scf_iterations,
            "cpu_seconds": cost.cpu_seconds,
        }
    )


def _failure(frame: Frame, label: LabelledFrame | None) -> str | None:
    if label is None:
        return "its job was lost"
    if label.status == "failed":
        return label.failure or "no reason given"
    same = label.frame.species == frame.species and np.allclose(label.frame.positions, frame.positions, atol=_ORDER)
    return None if same else "the store holds it with the atoms in another order; use another directory"


def _with_costs(rows: Sequence[ConvergenceRow]) -> list[ConvergenceRow]:
    base = next((row.cpu_seconds for row in rows if row.base), 0.0)
    return [
        row.model_copy(update={"relative_cost": row.cpu_seconds / base if base and row.cpu_seconds else None})
        for row in rows
    ]
