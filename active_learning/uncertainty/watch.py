"""A committee's uncertainty during a run, at the field of the run: frames are flagged, replicas that got lost stopped.

watch = UncertaintyWatch(members, WatchSettings(flag=LabelBounds(forces=0.1), stop=LabelBounds(forces=1.0)))
run_dynamics(members[0], frames, settings, observer=watch)
watch.flagged  # frames with their proposals, ready for DFT
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, PositiveInt

from ...dft_inputs.records import Frame, Proposal
from ..labels import BOUNDED, PER_ATOM, UNITS, LabelBounds
from .calibration import Calibration
from .committee import Committee, UncertaintyError, committee_spread

if TYPE_CHECKING:
    from ...model.dynamics import Observation
    from ...model.interface import EnthalpyModel

_SECOND = ("born_effective_charges", "polarizability")
"""Labels that cost three more derivatives."""

NOT_FINITE = float("inf")
"""The uncertainty where a member predicts no numbers."""


class WatchSettings(BaseModel):
    """What counts as uncertain. Bounds on forces and P cost one evaluation a member, on Z* or alpha four.

    Attributes:
        flag: frames whose uncertainty passes one of these are kept for DFT; None keeps none.
        stop: replicas whose uncertainty passes one of these are stopped; None stops none.
        most: frames kept at most, the first ones.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    flag: LabelBounds | None = None
    stop: LabelBounds | None = None
    most: PositiveInt = 200

    @property
    def judged(self) -> tuple[str, ...]:
        """Labels with a bound."""
        bounded = {name for bounds in (self.flag, self.stop) if bounds is not None for name in bounds.bounds}
        return tuple(name for name in BOUNDED if name in bounded)


@dataclass(frozen=True)
class Flagged:
    """An uncertain frame and where it was met; its uncertainty is in the proposal."""

    frame: Frame
    proposal: Proposal


class UncertaintyWatch:
    """An observer of dynamics that asks every member of a committee.

    All members see the trajectory of the one that drives. Calls that are repeated after a restart flag no frame twice.

    Attributes:
        flagged: frames that passed a bound of ``flag``, in the order of time.
        largest: largest uncertainty met by label name.
    """

    def __init__(
        self,
        members: Sequence[EnthalpyModel],
        settings: WatchSettings,
        *,
        model_id: str | None = None,
        calibration: Calibration | None = None,
        known: Sequence[Flagged] = (),
        on_flag: Callable[[Sequence[Flagged]], None] | None = None,
    ) -> None:
        """Watch a run.

        Args:
            members: two or more networks of one cutoff, with the species in one order.
            settings: bounds.
            model_id: of the model that drives, for the proposals.
            calibration: factors from spread to uncertainty; 1 without them.
            known: frames flagged before a restart.
            on_flag: called with all flagged frames whenever there are new ones.

        Raises:
            UncertaintyError: members that cannot be compared.
        """
        if len(members) < 2:
            raise UncertaintyError(f"a committee of {len(members)} has no spread: give at least two models")
        if len({(member.species, member.cutoff, member.dtype) for member in members}) > 1:
            raise UncertaintyError("the members of a committee must have the same species, cutoff and dtype")
        if any(_alike(one, other) for one, other in combinations(members, 2)):
            raise UncertaintyError("two members of the committee are the same model: give each once")
        self.members, self.settings = tuple(members), settings
        self.flagged = list(known)
        self.largest: dict[str, float] = {}
        self._model_id, self._calibration, self._on_flag = model_id, calibration or Calibration(), on_flag
        self._ids = {item.frame.frame_id for item in known}

    def __call__(self, step: int, observation: Observation) -> np.ndarray | None:
        """Judge a moment; which of the active replicas to stop."""
        if not self.settings.judged:
            return None
        unsure = committee_uncertainty(self.members, observation, self.settings.judged, self._calibration)
        for uncertainty in unsure:
            for name, value in uncertainty.items():
                self.largest[name] = max(value, self.largest.get(name, 0.0))
        if self.settings.flag is not None:
            self._flag(observation, unsure, self.settings.flag)
        if self.settings.stop is None:
            return None
        return np.array([bool(_passed(uncertainty, self.settings.stop)) for uncertainty in unsure])

    def _flag(self, observation: Observation, unsure: Sequence[dict[str, float]], bounds: LabelBounds) -> None:
        reasons = [_passed(uncertainty, bounds) for uncertainty in unsure]
        if not any(reasons):
            return
        before = len(self.flagged)
        for place, (frame, reason) in enumerate(zip(observation.frames, reasons, strict=True)):
            finite = all(np.isfinite(value) for value in unsure[place].values())
            if not reason or not finite or frame.frame_id in self._ids or len(self.flagged) >= self.settings.most:
                continue
            self._ids.add(frame.frame_id)
            proposal = Proposal(
                origin="dynamics",
                parent_frame_id=observation.starts[place].frame_id,
                model_id=self._model_id,
                temperature=float(observation.temperatures[place]),
                field=observation.fields[place],
                time=observation.time,
                uncertainty=unsure[place],
                reason=reason,
            )
            self.flagged.append(Flagged(frame, proposal))
        if self._on_flag is not None and len(self.flagged) > before:
            self._on_flag(self.flagged)


def committee_uncertainty(
    members: Sequence[EnthalpyModel], observation: Observation, labels: Sequence[str], calibration: Calibration
) -> list[dict[str, float]]:
    """Calibrated uncertainty of each active replica by label name; infinite where a member predicts no numbers.

    Args:
        members: the committee.
        observation: a moment of a run; its graph holds positions and fields of all replicas.
        labels: which ones.
        calibration: factors from spread to uncertainty.
    """
    from ...model.blocks import responses_in_blocks  # noqa: PLC0415  (settings are read without torch)

    born = any(name in _SECOND for name in labels)
    responses = [responses_in_blocks(member, observation.graph, born=born) for member in members]
    stacked = {name: np.stack([getattr(out, name).cpu().double().numpy() for out in responses]) for name in labels}
    structure = observation.graph.structure.cpu().numpy()
    cells = observation.graph.cell.cpu().double().numpy()
    unsure = []
    for place, cell in enumerate(cells):
        parts = {name: values[:, structure == place if name in PER_ATOM else place] for name, values in stacked.items()}
        if not all(np.isfinite(values).all() for values in parts.values()):
            unsure.append(dict.fromkeys(labels, NOT_FINITE))
        elif all(np.array_equal(values, np.broadcast_to(values[0], values.shape)) for values in parts.values()):
            unsure.append(dict.fromkeys(labels, 0.0))  # by symmetry, as on a perfect crystal
        else:
            unsure.append(calibration.apply(committee_spread(Committee(**parts, polarization_quanta=cell))))
    return unsure


def _alike(one: EnthalpyModel, other: EnthalpyModel) -> bool:
    values, others = one.state_dict(), other.state_dict()
    return values.keys() == others.keys() and all(values[name].equal(others[name]) for name in values)


def _passed(uncertainty: Mapping[str, float], bounds: LabelBounds) -> str:
    """The label that passes its bound by most, in words; empty where none does."""
    ratios = {name: uncertainty[name] / bound for name, bound in bounds.bounds.items()}
    worst = max(ratios, key=lambda name: ratios[name])
    if ratios[worst] <= 1:
        return ""
    return f"uncertainty of {worst} {uncertainty[worst]:.3g} {UNITS[worst]}, bound {bounds.bounds[worst]:g}"
