"""Extended XYZ: one frame after the other as text; ASE parses the geometry."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from ase.io.extxyz import key_val_str_to_dict, read_xyz

from ..conventions import ConventionError, Entry, one_line
from ..files import replacing
from ..records import Frame
from .entries import Unreadable

_BY_COLUMNS = ("stress", "virial")
"""Matrices that extended XYZ writes column by column; ASE unpacks them itself."""

_TEXTS = ("label_id", "flags", "record")


def read_entries(path: Path) -> Iterator[Entry | Unreadable]:
    """Frames one at a time; a malformed one is told and passed over, a file cut short ends there."""
    with path.open(encoding="utf-8", errors="replace") as handle:
        for index, block in enumerate(_blocks(handle)):
            try:
                yield block if isinstance(block, Unreadable) else _parse(block)
            except (ValueError, KeyError, TypeError, IndexError, OSError) as error:
                yield Unreadable(f"frame {index}", one_line(error))


def _blocks(handle: TextIO) -> Iterator[list[str] | Unreadable]:
    """Lines of each frame: the comment, then the atoms."""
    index = 0
    while header := handle.readline():
        if not header.strip():
            if handle.read().strip():
                yield Unreadable(f"frame {index}", "empty line where a number of atoms was expected")
            return
        try:
            natoms = int(header)
        except ValueError:
            yield Unreadable(f"frame {index}", f"expected a number of atoms, got {header.strip()[:40]!r}")
            return
        block = list(islice(handle, natoms + 1))
        if len(block) <= natoms:
            yield Unreadable(f"frame {index}", f"the file ends within its {natoms} atoms")
            return
        yield block
        index += 1


def _parse(block: list[str]) -> Entry:
    """Geometry, and everything else of a frame by its key in the file.

    ASE would move energy-like keys into a calculator and cut the stress to six numbers, so it is shown the keys of
    the geometry alone.
    """
    values = key_val_str_to_dict(block[0])
    geometry = {key: values.pop(key) for key in ("Lattice", "Properties", "pbc") if key in values}
    _require_columns(str(geometry.setdefault("Properties", "species:S:1:pos:R:3")), block[1:])
    text = "".join([f"{len(block) - 1}\n", *block])
    atoms = next(read_xyz(StringIO(text), index=0, properties_parser=lambda _: dict(geometry)))
    columns = atoms.arrays | (atoms.calc.results if atoms.calc else {})
    columns = {key: column for key, column in columns.items() if key not in ("numbers", "positions")}
    return Entry(
        frame=Frame.from_atoms(atoms),
        values={key: value for key, value in values.items() if key not in _TEXTS} | columns,
        texts={key: values[key] for key in _TEXTS if key in values},
        per_atom=frozenset(columns),
    )


def _require_columns(properties: str, lines: list[str]) -> None:
    """ASE ignores surplus columns and sets missing positions to zero."""
    fields = properties.split(":")
    if "pos" not in fields[::3] or not {"species", "Z"} & set(fields[::3]):
        raise ConventionError("Properties must name species and pos")
    expected = sum(map(int, fields[2::3]))
    for number, line in enumerate(lines):
        if len(line.split()) != expected:
            raise ConventionError(f"atom {number} has {len(line.split())} columns, expected {expected}")


def write_entries(path: Path, entries: Iterable[Entry]) -> int:
    """Write all frames or none; numbers read back exactly. Returns their number."""
    count = 0
    with replacing(path) as handle:
        for entry in entries:
            handle.write(_format(entry).encode())
            count += 1
    return count


def _format(entry: Entry) -> str:
    """One frame as text."""
    frame = entry.frame
    columns = {"pos": frame.positions} | {key: v for key, v in entry.values.items() if key in entry.per_atom}
    header = {key: _numbers(_row(key, v)) for key, v in entry.values.items() if key not in entry.per_atom}
    header |= {key: _text(value) for key, value in entry.texts.items()}
    properties = ":".join(["species:S:1", *(f"{key}:R:{column.shape[1]}" for key, column in columns.items())])
    comment = [f'Lattice="{_numbers(frame.cell.ravel())}"', f"Properties={properties}"]
    comment += [f'{key}="{value}"' for key, value in header.items()]
    comment += [f'pbc="{" ".join("T" if periodic else "F" for periodic in frame.pbc)}"']
    rows = zip(frame.species, np.hstack(list(columns.values())), strict=True)
    return "\n".join([str(len(frame)), " ".join(comment), *(f"{name} {_numbers(row)}" for name, row in rows), ""])


def _row(key: str, values: np.ndarray) -> np.ndarray:
    return values.reshape(3, 3).T.ravel() if key in _BY_COLUMNS else values


def _numbers(values: np.ndarray) -> str:
    """Numbers that read back exactly."""
    return " ".join(map(repr, values.tolist()))


def _text(value: Any) -> str:
    """Text as escaped JSON: bare, ASE would read an identifier such as ``12e4`` as a number."""
    return "_JSON " + json.dumps(value).replace("\\", "\\\\").replace('"', '\\"')
