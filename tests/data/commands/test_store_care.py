"""Copies, checks and the size of a store, on a campaign whose every file and document is known."""

import hashlib
import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from fieldloop.dft_inputs.records import Proposal
from fieldloop.workflows.campaign import STORE_FILE, read_store
from fieldloop.workflows.cli import app
from fieldloop.workflows.queries import count_labels, find, read_campaign
from fieldloop.workflows.sqlite_file import StoreError
from fieldloop.workflows.store_care import MANIFEST_FILE, Backup, backup, compact
from fieldloop.workflows.store_check import check
from typer.testing import CliRunner


def store_file(campaign) -> Path:
    return campaign.root / STORE_FILE


def errors(campaign) -> list[str]:
    return [fault.what for fault in check(store_file(campaign)).faults if fault.severity == "error"]


def run(*arguments):
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def rewrite(campaign, number: int, change) -> None:
    """Change the stored document of a job behind the back of the records."""
    document = json.loads(json.dumps(next(campaign.store.query({"uuid": campaign.documents[number]["uuid"]}))))
    change(document)
    with closing(sqlite3.connect(store_file(campaign), isolation_level=None)) as connection:
        connection.execute(
            "UPDATE jobs SET document = ? WHERE json_extract(document, '$.uuid') = ?",
            [json.dumps(document), campaign.documents[number]["uuid"]],
        )


class TestCheck:
    def test_a_whole_campaign_is_whole(self, finished_once):
        found = check(store_file(finished_once))
        assert found.passed
        assert found.faults == ()
        assert found.orphans == ()
        assert found.records == {"Exploration": 1, "LabelledFrame": 4, "SelectionRecord": 1, "TrainedModel": 2}
        result = run("check", finished_once.root)
        assert (result.exit_code, result.stdout.strip().endswith("whole")) == (0, True)

    @pytest.mark.parametrize(
        ("number", "path", "value", "complaint"),
        [
            (0, "output.frame.positions", [[0.0, 0, 0], [1.0, 1, 1]], "frame.frame_id does not follow"),
            (0, "output.frame.frame_id", "0123", "frame.frame_id does not follow"),
            (0, "output.frame.formula", "GaAs", "frame.formula does not follow"),
            (0, "output.response.labels", ["stress"], "response.labels does not follow"),
            (0, "output.quality.passed", False, "quality.passed does not follow"),
            (0, "output.label_id", "0123", "is not that of its job"),
            (0, "output.response.forces", [[0.0, 0, 0]], "forces of 1 atoms on a frame of 2"),
            (0, "output.response.forces", "lost", "cannot be read: response.forces"),
            (0, "output.unknown", 1, "unknown key unknown"),
            (0, "output.schema_version", 99, "newer fieldloop"),
            (3, "output.model_id", "0123", "not 0123"),
            (3, "output.training_ids", ["0123"], "1 frames that it was trained on have no document, such as 0123"),
            (0, "metadata.content_key", "0123", "does not follow from its content key"),
        ],
    )
    def test_what_was_changed_is_named(self, campaign, number, path, value, complaint):
        def change(document):
            *folders, name = path.split(".")
            for folder in folders:
                document = document[folder]
            document[name] = value

        rewrite(campaign, number, change)
        assert any(complaint in what for what in errors(campaign)), errors(campaign)
        assert run("check", campaign.root).exit_code == 1

    def test_the_name_of_a_pw_label_follows_from_frame_and_inputs(self, campaign):
        """By the codes' own naming: the label of the parent, named as pw.x names it, then with other inputs."""
        from fieldloop.dft_inputs.espresso.dfpt.inputs import dfpt_inputs_hash, dfpt_label_id
        from fieldloop.dft_inputs.espresso.dfpt.settings import PhSettings
        from fieldloop.dft_inputs.espresso.inputs import label_id
        from fieldloop.dft_inputs.espresso.settings import PwSettings
        from fieldloop.dft_inputs.identity import inputs_hash
        from fieldloop.dft_inputs.records import Provenance
        from fieldloop.dft_inputs.stencil import Stencil
        from fieldloop.workflows.labelling import label_key

        settings, frame = PwSettings.from_protocol("fast"), campaign.rattled(7)
        named = {
            "pw.x": (label_id(frame, settings, {}, Stencil()), inputs_hash("pw.x", settings, {}, Stencil())),
            "ph.x": (
                dfpt_label_id(frame, settings, PhSettings(), {}),
                dfpt_inputs_hash(settings, PhSettings(), {}),
            ),
        }
        for code, (identity, inputs) in named.items():
            (campaign.root / "labels" / identity).mkdir()
            provenance = Provenance(code=code, inputs_hash=inputs, directory=f"labels/{identity}")
            label = campaign.labels["parent"].model_copy(
                update={"label_id": identity, "frame": frame, "provenance": provenance}
            )
            campaign.put(label, label_key(identity), f"labels/{identity}")
        assert errors(campaign) == []
        rewrite(campaign, -1, lambda document: document["output"]["provenance"].update(inputs_hash="0123"))
        assert any("does not follow from its frame and inputs" in what for what in errors(campaign))

    def test_missing_files_are_named(self, campaign):
        shutil.rmtree(campaign.root / "labels" / campaign.labels["met"].label_id)
        (campaign.root / "training/0/model/weights.safetensors").unlink()
        (campaign.root / "training/1/model/weights.safetensors").write_bytes(b"other")
        (campaign.root / "exploration/0/candidates.npz").unlink()
        found = "\n".join(errors(campaign))
        assert f"there is no folder labels/{campaign.labels['met'].label_id}" in found
        assert "no readable model in training/0/model" in found
        assert "training/1/model: the weights are not those" in found
        assert "exploration/0/candidates.npz is missing" in found
        assert len(errors(campaign)) == 4

    def test_lost_documents_and_their_orphans(self, campaign):
        label = campaign.labels["rattle 1"]
        campaign.store.remove_docs({"output.label_id": label.label_id})
        found = check(store_file(campaign))
        assert found.orphans == (f"labels/{label.label_id}",)
        assert sum(f"such as {label.label_id}" in fault.what for fault in found.faults) == 2  # both models

    def test_a_model_from_elsewhere_is_a_notice(self, campaign):
        campaign.label("foreign", campaign.rattled(9), Proposal(origin="dynamics", model_id="elsewhere"))
        found = check(store_file(campaign))
        assert [(f.severity, f.what) for f in found.faults] == [("notice", "model elsewhere is not in this store")]
        assert found.passed

    def test_a_damaged_file_is_told_in_one_line(self, campaign):
        campaign.store.close()
        with closing(sqlite3.connect(store_file(campaign))) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        content = bytearray(store_file(campaign).read_bytes())
        content[5000:12000] = b"\0" * 7000
        store_file(campaign).write_bytes(content)
        result = run("check", campaign.root)
        assert result.exit_code in (1, 2)
        assert "SQLite" in result.stdout or result.stderr.count("\n") == 1


class TestBackup:
    def test_a_backup_is_a_campaign_of_its_own(self, finished_once, tmp_path):
        made = backup(store_file(finished_once), tmp_path / "copy")
        assert read_campaign(read_store(tmp_path / "copy" / STORE_FILE), finished_once.root) == read_campaign(
            finished_once.store, finished_once.root
        )
        assert check(tmp_path / "copy" / STORE_FILE).passed
        assert made == Backup.model_validate_json((tmp_path / "copy" / MANIFEST_FILE).read_text())
        assert made.documents == 8
        for name, digest in made.files.items():
            copied = (tmp_path / "copy" / name).read_bytes()
            assert copied == (finished_once.root / name).read_bytes()
            assert hashlib.sha256(copied).hexdigest() == digest
        assert not list(tmp_path.glob(".*"))

    def test_what_is_large_or_passing_is_left_out(self, campaign, tmp_path):
        folder = campaign.root / "labels" / campaign.labels["met"].label_id
        (folder / "big.dat").write_bytes(b"0" * 3000)
        (folder / ".lease").write_text("1 on here")
        (folder / "pwscf.save").mkdir()
        (folder / "pwscf.save" / "wfc1.dat").write_bytes(b"0")
        (folder / "link").symlink_to(tmp_path)
        made = backup(store_file(campaign), tmp_path / "copy", largest=2000)
        name = str(folder.relative_to(campaign.root))
        assert made.left_out == {f"{name}/big.dat": 3000}
        assert [file for file in made.files if file.startswith(name)] == [f"{name}/pw.out"]
        weights = [file for file in made.files if file.endswith(".safetensors")]
        assert len(weights) == 2  # whatever their size
        assert all((campaign.root / file).stat().st_size > 2000 for file in weights)

    def test_at_the_command_line_with_the_campaign_file(self, finished_once, tmp_path):
        result = run("backup", finished_once.root, "--out", tmp_path / "copy", "--json")
        assert json.loads(result.stdout)["documents"] == 8
        for out in (tmp_path / "copy", finished_once.root / "inside"):
            refused = run("backup", finished_once.root, "--out", out)
            assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
        assert not (finished_once.root / "inside").exists()

    def test_of_a_live_store_is_consistent(self, campaign, tmp_path, writer):
        """Pairs of documents are written in one transaction each: no copy may hold one of two."""
        process = writer(store_file(campaign))
        counts = []
        for number in range(5):
            backup(store_file(campaign), tmp_path / str(number))
            with closing(sqlite3.connect(tmp_path / str(number) / STORE_FILE)) as connection:
                (count,) = connection.execute(
                    "SELECT count(*) FROM jobs WHERE json_extract(document, '$.name') = 'pair'"
                ).fetchone()
            assert count % 2 == 0
            counts.append(count)
        assert process.poll() is None
        assert counts[-1] > counts[0]


class TestCompact:
    def test_space_comes_back_and_nothing_is_lost(self, campaign):
        path, before = store_file(campaign), read_campaign(campaign.store, campaign.root)
        campaign.store.update([{"uuid": f"x{n}", "index": 1, "output": "x" * 10_000} for n in range(200)])
        campaign.store.remove_docs({"uuid": {"$regex": "^x"}})
        campaign.store.close()
        done = compact(path)
        assert done.bytes_before > 2_000_000 > 10 * done.bytes_after
        assert done.dropped == ()
        assert read_campaign(read_store(path), campaign.root) == before
        assert check(path).passed
        again = compact(path)
        assert again.bytes_after == done.bytes_after

    def test_superseded_labels_go_where_that_is_safe(self, campaign):
        label = campaign.labels["rattle 2"]
        other = campaign.labels["rattle 1"]
        failed = other.model_copy(update={"status": "failed", "failure": "killed"})
        job = {"index": 1, "metadata": {}, "hosts": [], "name": "import"}
        campaign.store.update({**job, "uuid": "a", "output": label, "completed_at": "2025-01-01"})  # superseded
        campaign.store.update(
            {**job, "uuid": "b", "output": label, "completed_at": "2027-01-01"}
        )  # supersedes the job's
        campaign.store.update({**job, "uuid": "c", "output": other, "completed_at": "2026-06-01"})
        campaign.store.update({**job, "uuid": "d", "output": failed, "completed_at": "2027-01-01"})
        found = list(find(campaign.store))
        done = compact(store_file(campaign))
        assert done.dropped == (label.label_id,)
        assert done.kept == 3  # the campaign's own two, and a finished one that failed later
        assert list(find(campaign.store)) == found
        left = {document["uuid"] for document in campaign.store.query({})}
        assert left == {d["uuid"] for d in campaign.documents} | {"b", "c", "d"}

    def test_another_program_s_file_is_refused(self, tmp_path):
        other = tmp_path / "folder" / "other.sqlite"
        other.parent.mkdir()
        with closing(sqlite3.connect(other)) as connection:
            connection.execute("CREATE TABLE t (x)")
        for care in (compact, check, lambda path: backup(path, tmp_path / "copy")):
            with pytest.raises(StoreError, match="of another program"):
                care(other)
        assert not (tmp_path / "copy").exists()
        with pytest.raises(StoreError, match="no store at"):
            compact(tmp_path / "missing.sqlite")


WRITER = """
import sys
from fieldloop.workflows.store import SQLiteStore
store = SQLiteStore(sys.argv[1])
store.connect()
number = 0
while True:
    store.update([{"uuid": f"w{number}-{half}", "index": 1, "name": "pair", "output": "x" * 5000} for half in "ab"])
    number += 1
    if number == 5:
        print("writing", flush=True)
"""


@pytest.fixture
def writer():
    """Starts a process that writes to a store until the test ends."""
    started = []

    def start(path: Path) -> subprocess.Popen:
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "writing\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_queries_work_on_a_store_that_others_write_to(campaign, writer):
    writer(store_file(campaign))
    assert all(count_labels(campaign.store) == 4 for _ in range(5))
    assert check(store_file(campaign)).passed
