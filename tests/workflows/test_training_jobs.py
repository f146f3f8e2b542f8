"""A committee trained in one job: a record and a folder for each member, and a later generation goes on from them."""

import numpy as np
import pytest
from fieldloop.dft_inputs.records import ElectricResponse, Frame, LabelledFrame, Proposal, Provenance
from fieldloop.model.files import load_model
from fieldloop.model.settings import NetworkConfig, TrainingSettings
from fieldloop.workflows.executors import run_flow
from fieldloop.workflows.queries import read_records
from fieldloop.workflows.records import TrainedModel
from fieldloop.workflows.store import SQLiteStore
from fieldloop.workflows.training import TrainMaker
from jobflow import JobStore


@pytest.fixture
def store(tmp_path) -> JobStore:
    made = JobStore(SQLiteStore(tmp_path / "store.sqlite"))
    made.connect()
    return made


def pulled(distance: float) -> LabelledFrame:
    """A pair of atoms on a spring."""
    frame = Frame(species=("Al", "As"), positions=[[0, 0, 0], [distance, 0, 0]], cell=np.eye(3) * 8)
    force = -2.0 * (distance - 2.4)
    forces = np.array([[-force, 0, 0], [force, 0, 0]])
    response = ElectricResponse(enthalpy=(distance - 2.4) ** 2, forces=forces)
    proposal = Proposal(origin="rattle", generation=0)
    name = f"pair {distance}"
    return LabelledFrame(
        label_id=name, proposal=proposal, frame=frame, response=response, provenance=Provenance(code="pw.x")
    )


def models(flow, store, root) -> list[TrainedModel]:
    result = run_flow(flow, store=store, root=root, workers=1)
    assert result.ok, result.failed
    return [TrainedModel.model_validate(item) for item in flow.output.resolve(store)]


def test_members_trained_in_one_job(tmp_path, store):
    labels = [pulled(distance) for distance in (2.2, 2.3, 2.5, 2.6, 2.45)]
    maker = TrainMaker(
        network=NetworkConfig(species=("Al", "As"), cutoff=4.0, l_max=1, layers=1, scalars=8, tensors=2, radial=4),
        training=TrainingSettings(epochs=2, tolerances={"stress": None}, early_stop=20, validate_every=1),
        retraining_epochs=1,
        members=3,
        together=True,
    )
    first = models(maker.make(labels, ["pair 2.45"]), store, tmp_path)
    assert [model.member for model in first] == [0, 1, 2]
    assert len({model.model_id for model in first}) == 3
    for model in first:
        assert model.validation["forces"] > 0
        assert len(model.curve) == 2
        assert load_model(tmp_path / model.directory).config.species == ("Al", "As")

    # A job that lists records is read like those that leave one each.
    assert list(read_records(store, TrainedModel, "generation", "member")) == first

    flow = maker.make(labels, ["pair 2.45"])
    assert run_flow(flow, store=store, root=tmp_path, workers=1).found == (flow.jobs[0].uuid,)

    second = models(maker.make(labels, ["pair 2.45"], generation=1, start=first), store, tmp_path)
    assert [model.start_model_id for model in second] == [model.model_id for model in first]


def test_many_body_references_are_fitted_anew():
    """A committee before changes nothing: not even the key of the training."""
    labels, before = [pulled(distance) for distance in (2.2, 2.3)], TrainedModel.model_construct(model_id="before")
    for reference, anew in (("many_body", True), ("species", False)):
        network = NetworkConfig(species=("Al", "As"), reference=reference)
        maker = TrainMaker(network=network, members=2)
        first, second = maker.make(labels), maker.make(labels, generation=1, start=[before] * 2)
        assert ([job.uuid for job in first.jobs] == [job.uuid for job in second.jobs]) is anew
