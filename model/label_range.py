"""How far the labels reach that a model was trained on: beyond, what it says of a field is its own guess."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ..dft_inputs.records import LabelledFrame


class LabelRange(BaseModel):
    """The conditions of a model's training labels.

    Attributes:
        largest_field: largest |E| of a label or of a field point of one, V/A.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    largest_field: float = Field(default=0.0, ge=0)

    def joined(self, other: LabelRange | None) -> LabelRange:
        """The range of both, as of a model that was trained further.

        Args:
            other: of the labels before; None where it is not known.
        """
        return self if other is None else LabelRange(largest_field=max(self.largest_field, other.largest_field))


def label_range(labels: Iterable[LabelledFrame]) -> LabelRange:
    """The range of labels."""
    fields = [
        float(np.linalg.norm(field))
        for label in labels
        for field in (label.response.field, *(point.field for point in label.field_points))
    ]
    return LabelRange(largest_field=max(fields, default=0.0))
