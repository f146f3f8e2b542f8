"""Labels of other projects, read and written by the name of their convention, never by guessing.

A `Convention` is one object in `CONVENTIONS`: the keys a file uses and the functions between its numbers and ours
(``docs/conventions.md``). A further convention is a further object. What a file holds of a frame is an `Entry`; how
it is laid out is the business of ``formats``, so every convention can be written in every format.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from pydantic import ValidationError

from .polarization import fold, quantum_lattice
from .records import ElectricResponse, Frame, LabelledFrame, Proposal, Provenance, Quality

Conversion = Callable[[np.ndarray, Frame], np.ndarray]
"""From a value and the frame it belongs to (for volumes and lattices) to a value."""


class ConventionError(ValueError):
    """A file or a record that does not fit the named convention."""


@dataclass(frozen=True)
class Entry:
    """What a file holds of one frame, in the words and units of its convention.

    Attributes:
        frame: the geometry.
        values: by key; a number, numbers of the whole frame in one row, or one row of numbers per atom.
        texts: by key; identity and provenance of the label.
        per_atom: keys of ``values`` that have one row per atom.
    """

    frame: Frame
    values: Mapping[str, Any]
    texts: Mapping[str, Any] = field(default_factory=dict)
    per_atom: frozenset[str] = frozenset()


def _same(value: np.ndarray, frame: Frame) -> np.ndarray:
    return value


@dataclass(frozen=True)
class Quantity:
    """One label in a file.

    Attributes:
        label: name in `ElectricResponse`.
        key: name in the file.
        shape: shape of one entry: of the label, or of one atom's part of it.
        per_atom: True for one row per atom, False for a value of the whole frame.
        voigt: True where six numbers (xx, yy, zz, yz, xz, xy) are understood as a symmetric matrix.
        encode: from our value to theirs; decode: back.
    """

    label: str
    key: str
    shape: tuple[int, ...] = ()
    per_atom: bool = False
    voigt: bool = False
    encode: Conversion = _same
    decode: Conversion = _same

    def flatten(self, value: Any, frame: Frame) -> np.ndarray:
        """Our value as the file holds it: a row of numbers, or one row per atom."""
        array = self.encode(np.asarray(value, dtype=float), frame)
        if self.per_atom:
            return array.reshape(len(array), -1)
        return array.ravel()

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
        if self.voigt and array.shape == (6,):
            array = array[[0, 5, 4, 5, 1, 3, 4, 3, 2]]
        if array.size != size:
            raise ConventionError(f"{self.key} has {array.size} numbers, expected {size}")
        if not np.isfinite(array).all():
            raise ConventionError(f"{self.key} has NaN or infinite entries")
        return self.decode(array.astype(float).reshape(shape), frame)


@dataclass(frozen=True)
class Convention:
    """How a project writes its labels.

    Attributes:
        name: as users write it, and as imported labels remember it.
        quantities: the labels it knows.
        electrons_per_quantum: where the lattice of quanta is understood from the cell; None where it is written.
        annotated: whether identity, provenance and quality of a label are written too.
    """

    name: str
    quantities: tuple[Quantity, ...]
    electrons_per_quantum: int | None = None
    annotated: bool = False

    def words_for(self, labelled: LabelledFrame) -> tuple[str, ...]:
        """The labels of a frame that this convention can write; others are left out of a file."""
        known = {q.label for q in self.quantities}
        return tuple(name for name in labelled.response.labels if name in known)

    def encode(self, labelled: LabelledFrame) -> Entry:
        """A label in the words of this convention.

        Raises:
            ConventionError: what the convention cannot tell: a failed label or one without any value, a flagged one or
                one at a finite field where it has no word for that.
        """
        _require_tellable(labelled, self)
        frame, response = labelled.frame, labelled.response
        present = [q for q in self.quantities if getattr(response, q.label) is not None]
        return Entry(
            frame=frame,
            values={q.key: q.flatten(getattr(response, q.label), frame) for q in present},
            texts=_annotations(labelled) if self.annotated else {},
            per_atom=frozenset(q.key for q in present if q.per_atom),
        )

    def decode(self, entry: Entry) -> LabelledFrame:
        """The label of an entry written in this convention. A label that it lacks is None.

        Raises:
            ConventionError: wrong numbers, or no label at all.
        """
        frame, values = entry.frame, entry.values
        found = {q.label: q.restore(values[q.key], frame) for q in self.quantities if q.key in values}
        if self.electrons_per_quantum and "polarization" in found:
            found["polarization_quanta"] = _quanta(frame, self.electrons_per_quantum)
        try:
            response = ElectricResponse.model_validate(found)
            if not response.labels:
                keys = ", ".join(sorted({*values, *entry.texts})) or "none"
                raise ConventionError(f"no label under a key of convention {self.name!r}; keys in the file: {keys}")
            return self._identified(entry, response)
        except ValidationError as error:
            raise ConventionError(one_line(error)) from error

    def _identified(self, entry: Entry, response: ElectricResponse) -> LabelledFrame:
        texts: Mapping[str, Any] = entry.texts if self.annotated else {}
        imported = {
            "proposal": Proposal(origin="import"),
            "provenance": Provenance(code="import", protocol=self.name),
            "quality": Quality(flags=texts.get("flags", ())),
        }
        return LabelledFrame.model_validate(
            {
                **imported,
                **texts.get("record", {}),
                "label_id": texts.get("label_id") or _content_id(entry.frame, response, self),
                "frame": entry.frame,
                "response": response,
            }
        )


def _annotations(labelled: LabelledFrame) -> dict[str, Any]:
    """All that a record holds beside geometry and response, as JSON; what is found by eye comes first."""
    told = {"label_id", "frame", "status", "failure", "response"}
    record = {k: v for k, v in labelled.model_dump(mode="json", exclude=told, exclude_none=True).items() if v != []}
    texts: dict[str, Any] = {"label_id": labelled.label_id}
    if labelled.quality.flags:
        texts["flags"] = list(labelled.quality.flags)
    return texts | {"record": record}


def one_line(error: Exception) -> str:
    """What went wrong, on one line for people."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    if isinstance(error, KeyError):
        return f"unknown name {error}"
    return str(error).replace("\n", " ")


def _quanta(frame: Frame, electrons_per_quantum: int) -> np.ndarray:
    if not all(frame.pbc) or frame.volume == 0:
        raise ConventionError("this convention gives P modulo e times the cell, so the cell must be periodic")
    return quantum_lattice(frame.cell, electrons_per_quantum)


def _folded(polarization: np.ndarray, frame: Frame) -> np.ndarray:
    return fold(polarization, _quanta(frame, 1))


def _negated(value: np.ndarray, frame: Frame) -> np.ndarray:
    return -value


def _per_volume(value: np.ndarray, frame: Frame) -> np.ndarray:
    return value / frame.volume


def _times_volume(value: np.ndarray, frame: Frame) -> np.ndarray:
    return value * frame.volume


def _virial(stress: np.ndarray, frame: Frame) -> np.ndarray:
    return -stress * frame.volume


def _from_virial(virial: np.ndarray, frame: Frame) -> np.ndarray:
    return -virial / frame.volume


_ENTHALPY = Quantity("enthalpy", "enthalpy")
_FORCES = Quantity("forces", "forces", (3,), per_atom=True)
_STRESS = Quantity("stress", "stress", (3, 3))
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

# As its documentation gives the keys and units: P = -(1/V) dE/dField in e/A^2, susceptibility dP/dField in e/(V A),
# Z* = V dP_a/dr_b, stress = (1/V) dE/dstrain, differences of P folded by e a_i / V.
MACE_FIELD = Convention(
    name="mace-field",
    quantities=(
        replace(_ENTHALPY, key="REF_energy"),
        replace(_FORCES, key="REF_forces"),
        replace(_STRESS, key="REF_stress", voigt=True),
        replace(_POLARIZATION, key="REF_polarization", encode=_per_volume, decode=_times_volume),
        replace(_BORN_CHARGES, key="REF_becs"),
        replace(_POLARIZABILITY, key="REF_polarizability", encode=_per_volume, decode=_times_volume),
        replace(_FIELD, key="REF_electric_field"),
    ),
    electrons_per_quantum=1,
)

# Labels AT the field; ``Dipole`` is +dE/dField, so minus the dipole, and ``POL`` is minus the polarizability.
FIREANN = Convention(
    name="fireann",
    quantities=(
        replace(_ENTHALPY, key="Energy"),
        replace(_FORCES, key="forces"),
        replace(_POLARIZATION, key="Dipole", encode=_negated, decode=_negated),
        replace(_POLARIZABILITY, key="POL", encode=_negated, decode=_negated),
        replace(_FIELD, key="External_field"),
    ),
    electrons_per_quantum=1,
)

# Labels of VASP: rows of a Born-charge block belong to the field, the stress has ASE's sign.
SEVENNET_POLAR = Convention(
    name="sevennet-polar",
    quantities=(
        replace(_ENTHALPY, key="energy"),
        _FORCES,
        _STRESS,
        _BORN_CHARGES,
    ),
)

# DeePMD-kit's names: the virial is -V times the stress. Beyond energy, force and virial its units are the user's.
DEEPMD = Convention(
    name="deepmd",
    quantities=(
        replace(_ENTHALPY, key="energy"),
        replace(_FORCES, key="force"),
        Quantity("stress", "virial", (3, 3), encode=_virial, decode=_from_virial),
        replace(_POLARIZATION, key="dipole"),
        _BORN_CHARGES,
        _POLARIZABILITY,
        _FIELD,
    ),
    electrons_per_quantum=1,
)

CONVENTIONS = {c.name: c for c in (FIELDLOOP, ALLEGRO_POL, MACE_FIELD, FIREANN, SEVENNET_POLAR, DEEPMD)}


def get_convention(name: str) -> Convention:
    """The convention of that name.

    Raises:
        ConventionError: if there is none.
    """
    if name not in CONVENTIONS:
        raise ConventionError(f"unknown label convention {name!r}; known: {', '.join(CONVENTIONS)}")
    return CONVENTIONS[name]


def _content_id(frame: Frame, response: ElectricResponse, convention: Convention) -> str:
    content = repr((frame.frame_id, convention.name, response.model_dump_json()))
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _require_tellable(labelled: LabelledFrame, convention: Convention) -> None:
    """Refuse what would change its meaning in the file."""
    if labelled.status != "done" or not labelled.response.labels:
        raise ConventionError("it has no labels; write finished labels only")
    if not convention.words_for(labelled):
        raise ConventionError(f"{convention.name!r} has no word for any of its labels; choose another convention")
    if labelled.quality.flags and not convention.annotated:
        flags = ", ".join(labelled.quality.flags)
        raise ConventionError(f"it is flagged ({flags}), which {convention.name!r} cannot say; write trainable frames")
    if labelled.response.field.any() and not any(q.label == "field" for q in convention.quantities):
        raise ConventionError(f"its labels hold at a finite field, and {convention.name!r} knows zero field only")
