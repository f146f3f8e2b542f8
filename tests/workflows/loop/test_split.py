"""Which frames train and which validate, and what enters a training's identity."""

import numpy as np
import pytest
from ase.build import bulk
from fieldloop.active_learning.criteria import StopCriterion
from fieldloop.active_learning.sampling.seeds import seed_frames
from fieldloop.active_learning.selection import SelectionSettings
from fieldloop.dft_inputs.espresso.settings import PwSettings
from fieldloop.dft_inputs.records import ElectricResponse, Frame, LabelledFrame, Proposal, Provenance, Quality
from fieldloop.model.settings import NetworkConfig
from fieldloop.workflows.labelling import LabelMaker
from fieldloop.workflows.loop import LoopMaker
from fieldloop.workflows.training import TrainMaker


def label(index: int, generation: int = 0, **changes) -> LabelledFrame:
    frame = Frame(species=("Al", "As"), positions=[[0, 0, 0], [1.4, 1.4, 1.4 + 0.01 * index]], cell=np.eye(3) * 5)
    response = ElectricResponse(enthalpy=float(index), forces=np.zeros((2, 3)))
    fields = {"frame": frame, "response": response, "provenance": Provenance(code="pw.x")}
    proposal = Proposal(origin="rattle", generation=generation)
    return LabelledFrame(label_id=f"label{index}", proposal=proposal, **{**fields, **changes})


@pytest.fixture
def maker():
    return TrainMaker(network=NetworkConfig(species=("Al", "As")), members=2)


def sets(flow) -> tuple[list[str], list[str]]:
    """Names of the training and validation frames of a flow's first member."""
    training, validation = flow.jobs[0].function_args[:2]
    return [frame.label_id for frame in training], [frame.label_id for frame in validation]


def test_validation_frames_are_never_trained_on(maker):
    labels = [label(i) for i in range(6)]
    training, validation = sets(maker.make(labels, validation_ids=["label4"]))
    assert validation == ["label4"]
    assert training == [f"label{i}" for i in (0, 1, 2, 3, 5)]


def test_failed_and_flagged_frames_are_left_out(maker):
    labels = [label(i) for i in range(6)]
    labels[1] = label(1, status="failed", failure="pw.x was killed", response=ElectricResponse())
    labels[2] = label(2, quality=Quality(flags=("scf_accuracy",)))
    assert sets(maker.make(labels, validation_ids=["label4"])) == (["label0", "label3", "label5"], ["label4"])


def test_nothing_to_train_on_names_the_reasons(maker):
    labels = [label(i, status="failed", failure="pw.x was killed", response=ElectricResponse()) for i in range(3)]
    with pytest.raises(ValueError, match=r"pw\.x was killed"):
        maker.make(labels)


def test_members_and_data_have_their_own_identity(maker):
    labels = [label(i) for i in range(10)]
    uuids = [job.uuid for job in maker.make(labels).jobs]
    assert len(set(uuids)) == 2
    assert [job.uuid for job in maker.make(labels).jobs] == uuids
    more = [job.uuid for job in maker.make([*labels, label(10, generation=1)]).jobs]
    assert not set(more) & set(uuids)
    held_out = [job.uuid for job in maker.make(labels, validation_ids=["label4"]).jobs]
    assert not set(held_out) & set(uuids)


def test_what_is_held_out_is_a_matter_of_the_seeds():
    """Every third first frame, by its identity; nothing that happens to labels later moves it."""
    parent = Frame.from_atoms(bulk("AlAs", "zincblende", a=5.65))
    loop = LoopMaker(
        train=TrainMaker(network=NetworkConfig(species=("Al", "As"))),
        selection=SelectionSettings(bounds={"forces": 0.1}),
        stop=StopCriterion(forces=0.1),
        label=LabelMaker(settings=PwSettings.from_protocol("fast")),
        validation_every=3,
    )
    frames = [frame for frame, _ in seed_frames(parent, loop.seeds)]
    assert loop.validation_ids(parent) == [loop.label.label_id(frames[i]) for i in (2, 5, 8)]
