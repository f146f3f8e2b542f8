"""The local executor: a fixed number of worker processes on this machine, each replaced when it dies.

Workers are fresh interpreters (no fork, and the driver's main module is not run again, so scripts need no guard and
notebooks work). A worker that dies fails its own job only. Workers end with the driver, whatever ends it.
"""

from __future__ import annotations

import atexit
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_PROGRAM = """\
import sys
sys.path[:] = {path!r}
from fieldloop.workflows.worker import serve
serve({descriptor}, {parent})
"""
_PATIENCE = 5.0


class WorkerDied(BrokenExecutor):
    """The process that ran a call ended before it answered."""


def local_executor(workers: int = 2, threads: int = 1) -> LocalExecutor:
    """Worker processes on this machine.

    Args:
        workers: how many calls run at once.
        threads: threads of each worker in OpenMP, BLAS and torch, which reads OMP_NUM_THREADS.

    Raises:
        ValueError: for less than one worker or thread.
    """
    return LocalExecutor(workers, threads)


@dataclass
class _Call:
    future: Future
    payload: bytes


class _Worker:
    """One process and the connection to it."""

    def __init__(self, threads: int):
        ours, theirs = socket.socketpair()
        environment = os.environ | dict.fromkeys(_THREAD_VARIABLES, str(threads))
        path = [entry or str(Path.cwd()) for entry in sys.path]
        program = _PROGRAM.format(path=path, descriptor=theirs.fileno(), parent=os.getpid())
        # A session of its own: Ctrl-C is the driver's affair, and what the worker started can be ended with it.
        self.process = subprocess.Popen(
            [sys.executable, "-c", program],
            env=environment,
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        self.connection = Connection(ours.detach())

    def call(self, payload: bytes) -> Any:
        """Run a pickled (function, arguments) and return its result or raise its exception.

        Raises:
            WorkerDied: where the process ended meanwhile.
        """
        try:
            self.connection.send_bytes(payload)
            succeeded, value = pickle.loads(self.connection.recv_bytes())  # noqa: S301  (from our own child)
        except (EOFError, OSError) as error:
            raise WorkerDied(f"the worker process {self.process.pid} died{self._cause()}") from error
        if succeeded:
            return value
        raise value

    def _cause(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            code = self.process.wait(_PATIENCE)
            return f" of {signal.Signals(-code).name}" if code < 0 else f" with exit status {code}"
        return ""

    def kill(self) -> None:
        """End the process and everything in its session's group."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.connection.close()

    def dismiss(self) -> None:
        """Let an idle process go."""
        self.connection.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_PATIENCE)
        self.kill()


class LocalExecutor(Executor):
    """A ``concurrent.futures`` executor over worker processes; see ``local_executor``.

    Functions travel by name, as in pickle, and must be importable. A future whose worker died raises ``WorkerDied``;
    the next call finds a fresh worker.
    """

    def __init__(self, workers: int = 2, threads: int = 1):
        if workers < 1 or threads < 1:
            raise ValueError(f"a local executor needs at least one worker and one thread, not {workers} and {threads}")
        self.workers = workers
        self.threads = threads
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._running: set[_Worker] = set()
        self._closed = False
        # The kernel ties a worker to the thread that started it, so each thread lives as long as the executor.
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()
        atexit.register(self.kill)

    def submit(self, fn: Callable, /, *args: Any, **kwargs: Any) -> Future:
        """Queue a call.

        Raises:
            RuntimeError: after ``shutdown``.
            TypeError: for keyword arguments, which are not supported.
        """
        if kwargs:
            raise TypeError("the local executor takes positional arguments only")
        call = _Call(Future(), pickle.dumps((fn, args)))
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot submit to an executor that was shut down")
            self._calls.put(call)
        return call.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; those queued are still run, unless they are cancelled.

        Args:
            wait: return when all is done and the workers have gone.
            cancel_futures: drop the calls that have not begun.
        """
        if cancel_futures:
            self._drop_calls()
        with self._lock:
            first, self._closed = not self._closed, True
        if first:
            for _ in self._threads:
                self._calls.put(None)
        if wait:
            for thread in self._threads:
                thread.join()
            atexit.unregister(self.kill)

    def kill(self) -> None:
        """Drop the queue and end the workers at once, with all they started."""
        self.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            running = list(self._running)
        for worker in running:
            with suppress(ProcessLookupError):
                os.killpg(worker.process.pid, signal.SIGKILL)
        for thread in self._threads:
            thread.join(_PATIENCE)

    def _drop_calls(self) -> None:
        kept = []
        with suppress(queue.Empty):
            while True:
                call = self._calls.get_nowait()
                if call is None:
                    kept.append(call)
                else:
                    call.future.cancel()
        for call in kept:
            self._calls.put(call)

    def _serve(self) -> None:
        """Loop of one thread: take a call, hand it to this thread's worker, which is started when first needed."""
        worker: _Worker | None = None
        while (call := self._calls.get()) is not None:
            if not call.future.set_running_or_notify_cancel():
                continue
            try:
                worker = worker or self._start()
                result = worker.call(call.payload)
            except Exception as error:
                if worker is not None and isinstance(error, BrokenExecutor):
                    self._forget(worker)
                    worker.kill()
                    worker = None
                call.future.set_exception(error)
            else:
                call.future.set_result(result)
        if worker is not None:
            self._forget(worker)
            worker.dismiss()

    def _start(self) -> _Worker:
        with self._lock:
            worker = _Worker(self.threads)
            self._running.add(worker)
        return worker

    def _forget(self, worker: _Worker) -> None:
        with self._lock:
            self._running.discard(worker)
