"""Labels of other projects, read and written by the name of their convention, never by guessing.

A `Convention` is one object in `CONVENTIONS`: the keys a file uses and the functions between its numbers and ours
(``docs/conventions.md``). A further convention is a further object. Files are extended XYZ; ASE parses them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from ase.io.extxyz import key_val_str_to_dict, read_xyz
from pydantic import ValidationError

from .files import replacing
from .polarization import fold, quantum_lattice
from .records import ElectricResponse, Frame, LabelledFrame, Provenance, Quality

Conversion = Callable[[np.ndarray, Frame], np.ndarray]
"""From a value and the frame it belongs to (for volumes and lattices) to a value."""


class ConventionError(ValueError):
    """A file or a record that does not fit the named convention."""


def _same(value: np.ndarray, frame: Frame) -> np.ndarray:
    return value


@dataclass(frozen=True)
class Quantity:
    """One label in a file.

    Attributes:
        label: name in `ElectricResponse`.
        key: name in the file.
        shape: shape of one entry: of the label, or of one atom's part of it.
        per_atom: True for columns, False for a value of the comment line.
        fortran: True where a matrix is written column by column, as extended XYZ does with ``stress``.
        encode: from our value to theirs; decode: back.
    """

    label: str
    key: str
    shape: tuple[int, ...] = ()
    per_atom: bool = False
    fortran: bool = False
    encode: Conversion = _same
    decode: Conversion = _same

    def flatten(self, value: Any, frame: Frame) -> np.ndarray:
        """Our value as the file holds it: a row of numbers, or one row per atom."""
        array = self.encode(np.asarray(value, dtype=float), frame)
        if self.per_atom:
            return array.reshape(len(array), -1)
        return array.ravel(order="F" if self.fortran else "C")

    def restore(self, value: Any, frame: Frame) -> np.ndarray:
        """The file's numbers as our value.

        Raises:
            ConventionError: if they are not finite numbers, or too many or too few.
        """
        array = np.asarray(value)
        shape = (len(frame), *self.shape) if self.per_atom else self.shape
        size = int(np.prod(shape))
        if array.dtype.kind not in "if":
            raise ConventionError(f"{self.key} is not made of numbers")
        if array.size != size:
            raise ConventionError(f"{self.key} has {array.size} numbers, expected {size}")
        if not np.isfinite(array).all():
            raise ConventionError(f"{self.key} has NaN or infinite entries")
        # ASE unpacks a 3x3 ``stress`` itself; what is still flat is unpacked here.
        order = "F" if self.fortran and array.ndim == 1 else "C"
        return self.decode(array.astype(float).reshape(shape, order=order), frame)


@dataclass(frozen=True)
class Convention:
    """How a project writes its labels.

    Attributes:
        name: as users write it, and as imported labels remember it.
        quantities: the labels it knows.
        electrons_per_quantum: where the lattice of quanta is understood from the cell; None where it is written.
        annotated: whether identity and flags of a label are written too.
    """

    name: str
    quantities: tuple[Quantity, ...]
    electrons_per_quantum: int | None = None
    annotated: bool = False


def _folded(polarization: np.ndarray, frame: Frame) -> np.ndarray:
    return fold(polarization, _quanta(frame, 1))


def _quanta(frame: Frame, electrons_per_quantum: int) -> np.ndarray:
    if not all(frame.pbc) or frame.volume == 0:
        raise ConventionError("this convention gives P modulo e times the cell, so the cell must be periodic")
    return quantum_lattice(frame.cell, electrons_per_quantum)


_ENTHALPY = Quantity("enthalpy", "enthalpy")
_FORCES = Quantity("forces", "forces", (3,), per_atom=True)
_STRESS = Quantity("stress", "stress", (3, 3), fortran=True)
_POLARIZATION = Quantity("polarization", "polarization", (3,))
_QUANTA = Quantity("polarization_quanta", "polarization_quanta", (3, 3))
_BORN_CHARGES = Quantity("born_effective_charges", "born_effective_charges", (3, 3), per_atom=True)
_POLARIZABILITY = Quantity("polarizability", "polarizability", (3, 3))
_FIELD = Quantity("field", "field", (3,))

FIELDLOOP = Convention(
    name="fieldloop",
    quantities=(
        _ENTHALPY,
        _FORCES,
        _STRESS,
        _POLARIZATION,
        _QUANTA,
        _BORN_CHARGES,
        _POLARIZABILITY,
        _FIELD,
    ),
    annotated=True,
)

# Checked against the raw pw.x runs behind the published labels: dF/dE, dP/dE and the printed stress (pw.x's sign
# reversed) are reproduced, so units, orders and signs are ours and only names and quanta (e a_i) differ.
ALLEGRO_POL = Convention(
    name="allegro-pol",
    quantities=(
        replace(_ENTHALPY, key="total_energy"),
        _FORCES,
        _STRESS,
        replace(_POLARIZATION, encode=_folded),
        replace(_BORN_CHARGES, key="born_charge"),
        _POLARIZABILITY,
    ),
    electrons_per_quantum=1,
)

CONVENTIONS = {convention.name: convention for convention in (FIELDLOOP, ALLEGRO_POL)}


def get_convention(name: str) -> Convention:
    """The convention of that name.

    Raises:
        ConventionError: if there is none.
    """
    if name not in CONVENTIONS:
        raise ConventionError(f"unknown label convention {name!r}; known: {', '.join(CONVENTIONS)}")
    return CONVENTIONS[name]


def read_extxyz(path: str | Path, convention: str) -> Iterator[LabelledFrame]:
    """Read labelled frames one at a time.

    Args:
        path: an extended XYZ file.
        convention: name of the convention it was written in.

    Yields:
        Frames in the order of the file. A label that the file lacks is None.

    Raises:
        ConventionError: unknown convention (at once), or a malformed frame (when it is reached), by file and index.
    """
    return _read(Path(path), get_convention(convention))


def _read(path: Path, convention: Convention) -> Iterator[LabelledFrame]:
    with path.open(encoding="utf-8", errors="replace") as handle:
        for index, block in enumerate(_blocks(handle, path)):
            try:
                labelled = _labelled_frame(block, convention)
            except (ValueError, KeyError, TypeError, IndexError, OSError) as error:
                raise ConventionError(f"{path}: frame {index}: {_one_line(error)}") from error
            yield labelled


def _one_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    if isinstance(error, KeyError):
        return f"unknown name {error}"
    return str(error).replace("\n", " ")


def _blocks(handle: TextIO, path: Path) -> Iterator[list[str]]:
    """Lines of each frame: the comment, then the atoms."""
    index = 0
    while header := handle.readline():
        if not header.strip():
            if handle.read().strip():
                raise ConventionError(f"{path}: frame {index}: empty line where a number of atoms was expected")
            return
        try:
            natoms = int(header)
        except ValueError as error:
            message = f"expected a number of atoms, got {header.strip()[:40]!r}"
            raise ConventionError(f"{path}: frame {index}: {message}") from error
        block = list(islice(handle, natoms + 1))
        if len(block) <= natoms:
            raise ConventionError(f"{path}: frame {index}: the file ends within its {natoms} atoms")
        yield block
        index += 1


def _labelled_frame(block: list[str], convention: Convention) -> LabelledFrame:
    frame, values = _parse(block)
    found = {q.label: q.restore(values[q.key], frame) for q in convention.quantities if q.key in values}
    if convention.electrons_per_quantum and "polarization" in found:
        found["polarization_quanta"] = _quanta(frame, convention.electrons_per_quantum)
    response = ElectricResponse.model_validate(found)
    if not response.labels:
        keys = ", ".join(sorted(values)) or "none"
        raise ConventionError(f"no label under a key of convention {convention.name!r}; keys in the file: {keys}")
    annotations = values if convention.annotated else {}
    return LabelledFrame(
        label_id=annotations.get("label_id") or _content_id(frame, response, convention),
        frame=frame,
        response=response,
        provenance=Provenance(code="import", protocol=convention.name),
        quality=Quality(flags=annotations.get("flags", ())),
    )


def _parse(block: list[str]) -> tuple[Frame, dict[str, Any]]:
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
    values.update({key: column for key, column in columns.items() if key not in ("numbers", "positions")})
    return Frame.from_atoms(atoms), values


def _require_columns(properties: str, lines: list[str]) -> None:
    """ASE ignores surplus columns and sets missing positions to zero."""
    fields = properties.split(":")
    if "pos" not in fields[::3] or not {"species", "Z"} & set(fields[::3]):
        raise ConventionError("Properties must name species and pos")
    expected = sum(map(int, fields[2::3]))
    for number, line in enumerate(lines):
        if len(line.split()) != expected:
            raise ConventionError(f"atom {number} has {len(line.split())} columns, expected {expected}")


def _content_id(frame: Frame, response: ElectricResponse, convention: Convention) -> str:
    content = repr((frame.frame_id, convention.name, response.model_dump_json()))
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def write_extxyz(path: str | Path, frames: Iterable[LabelledFrame], convention: str) -> int:
    """Write labelled frames, all of them or none: the file appears when it is complete.

    Numbers are written so that they read back exactly.

    Args:
        path: file to write; replaced if it is there.
        frames: frames with their labels.
        convention: name of the convention to write in.

    Returns:
        The number of frames written.

    Raises:
        ConventionError: unknown convention, or a frame that the convention cannot tell: a failed one, one without any
            label, a flagged one or one at a finite field where the convention has no word for it.
    """
    path, chosen = Path(path), get_convention(convention)
    count = 0
    with replacing(path) as handle:
        for labelled in frames:
            try:
                handle.write(_format(labelled, chosen).encode())
            except ConventionError as error:
                raise ConventionError(f"{path}: frame {count} ({labelled.label_id}): {error}") from error
            count += 1
    return count


def _format(labelled: LabelledFrame, convention: Convention) -> str:
    """One frame as text."""
    _require_tellable(labelled, convention)
    frame, response = labelled.frame, labelled.response
    columns: dict[str, np.ndarray] = {"pos": frame.positions}
    header: dict[str, str] = {}
    for quantity in convention.quantities:
        value = getattr(response, quantity.label)
        if value is None:
            continue
        if quantity.per_atom:
            columns[quantity.key] = quantity.flatten(value, frame)
        else:
            header[quantity.key] = _numbers(quantity.flatten(value, frame))
    if convention.annotated:
        header["label_id"] = _text(labelled.label_id)
        if labelled.quality.flags:
            header["flags"] = _text(labelled.quality.flags)
    properties = ":".join(["species:S:1", *(f"{key}:R:{column.shape[1]}" for key, column in columns.items())])
    comment = [f'Lattice="{_numbers(frame.cell.ravel())}"', f"Properties={properties}"]
    comment += [f'{key}="{value}"' for key, value in header.items()]
    comment += [f'pbc="{" ".join("T" if periodic else "F" for periodic in frame.pbc)}"']
    rows = zip(frame.species, np.hstack(list(columns.values())), strict=True)
    return "\n".join([str(len(frame)), " ".join(comment), *(f"{name} {_numbers(row)}" for name, row in rows), ""])


def _require_tellable(labelled: LabelledFrame, convention: Convention) -> None:
    """Refuse what would change its meaning in the file."""
    if labelled.status != "done" or not labelled.response.labels:
        raise ConventionError("it has no labels; write finished labels only")
    if labelled.quality.flags and not convention.annotated:
        flags = ", ".join(labelled.quality.flags)
        raise ConventionError(f"it is flagged ({flags}), which {convention.name!r} cannot say; write trainable frames")
    if labelled.response.field.any() and not any(q.label == "field" for q in convention.quantities):
        raise ConventionError(f"its labels hold at a finite field, and {convention.name!r} knows zero field only")


def _numbers(values: np.ndarray) -> str:
    """Numbers that read back exactly."""
    return " ".join(map(repr, values.tolist()))


def _text(value: str | tuple[str, ...]) -> str:
    """Text as escaped JSON: bare, ASE would read an identifier such as ``12e4`` as a number."""
    return "_JSON " + json.dumps(value).replace("\\", "\\\\").replace('"', '\\"')
