"""Documents of earlier schema versions, brought to the present one step at a time.

A step is a pure function of the stored output, from version n to n + 1. Reading applies the steps in memory;
``migrate`` writes what they give, in one transaction after a backup.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from ..dft_inputs.records import LabelledFrame, Record
from .convergence.records import ConvergenceStudy
from .records import Exploration, GenerationRecord, LabelPart, ParentCheck, SelectionRecord, TrainedModel
from .root_lock import root_lock
from .sqlite_file import StoreError, copy_file, open_file, transaction
from .store_queries import decode, encode

Step = Callable[[dict[str, Any]], dict[str, Any]]

KINDS: dict[str, type[Record]] = {
    kind.__name__: kind
    for kind in (
        LabelledFrame,
        ParentCheck,
        LabelPart,
        TrainedModel,
        Exploration,
        SelectionRecord,
        GenerationRecord,
        ConvergenceStudy,
    )
}
"""Records that are documents of their own, by the class name stored with them."""


def _unnumbered(output: dict[str, Any]) -> dict[str, Any]:
    """0 -> 1: records got their number; what was added to them before has defaults."""
    return output


STEPS: dict[int, Step] = {0: _unnumbered}
"""The step that leaves each version."""

_BATCH = 500


class Migration(Record):
    """What ``migrate`` did.

    Attributes:
        store: the file.
        backup: the file as it was before; None where nothing had to change.
        documents: all in the store that hold records.
        upgraded: number of documents written anew, by kind.
        schema_version: of all records now.
    """

    store: str
    backup: str | None
    documents: int
    upgraded: dict[str, int]
    schema_version: int


def version_of(output: Mapping[str, Any]) -> int:
    """Schema version of a stored record; 0 where it bears none."""
    return output.get("schema_version") or 0


def kind_of(document: Mapping[str, Any]) -> str | None:
    """Class name of the record in a job's document; None where its output is something else."""
    output = document.get("output")
    name = output.get("@class") if isinstance(output, dict) else None
    return name if name in KINDS else None


def records_of(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The records in a job's document: its output, or those that its output lists."""
    output = document.get("output")
    many = output if isinstance(output, list) else [output]
    return [one for one in many if isinstance(one, dict) and one.get("@class") in KINDS]


def upgraded(output: Mapping[str, Any], steps: Mapping[int, Step] = STEPS) -> dict[str, Any]:
    """A stored record at the version that the steps lead to; the same one where it is there, or newer.

    Args:
        output: not changed.
        steps: by the version that they leave, without gaps.
    """
    record = dict(output)
    while (version := version_of(record)) in steps:
        record = {**steps[version](record), "schema_version": version + 1}
    return record


def collections_of(connection: sqlite3.Connection) -> list[str]:
    """Tables of documents in a store."""
    names = [
        name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
    ]
    return [name for name in names if not name.startswith(("fieldloop_", "sqlite_"))]


def rows(connection: sqlite3.Connection, collection: str) -> Iterator[tuple[int, str]]:
    """Number and text of every document; no statement stays open in between, so writing goes on."""
    last = -1
    select = f"SELECT id, document FROM {collection} WHERE id > ? ORDER BY id LIMIT {_BATCH}"  # noqa: S608  (our names)
    while batch := connection.execute(select, [last]).fetchall():
        yield from batch
        last = batch[-1][0]


def migrate(path: Path, steps: Mapping[int, Step] = STEPS) -> Migration:
    """Bring every record of a store to the present schema version; running it again changes nothing.

    The file is copied beside itself first, then all documents are written in one transaction: a kill at any moment
    leaves the store as it was, or migrated.

    Args:
        path: of the store.
        steps: by the version that they leave, without gaps.

    Raises:
        RootInUse: a loop is running on the store.
        StoreError: no store, records of a newer version, or too little space for the copy.
    """
    newest = max(steps) + 1
    with exclusively(path) as connection:
        seen, outdated = _survey(connection, path, newest)
        backup, written = None, {}
        if outdated:
            with transaction(connection):
                backup = _free_name(path, min(outdated))
                check_space(path)
                copy_file(path, backup)
                written = _write(connection, steps)
        return Migration(
            store=str(path),
            backup=str(backup) if backup else None,
            documents=seen,
            upgraded=written,
            schema_version=newest,
        )


@contextmanager
def exclusively(path: Path) -> Iterator[sqlite3.Connection]:
    """A store that no loop is running on, nor starts to while this lasts.

    Raises:
        RootInUse: a loop is running.
        StoreError: no store, or SQLite refuses.
    """
    if not path.is_file():
        raise StoreError(f"no store at {path}")
    with root_lock(path.parent), closing(open_file(path, read_only=False)) as connection:
        try:
            yield connection
        except sqlite3.DatabaseError as error:
            raise StoreError(f"cannot change the store {path}: {error}") from error


def _survey(connection: sqlite3.Connection, path: Path, newest: int) -> tuple[int, set[int]]:
    """How many documents hold records, and which versions before the newest occur.

    Raises:
        StoreError: a newer version.
    """
    versions: Counter[int] = Counter()
    for collection in collections_of(connection):
        for _, text in rows(connection, collection):
            for record in records_of(json.loads(text)):
                versions[version_of(record)] += 1
    if versions and max(versions) > newest:
        raise StoreError(
            f"{path} holds records of a newer fieldloop (schema {max(versions)}, this one writes {newest}): upgrade it"
        )
    return versions.total(), {version for version in versions if version < newest}


def _write(connection: sqlite3.Connection, steps: Mapping[int, Step]) -> dict[str, int]:
    """Write the outdated documents; part of a transaction."""
    written: Counter[str] = Counter()
    for collection in collections_of(connection):
        update = f"UPDATE {collection} SET document = ? WHERE id = ?"  # noqa: S608  (our names)
        for number, text in rows(connection, collection):
            document = decode(text)
            outdated = [record for record in records_of(document) if version_of(record) in steps]
            for record in outdated:
                later = upgraded(record, steps)
                record.clear()
                record.update(later)
                written[record["@class"]] += 1
            if outdated:
                connection.execute(update, [encode(document), number])
    return dict(sorted(written.items()))


def _free_name(path: Path, version: int) -> Path:
    """A name beside the store that nothing bears yet."""
    number, name = 1, path.with_name(f"{path.stem}.schema-{version}{path.suffix}")
    while name.exists():
        number += 1
        name = path.with_name(f"{path.stem}.schema-{version}.{number}{path.suffix}")
    return name


def check_space(path: Path) -> None:
    """Room for a copy, and for a log of the changes that may grow as large.

    Raises:
        StoreError: there is none.
    """
    needed, free = 3 * path.stat().st_size, shutil.disk_usage(path.parent).free
    if free < needed:
        raise StoreError(f"{path.parent} has {free / 1e6:.0f} MB left, this needs {needed / 1e6:.0f} MB: free some")
