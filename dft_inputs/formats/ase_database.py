"""ASE databases, in SQLite (``.db``) and LMDB (``.aselmdb``).

Energy, forces and stress are also given to ASE as calculator results where the convention's are ASE's, so that
``row.toatoms()`` has them; the row's ``data`` holds every value exactly, under the convention's keys.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import ase.db
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db.row import AtomsRow

from ..conventions import ConventionError, Entry, one_line
from ..records import Frame
from .entries import Unreadable, optional_package, replacing_path

_BACKENDS = {".db": "db", ".aselmdb": "aselmdb"}
_MARK = "fieldloop_values"
_ENERGY_KEYS = ("energy", "enthalpy", "total_energy", "REF_energy")
_FORCE_KEYS = ("forces", "force", "REF_forces")


def read_entries(path: Path) -> Iterator[Entry | Unreadable]:
    """Rows in the order of their numbers; what ASE itself keeps counts where the row's data do not have it."""
    try:
        rows = _open(path, path).select()
        for row in rows:
            try:
                yield _entry(row)
            except (ValueError, KeyError, TypeError) as error:
                yield Unreadable(f"row {row.id}", one_line(error))
    except sqlite3.DatabaseError as error:
        yield Unreadable(path.name, one_line(error))


def _open(path: Path, file: Path) -> Any:
    """ASE's database at ``path``; errors name ``file``."""
    if path.suffix not in _BACKENDS:
        raise ConventionError(f"{file}: the name of an ASE database ends with {' or '.join(_BACKENDS)}")
    if path.suffix == ".aselmdb":
        optional_package("ase_db_backends", "aselmdb")
    return ase.db.connect(path, type=_BACKENDS[path.suffix], use_lock_file=False)


def _entry(row: AtomsRow) -> Entry:
    frame = Frame.from_atoms(row.toatoms())
    data: dict[str, Any] = dict(row.data)
    values: dict[str, Any] = {key: row[key] for key in ("energy", "forces", "stress", "dipole") if key in row}
    if "stress" in values:
        values["stress"] = np.asarray(values["stress"])[[0, 5, 4, 5, 1, 3, 4, 3, 2]]
    texts: dict[str, Any] = {}
    if _MARK in data:
        values, texts = dict(data[_MARK]), dict(data.get("fieldloop_texts", {}))
    else:
        values |= {key: value for key, value in data.items() if isinstance(value, int | float | list | np.ndarray)}
    per_atom = {key for key, value in values.items() if np.ndim(value) > 1 and len(value) == len(frame)}
    return Entry(frame=frame, values=values, texts=texts, per_atom=frozenset(per_atom))


def write_entries(path: Path, entries: Iterable[Entry]) -> int:
    """Write all frames or none, in transactions; numbers read back exactly. Returns their number."""
    count = 0
    with replacing_path(path) as part, _open(part, path) as database:
        for entry in entries:
            atoms = entry.frame.to_atoms()
            atoms.calc = SinglePointCalculator(atoms, **_results(entry))
            data = {_MARK: dict(entry.values), "fieldloop_texts": dict(entry.texts)}
            label_id = entry.texts.get("label_id")
            # ASE reads text that looks like a number as one, so identifiers carry a word in front.
            pairs = {"label": f"id-{label_id}"} if label_id else {}
            database.write(atoms, key_value_pairs=pairs, data=data)
            count += 1
    if not count:
        raise ConventionError(f"{path}: there is no frame to write")
    return count


def _results(entry: Entry) -> dict[str, Any]:
    values = entry.values
    results: dict[str, Any] = {}
    for key in values:
        if key in _ENERGY_KEYS:
            results["energy"] = float(np.ravel(values[key])[0])
        elif key in _FORCE_KEYS:
            results["forces"] = values[key]
    return results
