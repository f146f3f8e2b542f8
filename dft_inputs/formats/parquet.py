"""Parquet: one row a frame, arrays as lists; the schema is that of the convention, a missing label is null."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from ..conventions import Convention, ConventionError, Entry, one_line
from ..files import replacing
from ..records import Frame
from .entries import Unreadable, optional_package

_BATCH = 64
_GEOMETRY = ("species", "positions", "cell", "pbc")
_TEXTS = ("label_id", "flags", "record")


def read_entries(path: Path) -> Iterator[Entry | Unreadable]:
    """Rows in their order, a batch in memory at a time.

    Raises:
        ConventionError: pyarrow is not installed, or this is no Parquet file of frames.
    """
    pyarrow, parquet = optional_package("pyarrow", "parquet"), optional_package("pyarrow.parquet", "parquet")
    try:
        file = parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ConventionError(f"{path}: {one_line(error)}") from error
    with file:
        if missing := set(_GEOMETRY) - set(file.schema_arrow.names):
            raise ConventionError(f"{path}: there is no column {', '.join(sorted(missing))}")
        index = 0
        for batch in file.iter_batches(batch_size=_BATCH):
            for row in batch.to_pylist():
                try:
                    yield _entry(row)
                except (ValueError, TypeError, ValidationError) as error:
                    yield Unreadable(f"row {index}", one_line(error))
                index += 1


def _entry(row: Mapping[str, Any]) -> Entry:
    frame = Frame(
        species=tuple(row["species"]),
        positions=np.reshape(row["positions"], (-1, 3)),
        cell=np.reshape(row["cell"], (3, 3)),
        pbc=tuple(row["pbc"]),
    )
    present = {key: value for key, value in row.items() if value is not None and key not in _GEOMETRY}
    texts = {key: json.loads(present.pop(key)) for key in _TEXTS if key in present}
    return Entry(frame=frame, values=present, texts=texts)


def write_entries(path: Path, entries: Iterable[Entry], convention: Convention) -> int:
    """Write all frames or none, a batch in memory at a time; numbers read back exactly. Returns their number.

    Raises:
        ConventionError: pyarrow is not installed.
    """
    pyarrow, parquet = optional_package("pyarrow", "parquet"), optional_package("pyarrow.parquet", "parquet")
    numbers = pyarrow.list_(pyarrow.float64())
    columns = {"species": pyarrow.list_(pyarrow.string()), "positions": numbers, "cell": numbers}
    columns["pbc"] = pyarrow.list_(pyarrow.bool_())
    columns |= {q.key: numbers if q.shape else pyarrow.float64() for q in convention.quantities}
    if convention.annotated:
        columns |= dict.fromkeys(_TEXTS, pyarrow.string())
    schema = pyarrow.schema(list(columns.items()), metadata={"fieldloop_convention": convention.name})
    count = 0
    with replacing(path) as handle, parquet.ParquetWriter(handle, schema) as writer:
        batch: list[dict[str, Any]] = []
        for entry in entries:
            batch.append(_row(entry, convention))
            count += 1
            if len(batch) == _BATCH:
                writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))
                batch = []
        if batch:
            writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))
    return count


def _row(entry: Entry, convention: Convention) -> dict[str, Any]:
    frame = entry.frame
    row: dict[str, Any] = {
        "species": list(frame.species),
        "positions": frame.positions.ravel().tolist(),
        "cell": frame.cell.ravel().tolist(),
        "pbc": list(frame.pbc),
    }
    for quantity in convention.quantities:
        if quantity.key in entry.values:
            numbers = np.ravel(entry.values[quantity.key]).tolist()
            row[quantity.key] = numbers if quantity.shape else numbers[0]
    return row | {key: json.dumps(value) for key, value in entry.texts.items()}
