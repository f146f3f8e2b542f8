"""Which labelled frames: one query in the user's words, the same in Python and at the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self

import numpy as np
from ase.data import atomic_numbers
from ase.formula import Formula
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from ..active_learning.labels import BOUNDED
from ..dft_inputs.records import LABELS
from .config import first_error
from .ranges import FieldRange, NumberRange, Range, parse_range

FIELDS_OF_QUERIES = ("response.field", "proposal.field")
"""What of a label's document ``Query.accepts`` looks at."""


class QueryError(ValueError):
    """Words that name no label, element, formula or range; the message is one line for people."""


def _one_of(name: str, names: tuple[str, ...]) -> str:
    if name in names:
        return name
    close = get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"labels are {', '.join(names)}"
    raise ValueError(f"there is no label {name!r}: {hint}")


def _element(symbol: str) -> str:
    if symbol not in atomic_numbers or symbol == "X":
        raise ValueError(f"{symbol!r} is no chemical element")
    return symbol


def _cell_formula(text: str) -> str:
    """As ``Frame.formula`` spells it."""
    try:
        counts = Formula(text).count()
    except ValueError:
        raise ValueError(f"{text!r} is no chemical formula, write e.g. Al4As4") from None
    return "".join(f"{_element(symbol)}{counts[symbol]}" for symbol in sorted(counts))


def _words(value: Any) -> Any:
    """``Si,O`` as well as ``["Si", "O"]`` and ``["Si,O"]``."""
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple):
        return value
    return [word.strip() for item in values for word in str(item).split(",") if word.strip()]


def _uncertainties(value: Any) -> Any:
    """``forces > 0.05`` as well as a list of such texts and ``{"forces": ">0.05"}``."""
    if not isinstance(value, Mapping):
        texts = [value] if isinstance(value, str) else value
        matches = [re.fullmatch(r"\s*(\w+)\s*(\S.*)", str(text)) for text in texts]
        if None in matches:
            raise ValueError(f"{value!r} is no uncertainty of a label: write e.g. 'forces > 0.05 eV/A'")
        value = {match[1]: match[2] for match in matches if match}
    return {
        _one_of(name, BOUNDED): parse_range(condition, "force" if name == "forces" else "")
        for name, condition in value.items()
    }


Words = Annotated[tuple[str, ...], BeforeValidator(_words)]
Elements = Annotated[Words, AfterValidator(lambda symbols: tuple(map(_element, symbols)))]
LabelNames = Annotated[Words, AfterValidator(lambda names: tuple(_one_of(name, LABELS) for name in names))]
CellFormula = Annotated[str, AfterValidator(_cell_formula)]
Uncertainties = Annotated[dict[str, Range], BeforeValidator(_uncertainties)]


class Query(BaseModel):
    """Conditions on labelled frames, all of which must hold; what is not given does not matter.

    Ranges are written ``>0.01 V/A``, ``<=2``, ``0.5..2 MV/cm`` or ``3``, or given as numbers and pairs of numbers.

    Attributes:
        formula: of the whole cell, in any order of elements: ``As4Al4``.
        elements: symbols that must occur.
        field: strength of the field at which the labels hold, V/A.
        met_field: strength of the field of the dynamics that met the frame, V/A.
        labels: names of ``records.LABELS`` that must be present.
        status: ``done`` or ``failed``.
        passed: True for labels whose checks all passed, False for flagged ones; failed labels are neither.
        flags: checks that the label failed.
        generation: that the frame was proposed for.
        uncertainty: by label name, of the model that proposed the frame, in the label's unit.
        code: of the provenance: ``pw.x``, ``abinit``, ``vasp``, ``import``.
        protocol: of the provenance.
        origin: where the frame came from: ``parent``, ``rattle``, ``dynamics``, ``import``, ...
        model: ``model_id`` of the model that proposed the frame.
        parent: ``frame_id`` of the frame that it was made from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    formula: CellFormula | None = None
    elements: Elements = ()
    field: FieldRange | None = None
    met_field: FieldRange | None = None
    labels: LabelNames = ()
    status: Literal["done", "failed"] | None = None
    passed: bool | None = None
    flags: Words = ()
    generation: NumberRange | None = None
    uncertainty: Uncertainties = {}
    code: str | None = None
    protocol: str | None = None
    origin: str | None = None
    model: str | None = None
    parent: str | None = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.status == "failed" and self.passed is not None:
            raise ValueError(
                "a failed label has neither passed its checks nor been flagged by them: drop one of the two"
            )
        return self

    @classmethod
    def parse(cls, words: Mapping[str, Any]) -> Query:
        """A query from what a user typed; None and empty lists say nothing.

        Raises:
            QueryError: words without a meaning, in one line.
        """
        try:
            return cls.model_validate({key: value for key, value in words.items() if value not in (None, [], ())})
        except ValidationError as error:
            raise QueryError(first_error(error)) from None

    def criteria(self) -> dict[str, Any]:
        """Mongo filter on job documents: all conditions but those that ``accepts`` has to look at."""
        conditions: dict[str, Any] = {
            "status": "done" if self.passed is not None else self.status,
            "quality.passed": self.passed,
            "quality.flags": _all(self.flags),
            "proposal.generation": self.generation and self.generation.condition(),
            "proposal.origin": self.origin,
            "proposal.model_id": self.model,
            "proposal.parent_frame_id": self.parent,
            "provenance.code": self.code,
            "provenance.protocol": self.protocol,
            "frame.formula": self.formula,
            "frame.species": _all(self.elements),
            "response.labels": _all(self.labels),
        }
        conditions |= {f"proposal.uncertainty.{name}": r.condition() for name, r in self.uncertainty.items()}
        wanted = {f"output.{key}": value for key, value in conditions.items() if value not in (None, {})}
        return {"output.@class": "LabelledFrame"} | wanted

    def accepts(self, output: Mapping[str, Any]) -> bool:
        """Field strengths, which Mongo filters cannot work out.

        Args:
            output: of the job's document; needs the fields of ``FIELDS_OF_QUERIES`` alone.
        """
        if self.field and not self.field.contains(_strength(output["response"].get("field"))):
            return False
        proposal = output.get("proposal") or {}
        return self.met_field is None or self.met_field.contains(_strength(proposal.get("field")))


EVERYTHING = Query()


def _strength(field: Any) -> float | None:
    return None if field is None else float(np.linalg.norm(field))


def _all(values: tuple[str, ...]) -> str | dict[str, list[str]] | None:
    """Condition on an array field that holds all these values; equality where it is one, as stores index that."""
    if len(values) < 2:
        return values[0] if values else None
    return {"$all": list(values)}
