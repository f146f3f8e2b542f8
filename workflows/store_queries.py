"""Documents as JSON text, and the part of a Mongo query that SQLite can answer.

Only a necessary condition is handed to SQL: it may let documents through that do not match, never hold one back that
does. mongomock's filter then decides, so the query language is exactly that of maggma's ``MemoryStore``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from bson import json_util
from maggma.stores.mongolike import mongomock  # pyright: ignore[reportPrivateImportUsage]

# maggma moved from mongomock to its successor mongomock_ng; ours is the engine of this maggma's MemoryStore.
_filtering = import_module(f"{mongomock.__name__}.filtering")
_helpers = import_module(f"{mongomock.__name__}.helpers")
filter_applies = _filtering.filter_applies
iter_key_candidates = _filtering.iter_key_candidates
resolve_sort_key = _filtering.resolve_sort_key
patch_datetime_awareness_in_document = _helpers.patch_datetime_awareness_in_document
NOTHING = _filtering.NOTHING
"""Stands for a missing field."""

_PLAIN_PATH = re.compile(r"[A-Za-z_@][A-Za-z0-9_@-]*(\.[A-Za-z_@][A-Za-z0-9_@-]*)*")
# JSON integers beyond this become floats in SQLite.
_EXACT_INTEGER = 2**53
_LARGEST_LIMIT = 1e300
_JSON_OPTIONS = json_util.JSONOptions(json_mode=json_util.JSONMode.RELAXED, tz_aware=False)


def encode(document: Any) -> str:
    """JSON text of a document; dates (to the millisecond), ids, non-finite numbers in MongoDB's extended JSON."""
    try:
        return json.dumps(document, default=_encode_special, allow_nan=False, separators=(",", ":"))
    except ValueError:  # NaN and infinities, which JSON lacks
        return json_util.dumps(document, json_options=_JSON_OPTIONS)


def decode(text: str) -> Any:
    """The document of a text written by ``encode``; dates come back naive, in UTC, as from MongoDB."""
    # Few documents hold any, and looking at every object of the others takes longer than reading them.
    return json.loads(text, object_hook=_decode_special if '"$' in text else None)


def _encode_special(value: Any) -> Any:
    return json_util.default(value, json_options=_JSON_OPTIONS)


def _decode_special(value: dict) -> Any:
    if any(key.startswith("$") for key in value):
        return json_util.object_hook(value, json_options=_JSON_OPTIONS)
    return value


def is_plain_path(field: str) -> bool:
    """True for a dotted field name that SQL may look up: names only, no array positions, nothing to escape."""
    return _PLAIN_PATH.fullmatch(field) is not None


def field_expression(field: str) -> str:
    """SQL expression of a field, the same text for an index and for a query.

    The value of a scalar; ``[`` wherever an array stands on the path, as a Mongo query looks into arrays; ``{`` for an
    object.
    """
    names = field.split(".")
    prefixes = [".".join(names[: n + 1]) for n in range(len(names))]
    arrays = " OR ".join(f"json_type(document, '{_json_path(prefix)}') = 'array'" for prefix in prefixes)
    path = _json_path(field)
    return (
        f"CASE WHEN {arrays} THEN '[' WHEN json_type(document, '{path}') = 'object' THEN '{{' "
        f"ELSE json_extract(document, '{path}') END"
    )


def _json_path(field: str) -> str:
    return "$." + ".".join(f'"{name}"' for name in field.split("."))


def necessary_condition(criteria: Mapping[str, Any]) -> tuple[str, list[str | float]]:
    """SQL condition, with its parameters, that every document matching the criteria meets.

    Taken are equality and ``$in`` with strings, integers and booleans, and limits that are numbers, at the top and
    inside ``$and``.
    """
    clauses: list[str] = []
    parameters: list[str | float] = []
    for field, condition in _conjunction(criteria):
        values = _allowed_values(condition)
        if values is not None and all(map(_is_comparable, values)):
            clauses.append(f"({field_expression(field)}) IN (SELECT value FROM json_each(?))")  # noqa: S608  (plain path)
            parameters.append(json.dumps([*values, "["]))
        for sign, limit in _limits(condition):
            # An array may hold a match, and an object may be a number of MongoDB's extended JSON.
            clauses.append(f"(({field_expression(field)}) {sign} ? OR ({field_expression(field)}) IN ('[', '{{'))")
            parameters.append(limit)
    return " AND ".join(clauses) or "1", parameters


def _conjunction(criteria: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Fields with plain names and their conditions, all of which must hold."""
    for field, condition in criteria.items():
        if field == "$and":
            for part in condition:
                yield from _conjunction(part)
        elif is_plain_path(field):
            yield field, condition


def _limits(condition: Any) -> Iterator[tuple[str, float]]:
    """Limits on numbers, a little wide: SQLite may read the last digit of a number differently."""
    if not isinstance(condition, Mapping):
        return
    for name, sign, side in (("$gt", ">=", -1), ("$gte", ">=", -1), ("$lt", "<=", 1), ("$lte", "<=", 1)):
        limit = condition.get(name)
        if isinstance(limit, int | float) and not isinstance(limit, bool) and abs(limit) < _LARGEST_LIMIT:
            yield sign, limit + side * 1e-12 * abs(limit)


def _allowed_values(condition: Any) -> list | None:
    """The values one of which a field must have, or None where the condition is of another kind."""
    if not isinstance(condition, Mapping):
        return [condition]
    if "$eq" in condition:
        return [condition["$eq"]]
    allowed = condition.get("$in")
    return list(allowed) if isinstance(allowed, list | tuple) else None


def _is_comparable(value: Any) -> bool:
    """True where SQLite and mongomock agree on equality. None also means missing, and floats lose digits in SQL."""
    if isinstance(value, str):
        return "\0" not in value and value.isprintable()
    return isinstance(value, int) and abs(value) <= _EXACT_INTEGER


def sort_documents(documents: list[dict], sort: Mapping[str, int]) -> list[dict]:
    """Documents in BSON order by each field, 1 ascending and -1 descending; ties keep their order."""
    for field, direction in reversed(list(sort.items())):
        documents = sorted(documents, key=lambda document: resolve_sort_key(field, document), reverse=direction < 0)
    return documents


def project(document: dict, properties: Mapping[str, Any] | None) -> dict:
    """The fields asked for (``{"a.b": 1}``), or all but those excluded (``{"a": 0}``), as in a Mongo projection.

    Raises:
        ValueError: for projection operators and for a mixture of inclusion and exclusion.
    """
    fields = {field: value for field, value in (properties or {}).items() if field != "_id"}
    if any(not isinstance(value, bool | int) for value in fields.values()):
        raise ValueError(f"projection operators are not supported: {fields}")
    if len({bool(value) for value in fields.values()}) > 1:
        raise ValueError(f"a projection either includes or excludes fields, not both: {fields}")
    include = any(fields.values())
    tree: dict[str, Any] = {}
    for field in fields:
        _insert(tree, field.split("."))
    if include and properties and properties.get("_id", 1):
        tree.setdefault("_id", {})
    elif not include and properties and "_id" in properties and not properties["_id"]:
        tree["_id"] = {}
    return _prune(document, tree, include) if tree else document


def _insert(tree: dict[str, Any], names: list[str]) -> None:
    """Add a path to a tree of names whose leaves are empty; a shorter path covers the longer ones."""
    for position, name in enumerate(names):
        known = name in tree
        if known and not tree[name]:
            return
        if position == len(names) - 1:
            tree[name] = {}
            return
        tree = tree.setdefault(name, {})


def _prune(document: dict, tree: dict[str, Any], include: bool) -> dict:
    pruned = {}
    for name, value in document.items():
        if name not in tree:
            if not include:
                pruned[name] = value
        elif not tree[name]:
            if include:
                pruned[name] = value
        elif isinstance(value, dict):
            pruned[name] = _prune(value, tree[name], include)
        elif isinstance(value, list):
            pruned[name] = [_prune(item, tree[name], include) if isinstance(item, dict) else item for item in value]
        elif not include:
            pruned[name] = value
    return pruned
