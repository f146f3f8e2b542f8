"""Opening an SQLite file so that many processes of one host may share it and a kill -9 costs nothing."""

from __future__ import annotations

import os
import sqlite3
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
from maggma.core import StoreError as MaggmaStoreError

SCHEMA_VERSION = 1
APPLICATION_ID = 0x666C6F70
"""Marks the file as ours in SQLite's header ("flop")."""

BUSY_TIMEOUT = 60.0
"""Seconds to wait for other writers."""

_OFFICE = {"9p", "afs", "cifs", "fuse.sshfs", "nfs", "nfs4", "smb3", "smbfs"}
_CLUSTER = {"beegfs", "ceph", "fuse.ceph", "fuse.glusterfs", "glusterfs", "gpfs", "lustre", "panfs", "pvfs2", "wekafs"}
NETWORK_FILE_SYSTEMS = _OFFICE | _CLUSTER


class StoreError(MaggmaStoreError):
    """A store that cannot be used; its text is one line that says why."""

    def __init__(self, message: str):
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple:
        return type(self), (self.message,)


def open_file(path: Path, read_only: bool) -> sqlite3.Connection:
    """Connect to a file of ours, created where it is missing.

    Raises:
        StoreError: for a file that is missing (read-only), foreign, damaged or of a newer version of fieldloop.
    """
    if read_only and not path.is_file():
        raise StoreError(f"no store at {path}")
    try:
        if not read_only:
            path.parent.mkdir(parents=True, exist_ok=True)
        connection = _connect(path, read_only)
    except (OSError, sqlite3.OperationalError) as error:
        raise StoreError(f"cannot open the store {path}: {error}") from error
    try:
        _check_header(connection, path)
        if not read_only:
            _set_journal(connection, path)
    except sqlite3.DatabaseError as error:
        connection.close()
        raise StoreError(f"cannot use {path} as a store: {error}") from error
    except StoreError:
        connection.close()
        raise
    return connection


def copy_file(path: Path, target: Path) -> None:
    """Copy a store as it is at one moment, while others write to it; the copy is whole or absent.

    Args:
        path: of the store.
        target: in an existing folder; replaced if it is there.

    Raises:
        StoreError: a file that is no store, or a copy that SQLite finds damaged.
    """
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with closing(open_file(path, read_only=True)) as source, closing(sqlite3.connect(part)) as copy:
            # All pages in one step: in several, every write in between would start it over.
            source.backup(copy, pages=-1)
            copy.execute("PRAGMA journal_mode = delete")  # one file, without a log beside it
            faults = [fault for (fault,) in copy.execute("PRAGMA quick_check(1)") if fault != "ok"]
        if faults:
            raise StoreError(f"the store {path} is damaged: {faults[0]}")
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(target)
    except sqlite3.DatabaseError as error:
        raise StoreError(f"cannot copy the store {path}: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def mark_as_ours(connection: sqlite3.Connection) -> None:
    """Write the application and schema numbers into the header; part of the transaction that creates the tables."""
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


@contextmanager
def transaction(connection: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """All or nothing; ``IMMEDIATE`` waits for the write lock at the start, so that it cannot fail in the middle."""
    connection.execute(f"BEGIN {kind}")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def file_system(path: Path) -> str:
    """Type of the file system that holds a path, such as ``ext4`` or ``nfs4``; empty where it cannot be told."""
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    resolved = path.resolve()
    return next((mounts[folder] for folder in (resolved, *resolved.parents) if folder in mounts), "")


def _connect(path: Path, read_only: bool) -> sqlite3.Connection:
    options = "?mode=ro" if read_only else ""
    if read_only and not os.access(path.parent, os.W_OK) and not path.with_name(path.name + "-wal").exists():
        options += "&immutable=1"  # WAL needs a shared-memory file, which cannot be made here; nobody can write either
    return sqlite3.connect(
        path.as_uri() + options, uri=True, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
    )


def _check_header(connection: sqlite3.Connection, path: Path) -> None:
    with transaction(connection, "DEFERRED"):
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (application or tables):
        raise StoreError(f"{path} is an SQLite file of another program, not a store of fieldloop")
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{path} was written by a newer fieldloop (schema {version}, this one reads {SCHEMA_VERSION}): upgrade it"
        )


def _set_journal(connection: sqlite3.Connection, path: Path) -> None:
    """Write-ahead log, or the rollback journal where hosts may share the file, as the log needs shared memory."""
    connection.execute("PRAGMA synchronous = FULL")
    kind = file_system(path)
    if kind in NETWORK_FILE_SYSTEMS:
        warnings.warn(
            f"{path} lies on a network file system ({kind}): slower rollback journal used, keep to one host at a time",
            stacklevel=2,
        )
    _switch_journal(connection, "delete" if kind in NETWORK_FILE_SYSTEMS else "wal")


def _switch_journal(connection: sqlite3.Connection, mode: str) -> None:
    """SQLite does not wait for other processes when the mode changes, so we do."""
    deadline = time.monotonic() + BUSY_TIMEOUT
    while True:
        with closing(connection.execute("PRAGMA journal_mode")) as cursor:
            if cursor.fetchone() == (mode,):
                return
        try:
            connection.execute(f"PRAGMA journal_mode = {mode}").fetchone()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
