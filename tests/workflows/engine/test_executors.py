"""Flows over real worker processes: jobflow's semantics, and what is left after things are killed."""

import json
import os
import signal
import subprocess
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest
from fieldloop.workflows.executors import RootInUse, WorkerDied, local_executor, run_flow
from fieldloop.workflows.keys import content_job, content_key
from fieldloop.workflows.store import SQLiteStore
from jobflow import Flow, JobStore, OnMissing, run_locally
from jobflow.core.flow import JobOrder
from maggma.stores import MemoryStore

import flow_jobs  # isort: skip


@pytest.fixture(scope="module")
def executor():
    """Workers shared by the tests that do not kill them; starting one takes a second."""
    with local_executor(2) as made:
        yield made


@pytest.fixture
def store(tmp_path) -> JobStore:
    made = JobStore(SQLiteStore(tmp_path / "store.sqlite"))
    made.connect()
    return made


def lines(path) -> list[str]:
    return Path(path).read_text().split() if Path(path).exists() else []


def keyed(value, log, seconds=0.0):
    return content_job(flow_jobs.recorded(value, str(log), seconds), content_key("recorded", value), f"work/{value}")


def linear(log):
    jobs = [flow_jobs.recorded(letter, log) for letter in "cab"]
    return Flow(jobs, order=JobOrder.LINEAR, output=[each.output for each in jobs])


def chain(log):
    first = flow_jobs.add(1, 2)
    second = flow_jobs.add(first.output, first.output)
    return Flow([second, first], output=second.output)


def replaced(log):
    fibonacci = flow_jobs.fibonacci(1, 1, 60)
    after = flow_jobs.add(fibonacci.output, 1)
    return Flow([fibonacci, after], output=after.output)


def replaced_by_flow(log):
    fan = flow_jobs.fan_out([1, 2, 3])
    listed = flow_jobs.dynamic_flow_list([4, 5])
    counted = flow_jobs.count_present(fan.output)
    return Flow([fan, listed, counted], output=[fan.output, listed.output, counted.output])


def detoured(log):
    first = flow_jobs.detour_to("first", log)
    second = flow_jobs.recorded(first.output, log)
    return Flow([first, second], output=second.output)


def added(log):
    first = flow_jobs.add_work("main", log)
    second = flow_jobs.add(first.output, "!")
    return Flow([first, second], output=second.output)


def nested(log):
    inner, outer = chain(log), replaced(log)
    last = flow_jobs.add(inner.output, outer.output)
    return Flow([inner, outer, last], output=last.output)


@pytest.mark.parametrize("make", [linear, chain, replaced, replaced_by_flow, detoured, added, nested])
def test_same_outputs_as_jobflow(make, tmp_path, store, executor):
    """jobflow's own serial manager is the reference."""
    logs = [tmp_path / "ours.log", tmp_path / "theirs.log"]
    reference = JobStore(MemoryStore())
    flows = [make(str(log)) for log in logs]
    result = run_flow(flows[0], store=store, root=tmp_path / "root", executor=executor)
    (tmp_path / "theirs").mkdir()
    run_locally(flows[1], store=reference, log=False, ensure_success=True, root_dir=tmp_path / "theirs")
    outputs = [resolve(flow.output, where) for flow, where in zip(flows, (store, reference), strict=True)]
    assert outputs[0] == outputs[1]
    assert result.ok
    assert not result.not_run
    ours, theirs = (lines(log) for log in logs)
    assert sorted(ours) == sorted(theirs)
    if make in (linear, detoured):
        assert ours == theirs
    described = [
        sorted((d["name"], d["index"], json.dumps(resolve(d["output"], where))) for d in where.query())
        for where in (store, reference)
    ]
    assert described[0] == described[1]


def resolve(output, store):
    from jobflow.core.reference import find_and_resolve_references

    return find_and_resolve_references(output, store)


def test_children_wait_for_detours_but_not_for_additions(tmp_path, store, executor):
    log = tmp_path / "log"
    first = flow_jobs.add_work("main", str(log), seconds=1.5)
    second = flow_jobs.recorded(first.output, str(log))
    order = []
    run_flow(
        Flow([first, second]),
        store=store,
        root=tmp_path,
        executor=executor,
        events=lambda event: order.append(event.name) if event.kind == "finished" else None,
    )
    assert order == ["add_work", "recorded", "recorded"]
    documents = list(store.query({"name": "recorded"}, sort={"completed_at": 1}))
    assert [d["output"] for d in documents] == ["main", "addition"]


def test_a_failure_stops_its_descendants_only(tmp_path, store, executor):
    bad = flow_jobs.fail("no convergence\nin the SCF")
    child = flow_jobs.add(bad.output, 1)
    grandchild = flow_jobs.add(child.output, 1)
    good = [flow_jobs.add(n, n) for n in range(3)]
    collector = flow_jobs.count_present([bad.output, *(each.output for each in good)])
    result = run_flow(Flow([bad, child, grandchild, *good, collector]), store=store, root=tmp_path, executor=executor)
    assert set(result.finished) == {each.uuid for each in good} | {collector.uuid}
    assert result.not_run == {child.uuid: "add", grandchild.uuid: "add"}
    failure = result.failed[bad.uuid]
    assert failure.reason == "RuntimeError: no convergence in the SCF"
    assert failure.traceback_file == tmp_path / "jobs" / bad.uuid / "traceback.txt"
    assert "flow_jobs.py" in failure.traceback_file.read_text()
    assert store.get_output(collector.uuid) == 3
    assert not result.ok


def test_missing_references_may_pass(tmp_path, store, executor):
    bad = flow_jobs.fail("x")
    lenient = flow_jobs.count_present([bad.output])
    lenient.config.on_missing_references = OnMissing.PASS
    result = run_flow(Flow([bad, lenient]), store=store, root=tmp_path, executor=executor)
    assert store.get_output(lenient.uuid) == 1
    assert list(result.failed) == [bad.uuid]


@pytest.mark.parametrize("kind", ["stop_children", "stop_jobflow"])
def test_stops(kind, tmp_path, store, executor):
    stopper = flow_jobs.stop(kind)
    child = flow_jobs.count_present([stopper.output])
    grandchild = flow_jobs.count_present([child.output])
    bystander = flow_jobs.add(1, 1)
    after = flow_jobs.add(bystander.output, 1)
    first = [stopper, bystander, after]
    if kind == "stop_jobflow":  # one after the other, so that the stop comes before the rest
        first = [Flow(first, order=JobOrder.LINEAR)]
    result = run_flow(Flow([*first, child, grandchild]), store=store, root=tmp_path, executor=executor)
    assert stopper.uuid in result.finished
    assert {child.uuid, grandchild.uuid} <= result.not_run.keys()
    assert (after.uuid in result.finished) == (kind == "stop_children")


def test_stored_data_and_additional_stores(tmp_path, executor):
    store = JobStore(
        SQLiteStore(tmp_path / "store.sqlite"),
        additional_stores={"data": SQLiteStore(tmp_path / "store.sqlite", collection="blobs")},
    )
    aside, blob = flow_jobs.store_aside(1), flow_jobs.with_blob(5)
    total = flow_jobs.count_present(blob.output["big"])
    result = run_flow(Flow([aside, blob, total]), store=store, root=tmp_path, executor=executor)
    assert result.stored_data == {aside.uuid: {"aside": 1}}
    assert store.query_one({"uuid": aside.uuid})["stored_data"] == {"aside": 1}
    assert "blob_uuid" in store.query_one({"uuid": blob.uuid}, load=False)["output"]["big"]
    assert store.get_output(total.uuid) == 5


def test_where_jobs_run(tmp_path, store, executor):
    plain = flow_jobs.surroundings()
    placed = flow_jobs.surroundings()
    placed.metadata["directory"] = "labels/abc"
    run_flow(Flow([plain, placed]), store=store, root=tmp_path, executor=executor)
    here = store.get_output(placed.uuid)
    assert here | {"pid": 0} == {
        "directory": str(tmp_path / "labels/abc"),
        "root": str(tmp_path),
        "threads": "1",
        "pid": 0,
    }
    assert here["pid"] != os.getpid()
    assert store.get_output(plain.uuid)["directory"] == str(tmp_path / "jobs" / plain.uuid)
    assert (tmp_path / "labels/abc/job.log").read_text() == "said by the job\n"
    outside = flow_jobs.surroundings()
    outside.metadata["directory"] = "../elsewhere"
    with pytest.raises(ValueError, match="must run below the root"):
        run_flow(outside, store=store, root=tmp_path, executor=executor)


def test_jobs_that_want_the_store_are_refused(tmp_path, store, executor):
    greedy = flow_jobs.add(1, 1)
    greedy.config.expose_store = True
    with pytest.raises(ValueError, match="expose_store"):
        run_flow(greedy, store=store, root=tmp_path, executor=executor)


def test_content_keyed_jobs_are_found(tmp_path, store, executor):
    log, kinds = tmp_path / "log", []
    for _ in range(2):
        jobs = [keyed(value, log) for value in "abc"]
        last = flow_jobs.count_present([each.output for each in jobs])
        result = run_flow(
            Flow([*jobs, last]), store=store, root=tmp_path, executor=executor, events=lambda e: kinds.append(e.kind)
        )
    assert sorted(lines(log)) == ["a", "b", "c"]
    assert sorted(result.found) == sorted(each.uuid for each in jobs)
    assert store.get_output(last.uuid) == 3
    assert kinds.count("found") == 3
    result = run_flow(
        Flow([keyed(value, log) for value in "abc"]),
        store=store,
        root=tmp_path,
        executor=executor,
        retry=lambda document: document["output"] == "b",
    )
    assert sorted(lines(log)) == ["a", "b", "b", "c"]
    assert (len(result.found), len(result.finished)) == (2, 1)


def test_replacement_of_a_content_key_is_not_mistaken_for_it(tmp_path, store, executor):
    """A job that is replaced by a content-keyed one hands it its own uuid: it must run."""
    log = str(tmp_path / "log")
    parent = flow_jobs.replace_by_keyed(log)
    run_flow(parent, store=store, root=tmp_path, executor=executor)
    assert lines(log) == ["inner"]
    assert store.get_output(parent.uuid) == "inner"


def test_content_keyed_jobs_may_only_return_outputs(tmp_path, store, executor):
    job = content_job(flow_jobs.add_work(1, str(tmp_path / "log")), content_key("adder"), "work/adder")
    result = run_flow(job, store=store, root=tmp_path, executor=executor)
    assert "may only return an output" in result.failed[job.uuid].reason
    assert store.query_one({"uuid": job.uuid}) is None
    assert not lines(tmp_path / "log")


def test_a_worker_killed_is_replaced(tmp_path, store):
    survivor = flow_jobs.die_once(str(tmp_path / "flag"))
    bystanders = [flow_jobs.recorded(n, str(tmp_path / "log"), 0.2) for n in range(4)]
    kinds = []
    result = run_flow(
        Flow([survivor, *bystanders]), store=store, root=tmp_path, events=lambda e: kinds.append((e.kind, e.name))
    )
    assert result.ok
    assert store.get_output(survivor.uuid) == "survived"
    assert kinds.count(("requeued", "die_once")) == 1
    assert sorted(lines(tmp_path / "log")) == ["0", "1", "2", "3"]


def test_a_job_that_kills_its_worker_fails_alone(tmp_path, store):
    killer = flow_jobs.die_always(str(tmp_path / "deaths"))
    child = flow_jobs.count_present([killer.output])
    child.config.on_missing_references = OnMissing.ERROR
    bystanders = [flow_jobs.recorded(n, str(tmp_path / "log"), 0.2) for n in range(6)]
    result = run_flow(Flow([killer, child, *bystanders]), store=store, root=tmp_path)
    assert "SIGKILL (after 3 attempts)" in result.failed[killer.uuid].reason
    assert len(lines(tmp_path / "deaths")) == 3
    assert list(result.not_run) == [child.uuid]
    assert sorted(lines(tmp_path / "log")) == [str(n) for n in range(6)]


DRIVER = """
import sys
from pathlib import Path
from jobflow import Flow, JobStore
import flow_jobs
from test_executors import keyed
from fieldloop.workflows.executors import run_flow
from fieldloop.workflows.store import SQLiteStore
root, log = Path(sys.argv[1]), sys.argv[2]
jobs = [keyed(n, log, 0.3) for n in range(12)]
def tell(event):
    print(event.kind, event.metadata["directory"], flush=True)
result = run_flow(Flow(jobs), store=JobStore(SQLiteStore(root / "store.sqlite")), root=root, events=tell)
print("END", len(result.found), len(result.finished), flush=True)
"""


def finished_before_end(driver: subprocess.Popen, number: int) -> set[str]:
    """Directories of the jobs whose end a driver has told, after so many."""
    finished: set[str] = set()
    for line in driver.stdout:
        kind, directory, *_ = line.split()
        if kind == "finished":
            finished.add(directory)
        if len(finished) == number:
            break
    return finished


def children_of(process: subprocess.Popen) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_driver_ended_and_run_again(how, tmp_path, store, start_python):
    log = tmp_path / "log"
    driver = start_python(DRIVER, tmp_path, log)
    finished = finished_before_end(driver, 4)
    workers = children_of(driver)
    assert len(workers) == 2
    driver.send_signal(how)
    driver.wait(20)
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert not alive, "workers outlived the driver"
    before = lines(log)
    again = start_python(DRIVER, tmp_path, log)
    output, errors = again.communicate(timeout=60)
    assert again.returncode == 0, errors
    found = {line.split()[1] for line in output.splitlines() if line.startswith("found")}
    assert finished <= found
    executions = lines(log)
    for directory in finished:
        assert executions.count(directory.removeprefix("work/")) == 1
    assert set(executions) == {str(n) for n in range(12)}
    assert len(executions) - 12 <= len(workers)
    assert len(before) < 12
    assert store.count() == 12


def test_two_drivers_exclude_each_other(tmp_path, store, executor, start_python):
    driver = start_python(DRIVER, tmp_path, tmp_path / "log")
    finished_before_end(driver, 1)
    with pytest.raises(RootInUse, match=f"in use by process {driver.pid} on ") as refusal:
        run_flow(flow_jobs.add(1, 1), store=store, root=tmp_path, executor=executor)
    assert refusal.value.holder.startswith(str(driver.pid))
    driver.kill()
    driver.wait()
    assert run_flow(flow_jobs.add(1, 1), store=store, root=tmp_path, executor=executor).ok


def test_any_executor_of_processes_serves(tmp_path, store):
    jobs = [flow_jobs.add(n, n) for n in range(3)]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert run_flow(Flow(jobs), store=store, root=tmp_path, executor=pool).ok
    assert [store.get_output(each.uuid) for each in jobs] == [0, 2, 4]


def test_local_executor_is_an_executor():
    with local_executor(2) as executor:
        assert list(executor.map(abs, [-1, -2, 3])) == [1, 2, 3]
        with pytest.raises(ValueError, match="invalid literal"):
            executor.submit(int, "x").result()
        with pytest.raises(WorkerDied, match="exit status 3"):
            executor.submit(os._exit, 3).result()
        assert executor.submit(abs, -5).result() == 5
    with pytest.raises(RuntimeError, match="shut down"):
        executor.submit(abs, 1)
    with pytest.raises(ValueError, match="at least one worker"):
        local_executor(0)


def test_what_a_worker_started_ends_with_it(tmp_path):
    executor = local_executor(1)
    future = executor.submit(subprocess.check_call, ["sleep", "300"])
    deadline = time.monotonic() + 10
    while not (sleeps := sleeping()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sleeps
    executor.kill()
    _, alive = psutil.wait_procs(sleeps, timeout=5)
    assert not alive
    assert isinstance(future.exception(5), WorkerDied)


def sleeping() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [child for child in children if child.status() != psutil.STATUS_ZOMBIE and child.name() == "sleep"]


def test_fan_out_overhead(tmp_path, store, executor):
    """A figure, not a bound."""
    jobs = [flow_jobs.add(n, n) for n in range(200)]
    collector = flow_jobs.count_present([each.output for each in jobs])
    start = time.perf_counter()
    result = run_flow(Flow([*jobs, collector]), store=store, root=tmp_path, executor=executor)
    print(f"200 jobs and a collector: {(time.perf_counter() - start) / 201 * 1e3:.1f} ms a job")
    assert len(result.finished) == 201
    assert store.get_output(collector.uuid) == 200
