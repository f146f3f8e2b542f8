"""Which frames train and which validate, and what enters a training's identity."""

import numpy as np
import pytest
from fieldloop.dft_inputs.records import ElectricResponse, Frame, LabelledFrame, Proposal, Provenance, Quality
from fieldloop.model.settings import NetworkConfig
from fieldloop.workflows.training import TrainMaker


def label(index: int, generation: int = 0, **changes) -> LabelledFrame:
    frame = Frame(species=("Al", "As"), positions=[[0, 0, 0], [1.4, 1.4, 1.4 + 0.01 * index]], cell=np.eye(3) * 5)
    response = ElectricResponse(enthalpy=float(index), forces=np.zeros((2, 3)))
    fields = {"frame": frame, "response": response, "provenance": Provenance(code="pw.x")}
    proposal = Proposal(origin="rattle", generation=generation)
    return LabelledFrame(label_id=f"label{index}", proposal=proposal, **{**fields, **changes})


@pytest.fixture
def maker():
    return TrainMaker(network=NetworkConfig(species=("Al", "As")), members=2, validation_every=5)


def ids(frames) -> list[str]:
    return [frame.label_id for frame in frames]


def test_validation_frames_never_change_sides(maker):
    """Later generations add training frames only; the frames held out stay those of the first generation."""
    first = [label(i) for i in range(10)]
    later = [*first, *(label(i, generation=1) for i in range(10, 20))]
    training, validation = maker.split(first)
    assert ids(validation) == ["label4", "label9"]
    training_later, validation_later = maker.split(later)
    assert ids(validation_later) == ids(validation)
    assert set(ids(training_later)) == set(ids(training)) | {f"label{i}" for i in range(10, 20)}


def test_failed_and_flagged_frames_are_left_out_without_moving_others(maker):
    labels = [label(i) for i in range(10)]
    labels[1] = label(1, status="failed", failure="pw.x was killed", response=ElectricResponse())
    labels[2] = label(2, quality=Quality(flags=("scf_accuracy",)))
    training, validation = maker.split(labels)
    assert ids(validation) == ["label4", "label9"]
    assert ids(training) == [f"label{i}" for i in (0, 3, 5, 6, 7, 8)]


def test_nothing_to_train_on_names_the_reasons(maker):
    labels = [label(i, status="failed", failure="pw.x was killed", response=ElectricResponse()) for i in range(3)]
    with pytest.raises(ValueError, match=r"pw\.x was killed"):
        maker.split(labels)


def test_members_and_data_have_their_own_identity(maker):
    labels = [label(i) for i in range(10)]
    uuids = [job.uuid for job in maker.make(labels).jobs]
    assert len(set(uuids)) == 2
    assert [job.uuid for job in maker.make(labels).jobs] == uuids
    more = [job.uuid for job in maker.make([*labels, label(10, generation=1)]).jobs]
    assert not set(more) & set(uuids)
