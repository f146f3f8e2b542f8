"""What a campaign's store holds, read back as records, and queries on labels in the user's words.

Job outputs are stored with their class name, so a record is found by ``output.@class`` and every field of it can be
part of a Mongo filter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar

from ase.data import atomic_numbers
from ase.formula import Formula
from jobflow.core.store import JobStore

from ..dft_inputs.records import LABELS, LabelledFrame, Record
from .records import Exploration, GenerationRecord, ParentCheck, SelectionRecord, TrainedModel

R = TypeVar("R", bound=Record)


class QueryError(ValueError):
    """Words that name no label, element or formula; the message is one line for people."""


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
        pydantic.ValidationError: a record that this version cannot read.
    """
    labels = sorted(query_labels(store), key=lambda label: (label.proposal.generation, label.label_id))
    return Campaign(
        root=Path(root),
        labels=tuple(labels),
        checks=_records(store, ParentCheck, "frame_id"),
        models=_records(store, TrainedModel, "generation", "member"),
        explorations=_records(store, Exploration, "generation"),
        selections=_records(store, SelectionRecord, "generation"),
        generations=_records(store, GenerationRecord, "generation"),
    )


def label_query(
    *,
    has: Sequence[str] = (),
    formula: str | None = None,
    elements: Sequence[str] = (),
    status: Literal["done", "failed"] | None = None,
    passed: bool | None = None,
    generation: int | None = None,
    origin: str | None = None,
    code: str | None = None,
    protocol: str | None = None,
) -> dict[str, Any]:
    """Mongo filter of labelled frames; all conditions given must hold.

    Args:
        has: labels that must be present, of ``records.LABELS``.
        formula: of the whole cell, in any order of elements: ``As4Al4``.
        elements: symbols that must occur.
        status: ``done`` or ``failed``.
        passed: True for frames whose checks all passed, False for flagged ones.
        generation, origin: of the proposal.
        code, protocol: of the provenance.

    Raises:
        QueryError: an unknown label, element, status, or text that is no formula.
    """
    if status not in (None, "done", "failed"):
        raise QueryError(f"status is done or failed, not {status!r}")
    conditions: dict[str, Any] = {
        "output.status": status,
        "output.quality.passed": passed,
        "output.proposal.generation": generation,
        "output.proposal.origin": origin,
        "output.provenance.code": code,
        "output.provenance.protocol": protocol,
        "output.frame.formula": None if formula is None else _cell_formula(formula),
        "output.response.labels": _all([_label_name(name) for name in has]),
        "output.frame.species": _all([_element(symbol) for symbol in elements]),
    }
    return {"output.@class": "LabelledFrame"} | {key: value for key, value in conditions.items() if value is not None}


def query_labels(store: JobStore, criteria: Mapping[str, Any] | None = None) -> Iterator[LabelledFrame]:
    """Labelled frames that match a filter, one per ``label_id``.

    A frame labelled again counts with its latest record only: it is found if that one matches.

    Args:
        store: connected.
        criteria: from ``label_query``, or any Mongo filter on job documents; all labels where not given.
    """
    for document in _latest_labels(store, criteria):
        yield LabelledFrame.model_validate(document["output"])


def count_labels(store: JobStore, criteria: Mapping[str, Any] | None = None) -> int:
    """Number of frames that ``query_labels`` finds."""
    return sum(1 for _ in _latest_labels(store, criteria, ["output.label_id"]))


def _latest_labels(
    store: JobStore, criteria: Mapping[str, Any] | None, properties: list[str] | None = None
) -> Iterator[dict[str, Any]]:
    everything = label_query()
    latest = {
        document["output"]["label_id"]: _identity(document)
        for document in _documents(store, everything, ["output.label_id"])
    }
    wanted = {"$and": [everything, dict(criteria)]} if criteria else everything
    for document in _documents(store, wanted, properties):
        if latest[document["output"]["label_id"]] == _identity(document):
            yield document


def _records(store: JobStore, kind: type[R], *keys: str) -> tuple[R, ...]:
    """The latest record for each value of its keys, sorted by them."""
    found: dict[tuple, R] = {}
    for document in _documents(store, {"output.@class": kind.__name__}):
        record = kind.model_validate(document["output"])
        found[tuple(getattr(record, key) for key in keys)] = record
    return tuple(found[key] for key in sorted(found))


def _documents(
    store: JobStore, criteria: Mapping[str, Any], properties: Sequence[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Documents from the oldest to the latest."""
    fields: dict[str, Any] = {} if properties is None else {"properties": list(properties)}
    yield from store.query(dict(criteria), sort={"completed_at": 1}, **fields)


def _identity(document: Mapping[str, Any]) -> tuple[str, int]:
    return document["uuid"], document["index"]


def _all(values: list[str]) -> str | dict[str, list[str]] | None:
    """Condition on an array field that holds all these values; equality where it is one, as stores index that."""
    if len(values) < 2:
        return values[0] if values else None
    return {"$all": values}


def _label_name(name: str) -> str:
    if name in LABELS:
        return name
    close = get_close_matches(name, LABELS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"labels are {', '.join(LABELS)}"
    raise QueryError(f"there is no label {name!r}: {hint}")


def _element(symbol: str) -> str:
    if symbol not in atomic_numbers or symbol == "X":
        raise QueryError(f"{symbol!r} is no chemical element")
    return symbol


def _cell_formula(text: str) -> str:
    """As ``Frame.formula`` spells it."""
    try:
        counts = Formula(text).count()
    except ValueError:
        raise QueryError(f"{text!r} is no chemical formula, write e.g. Al4As4") from None
    return "".join(f"{_element(symbol)}{counts[symbol]}" for symbol in sorted(counts))
