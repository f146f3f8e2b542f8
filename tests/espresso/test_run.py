"""Crashes, kills and company: nothing finished is lost, and no two pw.x share a directory."""

import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from fieldloop.dft_inputs.errors import DirectoryBusyError, EngineError
from fieldloop.dft_inputs.espresso import PwCode, PwEngine, PwSettings
from fieldloop.dft_inputs.espresso.run import finish_point, run_point
from fieldloop.dft_inputs.labelling import label_frame
from fieldloop.dft_inputs.program import lease
from fieldloop.dft_inputs.stencil import Stencil

FORWARD = Stencil(order=1)


def processes_in(directory):
    """pw.x processes at work below a directory."""
    found = []
    for process in psutil.process_iter(["name"]):
        try:
            if process.info["name"] == "pw.x" and process.cwd().startswith(str(directory)):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def wait_for(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.01)
    raise AssertionError("it never happened")


def times(directory):
    return {path.parent.name: path.stat().st_mtime_ns for path in directory.glob("*/pw.xml")}


def alive(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.fixture
def labeller(tmp_path):
    """Start ``label_frame`` in a Python process of its own; it exits with 0 where the label is done."""
    script = textwrap.dedent("""
        import sys
        from fieldloop.dft_inputs.records import Frame
        from fieldloop.dft_inputs.stencil import Stencil
        from fieldloop.dft_inputs.espresso import PwCode, PwEngine, PwSettings
        from fieldloop.dft_inputs.labelling import label_frame
        records = zip((Frame, PwSettings, PwCode), sys.argv[1:])
        frame, settings, code = (record.model_validate_json(text) for record, text in records)
        sys.exit(label_frame(PwEngine(settings, code), frame, Stencil(order=1), sys.argv[4]).status != "done")
    """)

    def start(frame, settings, code, directory):
        arguments = [record.model_dump_json() for record in (frame, settings, code)]
        return subprocess.Popen([sys.executable, "-c", script, *arguments, str(directory)])

    return start


def test_finished_label_is_read_not_run(primitive_label, fast, counted):
    label, directory = primitive_label
    code, log = counted
    before = times(directory)
    again = label_frame(PwEngine(fast, code), label.frame, Stencil(), directory)
    assert again == label
    assert log.read_text() == ""
    assert times(directory) == before


def test_large_files_go_and_small_ones_stay(primitive_label):
    _, directory = primitive_label
    assert not list(directory.glob("*/scratch"))
    for point in (directory / "zero", directory / "field-z"):
        assert {"pw.in", "pw.out", "pw.xml"} <= {path.name for path in point.iterdir()}
    assert len(list((directory / "zero").glob("phase.data*"))) == 3
    assert sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) < 2e6


@pytest.mark.parametrize("lines", [slice(1, None), slice(-1), slice(0)])
def test_berry_phases_that_lost_a_line_are_made_again(primitive_label, fast, counted, tmp_path, lines):
    """They are read with every label, and a string less would change P without a word."""
    label, directory = primitive_label
    code, log = counted
    copy = Path(shutil.copytree(directory, tmp_path / "frame", symlinks=True))
    file = copy / "zero" / "phase.data2"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[lines]))
    again = label_frame(PwEngine(fast, code), label.frame, Stencil(), copy)
    assert again.status == "done", again.failure
    assert np.allclose(again.response.polarization, label.response.polarization, atol=1e-6)
    assert log.read_text().count("start") == 1


def test_death_before_the_phases_are_written_loses_nothing(displaced_primitive, fast, counted, tmp_path, monkeypatch):
    """Killed between pw.x's end and the Berry phases, the label goes on from the finished run."""
    code, log = counted

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fieldloop.dft_inputs.espresso.job.string_phases", killed)
        with pytest.raises(KeyboardInterrupt):
            label_frame(PwEngine(fast, code), displaced_primitive, FORWARD, tmp_path / "frame")
    assert set(times(tmp_path / "frame")) == {"zero"}
    assert label_frame(PwEngine(fast, code), displaced_primitive, FORWARD, tmp_path / "frame").status == "done"
    assert log.read_text().count("start") == 4


@pytest.mark.parametrize("point", ["zero", "+y"])
def test_death_as_a_run_ends_repeats_nothing(displaced_primitive, fast, counted, tmp_path, monkeypatch, point):
    """Killed between pw.x's end and the mark that says so."""
    code, log = counted

    def killed(directory, *, name):
        if name == point:
            raise KeyboardInterrupt
        return finish_point(directory, name=name)

    with monkeypatch.context() as patch:
        patch.setattr("fieldloop.dft_inputs.espresso.handlers.finish_point", killed)
        with pytest.raises(KeyboardInterrupt):
            label_frame(PwEngine(fast, code), displaced_primitive, FORWARD, tmp_path / "frame")
    assert label_frame(PwEngine(fast, code), displaced_primitive, FORWARD, tmp_path / "frame").status == "done"
    assert log.read_text().count("start") == 4


def test_launcher_of_another_mpi_is_noticed(displaced_primitive, fast, code, tmp_path):
    """One that starts single processes instead of ranks, as the mpirun of another MPI does; also the second time."""
    script = tmp_path / "mpirun"
    script.write_text('#!/bin/bash\nshift 2\nexec "$@"\n')
    script.chmod(0o755)
    wrong = code.model_copy(update={"launcher": (str(script), "-np", "{ranks}"), "ranks": 2})
    for _ in range(2):
        label = label_frame(PwEngine(fast, wrong), displaced_primitive, FORWARD, tmp_path / "frame")
        assert "pw.x ran on 1 of 2 ranks at zero" in (label.failure or "")


def test_mpi_of_a_python_package_comes_last(tmp_path, monkeypatch):
    own, system = tmp_path / "venv" / "bin", tmp_path / "system"
    for folder in (own, system):
        folder.mkdir(parents=True)
        for program in ("mpirun", "pw.x"):
            (folder / program).write_text("#!/bin/sh\n")
            (folder / program).chmod(0o755)
    monkeypatch.setattr("sys.prefix", str(tmp_path / "venv"))
    code = PwCode(ranks=2, environment={"PATH": f"{own}:{system}"})
    assert code.argv() == [str(system / "mpirun"), "-np", "2", str(system / "pw.x")]


def test_killed_pw_fails_the_label_and_the_next_call_resumes(rattled, fast, counted, tmp_path):
    code, log = counted
    directory = tmp_path / "frame"

    def killer():
        for process in wait_for(lambda: (directory / "field+x" / "pw.out").exists() and processes_in(directory)):
            process.send_signal(signal.SIGKILL)

    thread = threading.Thread(target=killer)
    thread.start()
    label = label_frame(PwEngine(fast, code), rattled, FORWARD, directory)
    thread.join()
    assert label.status == "failed"
    assert label.failure == "pw.x was killed (signal 9) at +x"
    assert [point.name for point in label.field_points] == ["zero"]
    assert (directory / "field+x" / "pw.out").exists()
    before, started = times(directory), log.read_text().count("start")
    assert set(before) == {"zero"}
    label = label_frame(PwEngine(fast, code), rattled, FORWARD, directory)
    assert label.status == "done"
    assert times(directory)["zero"] == before["zero"]
    assert log.read_text().count("start") == started + 3


def test_death_of_the_parent_takes_pw_along_and_loses_nothing(rattled, fast, counted, code, tmp_path, labeller):
    directory = tmp_path / "frame"
    parent = labeller(rattled, fast, code, directory)
    try:
        orphans = wait_for(lambda: (directory / "field+y" / "pw.out").exists() and processes_in(directory))
    finally:
        parent.kill()
        parent.wait()
    wait_for(lambda: not any(alive(process) for process in orphans), seconds=3)
    before = times(directory)
    assert {"zero", "field+x"} <= set(before)
    counting, log = counted
    label = label_frame(PwEngine(fast, counting), rattled, FORWARD, directory)
    assert label.status == "done"
    after = times(directory)
    assert {name: after[name] for name in before} == before
    assert log.read_text().count("start") == 4 - len(before)


def test_ranks_that_outlive_their_launcher_are_waited_for(rattled, fast, code, tmp_path, labeller):
    """mpirun does not pass the lease on, and its ranks notice its death late."""
    directory = tmp_path / "frame"
    parent = labeller(rattled, fast, code.model_copy(update={"launcher": ("mpirun", "-np", "1")}), directory)
    try:
        ranks = wait_for(lambda: processes_in(directory))
    finally:
        parent.kill()
        parent.wait()
    with lease(directory, PwCode(lease_timeout=15.0)):
        assert not any(alive(process) for process in ranks)


def test_two_labellers_never_run_two_pw_in_one_directory(displaced_primitive, fast, counted, tmp_path, labeller):
    code, log = counted
    workers = [labeller(displaced_primitive, fast, code, tmp_path / "frame") for _ in range(2)]
    assert [worker.wait(timeout=60) for worker in workers] == [0, 0]
    events = [line.split()[0] for line in log.read_text().splitlines()]
    assert events == ["start", "end"] * 4


def test_held_directory_is_reported_in_words(displaced_primitive, fast, code, tmp_path):
    hasty = code.model_copy(update={"lease_timeout": 0.3})
    with (
        lease(tmp_path, hasty),
        pytest.raises(DirectoryBusyError, match=r"labelling in .* for over 0\.3 s; wait"),
    ):
        label_frame(PwEngine(fast, hasty), displaced_primitive, FORWARD, tmp_path)


def test_lease_lives_on_in_a_child(tmp_path):
    """pw.x inherits the lease: with its parent dead it still keeps others out."""
    with lease(tmp_path, PwCode(lease_timeout=1.0)) as descriptor:
        child = subprocess.Popen(["sleep", "30"], pass_fds=(descriptor,))
    try:
        with pytest.raises(DirectoryBusyError), lease(tmp_path, PwCode(lease_timeout=0.3)):
            pass
    finally:
        child.kill()
        child.wait()
    with lease(tmp_path, PwCode(lease_timeout=0.3)):
        pass


def test_lost_point_brings_back_what_it_starts_from(displaced_primitive, fast, counted, tmp_path):
    """Its zero run is made again, as the wavefunctions of a finished label are gone; the other points stay."""
    code, log = counted
    directory = tmp_path / "frame"
    first = label_frame(PwEngine(fast, code), displaced_primitive, FORWARD, directory)
    (directory / "field+y" / "pw.xml").unlink()
    second = label_frame(PwEngine(fast, code), displaced_primitive, FORWARD, directory)
    assert log.read_text().count("start") == 4 + 2
    assert second.response.polarizability == pytest.approx(first.response.polarizability, abs=1e-3)


def test_unconverged_scf_fails_with_its_reason(displaced_primitive, code, tmp_path):
    settings = PwSettings.from_protocol("fast", electron_maxstep=3)
    label = label_frame(PwEngine(settings, code), displaced_primitive, FORWARD, tmp_path)
    assert label.status == "failed"
    assert label.failure.startswith("SCF not converged in 3 iterations at zero, nor with more iterations")
    assert not label.trainable
    assert label.response.labels == ()
    assert (tmp_path / "zero" / "pw.out").exists()


def test_slow_run_is_stopped(rattled, fast, code, tmp_path):
    label = label_frame(PwEngine(fast, code.model_copy(update={"timeout": 0.5})), rattled, FORWARD, tmp_path)
    assert label.failure == "pw.x exceeded its 0.5 s at zero"
    assert not processes_in(tmp_path)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("echo 'write error: No space left on device' >&2; exit 2", "No space left on device at zero"),
        ("kill -9 $$", "pw.x was killed (signal 9) at zero"),
        ("exit 137", "pw.x was killed (signal 9) at zero"),
        ("echo 'libfoo.so: cannot open' >&2; exit 1", "pw.x failed (exit 1) at zero: libfoo.so: cannot open"),
        ("exit 0", "no complete output at zero:"),
    ],
)
def test_other_failures_in_words(displaced_primitive, fast, fake_code, tmp_path, body, reason):
    label = label_frame(PwEngine(fast, fake_code(body)), displaced_primitive, FORWARD, tmp_path / "frame")
    assert label.status == "failed"
    assert label.failure.startswith(reason)
    assert "\n" not in label.failure


def test_scratch_that_cannot_be_copied_is_one_line(code, tmp_path):
    """A broken link stands for a disk that gives an error for many files at once."""
    for name in ("wfc1.dat", "wfc2.dat"):
        (tmp_path / "zero" / "scratch").mkdir(parents=True, exist_ok=True)
        (tmp_path / "zero" / "scratch" / name).symlink_to("gone")
    with pytest.raises(EngineError, match=r"cannot copy the files of zero for \+x: .*No such file") as caught:
        run_point(tmp_path / "x", "", code, name="+x", lease_descriptor=0, start_from=tmp_path / "zero")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_environment_suits_small_runs_as_root(displaced_primitive, fast, fake_code, tmp_path):
    code = fake_code("echo $OMP_NUM_THREADS $OMPI_ALLOW_RUN_AS_ROOT $MINE >&2; exit 1")
    code = code.model_copy(update={"environment": {"MINE": "yes"}})
    label = label_frame(PwEngine(fast, code), displaced_primitive, FORWARD, tmp_path / "frame")
    assert label.failure.endswith("1 1 yes")


def test_runs_under_a_launcher(displaced_primitive, fast, code, tmp_path):
    launched = code.model_copy(update={"launcher": ("mpirun", "-np", "1")})
    parallel = label_frame(PwEngine(fast, launched), displaced_primitive, FORWARD, tmp_path / "mpirun")
    assert parallel.status == "done", parallel.failure
    serial = label_frame(PwEngine(fast, code), displaced_primitive, FORWARD, tmp_path / "plain")
    assert parallel.label_id == serial.label_id
    assert parallel.response.enthalpy == pytest.approx(serial.response.enthalpy, abs=1e-8)
