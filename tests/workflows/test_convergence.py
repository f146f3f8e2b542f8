"""What is recommended from series whose convergence is known in closed form, and a small study with the real pw.x."""

from dataclasses import replace

import numpy as np
import pytest
import yaml
from ase.build import bulk
from fieldloop.dft_inputs.abinit import AbinitCode, AbinitSettings
from fieldloop.dft_inputs.codes import settings_from_protocol
from fieldloop.dft_inputs.espresso.settings import PwSettings
from fieldloop.dft_inputs.records import Frame
from fieldloop.dft_inputs.vasp.code import VaspCode
from fieldloop.dft_inputs.vasp.settings import VaspSettings
from fieldloop.workflows.config import ConfigError, LabelSection
from fieldloop.workflows.convergence.config import ConvergenceConfig, Tolerances, VarySection, load_convergence
from fieldloop.workflows.convergence.flow import ConvergenceMaker, protocol_yaml, setting_of
from fieldloop.workflows.convergence.judge import dense_limit, judge_series, recommend
from fieldloop.workflows.convergence.records import ConvergenceRow, ConvergenceStudy, Responses, Setting
from fieldloop.workflows.executors import run_flow
from fieldloop.workflows.labelling import LabelMaker
from jobflow.core.store import JobStore
from maggma.stores import MemoryStore
from pydantic import ValidationError

BASE = Setting(kpoints=(4, 4, 4), ecutwfc=20.0, field_step=0.0036, conv_thr=1e-13)
BOTH = Tolerances(born_effective_charges=0.01, dielectric=0.01)


def row(value, parameter="ecutwfc", charge=2.0, constant=10.0, **changes) -> ConvergenceRow:
    """A label of two ions with isotropic responses."""
    born = np.stack([charge * np.eye(3), -charge * np.eye(3)])
    got = Responses(
        born_effective_charges=born,
        charges={"A": charge, "B": -charge},
        polarizability=(constant - 1) * np.eye(3),
        dielectric=constant * np.eye(3),
        forces=np.zeros((2, 3)),
    )
    setting = BASE.model_copy(update={parameter: value})
    return ConvergenceRow(setting=setting, label_id=str(value), **{"responses": got, "relative_cost": 1.0, **changes})


def recommended(series):
    return series.rows[series.recommended].setting.value(series.parameter)


def test_the_cheapest_value_within_its_share_is_taken():
    # Errors in Z* of e^-n: 0.018 at 4, 0.0067 at 5, 0.0025 at 6, so a half of 0.01 e is kept from 6 on.
    rows = [row(float(n), charge=2 + np.exp(-n)) for n in range(2, 12)]
    half = judge_series("ecutwfc", rows, BOTH, share=0.5)
    assert recommended(half) == 6
    assert half.converged
    assert half.reference == len(rows) - 1
    assert half.rows[2].deviation.born_effective_charges == pytest.approx(np.exp(-4) - np.exp(-11))
    assert recommended(judge_series("ecutwfc", rows, BOTH, share=1.0)) == 5


def test_the_tighter_of_two_tolerances_decides():
    rows = [row(float(n), charge=2 + np.exp(-n), constant=10 * (1 + 10 * np.exp(-n))) for n in range(2, 14)]
    series = judge_series("ecutwfc", rows, BOTH, share=1.0)
    assert recommended(series) == 7  # 10 e^-7 = 0.9 %
    only_charges = Tolerances(born_effective_charges=0.01)
    assert recommended(judge_series("ecutwfc", rows, only_charges, share=1.0)) == 5


def test_a_value_that_is_right_by_chance_is_not_taken():
    charges = [2.0, 2.1, 2.05, 2.001, 2.0]
    series = judge_series("ecutwfc", [row(float(i), charge=c) for i, c in enumerate(charges)], BOTH, share=1.0)
    assert recommended(series) == 3
    assert [r.within for r in series.rows] == [False, False, False, True, True]


def test_a_slow_mesh_is_not_converged_and_is_extrapolated():
    # The error of a Berry phase is 1/N^2; Z* has none here.
    rows = [row((n, n, n), "kpoints", constant=9.0 - 14.0 / n**2) for n in (2, 4, 6, 8)]
    series = judge_series("kpoints", rows, BOTH, share=0.5)
    assert not series.converged
    assert recommended(series) == (8, 8, 8)
    assert dense_limit(series) == pytest.approx(9.0)
    assert any("extend the series" in note for note in series.notes)
    result = recommend([series], BASE, frame(), gap=1.5)
    assert not result.converged
    assert any(note.startswith("kpoints: not converged") for note in result.notes)


def test_meshes_that_scale_directions_differently_are_not_extrapolated():
    rows = [row(mesh, "kpoints", constant=9.0 - 14.0 / mesh[0] ** 2) for mesh in ((2, 2, 2), (4, 4, 2))]
    assert dense_limit(judge_series("kpoints", rows, BOTH, share=1.0)) is None


def test_the_field_step_is_judged_from_its_plateau():
    """Error c h^2 + n/h is flattest at h = (n / 2c)^(1/3), whatever the ends of the series are."""
    curvature, noise = 0.02, 0.0003
    steps = [3.2, 1.6, 0.8, 0.4, 0.2, 0.1, 0.05, 0.01]
    rows = [row(h / 100, "field_step", charge=2 + curvature * h**2 + noise / h) for h in steps]
    series = judge_series("field_step", rows, BOTH, share=1.0)
    best = (noise / (2 * curvature)) ** (1 / 3)
    assert series.rows[series.reference].setting.field_step * 100 in (0.2, 0.4)
    assert 0.1 < best < 0.4
    assert recommended(series) * 100 == pytest.approx(0.4)  # 0.8 errs by 0.013
    assert not series.rows[-1].within
    assert series.converged


def test_values_that_fail_their_checks_or_have_no_label_are_not_taken():
    rows = [row(1.0, flags=("enthalpy_law_error",)), row(2.0, responses=None, failure="killed"), row(3.0), row(4.0)]
    series = judge_series("ecutwfc", rows, BOTH, share=1.0)
    assert recommended(series) == 3
    assert any("killed" in note for note in series.notes)
    assert any("enthalpy_law_error" in note for note in series.notes)


def test_nothing_to_compare_is_said():
    alone = judge_series("ecutwfc", [row(1.0), row(2.0, responses=None, failure="killed")], BOTH, share=1.0)
    assert not alone.converged
    assert any("only one value" in note for note in alone.notes)
    none = judge_series("ecutwfc", [row(1.0, responses=None, failure="killed")], BOTH, share=1.0)
    assert none.recommended is None
    result = recommend([none], BASE, frame(), gap=1.5)
    assert result.setting == BASE
    assert not result.converged
    assert result.cost is None


def test_what_one_parameter_at_a_time_cannot_see_is_said():
    smaller = judge_series("field_step", [row(0.0009, "field_step"), row(0.0009, "field_step")], BOTH, 0.5)
    looser = judge_series("conv_thr", [row(1e-9, "conv_thr"), row(1e-13, "conv_thr")], BOTH, 0.5)
    assert any("SCF noise grows" in note for note in recommend([smaller, looser], BASE, frame(), gap=1.5).notes)
    assert not recommend([looser], BASE, frame(), gap=1.5).notes
    # 0.0036 V/A drops 0.041 eV over 4 lattice vectors, of which a field along x sees 2.83 A.
    assert any("critical field" in note for note in recommend([looser], BASE, frame(), gap=0.045).notes)


def test_costs_multiply():
    rows = [row(1.0, relative_cost=0.5), row(2.0, relative_cost=1.0)]
    threshold = [row(1e-9, "conv_thr", relative_cost=0.6), row(1e-13, "conv_thr")]
    series = [judge_series("ecutwfc", rows, BOTH, 0.5), judge_series("conv_thr", threshold, BOTH, 0.5)]
    assert recommend(series, BASE, frame(), gap=1.5).cost == pytest.approx(0.3)


def test_series_hold_the_base_once_and_run_towards_convergence():
    vary = VarySection(
        kpoints=(6, [2, 2, 3], 2),
        ecutwfc=[30, 12],
        field_step=["0.36 MV/cm", "0.09 MV/cm", "1.44 MV/cm"],
        conv_thr=["1e-9", "1e-14"],
    )
    assert vary.series("kpoints", (4, 4, 4)) == [(2, 2, 2), (2, 2, 3), (4, 4, 4), (6, 6, 6)]
    assert vary.series("ecutwfc", 20.0) == [12, 20, 30]
    assert vary.series("field_step", 0.0036) == pytest.approx([0.0144, 0.0036, 0.0009])
    assert vary.series("conv_thr", 1e-13) == [1e-9, 1e-13, 1e-14]
    assert VarySection(ecutwfc=[30]).series("kpoints", (4, 4, 4)) == []


@pytest.mark.parametrize("section", [{}, {"cut": [20]}, {"kpoints": [0]}, {"conv_thr": [-1]}, {"field_step": ["1 V"]}])
def test_values_that_mean_nothing_are_refused(section):
    with pytest.raises(ValidationError):
        VarySection(**section)


@pytest.mark.parametrize("section", [{}, {"dielectric": "1 e"}, {"dielectric": 1}, {"born_effective_charges": "1 %"}])
def test_tolerances_that_mean_nothing_are_refused(section):
    with pytest.raises(ValidationError):
        Tolerances(**section)


def test_tolerances_have_units():
    read = Tolerances(born_effective_charges="0.01 e", dielectric="1 %", forces="5 meV/A")
    assert (read.born_effective_charges, read.dielectric, read.forces) == pytest.approx((0.01, 0.01, 0.005))


def test_the_density_cutoff_follows_the_cutoff():
    settings = PwSettings.from_protocol("fast", ecutwfc=20, ecutrho=160)
    maker = ConvergenceMaker(VarySection(ecutwfc=[30]), BOTH, LabelMaker(settings=settings))
    low, high = maker.makers(frame())["ecutwfc"]
    assert (low.settings.ecutrho, high.settings.ecutrho) == (160, 240)


def test_the_protocol_is_a_section_of_a_campaign_file():
    settings = PwSettings.from_protocol("fast", ecutwfc=20, ecutrho=160, kpoints=[2, 2, 2])
    rows = [row(30.0), row(40.0)]
    result = recommend([judge_series("ecutwfc", rows, BOTH, 1.0)], BASE, frame(), gap=1.5)
    text = protocol_yaml(LabelMaker(settings=settings), result, [])
    section = LabelSection(**yaml.safe_load(text)["label"])
    resolved = PwSettings.from_protocol(section.protocol, **section.settings)
    assert (resolved.ecutwfc, resolved.ecutrho, resolved.mesh) == (30, 240, (4, 4, 4))
    assert resolved.conv_thr == BASE.conv_thr
    assert section.field_step == pytest.approx(BASE.field_step)


@pytest.mark.parametrize("mesh", [{"kpoints": [2, 2, 2]}, {"kpoint_density": 11}])
def test_a_default_that_stands_against_the_protocol_is_written_too(mesh):
    """LDA files at the level of the paper: without the line its PBE would come back."""
    settings = PwSettings.from_protocol("paper", input_dft=None, mixing_beta=0.7, conv_thr=1e-10, **mesh)
    result = recommend([judge_series("ecutwfc", [row(30.0), row(40.0)], BOTH, 1.0)], BASE, frame(), gap=1.5)
    section = LabelSection(**yaml.safe_load(protocol_yaml(LabelMaker(settings=settings), result, []))["label"])
    resolved = PwSettings.from_protocol(section.protocol, **section.settings)
    assert resolved.input_dft is None
    assert resolved.mesh == (4, 4, 4)


@pytest.mark.parametrize(
    ("settings", "code", "vary", "protocol"),
    [
        (AbinitSettings.from_protocol("fast"), AbinitCode(), {"ecut": [8], "tolvrs": [1e-10]}, "fast"),
        (
            VaspSettings(kpoints=(2, 2, 2), incar={"IVDW": 11}),
            VaspCode(),
            {"encut": [600], "ediff": [1e-6]},
            "standard",
        ),
    ],
)
def test_other_codes_have_their_own_parameters(settings, code, vary, protocol):
    label = LabelMaker(settings=settings, code=code)
    maker = ConvergenceMaker(VarySection(kpoints=[3], **vary), BOTH, label)
    makers = maker.makers(frame())
    assert list(makers) == ["kpoints", *vary]
    for name in vary:
        assert len({getattr(one.settings, name) for one in makers[name]}) == 2
    result = recommend([], setting_of(maker.base(frame())), frame(), gap=1.5)
    section = LabelSection(**yaml.safe_load(protocol_yaml(label, result, []))["label"])
    assert section.protocol == protocol
    assert settings_from_protocol(section.code, section.protocol, **section.settings).identity() == settings.identity()
    foreign = replace(maker, vary=VarySection(ecutwfc=[30]))
    with pytest.raises(ConfigError, match=f"vary.ecutwfc: {section.code} has kpoints, {next(iter(vary))}, field_step"):
        foreign.makers(frame())


def test_the_examples_can_be_read(pytestconfig):
    for name in ("alas", "quartz"):
        config = load_convergence(pytestconfig.rootpath / "examples" / name)
        assert isinstance(config, ConvergenceConfig)
        assert config.structure.is_file()


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"converge\.yaml"):
        load_convergence(tmp_path)


def frame() -> Frame:
    return Frame.from_atoms(bulk("AlAs", "zincblende", a=5.66))


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> tuple[ConvergenceStudy, JobStore]:
    """Primitive AlAs, three labels and the base, in a memory store."""
    root = tmp_path_factory.mktemp("study")
    settings = PwSettings.from_protocol("fast", kpoints=[3, 3, 3], ecutwfc=14)
    vary = VarySection(kpoints=[2], field_step=["0.72 MV/cm"], conv_thr=["1e-10"])
    flow = ConvergenceMaker(vary, BOTH, LabelMaker(settings=settings), name="small").make(frame())
    store = JobStore(MemoryStore())
    store.connect()
    result = run_flow(flow, store=store, root=root, workers=1)
    assert result.ok
    return ConvergenceStudy.model_validate(store.get_output(flow.job_uuids[-1])), store


def test_pw_gives_the_series(study):
    found, _ = study
    mesh, step, threshold = found.series
    coarse, dense = mesh.rows
    # Published here before: eps_inf of AlAs rises by more than ten per cent from 2^3 to 3^3, Z* by two.
    assert 0.1 < coarse.deviation.dielectric < 0.25
    assert 0.02 < coarse.deviation.born_effective_charges < 0.06
    assert not mesh.converged
    assert dense.responses.charges["Al"] == pytest.approx(-dense.responses.charges["As"], abs=2e-3)
    assert step.converged
    assert recommended(step) == pytest.approx(0.0072)
    assert threshold.rows[0].scf_iterations < threshold.rows[1].scf_iterations
    assert all(r.base for r in (dense, step.rows[1], threshold.rows[1]))
    assert dense.cpu_seconds > 0
    assert dense.relative_cost == 1
    assert coarse.relative_cost < 0.8
    assert dense.string_length == pytest.approx(3 * 5.66 / np.sqrt(2))
    assert not found.recommendation.converged
    assert "kpoints: [3, 3, 3]" in found.recommendation.yaml


def test_the_study_reads_back_equal(study):
    found, _ = study
    assert ConvergenceStudy.model_validate_json(found.model_dump_json()) == found
