"""The loop on real DFT: it runs through, and kill -9 at any moment costs nothing that was finished."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from fieldloop.dft_inputs.records import LABELS
from fieldloop.workflows.campaign import read_store
from fieldloop.workflows.queries import read_campaign

COMMAND = [str(Path(sys.executable).with_name("fieldloop")), "loop"]


def start(campaign) -> subprocess.Popen:
    output = (campaign.file.parent / "stdout.txt").open("ab")
    return subprocess.Popen([*COMMAND, str(campaign.file)], stdout=output, stderr=output, start_new_session=True)


def finish(campaign) -> None:
    process = start(campaign)
    assert process.wait(timeout=600) == 0, (campaign.file.parent / "stdout.txt").read_text()[-3000:]


def kill_after(campaign, ready, delay: float) -> bool:
    """Start, wait until ``ready``, and kill -9 the driver alone; False where the loop finished before."""
    process = start(campaign)
    deadline = time.monotonic() + 300
    while not ready() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(delay)
    if process.poll() is not None:
        return False
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return True


def contents(campaign):
    return read_campaign(read_store(campaign.root / "fieldloop.sqlite"), campaign.root)


def science(record) -> dict:
    """A label without what may differ between two runs on one machine: times and directories."""
    dumped = record.model_dump()
    for cost in ("seconds", "cpu_seconds"):
        dumped["provenance"].pop(cost)
    for point in dumped["field_points"]:
        point.pop("seconds")
    return dumped


def check_scfs(campaign) -> None:
    """No finished SCF was run again, and no two pw.x were at work in one frame's directory at a time."""
    events = campaign.scf_events()
    ends = Counter(event["where"] for event in events if event["event"] == "end")
    assert max(ends.values()) == 1, [where for where, count in ends.items() if count > 1]
    ended = {event["pid"]: event["time"] for event in events if event["event"] == "end"}
    frames: dict[str, list[dict]] = {}
    for event in events:
        if event["event"] == "start":
            frames.setdefault(event["where"].rsplit("/", 1)[0], []).append(event)
    for starts in frames.values():
        for one, following in pairwise(sorted(starts, key=lambda event: event["time"])):
            # A start without an end was killed; the lease held the next one back until it was gone.
            assert ended.get(one["pid"], 0.0) <= following["time"]


def check_same(one, other) -> None:
    """Two campaigns hold the same labels, choices and verdicts."""
    a, b = contents(one), contents(other)
    assert {r.label_id: science(r) for r in a.labels} == {r.label_id: science(r) for r in b.labels}
    assert [s.model_dump() for s in a.selections] == [s.model_dump() for s in b.selections]
    assert [g.model_dump() for g in a.generations] == [g.model_dump() for g in b.generations]


@pytest.fixture
def undisturbed(make_campaign):
    campaign = make_campaign("undisturbed")
    finish(campaign)
    return campaign


def test_loop_runs_and_resumes_after_kills(undisturbed, make_campaign):
    found = contents(undisturbed)
    assert len(found.labels) == 9
    assert all(record.status == "done" for record in found.labels)
    assert set(found.labels[0].response.labels) == set(LABELS)
    assert [record.generation for record in found.generations] == [0, 1]
    assert all(len(record.pairs) == 2 for record in found.generations)
    assert all(record.score.errors.forces > 0 for record in found.generations)
    assert found.generations[-1].decision.stop
    # The second committee was trained on what the first generation chose, from where the first committee stood.
    first, second, last = ([m for m in found.models if m.generation == g] for g in (0, 1, 2))
    new = set(second[0].training_ids) - set(first[0].training_ids)
    assert new == {pair.label_id for pair in found.generations[0].pairs}
    assert [m.start_model_id for m in second] == [m.model_id for m in first]
    # The labels of the last generation are not lost on the models that the user takes home.
    assert {p.label_id for g in found.generations for p in g.pairs} <= set(last[0].training_ids)
    assert all(not set(m.training_ids) & set(m.validation_ids) for m in found.models)
    assert len({m.validation_ids for m in found.models}) == 1
    page = (undisturbed.root / "report.html").read_text()
    assert all(record.label_id in page for record in found.labels)
    check_scfs(undisturbed)

    killed = make_campaign("killed")
    moments = [
        lambda: len(killed.scf_events()) >= 6,  # among the field points of the first frames
        lambda: len(list(killed.root.glob("training/*/checkpoint.pt"))) >= 1,
        lambda: len(list(killed.root.glob("selection/*"))) >= 1,
        lambda: len(list(killed.root.glob("decisions/000-judge"))) >= 1,
    ]
    kills = [kill_after(killed, moment, delay=0.2) for moment in moments]
    assert sum(kills) >= 2
    finish(killed)
    check_scfs(killed)
    check_same(undisturbed, killed)

    before = len(killed.scf_events())
    finish(killed)
    assert len(killed.scf_events()) == before


@pytest.mark.slow
def test_kills_at_random_moments(undisturbed, make_campaign):
    """Twelve kills, each a random while after the start, then one undisturbed run."""
    rng = random.Random(0)
    killed = make_campaign("killed")
    for _ in range(12):
        if not kill_after(killed, lambda: True, delay=rng.uniform(1.0, 9.0)):
            break
    finish(killed)
    check_scfs(killed)
    check_same(undisturbed, killed)


def test_a_failed_label_does_not_stop_the_loop(make_campaign):
    """A launcher that kills pw.x in one frame: its label fails with the reason, the files stay, the loop goes on."""
    campaign = make_campaign("failing")
    launcher = campaign.file.parent / "launch.sh"
    marker = campaign.file.parent / "victim"
    # The first frame to reach +y claims the marker and dies there; `set -C` lets only one claim it.
    dies = f'if [[ "$PWD" == *"field+y" ]] && (set -C; : > {marker}) 2> /dev/null; then kill -9 $$; fi'
    text = launcher.read_text().replace('"$@"\n', f'{dies}\n"$@"\n')
    launcher.write_text(text)
    finish(campaign)
    found = contents(campaign)
    failed = [record for record in found.labels if record.status == "failed"]
    assert len(failed) == 1
    assert "+y" in failed[0].failure
    assert "signal 9" in failed[0].failure
    assert (campaign.root / failed[0].provenance.directory / "zero" / "pw.xml").exists()
    assert found.generations[-1].decision.stop
    assert failed[0].label_id not in {i for model in found.models for i in model.training_ids}
    assert failed[0].label_id in (campaign.root / "report.html").read_text()
