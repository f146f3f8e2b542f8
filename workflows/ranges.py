"""Ranges in the user's words: ``>0.01 V/A``, ``0.5..2 MV/cm``, ``>=2``, ``3``."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from ..dft_inputs.quantities import parse_quantity

_NUMBER = r"[-+]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
_TEXT = re.compile(
    rf"\s*(?:(?P<low>{_NUMBER})\s*\.\.\s*(?P<high>{_NUMBER})|(?P<sign><=|>=|<|>|=)?\s*(?P<one>{_NUMBER}))"
    r"\s*(?P<unit>[A-Za-z%].*?)?\s*"
)


class Range(BaseModel):
    """Numbers between two limits, each of which may be missing.

    Attributes:
        low, high: the limits, in the project's unit.
        open_low, open_high: the limit itself lies outside.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False

    def contains(self, value: float | None) -> bool:
        """True for a number inside, equality being that of nine digits; nothing is never inside."""
        if value is None or math.isnan(value):
            return False
        at_low = self.low is not None and math.isclose(value, self.low, rel_tol=1e-9)
        at_high = self.high is not None and math.isclose(value, self.high, rel_tol=1e-9)
        above = self.low is None or (not self.open_low if at_low else value > self.low)
        below = self.high is None or (not self.open_high if at_high else value < self.high)
        return above and below

    def condition(self) -> dict[str, float]:
        """The same as a Mongo condition."""
        limits = {
            "$gt" if self.open_low else "$gte": self.low,
            "$lt" if self.open_high else "$lte": self.high,
        }
        return {name: limit for name, limit in limits.items() if limit is not None}


def parse_range(value: Any, dimension: str = "") -> Any:
    """A range from a number, a pair of numbers or text.

    Args:
        value: text such as ``>=2``, ``<0.5 MV/cm``, ``0.1..0.3``, ``3``; a number; a pair; a ``Range`` stays as it is.
        dimension: of ``dft_inputs.quantities``; empty for plain numbers.

    Raises:
        ValueError: text that is no range, or a unit of another dimension.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Range(low=value, high=value)
    if isinstance(value, list | tuple) and len(value) == 2:
        return _between(*(None if limit is None else _number(limit, dimension) for limit in value))
    if not isinstance(value, str):
        return value
    match = _TEXT.fullmatch(value)
    if match is None:
        raise ValueError(f"{value!r} is no range: write e.g. '>0.5', '<=2', '0.5..2' or '3', with a unit at the end")
    unit = f" {match['unit']}" if match["unit"] else ""
    if match["one"] is None:
        return _between(*(_number(match[name] + unit, dimension) for name in ("low", "high")))
    limit, sign = _number(match["one"] + unit, dimension), match["sign"] or "="
    return Range(
        low=limit if sign in (">", ">=", "=") else None,
        high=limit if sign in ("<", "<=", "=") else None,
        open_low=sign == ">",
        open_high=sign == "<",
    )


def _between(low: float | None, high: float | None) -> Range:
    if low is not None and high is not None and low > high:
        raise ValueError(f"nothing lies between {low:g} and {high:g}: the smaller number comes first")
    return Range(low=low, high=high)


def _number(value: Any, dimension: str) -> float:
    if dimension:
        return parse_quantity(value, dimension)
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{value!r} must be a number without a unit") from None


NumberRange = Annotated[Range, BeforeValidator(parse_range)]
FieldRange = Annotated[Range, BeforeValidator(lambda value: parse_range(value, "field"))]
"""Of a field strength in V/A."""
