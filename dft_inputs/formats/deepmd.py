"""DeePMD-kit's folders of ``.npy`` files.

A system has one list of atoms and one set of labels; what differs goes to another system. Sets hold a bounded number
of frames. ``fieldloop_order.npy`` beside the numbers keeps the order of frames across systems.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..conventions import ConventionError, Entry, one_line
from ..records import Frame
from .entries import Unreadable, replacing_path

_SET_SIZE = 256
_ORDER, _TEXTS = "fieldloop_order", "fieldloop_texts"
_GEOMETRY = ("coord", "box", _ORDER, _TEXTS)


def read_entries(path: Path) -> Iterator[Entry | Unreadable]:
    """Frames of a system, or of all systems below a folder, in the order they were written in where that is known.

    Raises:
        ConventionError: no system there.
    """
    systems = sorted(file.parent for file in path.rglob("type.raw"))
    if not systems:
        raise ConventionError(f"{path}: there is no system of DeePMD-kit (a folder with type.raw and set.000)")
    for _, _, _, item in heapq.merge(*(_numbered(system, n) for n, system in enumerate(systems)), key=lambda i: i[:3]):
        yield item


def _numbered(system: Path, number: int) -> Iterator[tuple[float, int, int, Entry | Unreadable]]:
    """Frames of a system with their place: by the order written, then by system and frame."""
    try:
        species, pbc = _atoms(system)
    except (OSError, ValueError, IndexError) as error:
        yield np.inf, number, 0, Unreadable(str(system), one_line(error))
        return
    count = 0
    for folder in sorted(system.glob("set.*")):
        try:
            arrays = {file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in folder.glob("*.npy")}
            frames = len(arrays["coord"])
            if any(len(array) != frames for array in arrays.values()):
                raise ConventionError(f"the files of {folder} differ in the number of frames")
        except (OSError, ValueError, KeyError, TypeError) as error:
            yield np.inf, number, count, Unreadable(str(folder), one_line(error))
            continue
        for index in range(frames):
            order = float(arrays[_ORDER][index]) if _ORDER in arrays else np.inf
            yield order, number, count, _read(arrays, index, species, pbc, f"{folder.name} frame {index}")
            count += 1


def _atoms(system: Path) -> tuple[tuple[str, ...], tuple[bool, bool, bool]]:
    if not (system / "type_map.raw").is_file():
        raise ConventionError("type_map.raw is missing, so the elements are unknown")
    names = (system / "type_map.raw").read_text().split()
    species = tuple(names[int(word)] for word in (system / "type.raw").read_text().split())
    if (system / "fieldloop_pbc.json").is_file():
        a, b, c = json.loads((system / "fieldloop_pbc.json").read_text())
        return species, (bool(a), bool(b), bool(c))
    periodic = not (system / "nopbc").is_file()
    return species, (periodic, periodic, periodic)


def _read(
    arrays: dict[str, np.ndarray], index: int, species: tuple[str, ...], pbc: tuple[bool, bool, bool], where: str
) -> Entry | Unreadable:
    try:
        box = np.reshape(arrays["box"][index], (3, 3)) if "box" in arrays else np.zeros((3, 3))
        frame = Frame(species=species, positions=np.reshape(arrays["coord"][index], (-1, 3)), cell=box, pbc=pbc)
        values = {key: np.array(array[index]) for key, array in arrays.items() if key not in _GEOMETRY}
        texts = json.loads(str(arrays[_TEXTS][index])) if _TEXTS in arrays else {}
    except (ValueError, TypeError) as error:
        return Unreadable(where, one_line(error))
    return Entry(frame=frame, values=values, texts=texts)


@dataclass
class _System:
    folder: Path
    sets: int = 0
    pending: list[tuple[int, Entry]] = field(default_factory=list)

    def flush(self) -> None:
        """Write what waits as one set."""
        if not self.pending:
            return
        folder = self.folder / f"set.{self.sets:03d}"
        folder.mkdir()
        entries = [entry for _, entry in self.pending]
        arrays: dict[str, Any] = {
            "coord": [entry.frame.positions.ravel() for entry in entries],
            "box": [entry.frame.cell.ravel() for entry in entries],
            _ORDER: [order for order, _ in self.pending],
        }
        for key in entries[0].values:
            arrays[key] = [np.ravel(entry.values[key]) for entry in entries]
            if np.ndim(entries[0].values[key]) == 0 or arrays[key][0].size == 1:
                arrays[key] = np.ravel(arrays[key])
        if any(entry.texts for entry in entries):
            arrays[_TEXTS] = [json.dumps(dict(entry.texts)) for entry in entries]
        for key, rows in arrays.items():
            np.save(folder / f"{key}.npy", np.array(rows), allow_pickle=False)
        self.sets, self.pending = self.sets + 1, []


def write_entries(path: Path, entries: Iterable[Entry]) -> int:
    """Write all frames or none; numbers read back exactly. Returns their number.

    Raises:
        ConventionError: ``path`` is a folder with something else in it.
    """
    if path.exists() and not any(path.rglob("type.raw")):
        raise ConventionError(f"{path} is there already and no DeePMD-kit folder: name another one")
    count = 0
    systems: dict[str, _System] = {}
    with replacing_path(path) as part:
        part.mkdir()
        for entry in entries:
            system = _system_of(entry, part, systems)
            system.pending.append((count, entry))
            count += 1
            if len(system.pending) == _SET_SIZE:
                system.flush()
        for system in systems.values():
            system.flush()
    return count


def _system_of(entry: Entry, root: Path, systems: dict[str, _System]) -> _System:
    """The system of the same atoms, periodicity and labels, created where it is new."""
    frame = entry.frame
    key = hashlib.sha256(repr((frame.species, frame.pbc, sorted(entry.values))).encode()).hexdigest()[:8]
    if key not in systems:
        folder = root / f"{frame.formula}-{key}"
        folder.mkdir()
        names = sorted(set(frame.species))
        (folder / "type_map.raw").write_text("".join(f"{name}\n" for name in names))
        (folder / "type.raw").write_text("".join(f"{names.index(symbol)}\n" for symbol in frame.species))
        if not any(frame.pbc):
            (folder / "nopbc").touch()
        elif not all(frame.pbc):
            (folder / "fieldloop_pbc.json").write_text(json.dumps(frame.pbc))
        systems[key] = _System(folder)
    return systems[key]
