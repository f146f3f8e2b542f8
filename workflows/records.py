"""What a campaign leaves in its store beside the labelled frames: one record per stage, each with its provenance."""

from __future__ import annotations

from typing import Literal

from ..active_learning.criteria import Decision, GenerationScore
from ..active_learning.errors import LabelErrors
from ..active_learning.uncertainty.calibration import Calibration
from ..dft_inputs.records import ElectricResponse, Frame, Proposal, Record, StoredRecord, Vector
from ..model.settings import EpochRecord


class ParentCheck(StoredRecord):
    """The parent crystal before any label is paid for.

    Attributes:
        frame_id: of the parent.
        gap: band gap at zero field, eV.
        critical_field: along each lattice vector, V/A, (3,).
        largest_field: largest field of the label stencil, V/A.
    """

    frame_id: str
    gap: float
    critical_field: Vector
    largest_field: float


class LabelPart(StoredRecord):
    """A part of a label whose fields are jobs of their own.

    Attributes:
        part: ``zero`` or an axis.
        directory: of the label, relative to the campaign's directory.
        failure: why it has failed, in one line.
    """

    part: str
    directory: str
    status: Literal["done", "failed"] = "done"
    failure: str | None = None


class TrainedModel(StoredRecord):
    """One member of a committee.

    Attributes:
        model_id: hash of weights and architecture.
        directory: of the model's files, relative to the campaign's directory.
        generation, member: its place; ``start_model_id`` is the model it was warm-started from.
        training_ids, validation_ids: ``label_id`` of the frames.
        training, validation: RMSE by label, in the label's unit (enthalpy per atom).
        curve: the learning curve.
        seconds: wall time.
    """

    model_id: str
    directory: str
    generation: int
    member: int
    start_model_id: str | None = None
    training_ids: tuple[str, ...]
    validation_ids: tuple[str, ...]
    training: dict[str, float]
    validation: dict[str, float]
    curve: tuple[EpochRecord, ...]
    seconds: float


class ReplicaSummary(Record):
    """One replica of an exploration.

    Attributes:
        temperature: K.
        field: amplitude at the start, V/A, (3,).
        steps: steps done.
        stopped: why it ended early, or None.
        drift: largest excursion of the conserved quantity, eV/atom.
    """

    temperature: float
    field: Vector
    steps: int
    stopped: str | None = None
    drift: float


class Exploration(StoredRecord):
    """Dynamics of one generation: several replicas in one batch.

    Attributes:
        generation: its place.
        model_ids: the committee; the first member drives.
        directory: of trajectory and candidates, relative to the campaign's directory.
        replicas: one summary each.
        candidates: number of frames whose uncertainty was measured.
        seconds: wall time.
    """

    generation: int
    model_ids: tuple[str, ...]
    directory: str
    replicas: tuple[ReplicaSummary, ...]
    candidates: int
    seconds: float


class SelectedFrame(Record):
    """A frame chosen for DFT with the prediction made before its label was known.

    Attributes:
        frame: the geometry.
        proposal: where it came from, with its calibrated uncertainties and the reason.
        prediction: the committee's mean at zero field, where the label is taken.
        spread: raw committee spread by label at zero field.
    """

    frame: Frame
    proposal: Proposal
    prediction: ElectricResponse
    spread: dict[str, float]


class SelectionRecord(StoredRecord):
    """The journal of a selection, written before anything is labelled.

    Attributes:
        generation: its place.
        chosen: the frames, in order.
        refused: number of candidates by reason.
        candidates: size of the pool.
        flagged_share: share of credible candidates whose uncertainty passes a bound.
        calibration: the factors used.
    """

    generation: int
    chosen: tuple[SelectedFrame, ...]
    refused: dict[str, int]
    candidates: int
    flagged_share: float
    calibration: Calibration


class HonestPair(Record):
    """Uncertainty before and error after DFT of one chosen frame.

    Attributes:
        label_id: of the frame.
        uncertainty: calibrated, at zero field, by label.
        spread: raw committee spread by label.
        errors: RMSE by label.
    """

    label_id: str
    uncertainty: dict[str, float]
    spread: dict[str, float]
    errors: LabelErrors


class GenerationRecord(StoredRecord):
    """The end of a generation.

    Attributes:
        generation: its place.
        model_ids: the committee that was judged.
        pairs: uncertainty and honest error of each frame labelled in this generation.
        failed: ``label_id`` of the chosen frames that have no trustworthy label.
        score: honest errors pooled over the pairs, flagged share, frames trained on.
        decision: go on or stop, and why.
    """

    generation: int
    model_ids: tuple[str, ...]
    pairs: tuple[HonestPair, ...]
    failed: tuple[str, ...] = ()
    score: GenerationScore
    decision: Decision
