"""The embedded document store: a maggma store in one SQLite file.

SQLite gives the durability (a document whose ``update`` returned survives kill -9 and power failure) and the locking
(many processes of one host write at once); mongomock's filter gives the query language. Several collections, and
several stores opened on them, share a file.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, cast

from maggma.core import Sort, Store
from monty.json import jsanitize

from .sqlite_file import StoreError, mark_as_ours, open_file, transaction
from .store_queries import (
    NOTHING,
    decode,
    encode,
    field_expression,
    filter_applies,
    is_plain_path,
    iter_key_candidates,
    necessary_condition,
    patch_datetime_awareness_in_document,
    project,
    resolve_sort_key,
    sort_documents,
)

__all__ = ["SQLiteStore", "StoreError"]

_COLLECTION = re.compile(r"(?!fieldloop_|sqlite_)[A-Za-z_][A-Za-z0-9_]*")
_PROJECT_TABLE = "fieldloop_project"
_BATCH = 200
# Connections that came through a fork. SQLite forbids to use them in the child, and to close them as well.
_INHERITED: list[sqlite3.Connection] = []


class SQLiteStore(Store):
    """A maggma store in a table of an SQLite file.

    Documents come back without MongoDB's ``_id``, unless they were written with one. Every thread, and every forked
    child, gets a connection of its own; to other processes the store travels as its path.
    """

    def __init__(
        self, path: str | Path, collection: str = "jobs", key: str = "uuid", read_only: bool = False, **kwargs: Any
    ):
        """Describe the store; nothing is opened before ``connect``.

        Args:
            path: the file; created with its directory on ``connect``, unless ``read_only``.
            collection: name of the table.
            key: field that identifies a document.
            read_only: open an existing file and refuse to write.
            kwargs: ``last_updated_field``, ``last_updated_type``, ``validator`` of ``maggma.core.Store``.

        Raises:
            StoreError: for a collection name that is not a plain identifier.
        """
        if not _COLLECTION.fullmatch(collection):
            raise StoreError(f"{collection!r} cannot name a collection: use letters, digits and underscores")
        super().__init__(key=key, **kwargs)
        self.path = str(Path(path).expanduser().absolute())
        self.collection = collection
        self.read_only = read_only
        self.kwargs = kwargs
        self._local = threading.local()
        self._indexed: set[str] = set()

    @property
    def name(self) -> str:
        """``sqlite://<path>/<collection>``."""
        return f"sqlite://{self.path}/{self.collection}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SQLiteStore) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    def connect(self, force_reset: bool = False) -> None:
        """Open the file, and create it where it is missing.

        Raises:
            StoreError: for a file that is missing (read-only), foreign, damaged or of a newer version of fieldloop.
        """
        if force_reset:
            self.close()
        if self._current() is None:
            connection = open_file(Path(self.path), self.read_only)
            try:
                self._create_tables(connection)
            except BaseException:
                connection.close()
                raise
            self._local.process, self._local.connection = os.getpid(), connection

    def close(self) -> None:
        """Close this thread's connection; the next use opens it again."""
        connection = self._current()
        self._local.connection = None
        if connection is not None:
            connection.close()

    def _current(self) -> sqlite3.Connection | None:
        connection = getattr(self._local, "connection", None)
        if connection is not None and self._local.process != os.getpid():
            _INHERITED.append(connection)
            self._local.connection = connection = None
        return connection

    @property
    def _collection(self) -> sqlite3.Connection:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The connection of this thread and process, which maggma calls the collection."""
        self.connect()
        return self._local.connection

    def _create_tables(self, connection: sqlite3.Connection) -> None:
        """Looks first, so that opening a store rarely writes."""
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if {self.collection, _PROJECT_TABLE} <= tables:
            return
        if self.read_only:
            raise StoreError(f"the store {self.path} has no collection {self.collection!r}")
        with transaction(connection):
            mark_as_ours(connection)
            connection.execute(f"CREATE TABLE IF NOT EXISTS {_PROJECT_TABLE} (name TEXT PRIMARY KEY, value TEXT)")
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS {self.collection} (id INTEGER PRIMARY KEY, document TEXT NOT NULL)"
            )

    def count(self, criteria: dict | None = None) -> int:
        """Number of documents that match the criteria."""
        if not criteria:
            return self._collection.execute(f"SELECT count(*) FROM {self.collection}").fetchone()[0]  # noqa: S608
        return sum(1 for _ in self._rows(criteria))

    def query(
        self,
        criteria: dict | None = None,
        properties: dict | list | None = None,
        sort: Mapping[str, Sort | int] | None = None,
        skip: int = 0,
        limit: int = 0,
    ) -> Iterator[dict]:
        """Documents that match the criteria, in the order of writing or as sorted.

        Args:
            criteria: filter in the language of MongoDB, as far as mongomock knows it.
            properties: fields to return, as a list, or as a projection without operators.
            sort: field names with 1 (ascending) or -1 (descending).
            skip: number of documents to leave out at the start.
            limit: number of documents to return; 0 for all.
        """
        if isinstance(properties, Sequence):
            properties = dict.fromkeys(properties, 1)
        documents: Iterator[dict] = (document for _, document in self._rows(criteria or {}))
        if sort:
            directions = {field: order.value if isinstance(order, Sort) else order for field, order in sort.items()}
            if properties and all(properties.values()):
                # Sorting holds all documents at once: let go of what is not asked for.
                needed = {**properties, **dict.fromkeys(directions, 1)}
                documents = (project(document, needed) for document in documents)
            documents = iter(sort_documents(list(documents), directions))
        for document in islice(documents, skip, skip + limit if limit else None):
            yield project(document, properties)

    def _rows(self, criteria: Mapping[str, Any]) -> Iterator[tuple[int, dict]]:
        """Row number and document of every match. No statement stays open between two documents, so writing goes on."""
        # As MongoDB does, compare dates in UTC and to the millisecond.
        criteria = cast(dict, patch_datetime_awareness_in_document(criteria))
        condition, parameters = necessary_condition(criteria)
        select = f"SELECT id FROM {self.collection} WHERE {condition}"  # noqa: S608  (names are checked)
        numbers = sorted(number for (number,) in self._collection.execute(select, parameters))
        select = f"SELECT id, document FROM {self.collection} WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id"  # noqa: S608
        for start in range(0, len(numbers), _BATCH):
            batch = json.dumps(numbers[start : start + _BATCH])
            for number, text in self._collection.execute(select, [batch]).fetchall():
                document = decode(text)
                if filter_applies(criteria, document):
                    yield number, document

    def distinct(self, field: str, criteria: dict | None = None, all_exist: bool = False) -> list:
        """Distinct values of a field, in the order they are met; the elements of arrays count singly."""
        values: dict[str, Any] = {}
        for document in self.query(criteria):
            for found in iter_key_candidates(field, document):
                if found is not NOTHING:
                    values |= {encode(value): value for value in (found if isinstance(found, list) else [found])}
        return list(values.values())

    def groupby(
        self,
        keys: list[str] | str,
        criteria: dict | None = None,
        properties: dict | list | None = None,
        sort: dict[str, Sort | int] | None = None,
        skip: int = 0,
        limit: int = 0,
    ) -> Iterator[tuple[dict, list[dict]]]:
        """Groups of documents with the same values of the keys, ordered by them; documents without a key are left out.

        Args:
            keys: fields to group by.
            criteria: as in ``query``, like ``sort``, ``skip`` and ``limit``, which apply to the documents.
            properties: fields to return beside the keys.

        Returns:
            Pairs of the keys with their values, and the documents.
        """
        keys = [keys] if isinstance(keys, str) else list(keys)
        fields = [*keys, *properties] if properties else None
        groups: dict[str, tuple[dict, list[dict]]] = {}
        for document in self.query(criteria, fields, sort, skip, limit):
            values = [_single_value(key, document) for key in keys]
            if not any(value is NOTHING for value in values):
                label: dict = {}
                for key, value in zip(keys, values, strict=True):
                    _set_nested(label, key.split("."), value)
                groups.setdefault(encode(values), (label, []))[1].append(document)
        yield from sorted(groups.values(), key=lambda group: [resolve_sort_key(key, group[0]) for key in keys])

    def update(self, docs: list[dict] | dict, key: list | str | None = None) -> None:
        """Write documents; each replaces the one with the same key, where there is one. All are written or none.

        Args:
            docs: a document or several.
            key: field or fields that identify a document; None for the key of the store.

        Raises:
            StoreError: for a document without the key or with values that are not JSON, and for a read-only store.
            ValueError: for a document that a strict validator refuses.
        """
        keys = [key or self.key] if not isinstance(key, list) else key
        documents = [self._validated(document) for document in (docs if isinstance(docs, list) else [docs])]
        written = [document for document in documents if document is not None]
        missing = {name for name in keys for document in written if name not in document}
        if missing:
            raise StoreError(f"a document without {', '.join(sorted(missing))} cannot be stored in {self.name}")
        connection = self._writable()
        self._index(keys[0])
        with transaction(connection):
            for document in written:
                self._replace(connection, {name: document[name] for name in keys}, encode(document))

    def _replace(self, connection: sqlite3.Connection, identity: dict, text: str) -> None:
        number = next((number for number, _ in self._rows(identity)), None)
        # A null number makes SQLite choose the next one.
        connection.execute(f"INSERT OR REPLACE INTO {self.collection} (id, document) VALUES (?, ?)", [number, text])  # noqa: S608

    def _validated(self, document: dict) -> dict | None:
        try:
            # Strict, where maggma keeps the text of what it does not know, from which nothing comes back.
            plain: dict = jsanitize(document, strict=True, allow_bson=True, enum_values=True)
        except (AttributeError, TypeError) as error:
            raise StoreError(f"a document with values that are not JSON cannot be stored: {error}") from error
        if self.validator is None or self.validator.is_valid(plain):
            return plain
        if self.validator.strict:  # pyright: ignore[reportAttributeAccessIssue]
            raise ValueError(self.validator.validation_errors(plain))
        self.logger.error(self.validator.validation_errors(plain))
        return None

    def remove_docs(self, criteria: dict) -> None:
        """Remove the documents that match the criteria.

        Raises:
            StoreError: for a read-only store.
        """
        connection = self._writable()
        with transaction(connection):
            numbers = [(number,) for number, _ in self._rows(criteria)]
            connection.executemany(f"DELETE FROM {self.collection} WHERE id = ?", numbers)  # noqa: S608

    def ensure_index(self, key: str, unique: bool = False) -> bool:
        """Index a field, dotted names included. False where that cannot be done: unplain names, values not unique."""
        try:
            return is_plain_path(key) and self._index(key, unique)
        except sqlite3.IntegrityError:
            return False

    def _index(self, field: str, unique: bool = False) -> bool:
        """Create an index unless it exists."""
        if not is_plain_path(field):
            return False
        name = f"{self.collection}:{field}"
        if name in self._indexed:
            return True
        connection = self._collection
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'index' AND name = ?", [name]).fetchone():
            if self.read_only:
                return False
            kind = "UNIQUE INDEX" if unique else "INDEX"
            with transaction(connection):
                connection.execute(
                    f'CREATE {kind} IF NOT EXISTS "{name}" ON {self.collection} ({field_expression(field)})'
                )
        self._indexed.add(name)
        return True

    def bind_project(self, identity: Mapping[str, Any]) -> None:
        """Tie the file to one project: the first call writes the identity, every later one compares.

        Args:
            identity: what must never change under stored data, such as the name of the project and the hash of its
                protocol; JSON values.

        Raises:
            StoreError: where the file belongs to another identity, naming what differs.
        """
        wanted = {name: json.dumps(value, sort_keys=True) for name, value in identity.items()}
        connection = self._collection
        if not self._identity() and not self.read_only:
            with transaction(connection):
                if not self._identity():
                    connection.executemany(f"INSERT INTO {_PROJECT_TABLE} VALUES (?, ?)", list(wanted.items()))  # noqa: S608
        stored = self._identity()
        differing = [name for name in sorted(stored.keys() | wanted) if stored.get(name) != wanted.get(name)]
        if differing:
            details = ", ".join(f"{n} is {stored.get(n, 'unset')}, not {wanted.get(n, 'unset')}" for n in differing)
            raise StoreError(f"the store {self.path} belongs to another project or protocol: {details}")

    @property
    def project_identity(self) -> dict[str, Any]:
        """The identity the file is tied to; empty before ``bind_project``."""
        return {name: json.loads(value) for name, value in self._identity().items()}

    def _identity(self) -> dict[str, str]:
        return dict(self._collection.execute(f"SELECT name, value FROM {_PROJECT_TABLE}").fetchall())  # noqa: S608

    def _writable(self) -> sqlite3.Connection:
        if self.read_only:
            raise StoreError(f"the store {self.path} is open for reading only")
        return self._collection


def _single_value(field: str, document: dict) -> Any:
    """The value at a dotted path, through dictionaries only, as in maggma's grouping."""
    value: Any = document
    for name in field.split("."):
        if not isinstance(value, dict) or name not in value:
            return NOTHING
        value = value[name]
    return value


def _set_nested(target: dict, names: list[str], value: Any) -> None:
    for name in names[:-1]:
        target = target.setdefault(name, {})
    target[names[-1]] = value
