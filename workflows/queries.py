"""What a campaign's store holds, read back as records, and queries on labels in the user's words.

Job outputs are stored with their class name, so a record is found by ``output.@class`` and every field of it can be
part of a Mongo filter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from jobflow.core.store import JobStore
from pydantic import ValidationError

from ..dft_inputs.records import LabelledFrame, Record
from .config import first_error
from .migrations import records_of, upgraded
from .query import EVERYTHING, FIELDS_OF_QUERIES, Query, QueryError
from .records import Exploration, GenerationRecord, ParentCheck, SelectionRecord, TrainedModel
from .sqlite_file import StoreError

__all__ = [
    "Campaign",
    "Query",
    "QueryError",
    "as_record",
    "count_labels",
    "find",
    "query_labels",
    "read_campaign",
    "read_records",
]

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Campaign:
    """Everything a campaign has produced so far. Where something was computed twice, the latest counts.

    Attributes:
        root: directory of the campaign; paths in the records are relative to it.
        labels: one record per ``label_id``, by generation and ``label_id``.
        checks: of parent crystals, by ``frame_id``.
        models: members of the committees, by generation and member.
        explorations, selections, generations: by generation.
    """

    root: Path
    labels: tuple[LabelledFrame, ...] = ()
    checks: tuple[ParentCheck, ...] = ()
    models: tuple[TrainedModel, ...] = ()
    explorations: tuple[Exploration, ...] = ()
    selections: tuple[SelectionRecord, ...] = ()
    generations: tuple[GenerationRecord, ...] = ()


def read_campaign(store: JobStore, root: Path) -> Campaign:
    """Read all records of a campaign.

    Args:
        store: connected.
        root: directory of the campaign.

    Raises:
        StoreError: a record that this version cannot read.
    """
    labels = sorted(query_labels(store), key=lambda label: (label.proposal.generation, label.label_id))
    return Campaign(
        root=Path(root),
        labels=tuple(labels),
        checks=read_records(store, ParentCheck, "frame_id"),
        models=read_records(store, TrainedModel, "generation", "member"),
        explorations=read_records(store, Exploration, "generation"),
        selections=read_records(store, SelectionRecord, "generation"),
        generations=read_records(store, GenerationRecord, "generation"),
    )


def find(store: JobStore, query: Query = EVERYTHING) -> Iterator[LabelledFrame]:
    """Labelled frames that a query means, one per ``label_id``, in the order of the store.

    A frame labelled again counts with its latest record only: it is found if that one matches.

    Args:
        store: connected, as from ``campaign.read_store``.
        query: the conditions; every label where not given.

    Raises:
        StoreError: a record that this version cannot read.
    """
    return query_labels(store, query)


def query_labels(store: JobStore, criteria: Query | Mapping[str, Any] | None = None) -> Iterator[LabelledFrame]:
    """As ``find``, for a query or for any Mongo filter on job documents."""
    for document in _latest_labels(store, criteria):
        yield as_record(LabelledFrame, document)


def count_labels(store: JobStore, criteria: Query | Mapping[str, Any] | None = None) -> int:
    """Number of frames that ``query_labels`` finds."""
    fields = [f"output.{name}" for name in ("label_id", *FIELDS_OF_QUERIES)]
    return sum(1 for _ in _latest_labels(store, criteria, fields))


def as_record(kind: type[R], document: Mapping[str, Any]) -> R:
    """The record that a job left in its document.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        return kind.model_validate(upgraded(document["output"]))
    except ValidationError as error:
        hint = "`fieldloop data check` lists all such records"
        raise StoreError(f"{kind.__name__} of job {document['uuid']}: {first_error(error)}; {hint}") from error


def _latest_labels(
    store: JobStore, criteria: Query | Mapping[str, Any] | None, properties: list[str] | None = None
) -> Iterator[dict[str, Any]]:
    query = criteria if isinstance(criteria, Query) else EVERYTHING
    everything = EVERYTHING.criteria()
    latest = {
        document["output"]["label_id"]: _identity(document)
        for document in _documents(store, everything, ["output.label_id"])
    }
    wanted = query.criteria() if criteria is None or criteria is query else {"$and": [everything, dict(criteria)]}
    # Not sorted, so that one document after the other is read and let go.
    for document in _documents(store, wanted, properties, by_age=False):
        if latest[document["output"]["label_id"]] == _identity(document) and query.accepts(document["output"]):
            yield document


def read_records(store: JobStore, kind: type[R], *keys: str) -> tuple[R, ...]:
    """The latest record for each value of its keys, sorted by them."""
    found: dict[tuple, R] = {}
    for document in _documents(store, {"output.@class": kind.__name__}):
        for output in records_of(document):
            record = as_record(kind, {**document, "output": output})
            found[tuple(getattr(record, key) for key in keys)] = record
    return tuple(found[key] for key in sorted(found))


def _documents(
    store: JobStore, criteria: Mapping[str, Any], properties: Sequence[str] | None = None, by_age: bool = True
) -> Iterator[dict[str, Any]]:
    """Documents from the oldest to the latest, or in the order of the store."""
    options: dict[str, Any] = {"sort": {"completed_at": 1}} if by_age else {}
    if properties is not None:
        options["properties"] = list(properties)
    yield from store.query(dict(criteria), **options)


def _identity(document: Mapping[str, Any]) -> tuple[str, int]:
    return document["uuid"], document["index"]
