"""One driver at a time for a root directory: an advisory lock that ends with the process that holds it."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_FILE = ".lock"


class RootInUse(RuntimeError):
    """Another process drives a flow in this root; ``holder`` says which, as ``<pid> on <host>``."""

    def __init__(self, root: Path, holder: str):
        super().__init__(f"{root} is in use by process {holder or 'unknown'}: wait for it, or end it")
        self.root = root
        self.holder = holder


@contextmanager
def root_lock(root: Path) -> Iterator[None]:
    """Hold the lock of a root.

    Raises:
        RootInUse: where another process, or another call in this one, holds it.
    """
    root.mkdir(parents=True, exist_ok=True)
    with (root / LOCK_FILE).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise RootInUse(root, file.read().strip()) from None
        owner = os.getpid()
        file.truncate(0)
        file.write(f"{owner} on {socket.gethostname()}\n")
        file.flush()
        try:
            yield
        finally:
            if os.getpid() == owner:
                file.truncate(0)
