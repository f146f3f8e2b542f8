"""Keeping a store for years: copies of a live one with the files beside it, and the space it takes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from ..dft_inputs.files import write_atomically
from ..dft_inputs.records import StoredRecord
from .keys import content_uuid
from .migrations import check_space, collections_of, exclusively, kind_of, rows
from .sqlite_file import StoreError, copy_file, open_file, transaction

MANIFEST_FILE = "backup.json"

_LARGEST = 20e6
_WEIGHTS = ".safetensors"
# Wavefunctions and densities of DFT codes, which are made again, and what only a running process needs.
_PASSING_FOLDERS = (".save",)
_PASSING_FILES = (".lock", ".lease", "-wal", "-shm", "-journal", ".part")
_PASSING_STARTS = ("pwscf.wfc", "pwscf.hub", "pwscf.mix", "CHGCAR", "WAVECAR")


class Backup(StoredRecord):
    """The manifest of a backup.

    Attributes:
        created: UTC.
        source: the folder that was copied.
        store: name of the store's file.
        documents: in the store.
        files: SHA-256 of every other file, by its path in the backup.
        left_out: bytes of every file that was too large, by its path in the source.
    """

    created: str
    source: str
    store: str
    documents: int
    files: dict[str, str]
    left_out: dict[str, int]


class Compaction(StoredRecord):
    """What ``compact`` did.

    Attributes:
        store: the file.
        dropped: ``label_id`` of the superseded label documents that were removed.
        kept: number of superseded ones that stay.
        bytes_before, bytes_after: of the file and its log.
    """

    store: str
    dropped: tuple[str, ...]
    kept: int
    bytes_before: int
    bytes_after: int


def backup(path: Path, folder: Path, largest: float = _LARGEST, extra: Sequence[Path] = ()) -> Backup:
    """Copy a store and the files beside it, while a loop may be running on them.

    The store is copied first, as it is at one moment; every file that its documents name was there before them, so it
    is copied too. The backup is a campaign directory of its own: queries work on it, and copying it back restores it.

    Args:
        path: of the store.
        folder: to be made; whole or absent.
        largest: bytes; larger files are left out and listed, but for the weights of models.
        extra: further files, such as the campaign's.

    Raises:
        StoreError: no store, a damaged one, or a folder that is there already.
    """
    if not path.is_file():
        raise StoreError(f"no store at {path}")
    root, folder = path.parent.absolute(), folder.absolute()
    if folder.exists():
        raise StoreError(f"{folder} is there already: name a new folder")
    if folder.is_relative_to(root):
        raise StoreError(f"{folder} lies in the folder to be copied: name one outside of {root}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        part.mkdir()
        copy_file(path, part / path.name)
        files, left_out = _copy_files(root, path.name, part, largest)
        for file in extra:
            files[file.name] = _copy(file, part / file.name)
        manifest = Backup(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            source=str(root),
            store=path.name,
            documents=_documents(part / path.name),
            files=files,
            left_out=left_out,
        )
        write_atomically(part / MANIFEST_FILE, manifest.model_dump_json(indent=1))
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return manifest


def _copy_files(root: Path, store: str, target: Path, largest: float) -> tuple[dict[str, str], dict[str, int]]:
    """Hashes of the files copied, and sizes of those left out."""
    copied: dict[str, str] = {}
    left_out: dict[str, int] = {}
    for file in _files(root, store):
        name = str(file.relative_to(root))
        try:
            size = file.stat().st_size
            if size > largest and file.suffix != _WEIGHTS:
                left_out[name] = size
                continue
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            copied[name] = _copy(file, target / name)
        except FileNotFoundError:
            continue  # a running job has removed or renamed it meanwhile
    return copied, left_out


def _files(root: Path, store: str) -> Iterator[Path]:
    """Files below a folder that a backup keeps; links are not followed."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.endswith(_PASSING_FOLDERS))
        for name in sorted(names):
            file = Path(folder, name)
            passing = name.endswith(_PASSING_FILES) or name.startswith(_PASSING_STARTS)
            if file != root / store and not passing and file.is_file() and not file.is_symlink():
                yield file


def _copy(source: Path, target: Path) -> str:
    """Copy a file; returns the SHA-256 of the copy."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("wb") as writer:
        while block := reader.read(1 << 20):
            digest.update(block)
            writer.write(block)
        writer.flush()
        os.fsync(writer.fileno())
    shutil.copystat(source, target)
    return digest.hexdigest()


def _documents(path: Path) -> int:
    with closing(open_file(path, read_only=True)) as connection:
        return sum(
            connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]  # noqa: S608  (our names)
            for name in collections_of(connection)
        )


def compact(path: Path) -> Compaction:
    """Give back the space that replaced documents and the log still take, and drop superseded labels.

    A label is superseded where a later document has the same ``label_id``. It stays where its job is found by its
    content key, as the campaign would otherwise compute it again, and where it is finished and the later one failed.

    Args:
        path: of the store.

    Raises:
        RootInUse: a loop is running on the store.
        StoreError: no store, too little space, or another process that does not let go of it.
    """
    with exclusively(path) as connection:
        check_space(path)
        before = _bytes(path)
        dropped: list[str] = []
        kept = 0
        with transaction(connection):
            for collection in collections_of(connection):
                for number, label_id, must_stay in _superseded(rows(connection, collection)):
                    if must_stay:
                        kept += 1
                        continue
                    connection.execute(f"DELETE FROM {collection} WHERE id = ?", [number])  # noqa: S608  (our names)
                    dropped.append(label_id)
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        after = _bytes(path)
    return Compaction(store=str(path), dropped=tuple(dropped), kept=kept, bytes_before=before, bytes_after=after)


def _superseded(documents: Iterator[tuple[int, str]]) -> list[tuple[int, str, bool]]:
    """Row, ``label_id`` and whether it must stay, of each label that is not the latest of its id."""
    of_label: dict[str, list[tuple[str, int, bool, bool]]] = {}
    for number, text in documents:
        document = json.loads(text)
        if kind_of(document) == "LabelledFrame":
            key = (document.get("metadata") or {}).get("content_key")
            is_found = isinstance(key, str) and document.get("uuid") == content_uuid(key)
            done = document["output"].get("status", "done") == "done"
            entry = (document.get("completed_at") or "", number, is_found, done)
            of_label.setdefault(document["output"]["label_id"], []).append(entry)
    found = []
    for label_id, entries in of_label.items():
        *earlier, (_, _, _, is_done) = sorted(entries)
        found += [(number, label_id, is_found or (done and not is_done)) for _, number, is_found, done in earlier]
    return found


def _bytes(path: Path) -> int:
    files = (path, path.with_name(path.name + "-wal"))
    return sum(file.stat().st_size for file in files if file.exists())
