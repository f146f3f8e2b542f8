"""The order of jobs, without running any."""

import pytest
from fieldloop.workflows.job_graph import JobGraph, JobState
from jobflow import OnMissing

import flow_jobs  # isort: skip


def named(uuid: str, *parents: str, index: int = 1, lenient: bool = False):
    job = flow_jobs.add(1, 1)
    job.set_uuid(uuid)
    job.index = index
    if lenient:
        job.config.on_missing_references = OnMissing.NONE
    return job, list(parents)


def ready(graph: JobGraph) -> list[str]:
    taken = []
    while (key := graph.take_ready()) is not None:
        taken.append(f"{key[0]}{key[1]}")
    return taken


@pytest.fixture
def graph() -> JobGraph:
    return JobGraph()


def test_a_diamond(graph):
    graph.add([named("a"), named("b", "a"), named("c", "a"), named("d", "b", "c")])
    assert ready(graph) == ["a1"]
    graph.settle(("a", 1), JobState.FINISHED)
    assert ready(graph) == ["b1", "c1"]
    graph.settle(("b", 1), JobState.FOUND)
    assert ready(graph) == []
    graph.settle(("c", 1), JobState.FINISHED)
    assert ready(graph) == ["d1"]


def test_children_wait_for_every_replacement(graph):
    graph.add([named("a"), named("b", "a")])
    graph.add([named("a", index=2)], wait_for=[("a", 1)])
    graph.settle(("a", 1), JobState.FINISHED)
    assert ready(graph) == ["a1", "a2"]
    graph.add([named("x"), named("a", "x", index=3)], wait_for=[("a", 2)])
    graph.settle(("a", 2), JobState.FINISHED)
    graph.settle(("x", 1), JobState.FINISHED)
    assert ready(graph) == ["x1", "a3"]
    graph.settle(("a", 3), JobState.FINISHED)
    assert ready(graph) == ["b1"]


@pytest.mark.parametrize("failing", [("a", 2), ("detour", 1)])
def test_a_failed_replacement_or_detour_stops_children(graph, failing):
    graph.add([named("a"), named("b", "a"), named("c", "a", lenient=True)])
    graph.add([named(failing[0], index=failing[1])], wait_for=[("a", 1)])
    graph.settle(("a", 1), JobState.FINISHED)
    ready(graph)
    graph.settle(failing, JobState.FAILED)
    assert graph.state(("b", 1)) is JobState.NOT_RUN
    assert ready(graph) == ["c1"]


def test_stop_children_spares_nobody_below(graph):
    graph.add([named("a"), named("b", "a", lenient=True), named("c", "b", lenient=True)])
    graph.settle(("a", 1), JobState.FINISHED, stop_children=True)
    assert graph.take_dropped() == [("b", 1), ("c", 1)]


def test_long_chains_fail_without_recursion(graph):
    graph.add([named("0"), *(named(str(n), str(n - 1)) for n in range(1, 3000))])
    graph.settle(("0", 1), JobState.FAILED)
    assert len(graph.take_dropped()) == 2999


def test_the_same_content_twice_is_one_job(graph):
    graph.add([named("label"), named("first", "label")])
    assert graph.add([named("label"), named("second", "label")]) == [("second", 1)]
    assert ready(graph) == ["label1"]
    graph.settle(("label", 1), JobState.FINISHED)
    assert ready(graph) == ["first1", "second1"]


def test_what_can_never_run_is_given_up(graph):
    """A detour that waits for the job that waits for it, which jobflow cannot resolve either."""
    graph.add([named("a"), named("b", "a")])
    ready(graph)
    graph.add([named("detour", "b")], wait_for=[("a", 1)])
    graph.settle(("a", 1), JobState.FINISHED)
    assert ready(graph) == []
    graph.drop_rest()
    assert sorted(graph.take_dropped()) == [("b", 1), ("detour", 1)]
