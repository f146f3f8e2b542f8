"""Verbs that look at a campaign; here on the records that a real one has left."""

import json
import os
import tempfile

import pytest
import typer
from ase.io import read
from fieldloop.version import __version__
from fieldloop.workflows.campaign import STORE_FILE, read_store
from fieldloop.workflows.cli import app
from fieldloop.workflows.cli.errors import in_one_line
from fieldloop.workflows.queries import query_labels
from typer.testing import CliRunner


@pytest.fixture
def campaign(finished_once):
    """The finished campaign, for looking only."""
    return finished_once[0]


def ask(*arguments):
    result = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    return result.stdout


def count(campaign, *conditions):
    return int(ask("data", "query", campaign.file, *conditions, "--count"))


def test_help_comes_at_once_and_names_every_verb(place):
    before = cpu_seconds()
    done = place.fieldloop("--help")
    assert cpu_seconds() - before < 0.6
    for verb in ("loop", "label", "status", "report", "doctor", "data"):
        assert f" {verb} " in done.stdout


def cpu_seconds() -> float:
    """Of all ended children; the wall time of a busy machine says nothing."""
    times = os.times()
    return times.children_user + times.children_system


@pytest.mark.parametrize(
    "verb", [["loop"], ["label"], ["status"], ["report"], ["doctor"], ["data", "query"], ["data", "export"]]
)
def test_every_verb_shows_an_example(verb):
    assert f"fieldloop {' '.join(verb)} " in ask(*verb, "--help")


def test_version():
    assert ask("--version") == f"fieldloop {__version__}\n"


def test_counts(campaign):
    assert count(campaign, "--has", "born_effective_charges") == 5
    assert count(campaign, "--has", "forces", "--has", "polarizability", "--formula", "AsAl") == 5
    assert count(campaign, "--element", "Al") == 5
    assert count(campaign, "--element", "Si") == 0
    assert count(campaign, "--generation", "0") == 4
    assert count(campaign, "--generation", "1", "--origin", "dynamics") == 1
    assert count(campaign, "--status", "failed") == 0
    assert count(campaign, "--status", "passed") + count(campaign, "--status", "flagged") == 5


def test_the_only_campaign_below_is_found(campaign, monkeypatch):
    monkeypatch.chdir(campaign.folder.parent)
    assert ask("data", "query", "--has", "born_effective_charges", "--count") == "5\n"
    assert ask("data", "query", campaign.run, "--count") == "5\n"
    assert ask("data", "query", campaign.run / STORE_FILE, "--count") == "5\n"


def test_several_campaigns_or_none_are_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["data", "query", "--count"])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "no campaign found" in result.stderr
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / STORE_FILE).touch()
    result = CliRunner().invoke(app, ["data", "query", "--count"])
    assert result.exit_code == 2
    assert f"a/{STORE_FILE}, b/{STORE_FILE}" in result.stderr


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--has", "born_effective_charge"], "did you mean born_effective_charges?"),
        (["--element", "Xx"], "no chemical element"),
        (["--formula", "Al-As?"], "no chemical formula"),
    ],
)
def test_words_that_mean_nothing(campaign, words, complaint):
    result = CliRunner().invoke(app, ["data", "query", str(campaign.file), *words])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert complaint in result.stderr


def test_tables_json_and_files_agree_with_the_store(campaign, tmp_path):
    stored = {label.label_id: label for label in query_labels(read_store(campaign.run / STORE_FILE))}
    table = ask("data", "query", campaign.file)
    assert all(label_id in table for label_id in stored)
    assert "U F stress P Z* alpha" in table
    lines = ask("data", "query", campaign.file, "--json").splitlines()
    assert {json.loads(line)["label_id"] for line in lines} == set(stored)
    ask("data", "query", campaign.file, "--generation", "1", "--out", tmp_path / "one.xyz")
    (image,) = read(tmp_path / "one.xyz", index=":")
    assert stored[image.info["label_id"]].proposal.generation == 1


def test_a_file_in_no_folder(campaign, tmp_path):
    result = CliRunner().invoke(app, ["data", "export", str(campaign.file), "--out", str(tmp_path / "no" / "x.xyz")])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)


def test_an_unknown_convention(campaign, tmp_path):
    result = CliRunner().invoke(
        app, ["data", "export", str(campaign.file), "--out", str(tmp_path / "x.xyz"), "--convention", "mine"]
    )
    assert result.exit_code == 2
    assert "unknown label convention 'mine'" in result.stderr


def test_status_counts_what_the_store_holds(campaign):
    status = json.loads(ask("status", campaign.file, "--json"))
    labels = list(query_labels(read_store(campaign.run / STORE_FILE)))
    assert status["scf_count"] == 3 + 4 * 7  # the symmetry of the parent leaves three
    assert status["dft_seconds"] == pytest.approx(sum(label.provenance.seconds for label in labels))
    assert status["driver"] is None
    assert [(g["generation"], g["done"], g["failed"], g["models"]) for g in status["generations"]] == [
        (0, 4, 0, 2),
        (1, 1, 0, 2),  # the last labels are trained on at the end
    ]
    first = status["generations"][0]
    assert first["decision"]["stop"]
    assert first["honest"]["frames"] == 1
    text = ask("status", campaign.file)
    assert "31 SCFs" in text
    assert "max_generations (1) reached" in text
    assert "not running now" in text


def test_a_fault_of_our_own_is_one_line_with_a_traceback_file(tmp_path, monkeypatch):
    @in_one_line
    def lose() -> None:
        raise KeyError("lost\nproperty")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    faulty = typer.Typer()
    faulty.command()(lose)
    result = CliRunner().invoke(faulty, [])
    (file,) = tmp_path.glob("fieldloop-traceback-*.txt")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("fieldloop: unexpected KeyError: 'lost")
    assert result.stderr.endswith(f"(traceback in {file})\n")
    assert result.stderr.count("\n") == 1
    assert "raise KeyError" in file.read_text()
