"""``fieldloop data query``: the words of ``Query`` as options."""

import inspect
import json
from io import StringIO

import pytest
from ase.io import read
from fieldloop.workflows.cli import app
from fieldloop.workflows.cli.query_options import with_query
from fieldloop.workflows.queries import Query, find
from typer.testing import CliRunner


@pytest.fixture
def ask(finished_once):
    def run(*words):
        return CliRunner().invoke(app, ["data", "query", str(finished_once.root), *words], env={"COLUMNS": "160"})

    return run


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], {"parent", "rattle 1", "rattle 2", "met"}),
        (["--origin", "rattle"], {"rattle 1", "rattle 2"}),
        (["--generation", ">=1"], {"met"}),
        (["--met-field", ">1 MV/cm", "--uncertainty", "forces > 50 meV/A"], {"met"}),
        (["--met-field", "0.04..0.06 V/A", "--uncertainty", "forces > 0.2"], set()),
        (["--elements", "Al,As", "--labels", "forces", "--labels", "polarization,enthalpy", "--passed"], None),
        (["--element", "Al", "--has", "stress"], set()),
        (["--flagged"], set()),
        (["--status", "passed", "--field", "0 V/A", "--protocol", "fast", "--code", "pw.x"], None),
        (["--formula", "AsAl", "--generation", "0", "--origin", "parent"], {"parent"}),
    ],
)
def test_words_find_what_they_say(ask, finished_once, words, names):
    wanted = finished_once.labels if names is None else names
    found = {json.loads(line)["label_id"] for line in ask(*words, "--format", "json").stdout.splitlines()}
    assert found == {finished_once.labels[name].label_id for name in wanted}
    assert ask(*words, "--count").stdout == f"{len(wanted)}\n"


def test_python_and_the_command_line_have_the_same_words():
    options = set(inspect.signature(with_query(lambda wanted: None)).parameters)
    assert options == set(Query.model_fields) | {"status"}


def test_who_proposed_it_and_what_it_was_made_from(ask, finished_once):
    model, parent = finished_once.models[0].model_id, finished_once.parent.frame_id
    assert ask("--model", model, "--count").stdout == "1\n"
    assert ask("--parent", parent, "--count").stdout == "3\n"


def test_frames_on_standard_output_read_back(ask, finished_once):
    text = ask("--origin", "rattle", "--format", "frames").stdout
    images = read(StringIO(text), index=":", format="extxyz")
    by_id = {label.label_id: label.frame for label in find(finished_once.store, Query(origin="rattle"))}
    assert {image.info["label_id"] for image in images} == set(by_id)
    for image in images:
        assert image.get_positions() == pytest.approx(by_id[image.info["label_id"]].positions)


def test_a_table_has_a_line_for_each(ask, finished_once):
    table = ask("--generation", "0").stdout
    assert [label.label_id in table for label in finished_once.labels.values()] == [True, True, True, False]
    assert table.endswith("3 labelled frames\n")


@pytest.mark.parametrize(
    "words",
    [
        ["--status", "failed", "--passed"],
        ["--status", "flagged", "--passed"],
        ["--field", "3 K"],
        ["--field", "strong"],
        ["--generation", "2..1"],
        ["--uncertainty", "force > 1"],
        ["--labels", "born"],
        ["--elements", "Xx"],
    ],
)
def test_words_without_a_meaning_are_one_line(ask, words):
    result = ask(*words)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
