"""Errors of predictions against labels. They are honest if the prediction was made before the label was known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ..dft_inputs.polarization import closest_lattice_vector
from ..dft_inputs.records import ElectricResponse, Record
from .labels import PER_ATOM
from .uncertainty.committee import Spread, reduced

_RMSE = ("enthalpy", "forces", "polarization", "born_effective_charges", "polarizability")


class LabelErrors(Record):
    """Root mean square errors by label, of one frame or pooled over many. A label missing on either side is None.

    Attributes:
        frames: number of frames.
        atoms: number of atoms, over all frames.
        enthalpy: eV/atom.
        forces: over atoms and components, eV/A.
        polarization: over components, after folding to the closest branch, e A of the whole cell.
        born_effective_charges: over atoms and components, e.
        polarizability: over components, e^2 A^2/eV of the whole cell.
        worst_forces: of the worst atom, rms over its components, eV/A; comparable to ``Spread.forces``.
        worst_born_effective_charges: of the worst atom, rms over its components, e.
    """

    frames: int
    atoms: int
    enthalpy: float | None = None
    forces: float | None = None
    polarization: float | None = None
    born_effective_charges: float | None = None
    polarizability: float | None = None
    worst_forces: float | None = None
    worst_born_effective_charges: float | None = None

    def as_spread(self) -> Spread:
        """The errors reduced as a committee's spread is: the worst atom's for per-atom labels."""
        return Spread(
            forces=self.worst_forces,
            polarization=self.polarization,
            born_effective_charges=self.worst_born_effective_charges,
            polarizability=self.polarizability,
        )


def honest_errors(predicted: ElectricResponse, labelled: ElectricResponse, atoms: int) -> LabelErrors:
    """Errors of one frame's prediction, label by label.

    P is compared modulo the label's lattice of quanta. With n quanta between the two the enthalpy label moves by
    -E.(nQ), as U on another branch of P differs by just that.

    Args:
        predicted: by the model, at the field of the label.
        labelled: by DFT.
        atoms: number of atoms N of the frame.

    Raises:
        ValueError: the two hold at different fields, or their arrays belong to different numbers of atoms.
    """
    if not np.allclose(predicted.field, labelled.field, rtol=0.0, atol=1e-9):
        raise ValueError(
            f"prediction at field {predicted.field} V/A, label at {labelled.field} V/A: predict at the label's"
        )
    jump = branch_jump(predicted, labelled)
    squares: dict[str, np.ndarray] = {}
    for name in _RMSE:
        prediction, label = getattr(predicted, name), getattr(labelled, name)
        if prediction is None or label is None:
            continue
        if np.shape(prediction) != np.shape(label) or (name in PER_ATOM and len(label) != atoms):
            raise ValueError(
                f"{name}: prediction {np.shape(prediction)}, label {np.shape(label)}, frame of {atoms} atoms"
            )
        difference = np.asarray(prediction) - np.asarray(label)
        if name == "polarization":
            difference = difference - jump
        elif name == "enthalpy":
            difference = (difference + labelled.field @ jump) / atoms
        squares[name] = difference**2
    rmse = {name: float(np.sqrt(values.mean())) for name, values in squares.items()}
    worst = {f"worst_{name}": reduced(name, squares[name]) for name in PER_ATOM if name in squares}
    return LabelErrors.model_validate({"frames": 1, "atoms": atoms, **rmse, **worst})


def branch_jump(predicted: ElectricResponse, labelled: ElectricResponse) -> np.ndarray:
    """Quanta from the label's branch of P to the one closest to the prediction, e A, (3,); zero where P is unknown."""
    quanta = labelled.polarization_quanta
    if predicted.polarization is None or labelled.polarization is None or quanta is None:
        return np.zeros(3)
    return closest_lattice_vector(predicted.polarization - labelled.polarization, quanta)


def pool_errors(errors: Iterable[LabelErrors]) -> LabelErrors:
    """Errors over many frames: RMSE over all atoms for per-atom labels, over frames for the others, worst of worst.

    Raises:
        ValueError: no frame is given.
    """
    errors = tuple(errors)
    if not errors:
        raise ValueError("no errors to pool: no frame was both predicted and labelled")
    return LabelErrors(
        frames=sum(e.frames for e in errors),
        atoms=sum(e.atoms for e in errors),
        enthalpy=_rms(errors, "enthalpy"),
        forces=_rms(errors, "forces"),
        polarization=_rms(errors, "polarization"),
        born_effective_charges=_rms(errors, "born_effective_charges"),
        polarizability=_rms(errors, "polarizability"),
        worst_forces=_worst(errors, "worst_forces"),
        worst_born_effective_charges=_worst(errors, "worst_born_effective_charges"),
    )


def _rms(errors: Sequence[LabelErrors], name: str) -> float | None:
    """Mean of squares weighted by atoms for per-atom labels, by frames for the others."""
    known = [(e.atoms if name in PER_ATOM else e.frames, getattr(e, name)) for e in errors]
    known = [(weight, value) for weight, value in known if value is not None]
    if not known:
        return None
    weights, values = np.array(known, dtype=float).T
    return float(np.sqrt(weights @ values**2 / weights.sum()))


def _worst(errors: Sequence[LabelErrors], name: str) -> float | None:
    return max((value for e in errors if (value := getattr(e, name)) is not None), default=None)
