"""Stores of earlier versions, and what may go wrong while they are brought to the present one."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fieldloop.dft_inputs.records import SCHEMA_VERSION
from fieldloop.workflows.campaign import STORE_FILE
from fieldloop.workflows.cli import app
from fieldloop.workflows.migrations import STEPS, Migration, migrate, upgraded
from fieldloop.workflows.queries import QueryError, read_campaign
from fieldloop.workflows.root_lock import RootInUse, root_lock
from fieldloop.workflows.store import SQLiteStore
from fieldloop.workflows.store_check import check
from jobflow.core.store import JobStore
from typer.testing import CliRunner

OLD = Path(__file__).resolve().parents[2] / "data" / "stores" / "schema_0.json"


@pytest.fixture
def old(tmp_path) -> Path:
    """A store of the days when records bore no version, with records that lack what was added since."""
    path = tmp_path / "old" / STORE_FILE
    store = SQLiteStore(path)
    store.connect()
    store.update(json.loads(OLD.read_text()))
    store.close()
    return path


def documents(path: Path) -> list[dict]:
    store = SQLiteStore(path, read_only=True)
    store.connect()
    found = list(store.query())
    store.close()
    return found


def campaign_in(path: Path):
    store = JobStore(SQLiteStore(path, read_only=True))
    store.connect()
    return read_campaign(store, path.parent)


def doubled(output: dict) -> dict:
    """A step of the future, that changes the shape of a record: a directory becomes a list of them."""
    if output["@class"] == "TrainedModel":
        output = {**output, "directories": [output["directory"]]}
        del output["directory"]
    return output


FUTURE = {**STEPS, SCHEMA_VERSION: doubled}


def test_there_is_a_step_from_every_version():
    assert sorted(STEPS) == list(range(SCHEMA_VERSION))


def test_an_old_store_is_read_as_it_is(old):
    campaign = campaign_in(old)
    assert [model.generation for model in campaign.models] == [0, 1]
    assert {record.schema_version for record in (*campaign.models, *campaign.labels, *campaign.checks)} == {
        SCHEMA_VERSION
    }
    assert campaign.labels[0].provenance.pseudopotential_family == ""
    assert campaign.labels[0].lower_orders == ()


def test_migrating_changes_the_version_alone_and_keeps_a_copy(old):
    before, campaign = documents(old), campaign_in(old)
    assert check(old).outdated == 4
    done = migrate(old)
    assert done.upgraded == {"GenerationRecord": 1, "ParentCheck": 1, "TrainedModel": 2}
    assert done.documents == 5
    assert campaign_in(old) == campaign
    after = documents(old)
    assert [d.get("uuid") for d in after] == [d.get("uuid") for d in before]
    for document in after:
        if isinstance(document["output"], dict) and "@class" in document["output"]:
            assert document["output"].pop("schema_version") == SCHEMA_VERSION
    for document in before:
        if isinstance(document["output"], dict):
            document["output"].pop("schema_version", None)
    assert after == before
    assert documents(Path(done.backup)) != after
    assert check(old).outdated == 0


def test_migrating_again_does_nothing(old):
    migrate(old)
    files, content = sorted(old.parent.iterdir()), old.read_bytes()
    again = migrate(old)
    assert again == Migration(store=str(old), backup=None, documents=5, upgraded={}, schema_version=SCHEMA_VERSION)
    assert (sorted(old.parent.iterdir()), old.read_bytes()) == (files, content)


def test_steps_follow_one_another(old):
    done = migrate(old, FUTURE)
    assert done.schema_version == SCHEMA_VERSION + 1
    assert sum(done.upgraded.values()) == 5  # the label, too, gets the new number
    models = [
        d["output"]
        for d in documents(old)
        if isinstance(d["output"], dict) and d["output"].get("@class") == "TrainedModel"
    ]
    assert [model["directories"] for model in models] == [["training/0/model"], ["training/1/model"]]
    assert not any("directory" in model for model in models)


def test_a_step_changes_no_argument():
    output = {"@class": "TrainedModel", "directory": "here"}
    assert upgraded(output, FUTURE)["directories"] == ["here"]
    assert output == {"@class": "TrainedModel", "directory": "here"}


def test_a_newer_store_is_refused_in_one_line_and_left_alone(old):
    migrate(old, FUTURE)
    content = documents(old)
    for verb in ("migrate", "query"):
        result = CliRunner().invoke(app, ["data", verb, str(old)])
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert "newer fieldloop" in result.stderr
    assert documents(old) == content
    assert {f.severity for f in check(old).faults} == {"error"}


def test_a_step_that_raises_leaves_the_store(old):
    def broken(output):
        raise QueryError("no way forward")

    content = documents(old)
    with pytest.raises(QueryError):
        migrate(old, {0: broken})
    assert documents(old) == content


SLOW = """
import sys, time
from pathlib import Path
from fieldloop.workflows.migrations import migrate
def step(output):
    print("writing", flush=True)
    time.sleep(float(sys.argv[2]))
    return output
migrate(Path(sys.argv[1]), {0: step})
"""


def slow_migration(path: Path, seconds: float) -> subprocess.Popen:
    """A migration in a process of its own, returned once it is in the middle of its transaction."""
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(path), str(seconds)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    assert process.stdout.readline() == "writing\n"
    return process


def test_kill_9_in_the_middle_leaves_the_old_store(old):
    content, campaign = documents(old), campaign_in(old)
    process = slow_migration(old, 0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert documents(old) == content
    assert check(old).outdated == 4
    assert migrate(old).upgraded["TrainedModel"] == 2
    assert campaign_in(old) == campaign


def test_two_at_once_one_is_refused_and_readers_go_on(old):
    content = documents(old)
    process = slow_migration(old, 0.3)
    began = time.monotonic()
    assert documents(old) == content  # not half of it
    with pytest.raises(RootInUse, match=f"in use by process {process.pid}"):
        migrate(old)
    assert time.monotonic() - began < 1.0
    assert process.wait() == 0
    assert migrate(old).upgraded == {}


@pytest.mark.parametrize("verb", ["migrate", "compact"])
def test_refused_in_one_line_while_a_loop_is_running(old, verb):
    content = old.read_bytes()
    with root_lock(old.parent):
        result = CliRunner().invoke(app, ["data", verb, str(old)])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "is in use by process" in result.stderr
    assert old.read_bytes() == content
