"""Progress of a flow, from its events."""

import io
import json
import re

import pytest
from fieldloop.workflows.executors import JobEvent
from fieldloop.workflows.progress import FlowProgress, Stage, clock, label_fraction, training_fraction
from rich.console import Console


def event(kind, number, room="labels", seconds=0.0, reason="", name="label"):
    return JobEvent(kind, name, f"{room}{number}", 1, seconds, {"directory": f"{room}/{number}"}, reason)


def printed(tmp_path, events, **options):
    console = Console(file=io.StringIO(), width=120)
    with FlowProgress(console, tmp_path, workers=2, **options) as progress:
        progress.expect("labels", 4)
        for each in events:
            progress(each)
    return console.file.getvalue().splitlines()


def test_plain_lines(tmp_path):
    lines = printed(
        tmp_path,
        [
            event("found", 0),
            event("found", 1),
            event("submitted", 2),
            event("started", 2),
            event("finished", 2, seconds=12.3),
            event("requeued", 3, reason="the worker process 1 died of SIGKILL"),
            event("failed", 3, reason="OSError: [Errno 28] No space left on device"),
            event("not_run", 0, room="training"),
            event("not_run", 1, room="training"),
        ],
    )
    assert lines == [
        "DFT labels: 2 found finished",
        "DFT labels 3/4 done in 12 s",
        "label is run again: the worker process 1 died of SIGKILL",
        "DFT labels 4/4 failed: OSError: [Errno 28] No space left on device",
        "training: 2 not run, as what they need failed",
    ]


def test_a_job_that_finished_in_vain_counts_as_failed(tmp_path):
    lines = printed(
        tmp_path,
        [event("finished", 0), event("finished", 1)],
        trouble=lambda e: "[boom]" if e.uuid == "labels1" else None,
    )
    assert lines[-1] == "DFT labels 2/4 failed: [boom]"


def test_a_job_met_again_in_a_later_flow_counts_once(tmp_path):
    assert printed(tmp_path, [event("finished", 0), event("found", 0)]) == ["DFT labels 1/4 done in 0.0 s"]


def test_deciding_steps_are_silent_unless_they_fail(tmp_path):
    steps = [event("finished", 0, room="decisions"), event("failed", 1, room="decisions", reason="why", name="plan")]
    assert printed(tmp_path, steps) == ["plan failed: why"]


def test_quiet(tmp_path):
    assert printed(tmp_path, [event("finished", 0), event("failed", 1, reason="why")], quiet=True) == []


def test_live_lines_show_counts_and_time_left(tmp_path):
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    for point in ("zero", "field-x"):
        (tmp_path / "labels" / "2" / point).mkdir(parents=True)
        (tmp_path / "labels" / "2" / point / "pw.xml").touch()
    with FlowProgress(console, tmp_path, workers=2, fractions={"labels": label_fraction(4, "pw.xml")}) as progress:
        progress.expect("labels", 4)
        progress(event("finished", 0, seconds=60.0))
        progress(event("failed", 1, reason="killed"))
        progress(event("started", 2))
        plain = Console(file=io.StringIO(), width=120)
        plain.print(progress.render())
    line = re.sub(r"\s+", " ", plain.file.getvalue())
    # One of four failed, one done in 60 s, half of the third: 1.5 labels are left for two workers.
    assert "1/4 1 running (0.0 s), 1 failed about 45 s left" in line
    assert "DFT labels 2/4 failed: killed" in console.file.getvalue()


def test_time_left_is_unknown_before_the_first_and_after_the_last():
    assert Stage(expected=3).remaining_seconds(0.0, 2) is None
    assert Stage(expected=1, finished=1, seconds=[5.0]).remaining_seconds(1.0, 2) is None


def test_epochs_of_a_training(tmp_path):
    fraction = training_fraction(first=100, later=10)
    first, later = event("started", 0, "training", name="train 0.1"), event("started", 1, "training", name="train 3.0")
    assert fraction(first, tmp_path) == 0.0
    (tmp_path / "training.log").write_text("".join(json.dumps({"epoch": n}) + "\n" for n in range(1, 6)))
    assert fraction(first, tmp_path) == pytest.approx(0.05)
    assert fraction(later, tmp_path) == pytest.approx(0.5)
    with (tmp_path / "training.log").open("a") as log:
        log.write('{"epo')
    assert fraction(first, tmp_path) == 0.0


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.23, "4.2 s"), (59.4, "59 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")]
)
def test_durations(seconds, text):
    assert clock(seconds) == text
