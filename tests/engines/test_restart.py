"""Nothing finished is lost or made twice, whatever ends a label, for every engine."""

import pickle
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest
from fieldloop.dft_inputs.errors import DirectoryBusyError
from fieldloop.dft_inputs.labelling import label_frame, label_part
from fieldloop.dft_inputs.program import lease

LABELLER = """
import pickle, sys
from fieldloop.dft_inputs.labelling import label_frame
engine, frame, stencil, directory = pickle.load(open(sys.argv[1], "rb"))
sys.exit(label_frame(engine, frame, stencil, directory).status != "done")
"""


def runs_in(log) -> int:
    return log.read_text().count("run")


def at_work(directory):
    """Processes below a directory."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd().startswith(str(directory)) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def test_a_label_goes_on_after_a_kill_and_a_failure(case, launcher, tmp_path, label, points):
    """The third of four runs hangs, and its parent is killed; of the two left the second fails; then all is well."""
    forward, directory = replace(case.stencil, order=1), tmp_path / "label"
    engine, log = launcher(case, third="exec sleep 60", fifth="echo 'the node is gone' >&2; exit 3")
    (tmp_path / "task").write_bytes(pickle.dumps((engine, case.frame, forward, directory)))
    parent = subprocess.Popen([sys.executable, "-c", LABELLER, str(tmp_path / "task")])
    try:
        wait_for(lambda: runs_in(log) == 3)
    finally:
        parent.kill()
        parent.wait()
    wait_for(lambda: not at_work(directory), seconds=5.0)

    failed = label_frame(engine, case.frame, forward, directory)
    assert runs_in(log) == 5
    assert failed.status == "failed"
    assert "the node is gone" in failed.failure
    assert [point.name for point in failed.field_points] == ["zero", "+x", "+y"]

    done = label_frame(engine, case.frame, forward, directory)
    assert runs_in(log) == 6
    assert done.status == "done", done.failure
    assert done.label_id == failed.label_id
    zero, other = done.field_points[0], case.on_branch(points["zero"], done.field_points[0])
    assert zero.enthalpy == pytest.approx(other.enthalpy, abs=1e-6)
    assert zero.forces == pytest.approx(other.forces, abs=1e-4)

    assert label_frame(engine, case.frame, forward, directory) == done
    assert runs_in(log) == 6


def test_parts_of_a_label_are_found_by_the_whole(case, launcher, tmp_path):
    """Zero field and each axis as jobs of their own, e.g. of a batch system."""
    engine, log = launcher(case)
    forward, directory = replace(case.stencil, order=1), tmp_path / "label"
    for part in ("zero", "x", "y", "z"):
        assert label_part(engine, case.frame, forward, directory, part) is None
    assert runs_in(log) == 4
    assert label_frame(engine, case.frame, forward, directory).status == "done"
    assert runs_in(log) == 4


def test_a_finished_label_is_read_not_run(case, home, launcher, label):
    engine, log = launcher(case)
    assert label_frame(engine, case.frame, case.stencil, home / "label") == label
    assert runs_in(log) == 0


def test_large_files_are_gone_when_a_label_is_done(case, job, label):
    sizes = [path.stat().st_size for path in job.directory.rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum(sizes) < 3e6
    assert not any(job.has_files(name) for name in job.fields)


def test_the_mark_of_a_finished_point_is_there(case, job, label):
    assert all((job.folder(name) / case.engine.done_file).exists() for name in job.fields)


def test_a_held_directory_is_told_in_one_line(case, tmp_path):
    hasty = case.run_by(lease_timeout=0.3)
    with lease(tmp_path, hasty.code), pytest.raises(DirectoryBusyError, match="labelling in") as caught:
        label_frame(hasty, case.frame, case.stencil, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_single_point_can_be_written_run_and_read(case, tmp_path):
    job = case.engine.prepare(case.frame, case.stencil, tmp_path / "label")
    assert job.read("zero") is None
    with lease(job.directory, job.code) as descriptor:
        job.write("zero")
        assert job.read("zero") is None
        run = job.run("zero", descriptor)
    assert job.has_files("zero")
    assert run.gap > 0.5
    assert job.read("zero") == run
