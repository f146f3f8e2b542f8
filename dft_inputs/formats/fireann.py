"""FIREANN's text blocks: cell, one line of quoted values, atoms as ``symbol mass x y z fx fy fz``, then the field."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..conventions import ConventionError, Entry, one_line
from ..records import Frame
from .entries import Unreadable

_QUOTED = re.compile(r"(\w+)\s*=\s*'([^']*)'")


def read_entries(path: Path) -> Iterator[Entry | Unreadable]:
    """Blocks one at a time; a malformed one is told and passed over."""
    with path.open(encoding="utf-8", errors="replace") as handle:
        block: list[str] = []
        index = -1
        for line in handle:
            if line.startswith("point="):
                if index >= 0:
                    yield _parsed(block, index)
                block, index = [], index + 1
            elif line.strip():
                if index < 0:
                    yield Unreadable("frame 0", f"expected 'point=', got {line.strip()[:40]!r}")
                    return
                block.append(line)
        if index >= 0:
            yield _parsed(block, index)


def _parsed(block: list[str], index: int) -> Entry | Unreadable:
    try:
        return _parse(block)
    except (ValueError, IndexError) as error:
        return Unreadable(f"frame {index}", one_line(error))


def _parse(block: list[str]) -> Entry:
    if len(block) < 7 or not block[-1].startswith("External_field:"):
        raise ConventionError("the block does not end with External_field")
    cell = [_floats(line, 3) for line in block[:3]]
    marker, *periodic = block[3].split()
    if marker != "pbc" or len(periodic) != 3 or set(periodic) - {"0", "1"}:
        raise ConventionError(f"expected 'pbc' with three of 0 and 1, got {block[3].strip()!r}")
    values: dict[str, Any] = {key: _numbers(text) for key, text in _QUOTED.findall(block[4])}
    values["External_field"] = _floats(block[-1].removeprefix("External_field:"), 3)
    atoms = [line.split() for line in block[5:-1]]
    table = np.array([_floats(" ".join(atom[1:]), 7) for atom in atoms])
    values["forces"] = table[:, 4:]
    frame = Frame(
        species=tuple(atom[0] for atom in atoms),
        positions=table[:, 1:4],
        cell=np.array(cell),
        pbc=(periodic[0] == "1", periodic[1] == "1", periodic[2] == "1"),
    )
    return Entry(frame=frame, values=values, per_atom=frozenset({"forces"}))


def _numbers(text: str) -> Any:
    numbers = np.array([float(word) for word in text.split()])
    return numbers[0] if numbers.size == 1 else numbers


def _floats(line: str, count: int) -> list[float]:
    words = line.split()
    if len(words) != count:
        raise ConventionError(f"expected {count} numbers, got {line.strip()[:60]!r}")
    return [float(word) for word in words]
