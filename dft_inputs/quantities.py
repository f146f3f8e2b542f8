"""Quantities of configuration files: a number in the project's unit, or text with a unit, e.g. ``0.36 MV/cm``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator

from .units import (
    HARTREE_FIELD_IN_V_PER_ANGSTROM,
    HARTREE_IN_EV,
    KBAR_IN_EV_PER_CUBIC_ANGSTROM,
    MV_PER_CM_IN_V_PER_ANGSTROM,
    RYDBERG_FIELD_IN_V_PER_ANGSTROM,
    RYDBERG_IN_EV,
)

_UNITS: dict[str, dict[str, float]] = {
    "field": {
        "V/A": 1.0,
        "V/nm": 0.1,
        "V/m": 1e-10,
        "MV/m": 1e-4,
        "kV/cm": 1e-3 * MV_PER_CM_IN_V_PER_ANGSTROM,
        "MV/cm": MV_PER_CM_IN_V_PER_ANGSTROM,
        "Ry a.u.": RYDBERG_FIELD_IN_V_PER_ANGSTROM,
        "Ha a.u.": HARTREE_FIELD_IN_V_PER_ANGSTROM,
    },
    "energy": {"eV": 1.0, "meV": 1e-3, "Ry": RYDBERG_IN_EV, "Ha": HARTREE_IN_EV},
    "length": {"A": 1.0, "nm": 10.0, "pm": 0.01},
    "time": {"fs": 1.0, "ps": 1e3, "ns": 1e6},
    "temperature": {"K": 1.0},
    "charge": {"e": 1.0},
    "force": {"eV/A": 1.0, "meV/A": 1e-3},
    "pressure": {
        "eV/A^3": 1.0,
        "GPa": 10 * KBAR_IN_EV_PER_CUBIC_ANGSTROM,
        "kbar": KBAR_IN_EV_PER_CUBIC_ANGSTROM,
        "bar": 1e-3 * KBAR_IN_EV_PER_CUBIC_ANGSTROM,
    },
    "share": {"%": 0.01},
    "size": {
        "B": 1.0,
        "kB": 1e3,
        "MB": 1e6,
        "GB": 1e9,
        "TB": 1e12,
        "KiB": 2**10,
        "MiB": 2**20,
        "GiB": 2**30,
        "TiB": 2**40,
    },
}


def parse_quantity(value: Any, dimension: str) -> float:
    """A number in the project's unit of a dimension.

    Args:
        value: a number, taken to be in the project's unit already, or text such as ``"0.36 MV/cm"``.
        dimension: ``field``, ``energy``, ``length``, ``time``, ``temperature``, ``charge``, ``force``,
            ``pressure``, ``share`` or ``size``.

    Raises:
        ValueError: text that is no number with a unit of this dimension.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    units = _UNITS[dimension]
    if isinstance(value, str):
        number, _, unit = value.strip().partition(" ")
        try:
            magnitude = float(number)
        except ValueError:
            magnitude = None
        if magnitude is not None and not unit:
            return magnitude
        if magnitude is not None and unit.strip() in units:
            return magnitude * units[unit.strip()]
    raise ValueError(f"{value!r} is no {dimension}: write a number and one of the units {', '.join(units)}")


FieldStrength = Annotated[float, BeforeValidator(lambda value: parse_quantity(value, "field"))]
Energy = Annotated[float, BeforeValidator(lambda value: parse_quantity(value, "energy"))]
Length = Annotated[float, BeforeValidator(lambda value: parse_quantity(value, "length"))]
Time = Annotated[float, BeforeValidator(lambda value: parse_quantity(value, "time"))]
Size = Annotated[float, BeforeValidator(lambda value: parse_quantity(value, "size"))]
"""Bytes."""
Temperature = Annotated[float, BeforeValidator(lambda value: parse_quantity(value, "temperature"))]
Charge = Annotated[float, BeforeValidator(lambda value: parse_quantity(value, "charge"))]
Force = Annotated[float, BeforeValidator(lambda value: parse_quantity(value, "force"))]
Pressure = Annotated[float, BeforeValidator(lambda value: parse_quantity(value, "pressure"))]
Share = Annotated[float, BeforeValidator(lambda value: parse_quantity(value, "share"))]
"""A part of the whole: 0.01 or ``1 %``."""
