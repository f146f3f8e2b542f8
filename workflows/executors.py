"""Running a jobflow flow over any ``concurrent.futures`` executor, so that running it again finds finished work.

The driver resolves references and writes to the store; workers run jobs (``worker.run_job``) and never see the store.
All of jobflow's ``Response`` is honoured. Children wait for replacements and detours, not for additions, and are not
run where a job that they wait for failed (unless they accept missing references).
"""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from types import FrameType
from typing import Any, Literal, cast

from jobflow.core.flow import Flow, get_flow
from jobflow.core.job import Job, JobConfig
from jobflow.core.store import JobStore
from monty.json import MontyDecoder

from .job_graph import JobGraph, JobKey, JobState
from .keys import is_content_keyed
from .processes import LocalExecutor, WorkerDied, local_executor
from .root_lock import RootInUse, root_lock
from .store_queries import decode
from .worker import JobOrder, JobOutcome, encode_job, failure, ordered_jobs, run_job

__all__ = [
    "FlowResult",
    "JobEvent",
    "JobFailure",
    "LocalExecutor",
    "RootInUse",
    "WorkerDied",
    "local_executor",
    "run_flow",
]

MAX_ATTEMPTS = 3
"""How often a job is run whose worker dies under it."""

_POLL_SECONDS = 0.5
_QUEUED_PER_WORKER = 2


@dataclass(frozen=True)
class JobEvent:
    """Something happened to a job; for progress bars and logs.

    Attributes:
        kind: ``submitted`` to the executor, ``started`` (seen at intervals of half a second), ``requeued`` as its
            worker died, then ``finished``, ``found`` in the store, ``failed`` or ``not_run``.
        name, uuid, index: of the job.
        seconds: wall time of the run, where there was one.
        metadata: of the job.
        reason: one line, for ``requeued`` and ``failed``.
    """

    kind: Literal["submitted", "started", "requeued", "finished", "found", "failed", "not_run"]
    name: str
    uuid: str
    index: int
    seconds: float = 0.0
    metadata: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class JobFailure:
    """Why a job failed: one line, and the file with the traceback."""

    name: str
    reason: str
    traceback_file: Path | None


@dataclass(frozen=True)
class FlowResult:
    """What became of the jobs of a flow, by the last index of each uuid, in the order they were met.

    Attributes:
        finished: uuids of the jobs that ran.
        found: uuids of the content-keyed jobs whose output was in the store.
        failed: what went wrong, by uuid.
        not_run: names of the jobs given up (failed parents, ``stop_children``, ``stop_jobflow``), by uuid.
        stored_data: ``Response.stored_data`` by uuid; also written to the job's document.
    """

    finished: tuple[str, ...]
    found: tuple[str, ...]
    failed: dict[str, JobFailure]
    not_run: dict[str, str]
    stored_data: dict[str, dict[str, Any]]

    @property
    def ok(self) -> bool:
        """True where no job failed."""
        return not self.failed


def run_flow(
    flow: Flow | Job | list[Job],
    *,
    store: JobStore,
    root: Path,
    executor: Executor | None = None,
    workers: int = 2,
    events: Callable[[JobEvent], None] | None = None,
    retry: Callable[[dict], bool] | None = None,
) -> FlowResult:
    """Run a flow to its end. Recovery after a crash is the same call again.

    Args:
        flow: jobs; those made with ``keys.content_job`` are not run where the store holds their output.
        store: written by this process alone.
        root: each job runs in ``root/<metadata["directory"]>``, or in ``root/jobs/<uuid>``; held under a lock.
        executor: any executor of processes; threads will not do, as jobs change the working directory. None for
            ``local_executor(workers)``.
        workers: processes of the local executor; of no account where an executor is given.
        events: called for every event, in this process.
        retry: run a found job again, given its document.

    Returns:
        What became of every job. A job that raises is no error of this function.

    Raises:
        RootInUse: where another process runs a flow in this root.
        ValueError: for jobs that want the store (``expose_store``) and for references to jobs outside the flow.
    """
    flow = get_flow(flow)
    jobs = ordered_jobs(flow)
    for job, _ in jobs:
        _refuse_exposed_store(job)
        _directory(job)
    root = Path(root).absolute()
    with ExitStack() as stack:
        stack.enter_context(root_lock(root))
        stack.enter_context(_terminable())
        store.connect()
        window = None
        if executor is None:
            executor = stack.enter_context(_own_executor(workers))
            window = _QUEUED_PER_WORKER * workers
        run = _Run(store=store, root=root, executor=executor, window=window, events=events, retry=retry)
        run.graph.add(jobs)
        return run.to_the_end()


@contextmanager
def _own_executor(workers: int) -> Iterator[LocalExecutor]:
    """Local workers that are let go at the end and killed where the driver is interrupted."""
    executor = local_executor(workers)
    try:
        yield executor
    except BaseException:
        executor.kill()
        raise
    executor.shutdown()


@contextmanager
def _terminable() -> Iterator[None]:
    """Make SIGTERM unwind the driver like Ctrl-C, unless somebody handles it already."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _refuse_exposed_store(job: Job) -> None:
    if cast(JobConfig, job.config).expose_store:
        raise ValueError(
            f"job {job.name!r} wants the store (expose_store), which workers never see: pass it references"
        )


def _directory(job: Job) -> str:
    """Where a job runs, relative to the root.

    Raises:
        ValueError: for a directory outside the root.
    """
    directory = job.metadata.get("directory")
    if directory is None:
        return f"jobs/{job.uuid}" if job.index == 1 else f"jobs/{job.uuid}_{job.index}"
    path = PurePosixPath(directory)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"job {job.name!r} must run below the root, not in {directory!r}")
    return str(path)


class _Run:
    """One call of ``run_flow``."""

    def __init__(
        self,
        store: JobStore,
        root: Path,
        executor: Executor,
        window: int | None,
        events: Callable[[JobEvent], None] | None,
        retry: Callable[[dict], bool] | None,
    ):
        self.graph = JobGraph()
        self.store = store
        self.root = root
        self.executor = executor
        self.window = window
        self.events = events
        self.retry = retry
        self.pending: dict[Future, JobKey] = {}
        self.orders: dict[JobKey, JobOrder] = {}
        self.attempts: Counter[JobKey] = Counter()
        self.started: set[JobKey] = set()
        self.stopped = False
        self.failures: dict[str, JobFailure] = {}
        self.stored_data: dict[str, dict[str, Any]] = {}

    def to_the_end(self) -> FlowResult:
        """Submit and collect until nothing is left to do."""
        try:
            while True:
                self._submit_ready()
                self._report_dropped()
                if not self.pending:
                    break
                done, _ = wait(self.pending, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
                self._report_started()
                for future in done:
                    self._collect(future)
        except BaseException:
            for future in self.pending:
                future.cancel()
            if isinstance(self.executor, LocalExecutor):
                self.executor.kill()
            raise
        self.graph.drop_rest()
        self._report_dropped()
        return self._result()

    def _submit_ready(self) -> None:
        while not self.stopped and (self.window is None or len(self.pending) < self.window):
            key = self.graph.take_ready()
            if key is None:
                return
            if not self._find(key):
                self._submit(key)

    def _find(self, key: JobKey) -> bool:
        """Pass by a job whose output is in the store."""
        job = self.graph.job(key)
        if key in self.attempts or not is_content_keyed(job):
            return False
        document = self.store.query_one({"uuid": job.uuid})
        if document is None or (self.retry is not None and self.retry(document)):
            return False
        self.graph.settle(key, JobState.FOUND)
        self._tell("found", key)
        return True

    def _submit(self, key: JobKey) -> None:
        """Hand a job to the executor; a job that cannot be prepared fails."""
        job = self.graph.job(key)
        self.attempts[key] += 1
        try:
            if key not in self.orders:
                self.orders[key] = JobOrder(_resolved(job, self.store), str(self.root), _directory(job))
            future = self.executor.submit(run_job, self.orders[key].to_text())
        except BrokenExecutor as error:
            self._lost(key, error)
        except Exception as error:
            self._fail(key, failure(error, self.root / _directory(job)))
        else:
            self.pending[future] = key
            self._tell("submitted", key)

    def _collect(self, future: Future) -> None:
        key = self.pending.pop(future)
        try:
            outcome = JobOutcome.from_text(future.result())
        except BrokenExecutor as error:
            self._lost(key, error)
            return
        except Exception as error:  # the executor could not run the call
            outcome = failure(error, self.root / self.orders[key].directory)
        del self.orders[key]
        if outcome.error is None and outcome.changes_flow and is_content_keyed(self.graph.job(key)):
            outcome = replace(outcome, error="a content-keyed job may only return an output, as nothing else is stored")
        if outcome.error is not None:
            self._fail(key, outcome)
        else:
            self._finish(key, outcome)

    def _lost(self, key: JobKey, error: BrokenExecutor) -> None:
        """The worker died: queue the job again, a few times."""
        self.started.discard(key)
        if self.attempts[key] < MAX_ATTEMPTS:
            self.graph.put_back(key)
            self._tell("requeued", key, reason=str(error))
        else:
            order = self.orders.pop(key)
            outcome = failure(error, self.root / order.directory)
            self._fail(key, replace(outcome, error=f"{outcome.error} (after {MAX_ATTEMPTS} attempts)"))

    def _fail(self, key: JobKey, outcome: JobOutcome) -> None:
        self.orders.pop(key, None)
        file = Path(outcome.traceback_file) if outcome.traceback_file else None
        reason = outcome.error or "unknown"
        self.failures[key[0]] = JobFailure(self.graph.job(key).name, reason, file)
        self.graph.settle(key, JobState.FAILED)
        self._tell("failed", key, outcome.seconds, reason)

    def _finish(self, key: JobKey, outcome: JobOutcome) -> None:
        """Write the documents first; only then does anybody learn that the job is done."""
        self._write(key, outcome)
        if outcome.stop_jobflow:
            self._stop()
        if not self.stopped:
            try:
                self._divert(key, outcome)
            except Exception as error:  # new jobs that this process cannot load, or that must not run
                self._fail(key, failure(error, self.root / _directory(self.graph.job(key)), outcome.seconds))
                return
        self.graph.settle(key, JobState.FINISHED, stop_children=outcome.stop_children)
        self._tell("finished", key, outcome.seconds)

    def _stop(self) -> None:
        """Begin nothing new (``stop_jobflow``); what runs is brought to its end."""
        self.stopped = True
        self.pending = {future: key for future, key in self.pending.items() if not future.cancel()}

    def _write(self, key: JobKey, outcome: JobOutcome) -> None:
        job = self.graph.job(key)
        documents = [decode(text) for text in outcome.documents]
        if outcome.stored_data:
            self.stored_data[job.uuid] = outcome.stored_data
            documents = [document | {"stored_data": outcome.stored_data} for document in documents]
        save = {name: "output" if what is True else what for name, what in job._kwargs.items()}
        self.store.update(documents, key=["uuid", "index"], save=save)

    def _divert(self, key: JobKey, outcome: JobOutcome) -> None:
        flows = [
            (_decoded(outcome.replace), [key]),
            (_decoded(outcome.detour), [key]),
            (_decoded(outcome.addition), []),
        ]
        for jobs, _ in flows:
            for job, _ in jobs:
                _refuse_exposed_store(job)
                _directory(job)
        for jobs, wait_for in flows:
            self.graph.add(jobs, wait_for)

    def _report_started(self) -> None:
        for future, key in self.pending.items():
            if key not in self.started and (future.running() or future.done()):
                self.started.add(key)
                self._tell("started", key)

    def _report_dropped(self) -> None:
        for key in self.graph.take_dropped():
            self._tell("not_run", key)

    def _tell(self, kind: Any, key: JobKey, seconds: float = 0.0, reason: str = "") -> None:
        if self.events is not None:
            job = self.graph.job(key)
            self.events(JobEvent(kind, job.name, job.uuid, job.index, seconds, dict(job.metadata), reason))

    def _result(self) -> FlowResult:
        states = {key: self.graph.state(key) for key in self.graph.latest()}
        return FlowResult(
            finished=tuple(uuid for (uuid, _), state in states.items() if state is JobState.FINISHED),
            found=tuple(uuid for (uuid, _), state in states.items() if state is JobState.FOUND),
            failed={uuid: self.failures[uuid] for (uuid, _), state in states.items() if state is JobState.FAILED},
            not_run={key[0]: self.graph.job(key).name for key, state in states.items() if state is JobState.NOT_RUN},
            stored_data=self.stored_data,
        )


def _resolved(job: Job, store: JobStore) -> str:
    """Monty JSON of a job with its references resolved, so that the worker need not try."""
    mode = cast(JobConfig, job.config).resolve_references
    if mode:
        job = job.resolve_args(store, inplace=False, wrap_resolved=mode == "both")
        cast(JobConfig, job.config).resolve_references = False
    return encode_job(job)


def _decoded(jobs: tuple[tuple[str, tuple[str, ...]], ...]) -> list[tuple[Job, list[str]]]:
    return [(MontyDecoder().decode(text), list(parents)) for text, parents in jobs]
