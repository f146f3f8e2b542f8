"""Labels that can be judged: their units and bounds on them in those units."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, PositiveFloat, model_validator

UNITS = {
    "enthalpy": "eV/atom",
    "forces": "eV/A",
    "polarization": "e A",
    "born_effective_charges": "e",
    "polarizability": "e^2 A^2/eV",
}
"""Unit of the error and of the uncertainty of a label."""

BOUNDED = ("forces", "polarization", "born_effective_charges", "polarizability")
"""Labels an uncertainty can be given for, in the order of tables and reasons."""

PER_ATOM = ("forces", "born_effective_charges")
"""Those with one value an atom; the others belong to the cell."""


class LabelBounds(BaseModel):
    """Upper bounds in physical units; a label without a bound is not judged.

    Attributes:
        forces: eV/A.
        polarization: e A, of the whole cell.
        born_effective_charges: e.
        polarizability: e^2 A^2/eV, of the whole cell.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    forces: PositiveFloat | None = None
    polarization: PositiveFloat | None = None
    born_effective_charges: PositiveFloat | None = None
    polarizability: PositiveFloat | None = None

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        if not self.bounds:
            raise ValueError(f"give a bound on at least one of {', '.join(BOUNDED)}")
        return self

    @property
    def bounds(self) -> dict[str, float]:
        """The bounds that are set, by label name."""
        return {name: bound for name in BOUNDED if (bound := getattr(self, name)) is not None}
