"""``fieldloop converge``: runs once, resumes, refuses bad input in one line."""

import csv
import json
import re

import pytest
import yaml
from ase.build import bulk
from ase.io import write
from fieldloop.workflows.cli import app
from fieldloop.workflows.convergence.config import load_convergence
from fieldloop.workflows.convergence.flow import prepare_study
from fieldloop.workflows.convergence.records import ConvergenceStudy
from typer.testing import CliRunner

STUDY = """\
name: tiny-study
structure: AlAs.vasp
directory: study
codes: {pw: {command: COMMAND}}
label:
  protocol: fast
  pseudopotentials: {Al: Al.pz-vbc.UPF, As: As.pz-bhs.UPF}
  settings: {kpoints: [2, 2, 2], ecutwfc: 10, conv_thr: 1e-10}
vary:
  ecutwfc: [8]
  conv_thr: [1e-8]
tolerances: {born_effective_charges: 0.05 e, dielectric: 5 %}
"""


@pytest.fixture
def folder(place):
    """A folder with a study that has not begun, and a pw.x that counts its calls."""
    (place.folder / "converge.yaml").write_text(STUDY.replace("COMMAND", str(place.folder / "pw.sh")))
    return place


def edit(place, old, new):
    file = place.folder / "converge.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def test_a_study_runs_once_and_resumes(folder):
    protocol = folder.folder / "protocol.yaml"
    first = folder.fieldloop("converge", folder.folder, "--write", protocol)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "DFT labels 3/3" in first.stdout
    assert "recommended" in first.stdout
    calls = folder.calls()
    study = ConvergenceStudy.model_validate_json((folder.folder / "study" / "convergence.json").read_text())
    assert [series.parameter for series in study.series] == ["ecutwfc", "conv_thr"]
    assert yaml.safe_load(protocol.read_text())["label"]["settings"]["ecutwfc"] == study.recommendation.setting.ecutwfc

    again = folder.fieldloop("converge", folder.folder / "converge.yaml", "--json")
    assert again.returncode == 0, again.stderr
    assert folder.calls() == calls
    assert ConvergenceStudy.model_validate(json.loads(again.stdout)) == study

    edit(folder, "ecutwfc: [8]", "ecutwfc: [8, 12]")
    extended = folder.fieldloop("converge", folder.folder)
    assert "3 found finished" in extended.stdout
    new = [where for where in folder.calls()[len(calls) :] if "/labels/" in where]
    assert len({re.search(r"labels/(\w+)", where)[1] for where in new}) == 1
    check_files(folder.folder / "study")

    folder.change("directory: run", "directory: study")
    mixed = CliRunner().invoke(app, ["loop", str(folder.file)])
    assert mixed.exit_code == 2
    assert "belongs to another project or protocol" in mixed.stderr


def check_files(directory):
    """Every file is whole; the page loads nothing and holds its figure."""
    rows = list(csv.DictReader((directory / "convergence.csv").open()))
    assert [(row["parameter"], float(row["ecutwfc_Ry"])) for row in rows[:3]] == [
        ("ecutwfc", 8.0),
        ("ecutwfc", 10.0),
        ("ecutwfc", 12.0),
    ]
    assert float(rows[1]["relative_cost"]) == 1
    page = (directory / "convergence.html").read_text()
    assert "<svg" in page
    assert "http://" not in page
    assert "https://" not in page
    assert (directory / "convergence.png").read_bytes().startswith(b"\x89PNG")
    assert "| 10 Ry |" in (directory / "convergence.md").read_text().replace("*", "")


def test_a_label_that_fails_is_a_row_without_numbers(folder):
    atoms = bulk("AlAs", "zincblende", a=5.66)
    atoms.rattle(0.03, seed=1)  # without symmetry every field point is run
    write(folder.folder / "AlAs.vasp", atoms)
    prepared = prepare_study(load_convergence(folder.folder))
    folder.refuse(prepared.maker.label_ids(prepared.frame)[0])
    broken = folder.fieldloop("converge", folder.folder)
    assert broken.returncode == 1
    assert "no label" in broken.stdout
    assert "--retry-failed" in broken.stderr
    folder.refuse()
    mended = folder.fieldloop("converge", folder.folder, "--retry-failed", "--quiet", "--json")
    assert mended.returncode == 0
    assert json.loads(mended.stdout)["series"][0]["rows"][0]["responses"] is not None


def refused(place, *options):
    """Run in this process; the one line on stderr."""
    result = CliRunner().invoke(app, ["converge", str(place.folder), *map(str, options)])
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    assert not list(place.folder.glob("study/labels/*"))
    return result.stderr


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("vary:", "varies:", "vary is missing"),
        ("ecutwfc: [8]", "cutoff: [8]", "unknown key vary.cutoff"),
        ("ecutwfc: [8]", "ecut: [8]", "vary.ecut: pw.x has kpoints, ecutwfc, field_step, conv_thr"),
        ("ecutwfc: [8]", "kpoints: [1]", "at least two k-points"),
        ("ecutwfc: [8]", "field_step: [1e-9 V/A]", "pw.x ignores fields below"),
        ("ecutwfc: [8]", "field_step: [3 A]", "'3 A' is no field"),
        ("0.05 e", "5 %", "'5 %' is no charge"),
        ("5 %", "500 %", "less than 1"),
        ("As.pz-bhs.UPF", "nothing.UPF", "cannot read the pseudopotential"),
        ("AlAs.vasp", "missing.vasp", "there is no structure file"),
        ("protocol: fast", "protocol: quick", "unknown protocol 'quick'"),
    ],
)
def test_bad_input_is_refused_before_any_dft(folder, old, new, words):
    edit(folder, old, new)
    assert words in refused(folder)
    assert folder.calls() == []


def test_a_protocol_that_could_not_be_written_is_refused_first(folder):
    assert "cannot write" in refused(folder, "--write", folder.folder / "nowhere" / "protocol.yaml")
    assert folder.calls() == []


def test_a_field_above_the_critical_one_is_refused_before_the_labels(folder):
    edit(folder, "ecutwfc: [8]", "field_step: [50 MV/cm]")
    assert "times the critical field" in refused(folder)


def test_a_metal_is_refused_before_the_labels(folder):
    atoms = bulk("Al", "sc", a=2.7) * (2, 1, 1)
    write(folder.folder / "AlAs.vasp", atoms)
    assert "metallic" in refused(folder)
