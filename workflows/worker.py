"""The half of the executor that runs beside the job: one job, one directory, no access to the store.

``run_job`` takes and returns text, so that any ``concurrent.futures`` executor can carry it, to a process or to a
compute node. ``serve`` is the loop of the local executor's processes.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ..dft_inputs.files import write_atomically
from ..dft_inputs.processes import die_with_parent
from .paths import ROOT_VARIABLE

TRACEBACK_FILE = "traceback.txt"
"""Where, in its directory, a job that raised leaves its traceback."""

LOG_FILE = "job.log"
"""Where, in its directory, lies what a job printed."""

_WATCH_SECONDS = 1.0


@dataclass(frozen=True)
class JobOrder:
    """What a worker needs to run a job.

    Attributes:
        job: Monty JSON of a jobflow ``Job`` whose references are resolved.
        root: root of the project, absolute.
        directory: where to run, below the root.
    """

    job: str
    root: str
    directory: str

    def to_text(self) -> str:
        """JSON of the order."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> JobOrder:
        """Read what ``to_text`` wrote."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class JobOutcome:
    """What a job gave.

    Attributes:
        documents: the job's documents in MongoDB's extended JSON.
        replace, detour, addition: new jobs as (Monty JSON, uuids of its parents).
        stop_children, stop_jobflow, stored_data: as in jobflow's ``Response``.
        seconds: wall time of the job.
        error: one line, where the job raised.
        traceback_file: where its traceback lies.
    """

    documents: tuple[str, ...] = ()
    replace: tuple[tuple[str, tuple[str, ...]], ...] = ()
    detour: tuple[tuple[str, tuple[str, ...]], ...] = ()
    addition: tuple[tuple[str, tuple[str, ...]], ...] = ()
    stop_children: bool = False
    stop_jobflow: bool = False
    stored_data: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    error: str | None = None
    traceback_file: str | None = None

    def to_text(self) -> str:
        """JSON of the outcome."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> JobOutcome:
        """Read what ``to_text`` wrote."""
        return cls(**json.loads(text))

    @property
    def changes_flow(self) -> bool:
        """True where more than an output came back."""
        return bool(self.replace or self.detour or self.addition or self.stop_children or self.stop_jobflow)


def run_job(order_text: str) -> str:
    """Run a job in its directory against a scratch store.

    Args:
        order_text: a ``JobOrder`` as text.

    Returns:
        A ``JobOutcome`` as text; a job that raises gives one with ``error`` and a traceback file.
    """
    order = JobOrder.from_text(order_text)
    directory = Path(order.root, order.directory)
    directory.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with _surroundings(directory, order.root):
        try:
            outcome = _run(order.job, start)
        except (Exception, SystemExit) as error:
            outcome = failure(error, directory, time.monotonic() - start)
    return outcome.to_text()


def failure(error: BaseException, directory: Path, seconds: float = 0.0) -> JobOutcome:
    """The outcome of a job that raised: the last line of the traceback, the rest in a file of the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / TRACEBACK_FILE
    write_atomically(file, "".join(traceback.format_exception(error)))
    message = " ".join(str(error).split())
    return JobOutcome(
        error=f"{type(error).__name__}: {message}" if message else type(error).__name__,
        traceback_file=str(file),
        seconds=seconds,
    )


@contextmanager
def _surroundings(directory: Path, root: str) -> Iterator[None]:
    """The job's directory, the root of its project, and a log for what it and its programs print."""
    home, outer_root = Path.cwd(), os.environ.get(ROOT_VARIABLE)
    os.chdir(directory)
    os.environ[ROOT_VARIABLE] = root
    try:
        with _printing_to(directory / LOG_FILE):
            yield
    finally:
        os.chdir(home)
        if outer_root is None:
            del os.environ[ROOT_VARIABLE]
        else:
            os.environ[ROOT_VARIABLE] = outer_root


@contextmanager
def _printing_to(log: Path) -> Iterator[None]:
    """Send stdout and stderr to the end of a file, at the level of descriptors, so that subprocesses follow."""
    _flush()
    saved = os.dup(1), os.dup(2)
    try:
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        yield
    finally:
        _flush()
        for descriptor, original in zip((1, 2), saved, strict=True):
            os.dup2(original, descriptor)
            os.close(original)
        if log.stat().st_size == 0:
            log.unlink()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def _run(job_text: str, start: float) -> JobOutcome:
    # Imported here, as the module must start fast and knows jobflow only when there is a job.
    from jobflow.core.state import CURRENT_JOB  # noqa: PLC0415
    from monty.json import MontyDecoder, jsanitize  # noqa: PLC0415

    from .scratch import ScratchStore  # noqa: PLC0415

    job = MontyDecoder().decode(job_text)
    store = ScratchStore()
    store.connect()
    try:
        response = job.run(store=store)
    finally:
        CURRENT_JOB.reset()
    return JobOutcome(
        documents=store.documents(),
        replace=_planned(response.replace),
        detour=_planned(response.detour),
        addition=_planned(response.addition),
        stop_children=bool(response.stop_children),
        stop_jobflow=bool(response.stop_jobflow),
        stored_data=jsanitize(response.stored_data or {}, strict=True, enum_values=True),
        seconds=time.monotonic() - start,
    )


def _planned(flow: Any) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The jobs of a flow with their parents, as text. Flows themselves do not travel: some rebuild their jobs."""
    if flow is None:
        return ()
    return tuple((encode_job(job), tuple(parents)) for job, parents in ordered_jobs(flow))


def ordered_jobs(flow: Any) -> list[tuple[Any, list[str]]]:
    """Jobs of a flow, parents first, each with the uuids of its parents in the flow."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Some jobs are not connected")
        return list(flow.iterflow())


def encode_job(job: Any) -> str:
    """Monty JSON of a job.

    Raises:
        TypeError: for an argument that cannot be written as JSON and for a function of the main script.
    """
    from monty.json import MontyEncoder  # noqa: PLC0415

    text = json.dumps(job.as_dict(), cls=MontyEncoder)
    if '"@module": "__main__"' in text:
        raise TypeError(
            f"job {job.name!r} uses a function or class of the main script; move it to a module, as workers import it"
        )
    return text


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)


def serve(descriptor: int, parent: int) -> None:
    """Loop of a local worker: receive a call, answer (True, result) or (False, exception), until the other end closes.

    Args:
        descriptor: file descriptor of the connection to the driver.
        parent: process id of the driver.
    """
    if not die_with_parent(parent):
        threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()
    connection = Connection(descriptor)
    while True:
        try:
            function, arguments = pickle.loads(connection.recv_bytes())  # noqa: S301  (from our own parent)
        except (EOFError, ConnectionResetError):
            return
        except Exception as error:  # a function that this process cannot import
            answer = _pickled_error(error)
        else:
            answer = _call(function, arguments)
        connection.send_bytes(answer)


def _call(function: Any, arguments: tuple) -> bytes:
    try:
        return pickle.dumps((True, function(*arguments)))
    except (Exception, SystemExit) as error:
        return _pickled_error(error)


def _pickled_error(error: BaseException) -> bytes:
    try:
        return pickle.dumps((False, error))
    except Exception:  # an exception that does not pickle travels as text
        return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))
