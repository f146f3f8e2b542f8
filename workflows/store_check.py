"""Is a store whole? Every document reads, its hashes follow from its content, the files that it names are there."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from ..dft_inputs.codes import CODES
from ..dft_inputs.identity import label_name
from ..dft_inputs.records import LABELS, SCHEMA_VERSION, ElectricResponse, LabelledFrame, Record
from .config import first_error
from .keys import content_uuid
from .labelling import label_key
from .migrations import KINDS, collections_of, records_of, rows, upgraded, version_of
from .paths import located
from .records import Exploration, LabelPart, SelectionRecord, TrainedModel
from .sqlite_file import StoreError, open_file
from .store_queries import decode

_FOLDERS_OF_JOBS = ("labels", "training", "exploration", "selection", "parent", "decisions")


class Fault(Record):
    """Something that is not as it should be.

    Attributes:
        severity: ``error`` for what is lost or wrong, ``notice`` for what may well be so.
        where: job, file or folder.
        what: one line for people.
    """

    severity: Literal["error", "notice"]
    where: str
    what: str


class StoreCheck(Record):
    """What ``check`` has found.

    Attributes:
        store: the file.
        documents: all in it.
        records: number of records by kind.
        outdated: number of records that ``migrate`` would write anew.
        faults: errors first.
        orphans: folders of jobs that no document names: work under way, or left by a killed run.
    """

    store: str
    documents: int
    records: dict[str, int]
    outdated: int
    faults: tuple[Fault, ...]
    orphans: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """True where nothing is lost or wrong."""
        return all(fault.severity != "error" for fault in self.faults)


@dataclass
class _Seen:
    """What was read so far."""

    root: Path
    documents: int = 0
    outdated: int = 0
    faults: list[Fault] = field(default_factory=list)
    records: list[tuple[str, Record]] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)

    def error(self, where: str, what: str) -> None:
        self.faults.append(Fault(severity="error", where=where, what=what))

    def notice(self, where: str, what: str) -> None:
        self.faults.append(Fault(severity="notice", where=where, what=what))


def check(path: Path) -> StoreCheck:
    """Read everything in a store, while a loop may be running on it; nothing is changed.

    Args:
        path: of the store.

    Raises:
        StoreError: no store, or one that cannot be opened.
    """
    seen = _Seen(path.parent)
    with closing(open_file(path, read_only=True)) as connection:
        try:
            _check_documents(connection, path, seen)
        except sqlite3.DatabaseError as error:
            raise StoreError(f"the store {path} is damaged: {error}; go back to a backup") from error
    _check_files(seen)
    _check_references(seen)
    kinds = [type(record).__name__ for _, record in seen.records]
    return StoreCheck(
        store=str(path),
        documents=seen.documents,
        records={kind: kinds.count(kind) for kind in sorted(set(kinds))},
        outdated=seen.outdated,
        faults=tuple(sorted(seen.faults, key=lambda fault: fault.severity)),
        orphans=tuple(_orphans(seen)),
    )


def _check_documents(connection: sqlite3.Connection, path: Path, seen: _Seen) -> None:
    for (fault,) in connection.execute("PRAGMA integrity_check(20)").fetchall():
        if fault != "ok":
            seen.error(str(path), f"SQLite: {fault}")
    for collection in collections_of(connection):
        for number, text in rows(connection, collection):
            seen.documents += 1
            try:
                document = decode(text)
            except ValueError as error:
                seen.error(f"{collection} row {number}", f"no document: {error}")
                continue
            _check_document(document, f"job {document.get('uuid', number)}", seen)


def _check_document(document: Mapping[str, Any], where: str, seen: _Seen) -> None:
    metadata = document.get("metadata") or {}
    if folder := metadata.get("directory"):
        seen.folders.add(folder)
    key = metadata.get("content_key")
    if document.get("index") != 1:
        key = None  # a job that replaced another inherits its metadata
    if key is not None and document.get("uuid") != content_uuid(key):
        seen.error(where, "its uuid does not follow from its content key")
    for output in records_of(document):
        _check_record(output, key, where, seen)


def _check_record(output: Mapping[str, Any], key: str | None, where: str, seen: _Seen) -> None:
    kind = output["@class"]
    seen.outdated += version_of(output) < SCHEMA_VERSION
    try:
        record = KINDS[kind].model_validate(upgraded(output))
    except ValidationError as error:
        seen.error(where, f"{kind} cannot be read: {first_error(error)}")
        return
    for name in _differences(output, record.model_dump(mode="json")):
        seen.error(where, f"{kind}: {name} does not follow from the rest of the record")
    if isinstance(record, LabelledFrame):
        _check_label(record, key, where, seen)
        # The numbers are not needed any more, and there may be many.
        record = record.model_copy(update={"response": ElectricResponse(), "field_points": (), "lower_orders": ()})
    seen.records.append((where, record))


def _differences(stored: Any, read: Any, place: str = "") -> Iterator[str]:
    """Where a stored value is not what reading it gives: derived values, such as hashes, are computed on reading."""
    if isinstance(stored, Mapping) and isinstance(read, Mapping):
        for name, value in stored.items():
            if not name.startswith("@") and name != "schema_version" and name in read:
                yield from _differences(value, read[name], f"{place}.{name}" if place else name)
    elif isinstance(stored, list) and isinstance(read, list) and len(stored) == len(read):
        for number, (one, other) in enumerate(zip(stored, read, strict=True)):
            yield from _differences(one, other, f"{place}[{number}]")
    elif stored != read:
        yield place


def _check_label(label: LabelledFrame, key: str | None, where: str, seen: _Seen) -> None:
    atoms = len(label.frame)
    for name in LABELS:
        value = getattr(label.response, name)
        if name in ("forces", "born_effective_charges") and value is not None and len(value) != atoms:
            seen.error(where, f"{name} of {len(value)} atoms on a frame of {atoms}")
    if key is None:
        return
    if key != label_key(label.label_id):
        seen.error(where, f"label_id {label.label_id} is not that of its job")
    inputs = label.provenance.inputs_hash
    if label.provenance.code in (*CODES, "ph.x") and inputs and label.label_id not in _names(label, inputs):
        seen.error(where, f"label_id {label.label_id} does not follow from its frame and inputs")


def _names(label: LabelledFrame, inputs: str) -> tuple[str, str]:
    """What a label of these inputs is called: by finite fields, and by DFPT with ph.x."""
    by_dfpt = f"{label.frame.frame_id} {inputs}"
    return label_name(label.frame, inputs), hashlib.sha256(by_dfpt.encode()).hexdigest()[:16]


def _check_files(seen: _Seen) -> None:
    for where, record in seen.records:
        if isinstance(record, LabelledFrame) and record.provenance.directory:
            _check_folder(record.provenance.directory, where, seen, "notice" if record.status == "failed" else "error")
        elif isinstance(record, LabelPart):
            _check_folder(record.directory, where, seen, "error")
        elif isinstance(record, TrainedModel):
            _check_model(record, where, seen)
        elif isinstance(record, Exploration):
            folder = located(record.directory, seen.root)
            if record.candidates and not (folder / "candidates.npz").is_file():
                seen.error(where, f"{record.directory}/candidates.npz is missing")


def _check_folder(directory: str, where: str, seen: _Seen, severity: Literal["error", "notice"]) -> None:
    # Of labels that were imported, the runs may lie anywhere, and need not be kept.
    outside = Path(directory).is_absolute() or not directory.startswith(_FOLDERS_OF_JOBS)
    seen.folders.add(directory)
    if not located(directory, seen.root).is_dir():
        severity = "notice" if outside else severity
        seen.faults.append(Fault(severity=severity, where=where, what=f"there is no folder {directory}"))


def _check_model(model: TrainedModel, where: str, seen: _Seen) -> None:
    folder = located(model.directory, seen.root)
    seen.folders.add(model.directory)
    try:
        config = json.loads((folder / "config.json").read_text())
        weights = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    except (OSError, ValueError) as error:
        seen.error(where, f"no readable model in {model.directory}: {error}")
        return
    if config.get("model_id") != model.model_id:
        seen.error(where, f"{model.directory} holds model {config.get('model_id')}, not {model.model_id}")
    if config.get("weights_sha256") != weights:
        seen.error(where, f"{model.directory}: the weights are not those that its config was written for")


def _check_references(seen: _Seen) -> None:
    """Names of labels and models that are not in the store."""
    labels = {record.label_id for _, record in seen.records if isinstance(record, LabelledFrame)}
    models = {record.model_id for _, record in seen.records if isinstance(record, TrainedModel)}
    for where, record in seen.records:
        if isinstance(record, TrainedModel):
            lost = {*record.training_ids, *record.validation_ids} - labels
            if lost:
                seen.error(where, f"{len(lost)} frames that it was trained on have no document, such as {min(lost)}")
        for name in sorted(set(_models_named(record)) - models):
            seen.notice(where, f"model {name} is not in this store")


def _models_named(record: Record) -> Iterator[str]:
    if isinstance(record, TrainedModel):
        yield from [record.start_model_id] if record.start_model_id else []
    elif isinstance(record, Exploration):
        yield from record.model_ids
    proposals = [record.proposal] if isinstance(record, LabelledFrame) else []
    proposals += [choice.proposal for choice in record.chosen] if isinstance(record, SelectionRecord) else []
    yield from (proposal.model_id for proposal in proposals if proposal.model_id)


def _orphans(seen: _Seen) -> Iterator[str]:
    for name in _FOLDERS_OF_JOBS:
        folder = seen.root / name
        for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
            place = f"{name}/{entry.name}"
            if not any(known == place or known.startswith(f"{place}/") for known in seen.folders):
                yield place
