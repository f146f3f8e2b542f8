"""Which jobs of a growing flow may run: the dependencies of jobflow, free of stores and processes.

A job is known by its uuid and index (the number of its replacement). A child waits for its parents, and for the jobs
that replace them or that they make a detour to, but not for those they add.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import cast

from jobflow.core.job import Job, JobConfig
from jobflow.core.reference import OnMissing

JobKey = tuple[str, int]
"""uuid and index."""


class JobState(Enum):
    """What became of a job."""

    WAITING = "waiting"
    READY = "ready"
    FINISHED = "finished"
    FOUND = "found"
    FAILED = "failed"
    NOT_RUN = "not_run"

    @property
    def settled(self) -> bool:
        """True where nothing more will happen to the job."""
        return self not in (JobState.WAITING, JobState.READY)

    @property
    def succeeded(self) -> bool:
        """True where the job's output is in the store."""
        return self in (JobState.FINISHED, JobState.FOUND)


@dataclass
class _Node:
    job: Job
    state: JobState = JobState.WAITING
    # Dictionaries, as sets would lose the order of the flow.
    parents: dict[JobKey, None] = field(default_factory=dict)
    children: dict[JobKey, None] = field(default_factory=dict)
    stops_children: bool = False


class JobGraph:
    """The jobs met so far, their dependencies and states."""

    def __init__(self) -> None:
        self._nodes: dict[JobKey, _Node] = {}
        self._latest: dict[str, JobKey] = {}
        self._ready: deque[JobKey] = deque()
        self._dropped: deque[JobKey] = deque()

    def __iter__(self) -> Iterator[JobKey]:
        """Keys of all jobs, in the order they were met."""
        return iter(self._nodes)

    def job(self, key: JobKey) -> Job:
        """The job of a key."""
        return self._nodes[key].job

    def state(self, key: JobKey) -> JobState:
        """The state of a job."""
        return self._nodes[key].state

    def latest(self) -> list[JobKey]:
        """The last index of every uuid, in the order they were met."""
        return list(self._latest.values())

    def add(self, jobs: Sequence[tuple[Job, Sequence[str]]], wait_for: Iterable[JobKey] = ()) -> list[JobKey]:
        """Add the jobs of a flow.

        Args:
            jobs: each with the uuids of its parents in the flow, parents first. A job that is known already is not
                added again: the same content key may come up twice.
            wait_for: children of these jobs also wait for the flow (replacement and detour).

        Returns:
            Keys of the jobs added.
        """
        own = {job.uuid: (job.uuid, job.index) for job, _ in jobs}
        new = [(job, uuids) for job, uuids in jobs if own[job.uuid] not in self._nodes]
        self._nodes |= {own[job.uuid]: _Node(job) for job, _ in new}
        for job, uuids in new:
            # References to jobs of other flows, where jobflow lets them pass, count as parents too.
            for uuid in (*uuids, *job.input_uuids):
                self._depend(own[job.uuid], own.get(uuid) or self._latest.get(uuid))
        flow = set(own.values())
        leaves = [key for key in own.values() if flow.isdisjoint(self._nodes[key].children)]
        for key in wait_for:
            for child in [child for child in self._nodes[key].children if child not in flow]:
                for leaf in leaves:
                    self._depend(child, leaf)
        added = [own[job.uuid] for job, _ in new]
        self._latest |= {key[0]: key for key in added}
        for key in added:
            if self._consider(key):
                self.settle(key, JobState.NOT_RUN, self._nodes[key].stops_children)
        return added

    def _depend(self, child: JobKey, parent: JobKey | None) -> None:
        if parent is not None and parent != child:
            self._nodes[child].parents[parent] = None
            self._nodes[parent].children[child] = None

    def settle(self, key: JobKey, state: JobState, stop_children: bool = False) -> None:
        """Note what became of a job; its children become ready or are given up.

        New jobs that its children must wait for are to be added before.
        """
        self._nodes[key].state = state
        self._nodes[key].stops_children = stop_children
        settled = [key]
        while settled:
            settled.extend(child for child in self._nodes[settled.pop()].children if self._consider(child))

    def _consider(self, key: JobKey) -> bool:
        """Once the parents of a waiting job are settled, make it ready or give it up; True for the latter."""
        node = self._nodes[key]
        parents = [self._nodes[parent] for parent in node.parents]
        if node.state is not JobState.WAITING or not all(parent.state.settled for parent in parents):
            return False
        failed = any(not parent.state.succeeded for parent in parents)
        stopped = any(parent.stops_children for parent in parents)
        if stopped or (failed and _must_resolve(node.job)):
            node.state = JobState.NOT_RUN
            node.stops_children = stopped
            self._dropped.append(key)
            return True
        node.state = JobState.READY
        self._ready.append(key)
        return False

    def take_ready(self) -> JobKey | None:
        """The next job to run, first in, first out; None where there is none now."""
        return self._ready.popleft() if self._ready else None

    def put_back(self, key: JobKey) -> None:
        """Queue a job again."""
        self._ready.append(key)

    def take_dropped(self) -> list[JobKey]:
        """Jobs given up since the last call."""
        dropped = list(self._dropped)
        self._dropped.clear()
        return dropped

    def drop_rest(self) -> None:
        """Give up all jobs that are not settled."""
        self._ready.clear()
        for key, node in self._nodes.items():
            if not node.state.settled:
                node.state = JobState.NOT_RUN
                self._dropped.append(key)


def _must_resolve(job: Job) -> bool:
    return cast(JobConfig, job.config).on_missing_references == OnMissing.ERROR
