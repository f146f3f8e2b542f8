"""What a network learns from: every labelled frame, and each field point of its stencil, as an example of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..dft_inputs.records import ElectricResponse, Frame, LabelledFrame
from ..dft_inputs.stencil import ZERO

_STIFFNESS = 1.0
"""eV/A^2, between the SCF's remaining energy error and that of forces, as in ``dft_inputs.quality``."""


@dataclass(frozen=True)
class Example:
    """A geometry and what is known of it at one field.

    Attributes:
        label_id: of the label it belongs to.
        frame: the geometry.
        response: labels at ``response.field``, any subset.
        noise: standard deviation of each label as its checks tell it, in the label's unit (enthalpy per atom).
    """

    label_id: str
    frame: Frame
    response: ElectricResponse
    noise: Mapping[str, float] = field(default_factory=dict)


def example_of(label: LabelledFrame) -> Example:
    """The labels of a frame at its own field, with their noise."""
    return Example(label.label_id, label.frame, label.response, label_noise(label))


def field_examples(label: LabelledFrame) -> tuple[Example, ...]:
    """Enthalpy, forces and P (and stress where the code gives one) at every field point but the label's own.

    Enthalpy and P of a point lie on one branch, so each finds the branch of the prediction by itself.
    """
    noise = {
        name: value for name, value in label_noise(label).items() if name in ("enthalpy", "forces", "polarization")
    }
    return tuple(
        Example(
            label_id=label.label_id,
            frame=label.frame,
            response=ElectricResponse(
                field=point.field,
                enthalpy=point.enthalpy,
                forces=point.forces,
                stress=point.stress,
                polarization=point.polarization,
                polarization_quanta=label.response.polarization_quanta,
            ),
            noise=noise,
        )
        for point in label.field_points
        if point.name != ZERO
    )


def label_noise(label: LabelledFrame) -> dict[str, float]:
    """Standard deviation of each label as far as its checks tell it, in its unit (enthalpy per atom).

    The energy error left by the SCF; P's change in the last iteration; Z* by the SCF error over the field step and by
    the difference of two stencil orders; the antisymmetric part of alpha, which has none.
    """
    quality, alpha = label.quality, label.response.polarizability
    known: dict[str, float | None] = {"polarization": quality.polarization_accuracy}
    if quality.scf_accuracy is not None:
        known["enthalpy"] = quality.scf_accuracy / len(label.frame)
        # An energy error of second order in that of the density is a force error of first order.
        known["forces"] = float(np.sqrt(2 * _STIFFNESS * quality.scf_accuracy))
    charges = (quality.born_effective_charges_accuracy, quality.stencil_error)
    known["born_effective_charges"] = max((value for value in charges if value is not None), default=None)
    if alpha is not None:
        known["polarizability"] = float(np.abs(alpha - alpha.T).max() / 2)
    return {name: value for name, value in known.items() if value}
