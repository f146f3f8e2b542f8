"""`fieldloop loop` and `fieldloop label` on real pw.x runs."""

import json
import signal
import time

from ase.build import bulk
from ase.io import read, write
from fieldloop.workflows.campaign import STORE_FILE, driver_of, read_store
from fieldloop.workflows.queries import query_labels, read_campaign
from fieldloop.workflows.root_lock import root_lock


def labels_of(place):
    return list(query_labels(read_store(place.run / STORE_FILE)))


def test_a_campaign_runs_to_its_report(finished_once):
    place, done = finished_once
    assert (done.returncode, done.stderr) == (0, "")
    assert "parent crystal 1/1 done" in done.stdout
    assert "DFT labels 4/4 done" in done.stdout
    assert "Generation 0: trained on 3 frames, judged on 1 new ones" in done.stdout
    assert "max_generations (1) reached" in done.stdout
    report = place.run / "report.html"
    assert done.stdout.splitlines()[-1] == f"report: {report}"
    campaign = read_campaign(read_store(place.run / STORE_FILE), place.run)
    assert len(campaign.labels) == 5
    assert all(label.label_id in report.read_text() for label in campaign.labels)
    # One SCF for the gap, and a stencil of order 2 (seven points) for each label, of which the symmetry of the parent
    # leaves three; none twice.
    assert len(place.calls()) == len(set(place.calls())) == 1 + 3 + 7 * 4


def test_the_same_command_finds_everything_finished(finished):
    done = finished.fieldloop("loop", finished.file)
    assert (done.returncode, done.stderr) == (0, "")
    assert finished.calls() == []
    assert "DFT labels: 5 found finished" in done.stdout
    assert "Generation 0: trained on 3 frames" in done.stdout


def test_a_label_that_fails_does_not_stop_the_loop_and_can_be_tried_again(finished_once, place):
    victim = next(label for label in labels_of(finished_once[0]) if label.proposal.origin == "parent")
    place.refuse(victim.label_id)
    done = place.fieldloop("loop", place.file)
    assert (done.returncode, done.stderr) == (0, "")
    assert "failed: pw.x failed (exit 9) at -x: node is broken" in done.stdout
    assert "max_generations (1) reached" in done.stdout
    status = json.loads(place.fieldloop("status", place.file, "--json").stdout)
    (failure,) = [item for item in status["failures"] if item["label_id"] == victim.label_id]
    # Two frames make a wild model: what it explores may be a metal, which fails for that reason and no other.
    others = [item for item in status["failures"] if item is not failure]
    assert all("metallic" in item["reason"] for item in others), others
    assert f"{1 + len(others)} frames have no label; try them again with --retry-failed" in done.stdout
    assert (place.run / failure["directory"] / "field-x" / "pw.err").read_text() == "node is broken\n"

    place.refuse()
    before = len(place.calls())
    command = ("label", "AlAs.vasp", "--config", place.file, "--quiet")
    assert "0 done, 1 failed" in place.fieldloop(*command).stdout, "left alone unless one asks for it"
    assert "1 done, 0 failed" in place.fieldloop(*command, "--retry-failed").stdout
    again = [call for call in place.calls()[before:] if victim.label_id in call]
    assert [call.rpartition("/")[2] for call in again] == ["field-x"], "finished points are kept"


def test_interrupted_by_ctrl_c(place):
    place.change("seeds: {count: 4", "seeds: {count: 40")
    process = place.start("loop", place.file)
    deadline = time.monotonic() + 60
    while not (place.run / "labels").is_dir():
        assert time.monotonic() < deadline, process.communicate()
        time.sleep(0.1)
    assert driver_of(place.run).startswith(f"{process.pid} on ")
    running = place.fieldloop("status", place.file).stdout
    assert f"running now: process {process.pid}" in running
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == f"fieldloop: interrupted; finished work is kept, go on with: fieldloop loop {place.file}\n"
    assert driver_of(place.run) is None
    assert "not running now" in place.fieldloop("status", place.file).stdout


def test_a_second_driver_is_refused(finished):
    with root_lock(finished.run):
        done = finished.fieldloop("loop", finished.file)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "is in use by process" in done.stderr


def test_labels_of_a_file(finished):
    parent, other = bulk("AlAs", "zincblende", a=5.66), bulk("AlAs", "zincblende", a=5.66)
    other.positions[0] += (0.02, 0.0, 0.01)
    write(finished.folder / "frames.xyz", [parent, other, other], format="extxyz")
    done = finished.fieldloop("label", "frames.xyz", "--config", finished.file)
    assert (done.returncode, done.stderr) == (0, "")
    # The parent is known from the loop; the other frame, though given twice, is labelled once; so is the gap, found
    # under the same key only where the same fields are asked of the crystal.
    assert "2 frames: 2 done, 0 failed, 0 flagged" in done.stdout
    assert sum("/labels/" in call for call in finished.calls()) == 7
    assert sum("/parent/" in call for call in finished.calls()) <= 1
    imported = [label for label in labels_of(finished) if label.proposal.origin == "import"]
    assert [label.proposal.reason for label in imported] == ["frame 1 of frames.xyz"]
    assert imported[0].quality.critical_field_fraction is not None


def test_the_report_can_be_written_again(finished, tmp_path):
    done = finished.fieldloop("report", finished.file, "--out", tmp_path / "again.html")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == str(tmp_path / "again.html")
    assert "tiny" in (tmp_path / "again.html").read_text()


def test_exported_frames_read_back(finished):
    done = finished.fieldloop("data", "export", finished.file, "--out", "x.xyz", "--convention", "allegro-pol")
    assert done.returncode == 0
    stored = {label.frame.frame_id: label for label in labels_of(finished)}
    images = read(finished.folder / "x.xyz", index=":")
    assert len(images) == len(stored) == 5
    assert {"born_charge"} <= set(images[0].arrays)
