"""Files of labelled frames: any convention in any format, one frame in memory at a time.

``read_labels`` and ``write_labels`` are the door. A format turns files into entries and back
(`fieldloop.dft_inputs.conventions.Entry`); a convention says what the numbers of an entry mean. The outputs of DFT
codes bring their own convention and are read under the name of the code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ..conventions import CONVENTIONS, Convention, ConventionError, Entry, get_convention
from ..records import LabelledFrame
from .entries import Unreadable

__all__ = [
    "CODES",
    "FORMATS",
    "Unreadable",
    "guess_format",
    "ignored_keys",
    "read_extxyz",
    "read_labels",
    "read_labels_or_stop",
    "write_extxyz",
    "write_labels",
]

FORMATS = ("extxyz", "ase-db", "aselmdb", "deepmd", "parquet", "fireann")
"""Formats that a convention is read from; all but the last are written too."""

CODES = ("pw.x", "vasp")
"""DFT codes whose outputs are read as they are."""

_SUFFIXES = {
    ".xyz": "extxyz",
    ".extxyz": "extxyz",
    ".db": "ase-db",
    ".aselmdb": "aselmdb",
    ".parquet": "parquet",
}


def guess_format(path: Path, convention: str) -> str:
    """The format of a file that exists or will, from its name; a folder, and no suffix, mean DeePMD-kit's.

    Raises:
        ConventionError: no known suffix.
    """
    if convention == "fireann" and path.suffix == ".txt":
        return "fireann"
    if path.suffix in _SUFFIXES:
        return _SUFFIXES[path.suffix]
    if path.is_dir() or not path.suffix:
        return "deepmd"
    raise ConventionError(f"{path}: cannot tell the format from the name; give one of {', '.join(FORMATS)}")


def read_labels(
    path: str | Path, convention: str, file_format: str | None = None
) -> Iterator[LabelledFrame | Unreadable]:
    """Read labelled frames one at a time; what cannot be read is told and passed over.

    Args:
        path: a file; or a folder of runs, of DeePMD-kit, or of files whose names tell their format.
        convention: the name of a convention or of a DFT code.
        file_format: of ``FORMATS``; from the name of the file where not given.

    Raises:
        ConventionError: unknown convention or format, or no such file (at once).
    """
    path = Path(path)
    if convention not in CODES and convention not in CONVENTIONS:
        raise ConventionError(
            f"unknown label convention {convention!r}; known: {', '.join(CONVENTIONS)}; codes: {', '.join(CODES)}"
        )
    if not path.exists():
        raise ConventionError(f"there is no {path}")
    if convention in CODES:
        return _code_reader(convention)(path)
    return _all_decoded(_sources(path, convention, file_format), get_convention(convention))


def _sources(path: Path, convention: str, file_format: str | None) -> list[tuple[Path, str]]:
    """A file with its format, or every file below a folder whose name tells one."""
    systems = convention == "deepmd" or next(path.rglob("type.raw"), None)
    if file_format or systems or not path.is_dir() or path.suffix in _SUFFIXES:
        return [(path, file_format or guess_format(path, convention))]
    suffixes = {*_SUFFIXES, ".txt"} if convention == "fireann" else set(_SUFFIXES)
    files = [file for file in sorted(path.rglob("*")) if file.suffix in suffixes]
    if not files:
        names = ", ".join(f"*{suffix}" for suffix in sorted(suffixes))
        raise ConventionError(f"{path}: no file below it is named {names}, nor is it a system of DeePMD-kit")
    return [(file, guess_format(file, convention)) for file in files]


def _all_decoded(sources: list[tuple[Path, str]], convention: Convention) -> Iterator[LabelledFrame | Unreadable]:
    for path, file_format in sources:
        for item in _decoded(_reader(file_format)(path), convention):
            if isinstance(item, Unreadable) and len(sources) > 1:
                yield Unreadable(f"{path.name}: {item.where}", item.reason)
            else:
                yield item


def _decoded(entries: Iterator[Entry | Unreadable], convention: Convention) -> Iterator[LabelledFrame | Unreadable]:
    for index, entry in enumerate(entries):
        if isinstance(entry, Unreadable):
            yield entry
            continue
        try:
            labelled = convention.decode(entry)
        except ConventionError as error:
            yield Unreadable(f"frame {index}", str(error))
        else:
            yield labelled


def ignored_keys(path: Path, convention: str, file_format: str | None = None) -> tuple[str, ...]:
    """Keys of a source that its convention has no word for, each with the conventions that have one.

    Args:
        path: a file or folder; the first readable frame of each file is looked at.
        convention: the name of a convention, or of a DFT code, which leaves nothing unread.
        file_format: of ``FORMATS``; from the name of the file where not given.
    """
    if convention in CODES:
        return ()
    known = {quantity.key for quantity in get_convention(convention).quantities}
    unknown: set[str] = set()
    for file, its_format in _sources(Path(path), convention, file_format):
        first = next((entry for entry in _reader(its_format)(file) if isinstance(entry, Entry)), None)
        unknown |= set(first.values) - known if first else set()
    return tuple(_with_conventions(key) for key in sorted(unknown))


def _with_conventions(key: str) -> str:
    names = [name for name, other in CONVENTIONS.items() if any(key == quantity.key for quantity in other.quantities)]
    return f"{key} (a word of {', '.join(names)})" if names else key


def read_labels_or_stop(path: str | Path, convention: str, file_format: str | None = None) -> Iterator[LabelledFrame]:
    """Like ``read_labels``, but the first frame that cannot be read raises.

    Args:
        path: as of ``read_labels``.
        convention: the name of a convention or of a DFT code.
        file_format: of ``FORMATS``; from the name of the file where not given.

    Raises:
        ConventionError: also a malformed frame (when it is reached), by file and index.
    """
    return _strict(Path(path), read_labels(path, convention, file_format))


def _strict(path: Path, labels: Iterator[LabelledFrame | Unreadable]) -> Iterator[LabelledFrame]:
    for labelled in labels:
        if isinstance(labelled, Unreadable):
            raise ConventionError(f"{path}: {labelled.where}: {labelled.reason}")
        yield labelled


def write_labels(
    path: str | Path, frames: Iterable[LabelledFrame], convention: str, file_format: str | None = None
) -> int:
    """Write labelled frames, all of them or none: the file appears when it is complete.

    Numbers are written so that they read back exactly, but for the rounding of a convention that divides by volumes.

    Args:
        path: file or folder to write; replaced if it is there.
        frames: frames with their labels, taken one at a time.
        convention: name of the convention to write in.
        file_format: of ``FORMATS``; from the name of the file where not given.

    Returns:
        The number of frames written.

    Raises:
        ConventionError: unknown convention or format, a package that is missing, or a frame that the convention
            cannot tell (see `fieldloop.dft_inputs.conventions.Convention.encode`).
    """
    path, chosen = Path(path), get_convention(convention)
    write = _writer(file_format or guess_format(path, convention), chosen)
    return write(path, _encoded(path, frames, chosen))


def _encoded(path: Path, frames: Iterable[LabelledFrame], convention: Convention) -> Iterator[Entry]:
    for index, labelled in enumerate(frames):
        try:
            entry = convention.encode(labelled)
        except ConventionError as error:
            raise ConventionError(f"{path}: frame {index} ({labelled.label_id}): {error}") from error
        yield entry


def read_extxyz(path: str | Path, convention: str) -> Iterator[LabelledFrame]:
    """``read_labels_or_stop`` for extended XYZ, whatever the name of the file."""
    get_convention(convention)
    return read_labels_or_stop(path, convention, "extxyz")


def write_extxyz(path: str | Path, frames: Iterable[LabelledFrame], convention: str) -> int:
    """``write_labels`` for extended XYZ, whatever the name of the file."""
    return write_labels(path, frames, convention, "extxyz")


# Formats are imported where they are used: most need a package that the others do not.


def _code_reader(code: str) -> Callable[[Path], Iterator[LabelledFrame | Unreadable]]:
    if code == "vasp":
        from .vasp_runs import read_labels as read_vasp  # noqa: PLC0415

        return read_vasp
    from .pw_runs import read_labels as read_pw  # noqa: PLC0415

    return read_pw


def _reader(file_format: str) -> Callable[[Path], Iterator[Entry | Unreadable]]:
    match file_format:
        case "extxyz":
            from . import extxyz as module  # noqa: PLC0415
        case "ase-db" | "aselmdb":
            from . import ase_database as module  # noqa: PLC0415
        case "deepmd":
            from . import deepmd as module  # noqa: PLC0415
        case "parquet":
            from . import parquet as module  # noqa: PLC0415
        case "fireann":
            from . import fireann as module  # noqa: PLC0415
        case _:
            raise ConventionError(f"unknown format {file_format!r}; known: {', '.join(FORMATS)}")
    return module.read_entries


def _writer(file_format: str, convention: Convention) -> Callable[[Path, Iterable[Entry]], int]:
    match file_format:
        case "extxyz":
            from . import extxyz as module  # noqa: PLC0415
        case "ase-db" | "aselmdb":
            from . import ase_database as module  # noqa: PLC0415
        case "deepmd":
            from . import deepmd as module  # noqa: PLC0415
        case "parquet":
            from .parquet import write_entries  # noqa: PLC0415

            return lambda path, entries: write_entries(path, entries, convention)
        case "fireann":
            raise ConventionError("FIREANN's blocks are read only; write extxyz with --convention fireann")
        case _:
            raise ConventionError(f"unknown format {file_format!r}; known: {', '.join(FORMATS)}")
    return module.write_entries
