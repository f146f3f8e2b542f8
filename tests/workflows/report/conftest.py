"""A synthetic but physically consistent campaign: a network is the DFT code, disturbed copies are the committee."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from fieldloop.active_learning.criteria import StopCriterion
from fieldloop.active_learning.uncertainty.calibration import fit_calibration, pairs_of
from fieldloop.active_learning.uncertainty.committee import Spread
from fieldloop.dft_inputs.records import ElectricResponse, Frame, LabelledFrame, Proposal, Provenance, Quality, Record
from fieldloop.model.committee import predict
from fieldloop.model.dynamics import DynamicsSettings, run_dynamics
from fieldloop.model.files import save_model
from fieldloop.model.network import EnthalpyNetwork
from fieldloop.model.settings import EpochRecord, NetworkConfig
from fieldloop.workflows.dynamics import spread_of
from fieldloop.workflows.loop import generation_record
from fieldloop.workflows.queries import Campaign
from fieldloop.workflows.records import (
    Exploration,
    GenerationRecord,
    ParentCheck,
    ReplicaSummary,
    SelectedFrame,
    SelectionRecord,
    TrainedModel,
)
from fieldloop.workflows.store import SQLiteStore
from jobflow.core.store import JobStore

HOSTILE = '</td><script>alert("pw.x")</script> & <img src=x onerror=alert(1)> killed by signal 9'
FIELDS = ((0.0, 0.0, 0.0), (0.0, 0.0, 0.05), (0.02, 0.0, 0.0))
CRITERION = StopCriterion(forces=0.02, polarization=0.05, born_effective_charges=0.002, max_generations=10)
MEMBERS = 3


@dataclass
class Campaigner:
    """Makes the records of a campaign one after the other, each generation with a better committee."""

    root: Path
    steps: int = 12
    seeds: int = 6
    chosen: int = 3

    def __post_init__(self) -> None:
        config = NetworkConfig(
            species=("Al", "As"), reference_charges={"Al": 3, "As": -3}, cutoff=3.6, l_max=1, scalars=8, tensors=4
        )
        self.teacher = EnthalpyNetwork(config, 1)
        with torch.no_grad():
            self.teacher.polarizability_reference.copy_(torch.tensor([0.3, 1.1]))
            self.teacher.energy_reference.copy_(torch.tensor([-60.0, -170.0]))
        self.parent = Frame.from_atoms(bulk("AlAs", "zincblende", a=5.66, cubic=True))
        self.labels: list[LabelledFrame] = []
        self.models: list[TrainedModel] = []
        self.explorations: list[Exploration] = []
        self.selections: list[SelectionRecord] = []
        self.generations: list[GenerationRecord] = []
        critical = np.full(3, 0.125)
        self.checks = [
            ParentCheck(frame_id=self.parent.frame_id, gap=1.42, critical_field=critical, largest_field=0.0036)
        ]

    def campaign(self) -> Campaign:
        return Campaign(
            root=self.root,
            labels=tuple(sorted(self.labels, key=lambda label: (label.proposal.generation, label.label_id))),
            checks=tuple(self.checks),
            models=tuple(self.models),
            explorations=tuple(self.explorations),
            selections=tuple(self.selections),
            generations=tuple(self.generations),
        )

    def records(self) -> list[Record]:
        return [*self.labels, *self.checks, *self.models, *self.explorations, *self.selections, *self.generations]

    def rattled(self, seed: int, stdev: float = 0.1) -> Frame:
        rng = np.random.default_rng(seed)
        moved = self.parent.positions + stdev * rng.normal(size=self.parent.positions.shape)
        return Frame(species=self.parent.species, positions=moved, cell=self.parent.cell)

    def label(self, frame: Frame, proposal: Proposal, field=(0.0, 0.0, 0.0), quanta=(0, 0, 0), **changes):
        """A label by the teacher, on any branch of P: with n quanta Q the enthalpy at a field moves by -E.nQ."""
        answer = predict([self.teacher], [frame], np.array(field))[0].mean()
        jump = np.array(quanta) @ frame.cell
        response = answer.model_copy(
            update={
                "polarization": answer.polarization + jump,
                "polarization_quanta": frame.cell,
                "enthalpy": answer.enthalpy - np.dot(field, jump),
            }
        )
        number = len(self.labels)
        rng = np.random.default_rng(number)
        provenance = Provenance(
            code="pw.x",
            code_version="6.7",
            protocol="fast",
            inputs_hash=f"inputs{number:04d}",
            pseudopotentials={"Al": "a" * 64, "As": "b" * 64},
            scf_count=7,
            scf_iterations=90 + number,
            seconds=20.0 + number,
            directory=f"labels/{number:04d}",
        )
        quality = Quality(
            scf_accuracy=float(10 ** rng.uniform(-10, -8)),
            critical_field_fraction=float(rng.uniform(0.02, 0.03)),
            enthalpy_law_error=float(10 ** rng.uniform(-4, -2.5)),
            polarizability_asymmetry=1e-4,
        )
        settings = {"frame": frame, "proposal": proposal, "response": response, "provenance": provenance}
        settings |= {"label_id": f"{number:04d}{frame.frame_id[:12]}", "quality": quality}
        record = LabelledFrame(**(settings | changes))
        self.labels.append(record)
        return record

    def first_frames(self) -> Campaigner:
        self.label(self.parent, Proposal(origin="parent", reason="the crystal itself"))
        for seed in range(1, self.seeds):
            proposal = Proposal(origin="rattle", parent_frame_id=self.parent.frame_id, reason="rattled by 0.1 A")
            if seed == 2:
                self.label(self.rattled(seed), proposal, field=(0, 0, 0.02), quanta=(1, 0, -2))
            else:
                self.label(self.rattled(seed), proposal, quanta=(0, 0, seed % 2))
        return self

    def trouble(self) -> Campaigner:
        """A frame whose SCF failed and one whose checks did not pass."""
        proposal = Proposal(origin="rattle", parent_frame_id=self.parent.frame_id, reason="rattled by 0.2 A")
        nothing = {"response": ElectricResponse(), "quality": Quality()}
        self.label(self.rattled(91, 0.2), proposal, status="failed", failure=HOSTILE, **nothing)
        poor = Quality(
            scf_accuracy=1e-9,
            critical_field_fraction=0.02,
            enthalpy_law_error=0.08,
            repairs=("+z: enthalpy moved by one quantum along c",),
            flags=("enthalpy_law",),
        )
        self.label(self.rattled(92, 0.2), proposal, quality=poor)
        return self

    def committee(self, generation: int) -> list[EnthalpyNetwork]:
        members = []
        for member in range(MEMBERS):
            network = copy.deepcopy(self.teacher)
            noise = torch.Generator().manual_seed(100 * generation + member)
            with torch.no_grad():
                for weights in network.parameters():
                    size = 0.06 / 2**generation * weights.abs().mean()
                    weights.add_(size * torch.randn(weights.shape, generator=noise, dtype=weights.dtype))
            members.append(network)
        return members

    def train(self, generation: int) -> list[EnthalpyNetwork]:
        members = self.committee(generation)
        usable = [label.label_id for label in self.labels if label.trainable]
        before = {model.member: model.model_id for model in self.models if model.generation == generation - 1}
        curve = tuple(
            EpochRecord(
                epoch=epoch,
                seconds=float(epoch),
                loss=10.0 / epoch / 2**generation,
                validation={"enthalpy": 0.01 / epoch, "forces": 0.2 / epoch, "born_effective_charges": 0.1 / epoch},
            )
            for epoch in (1, 5, 10)
        )
        for member, network in enumerate(members):
            directory = f"models/{generation}/{member}"
            model = TrainedModel(
                model_id=save_model(network, self.root / directory),
                directory=directory,
                generation=generation,
                member=member,
                start_model_id=before.get(member),
                training_ids=tuple(identity for i, identity in enumerate(usable) if i % 5),
                validation_ids=tuple(usable[::5]),
                training={"forces": 0.05},
                validation={"forces": 0.06},
                curve=curve,
                seconds=12.5,
            )
            self.models.append(model)
        return members

    def explore(self, generation: int, members: list[EnthalpyNetwork]) -> list[Frame]:
        directory = f"exploration/{generation}"
        settings = DynamicsSettings(
            steps=self.steps,
            fields=FIELDS,
            temperatures=(300.0, 300.0, 600.0),
            save_every=2,
            checkpoint_every=100,
            min_distance_ratio=0.0,
            max_temperature=1e5,
        )
        result = run_dynamics(members[0], [self.parent] * 3, settings, directory=self.root / directory / "trajectory")
        replicas = [
            ReplicaSummary(temperature=o.temperature, field=o.field, steps=o.step, stopped=o.reason or None, drift=1e-5)
            for o in result.outcomes
        ]
        exploration = Exploration(
            generation=generation,
            model_ids=tuple(model.model_id for model in self.models[-MEMBERS:]),
            directory=directory,
            replicas=tuple(replicas),
            candidates=30,
            seconds=4.0,
        )
        self.explorations.append(exploration)
        return [result.trajectory.replica(i % 3).frame(-1 - i // 3) for i in range(self.chosen)]

    def select(self, generation: int, members: list[EnthalpyNetwork], frames: list[Frame]) -> None:
        known = [pair for record in self.generations for honest in record.pairs for pair in _pairs(honest)]
        calibration = fit_calibration(known)
        chosen = []
        for number, (frame, prediction) in enumerate(zip(frames, predict(members, frames), strict=True)):
            spread = spread_of(prediction, frame)
            proposal = Proposal(
                origin="dynamics",
                generation=generation + 1,
                parent_frame_id=self.parent.frame_id,
                model_id=self.models[-MEMBERS].model_id,
                temperature=300.0,
                field=np.array(FIELDS[number % 3]),
                time=float(self.steps),
                uncertainty=calibration.apply(Spread(**spread)),
                reason=f"uncertain: forces, pick {number}",
            )
            chosen.append(SelectedFrame(frame=frame, proposal=proposal, prediction=prediction.mean(), spread=spread))
        selection = SelectionRecord(
            generation=generation,
            chosen=tuple(chosen),
            refused={"a near duplicate": 12},
            candidates=30,
            flagged_share=0.4 / 2**generation,
            calibration=calibration,
        )
        self.selections.append(selection)

    def score(self) -> None:
        selection = self.selections[-1]
        labels = [
            self.label(chosen.frame, chosen.proposal, quanta=(0, number % 2, 0))
            for number, chosen in enumerate(selection.chosen)
        ]
        committee = self.models[-MEMBERS:]
        self.generations.append(generation_record(CRITERION, committee, self.generations, selection, labels))

    def run(self, generations: int = 2) -> Campaigner:
        self.first_frames().trouble()
        for generation in range(generations):
            members = self.train(generation)
            self.select(generation, members, self.explore(generation, members))
            self.score()
        self.train(generations)
        return self


def _pairs(honest):
    return pairs_of(Spread(**honest.spread), honest.errors.as_spread())


def store_records(store: JobStore, records: list[Record], start: int = 0) -> None:
    """Write records as jobflow does, one document a job."""
    began = datetime(2026, 1, 1)
    for number, record in enumerate(records, start):
        moment = (began + timedelta(minutes=number)).isoformat()
        job = {"uuid": f"job-{number}", "index": 1, "name": "job", "metadata": {}, "hosts": []}
        store.update({**job, "output": record, "completed_at": moment})


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory) -> Campaigner:
    """Two generations and the committee after them."""
    return Campaigner(tmp_path_factory.mktemp("campaign")).run()


@pytest.fixture
def make_campaigner(tmp_path):
    """A campaign that stops half way."""
    return lambda **settings: Campaigner(tmp_path, **settings)


@pytest.fixture(scope="session")
def criterion() -> StopCriterion:
    return CRITERION


@pytest.fixture
def hostile() -> str:
    return HOSTILE


@pytest.fixture
def job_store(tmp_path) -> JobStore:
    """An empty store in a real file."""
    store = JobStore(SQLiteStore(tmp_path / "fieldloop.sqlite"))
    store.connect()
    return store


@pytest.fixture
def fill_store():
    """Writes records into a store, one job each."""
    return store_records
