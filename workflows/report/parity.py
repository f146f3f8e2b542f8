"""Predicted against computed labels: of frames trained on, of validation frames, and predicted before DFT (honest)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ...active_learning.errors import branch_jump
from ...dft_inputs.records import LABELS, ElectricResponse, LabelledFrame
from ...model.committee import load_committee, predict
from ...model.files import ModelFileError
from ..paths import located
from ..queries import Campaign
from ..records import TrainedModel

GROUPS = ("training", "validation", "honest")
MOST_FRAMES = 300
"""Predictions of a group for the report at most; beyond, evenly spaced frames stand for all."""

Pair = tuple[LabelledFrame, ElectricResponse]
"""A labelled frame and what was predicted for it at the field of the label."""


@dataclass(frozen=True)
class ParitySeries:
    """Components of one label over the frames of one group, in the project's units (enthalpy: eV/atom).

    Attributes:
        label: its name.
        group: of ``GROUPS``.
        computed: by DFT, (n,); P on the branch closest to the prediction, the enthalpy on that branch.
        predicted: (n,).
    """

    label: str
    group: str
    computed: np.ndarray
    predicted: np.ndarray

    @property
    def rmse(self) -> float:
        """Root mean square error over the components."""
        return float(np.sqrt(np.mean((self.predicted - self.computed) ** 2)))


@dataclass(frozen=True)
class Parity:
    """Series with at least one point, and what could not be shown."""

    series: tuple[ParitySeries, ...] = ()
    notes: tuple[str, ...] = ()

    def of_label(self, label: str) -> list[ParitySeries]:
        """The series of one label, in the order of ``GROUPS``."""
        return [series for series in self.series if series.label == label]


def collect_parity(campaign: Campaign) -> Parity:
    """All parity series of a campaign."""
    notes: list[str] = []
    pairs = {"honest": honest_pairs(campaign)}
    members = last_committee(campaign)
    if members:
        try:
            pairs |= _committee_pairs(campaign, members, notes)
        except ModelFileError as error:
            notes.append(f"Training and validation frames are missing: {error}.")
    series = [series for group in GROUPS for series in parity_series(group, pairs.get(group, ()))]
    return Parity(tuple(series), tuple(notes))


def parity_series(group: str, pairs: Iterable[Pair]) -> list[ParitySeries]:
    """One series for each label that is known on both sides."""
    computed: dict[str, list[np.ndarray]] = {}
    predicted: dict[str, list[np.ndarray]] = {}
    for label, prediction in pairs:
        for name, (reference, value) in _components(label, prediction).items():
            computed.setdefault(name, []).append(reference.ravel())
            predicted.setdefault(name, []).append(value.ravel())
    return [
        ParitySeries(name, group, np.concatenate(computed[name]), np.concatenate(predicted[name]))
        for name in LABELS
        if name in computed
    ]


def honest_pairs(campaign: Campaign) -> list[Pair]:
    """Predictions journaled before their frame was labelled; failed and flagged labels judge nobody."""
    labels = {label.frame.frame_id: label for label in campaign.labels if label.trainable}
    pairs = []
    for selection in campaign.selections:
        for chosen in selection.chosen:
            label = labels.get(chosen.frame.frame_id)
            if label is not None and np.allclose(label.response.field, chosen.prediction.field, rtol=0, atol=1e-9):
                pairs.append((label, chosen.prediction))
    return pairs


def last_committee(campaign: Campaign) -> list[TrainedModel]:
    """The latest committee that is complete, judged by the largest one."""
    committees: dict[int, list[TrainedModel]] = {}
    for model in campaign.models:
        committees.setdefault(model.generation, []).append(model)
    size = max(map(len, committees.values()), default=0)
    return next((committees[g] for g in sorted(committees, reverse=True) if len(committees[g]) == size), [])


def _committee_pairs(campaign: Campaign, members: Sequence[TrainedModel], notes: list[str]) -> dict[str, list[Pair]]:
    """The committee's mean for the frames that its members were trained and validated on."""
    training = {label_id for member in members for label_id in member.training_ids}
    validation = {label_id for member in members for label_id in member.validation_ids} - training
    networks = load_committee([located(member.directory, campaign.root) for member in members])
    pairs = {}
    for group, ids in (("training", training), ("validation", validation)):
        frames = [label for label in campaign.labels if label.label_id in ids]
        if len(frames) > MOST_FRAMES:
            notes.append(f"{MOST_FRAMES} of {len(frames)} {group} frames are shown, evenly spaced.")
            frames = [frames[i] for i in np.linspace(0, len(frames) - 1, MOST_FRAMES).round().astype(int)]
        fields = np.array([label.response.field for label in frames]).reshape(-1, 3)
        predictions = predict(networks, [label.frame for label in frames], fields)
        pairs[group] = [(label, prediction.mean()) for label, prediction in zip(frames, predictions, strict=True)]
    return pairs


def _components(label: LabelledFrame, prediction: ElectricResponse) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Label and prediction of each quantity known on both sides, on one branch of P."""
    response = label.response
    jump = branch_jump(prediction, response)
    both = {}
    for name in response.labels:
        if getattr(prediction, name) is None:
            continue
        reference, value = np.asarray(getattr(response, name)), np.asarray(getattr(prediction, name))
        if name == "polarization":
            reference = reference + jump
        elif name == "enthalpy":
            # U = -E.P + ...: with P on another branch the enthalpy at a field moves along.
            reference, value = (reference - response.field @ jump) / len(label.frame), value / len(label.frame)
        both[name] = (reference, value)
    return both
