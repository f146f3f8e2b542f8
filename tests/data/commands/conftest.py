"""A small campaign on disk, made by hand: records as a loop leaves them, with the files that they name."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from fieldloop.active_learning.uncertainty.calibration import Calibration
from fieldloop.dft_inputs.records import ElectricResponse, Frame, LabelledFrame, Proposal, Provenance, Record
from fieldloop.model.files import save_model
from fieldloop.model.network import EnthalpyNetwork
from fieldloop.model.settings import EpochRecord, NetworkConfig
from fieldloop.workflows.campaign import STORE_FILE
from fieldloop.workflows.keys import content_key, content_uuid
from fieldloop.workflows.labelling import label_key
from fieldloop.workflows.records import Exploration, ReplicaSummary, SelectedFrame, SelectionRecord, TrainedModel
from fieldloop.workflows.store import SQLiteStore
from jobflow.core.store import JobStore

NETWORK = NetworkConfig(species=("Al", "As"), reference_charges={"Al": 3, "As": -3}, cutoff=3.5, l_max=1, scalars=4)


@dataclass
class Campaigner:
    """Two generations of one model each: 0 is trained on the parent and two rattles, and proposes what 1 adds."""

    root: Path
    documents: list[dict] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.parent = Frame.from_atoms(bulk("AlAs", "zincblende", a=5.66))
        self.store = JobStore(SQLiteStore(self.root / STORE_FILE))
        self.store.connect()
        self.labels: dict[str, LabelledFrame] = {}
        self.models: dict[int, TrainedModel] = {}

    def put(self, record: Record, key: str, directory: str) -> dict:
        """Write a record as a content-keyed job does."""
        number = len(self.documents)
        document = {
            "uuid": content_uuid(key),
            "index": 1,
            "output": record,
            "completed_at": f"2026-01-01T00:{number:02d}:00",
            "metadata": {"content_key": key, "directory": directory},
            "hosts": [],
            "name": "job",
        }
        self.store.update(document)
        self.documents.append(document)
        return document

    def rattled(self, seed: int) -> Frame:
        moved = self.parent.positions + 0.05 * np.random.default_rng(seed).normal(size=(2, 3))
        return Frame(species=self.parent.species, positions=moved, cell=self.parent.cell)

    def label(self, name: str, frame: Frame, proposal: Proposal, **changes) -> LabelledFrame:
        identity = content_key(name)[:16]
        directory = self.root / "labels" / identity
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "pw.out").write_text("JOB DONE")
        response = ElectricResponse(enthalpy=-1.0, forces=np.zeros((2, 3)), polarization=np.zeros(3))
        provenance = Provenance(code="pw.x", protocol="fast", directory=f"labels/{identity}")
        fields = {"frame": frame, "proposal": proposal, "response": response, "provenance": provenance}
        self.labels[name] = LabelledFrame(**({"label_id": identity} | fields | changes))
        self.put(self.labels[name], label_key(identity), f"labels/{identity}")
        return self.labels[name]

    def train(self, generation: int) -> TrainedModel:
        directory = f"training/{generation}/model"
        before = self.models.get(generation - 1)
        identities = tuple(label.label_id for label in self.labels.values())
        self.models[generation] = TrainedModel(
            model_id=save_model(EnthalpyNetwork(NETWORK, generation), self.root / directory),
            directory=directory,
            generation=generation,
            member=0,
            start_model_id=before.model_id if before else None,
            training_ids=identities[:-1],
            validation_ids=identities[-1:],
            training={"forces": 0.05},
            validation={"forces": 0.06},
            curve=(EpochRecord(epoch=1, seconds=1.0, loss=0.1, validation={"forces": 0.2}),),
            seconds=2.0,
        )
        self.put(self.models[generation], content_key("train", generation), f"training/{generation}")
        return self.models[generation]

    def explore(self, generation: int) -> Proposal:
        """An exploration, the frame it met, and the journal of its choice."""
        model = self.models[generation]
        directory = self.root / "exploration" / str(generation)
        (directory / "trajectory").mkdir(parents=True)
        (directory / "candidates.npz").write_bytes(b"arrays")
        exploration = Exploration(
            generation=generation,
            model_ids=(model.model_id,),
            directory=f"exploration/{generation}",
            replicas=(ReplicaSummary(temperature=300.0, field=np.zeros(3), steps=5, drift=0.0),),
            candidates=1,
            seconds=1.0,
        )
        self.put(exploration, content_key("explore", generation), f"exploration/{generation}")
        proposal = Proposal(
            origin="dynamics",
            generation=generation + 1,
            parent_frame_id=self.parent.frame_id,
            model_id=model.model_id,
            temperature=300.0,
            field=np.array([0.0, 0.0, 0.05]),
            time=40.0,
            uncertainty={"forces": 0.1},
        )
        chosen = SelectedFrame(frame=self.rattled(50), proposal=proposal, prediction=ElectricResponse(), spread={})
        selection = SelectionRecord(
            generation=generation,
            chosen=(chosen,),
            refused={},
            candidates=1,
            flagged_share=1.0,
            calibration=Calibration(),
        )
        self.put(selection, content_key("select", generation), f"selection/{generation}")
        return proposal

    def run(self) -> "Campaigner":
        self.label("parent", self.parent, Proposal(origin="parent"))
        for seed in (1, 2):
            proposal = Proposal(origin="rattle", parent_frame_id=self.parent.frame_id)
            self.label(f"rattle {seed}", self.rattled(seed), proposal)
        self.train(0)
        self.label("met", self.rattled(50), self.explore(0))
        self.train(1)
        return self


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory) -> Campaigner:
    """Two generations, for looking only."""
    return Campaigner(tmp_path_factory.mktemp("care") / "run").run()


@pytest.fixture
def campaign(tmp_path) -> Campaigner:
    """Two generations, to be changed."""
    return Campaigner(tmp_path / "run").run()
