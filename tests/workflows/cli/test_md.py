"""``fieldloop md`` with a network trained on DFT, and the one line that each kind of bad input gets."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.io import read, write
from fieldloop.active_learning.candidates import Candidates
from fieldloop.model.dynamics import read_trajectory
from fieldloop.model.files import load_model, read_label_range, save_model
from fieldloop.model.label_range import LabelRange, label_range
from fieldloop.workflows.cli import app
from fieldloop.workflows.md_files import MdRequest, prepare_md, read_md_section
from typer.testing import CliRunner

MODEL = Path(__file__).parents[2] / "data" / "models" / "alas"
STEPS = "dynamics.steps=6"


def run(*words):
    return CliRunner().invoke(app, ["md", *map(str, words)], env={"COLUMNS": "160"})


@pytest.fixture(scope="module")
def crystal(tmp_path_factory):
    path = tmp_path_factory.mktemp("md") / "alas.vasp"
    write(path, bulk("AlAs", "zincblende", a=5.6139))
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A committee of two, whose labels reached 1 MV/cm."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("one", "two"):
        model = load_model(MODEL)
        with torch.no_grad():
            model.readout.weights[-1].mul_(1.0 if name == "one" else 1.05)
        save_model(model, folder / name, LabelRange(largest_field=0.01))
    return [folder / "one", folder / "two"]


def test_a_run_is_extended_by_the_same_command_and_exported(crystal, models, tmp_path):
    (tmp_path / "md.yaml").write_text(
        "supercell: [1, 1, 2]\n"
        "dynamics: {ensemble: langevin, steps: 4, save_every: 2, fields: [[0, 0, 0], [0, 0, 1 MV/cm]], seed: 1}\n"
    )
    out, words = tmp_path / "out", (models[0], "-x", crystal, "-s", tmp_path / "md.yaml", "-o", tmp_path / "out")
    assert run(*words).exit_code == 0
    result = run(*words, "--set", STEPS, "--export", tmp_path / "run.extxyz")
    assert result.exit_code == 0, result.output
    assert "Al2As2, 4 atoms x 2" in result.stdout and "2 steps in" in result.stdout
    assert "finished at 6 fs" in result.stdout and "0 0 1" in result.stdout
    trajectory = read_trajectory(out / "trajectory")
    images = read(tmp_path / "run.extxyz", ":")
    assert [image.info["step"] for image in images] == [0, 2, 4, 6] * 2
    replica = trajectory.replica(1)
    assert images[-1].info["field"] == pytest.approx([0, 0, 0.01])
    assert images[-1].calc.results["polarization"] == pytest.approx(replica.polarization[-1], abs=1e-6)
    assert images[-1].arrays["velocities"] == pytest.approx(replica.velocities[-1], abs=1e-7)
    other = run(*words, "--set", "dynamics.timestep=2")
    assert other.exit_code == 2 and "holds another run (different timestep)" in other.output


def test_expansions_run_by_name(crystal, models, tmp_path):
    words = (models[0], "-x", crystal, "--set", "dynamics.steps=1", "--set", "dynamics.fields=[[0, 0, 0.01]]", "-q")
    ends = {}
    for expansion in ("full", "quadratic", "first-order"):
        out = tmp_path / expansion
        assert run(*words, "-o", out, "--set", f"expansion={expansion}").exit_code == 0
        ends[expansion] = read_trajectory(out / "trajectory").series(0).polarization[0]
    gaps = {name: np.abs(ends["full"] - ends[name]).max() for name in ("quadratic", "first-order")}
    assert 0 < gaps["quadratic"] < 0.1 * gaps["first-order"]


def test_a_compiled_model_runs_as_the_model_does(crystal, models, tmp_path, monkeypatch):
    """What is traced is run; the compiler itself is left out here."""
    monkeypatch.setattr(torch, "compile", lambda program, **_: program)
    words = (models[0], "-x", crystal, "--set", "dynamics.steps=2", "-q")
    ends = []
    for compiled in ("false", "true"):
        out = tmp_path / compiled
        result = run(*words, "-o", out, "--set", f"compile={compiled}")
        assert result.exit_code == 0, result.output
        assert (", compiled" in result.stdout) == (compiled == "true")
        ends.append(read_trajectory(out / "trajectory").series(0).enthalpy)
    assert ends[1] == pytest.approx(ends[0], abs=1e-4)
    refused = run(*words, "-o", tmp_path / "third", "--set", "compile=true", "--set", "expansion=quadratic")
    assert refused.exit_code == 2
    assert "compile: true is for the full model, not for expansion: quadratic" in refused.output


def test_devices_share_a_run_that_goes_on_with_others(crystal, models, tmp_path):
    words = (models[0], "-x", crystal, "-o", tmp_path / "out", "--set", "replicas=2", "-q")
    shared = run(*words, "--set", "dynamics.steps=2", "--set", "devices=[cpu, cpu]")
    assert shared.exit_code == 0 and "on cpu, cpu" in shared.stdout, shared.output
    assert run(*words, "--set", "dynamics.steps=4").exit_code == 0
    assert len(read_trajectory(tmp_path / "out" / "trajectory").series(1).enthalpy) == 5
    refused = run(*words, "-o", tmp_path / "none", "--set", STEPS, "--set", "devices=[cuda:77]")
    assert refused.exit_code == 2 and "devices: cuda:77 cannot be used" in refused.output


def test_uncertain_frames_come_out_in_the_form_that_a_selection_takes(crystal, models, tmp_path):
    words = (*models, "-x", crystal, "-o", tmp_path, "--set", "dynamics.observe_every=3", "--set", STEPS)
    words = (*words, "--set", "dynamics.fields=[[0, 0, 0.005]]", "--set", "dynamics.temperatures=600")
    result = run(*words, "--set", "uncertainty.flag.forces=1e-6")
    assert result.exit_code == 0, result.output
    assert "3 uncertain frames in" in result.stdout or "2 uncertain frames in" in result.stdout
    candidates = Candidates.load(tmp_path / "uncertain.npz")
    images = read(tmp_path / "uncertain.extxyz", ":")
    assert len(images) == len(candidates.frames) == len(candidates.descriptors)
    assert candidates.proposals[-1].time == 6.0
    assert candidates.proposals[-1].field == pytest.approx([0, 0, 0.005])
    assert candidates.proposals[-1].model_id in result.stdout
    assert candidates.spreads["forces"][-1] == pytest.approx(candidates.proposals[-1].uncertainty["forces"], rel=1e-6)
    assert candidates.spreads["born_effective_charges"][-1] > 0
    stopped = run(*words, "--set", "uncertainty.stop.forces=1e-6")
    assert stopped.exit_code == 0 and "finished at 6 fs" in stopped.stdout, "a finished run stays as it is"


def test_a_replica_beyond_the_bound_is_stopped(crystal, models, tmp_path):
    words = ("-x", crystal, "-o", tmp_path, "--set", "dynamics.observe_every=2", "--set", STEPS)
    result = run(*models, *words, "--set", "uncertainty.stop.born_effective_charges=1e-9")
    assert result.exit_code == 0
    assert "stopped by the observer" in result.stdout


def test_fields_beyond_the_labels_need_a_word(crystal, models, tmp_path):
    words = (models[0], "-x", crystal, "-o", tmp_path / "out", "--set", "dynamics.steps=1")
    words = (*words, "--set", "dynamics.fields=[{kind: ramped, start: [0, 0, 0], end: [0, 0, 0.05], duration: 1}]")
    refused = run(*words)
    assert refused.exit_code == 2
    assert "the field reaches 5 MV/cm, the labels of" in refused.output and "1 MV/cm" in refused.output
    assert not (tmp_path / "out").exists()
    assert "beyond, the response is extrapolated" in run(*words, "--beyond-range").output
    section = read_md_section(None, [STEPS, "dynamics.fixed=displacement"])
    held = prepare_md(MdRequest((models[0],), crystal, tmp_path / "held", section))
    assert "the field follows P" in held.warnings[0]
    unknown = run(MODEL, *words[1:3], "-o", tmp_path / "unknown", *words[5:])
    assert unknown.exit_code == 0 and "does not say up to which field its labels reach" in unknown.output


def test_the_range_of_the_labels_is_no_part_of_the_name(models, tmp_path):
    model = load_model(MODEL)
    assert save_model(model, tmp_path, LabelRange(largest_field=0.2)) == save_model(model, tmp_path)
    assert read_label_range(tmp_path) is None
    assert read_label_range(models[0]) == LabelRange(largest_field=0.01)
    assert label_range([]).joined(LabelRange(largest_field=0.3)).largest_field == 0.3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["dynamics.steps=x"], "dynamics.steps: Input should be a valid integer"),
        ([], "dynamics.steps is missing"),
        ([STEPS, "dynamics.stepz=3"], "unknown key dynamics.stepz"),
        ([STEPS, "dynamics"], "write e.g. dynamics.steps=1000"),
        ([STEPS, "dynamics.temperatures=[1, 2, 3]", "replicas=2"], "3 temperatures for 2 replicas"),
        ([STEPS, "uncertainty.flag.forces=0.1"], "committee of 1"),
    ],
)
def test_bad_settings(crystal, models, tmp_path, changes, message):
    words = [word for change in changes for word in ("--set", change)]
    result = run(models[0], "-x", crystal, "-o", tmp_path / "out", *words)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


def test_bad_structures_and_models(crystal, models, tmp_path):
    alien, close = bulk("GaAs", "zincblende", a=5.6), bulk("AlAs", "zincblende", a=5.6)
    close.positions[1] = close.positions[0] + 0.4
    lone = close[:1]
    for name, atoms in (("alien", alien), ("close", close), ("lone", lone)):
        write(tmp_path / f"{name}.vasp", atoms)

    def message(model, path):
        result = run(model, "-x", path, "-o", tmp_path / "out", "--set", STEPS)
        assert result.exit_code == 2, result.output
        return result.output

    assert "the model knows Al, As, not Ga" in message(models[0], tmp_path / "alien.vasp")
    assert "overlapping: atom 0 (Al)" in message(models[0], tmp_path / "close.vasp")
    assert "reference charges of Al1 add up to +3 e" in message(models[0], tmp_path / "lone.vasp")
    assert "there is no file" in message(models[0], tmp_path / "none.vasp")
    assert "no readable model in" in message(tmp_path, crystal)
    assert not (tmp_path / "out").exists()
    free = bulk("AlAs", "zincblende", a=5.6)
    free.pbc = False
    write(tmp_path / "free.extxyz", free)
    words = ("-o", tmp_path / "out", "--set", STEPS, "--set", "dynamics.ensemble=npt")
    assert "npt needs frames that are periodic" in run(models[0], "-x", tmp_path / "free.extxyz", *words).output
