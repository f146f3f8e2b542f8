"""Dynamics in a field as a job of a real flow, behind a relaxation by atomate2."""

import json
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from atomate2.forcefields.jobs import ForceFieldRelaxMaker
from fieldloop.dft_inputs.records import Frame
from fieldloop.model.dynamics import read_trajectory
from fieldloop.model.interfaces.ase import load_calculator
from fieldloop.workflows.config import ConfigError
from fieldloop.workflows.field_dynamics import FieldDynamics, FieldDynamicsMaker
from jobflow import Flow, JobStore, run_locally
from maggma.stores import MemoryStore
from pymatgen.io.ase import AseAtomsAdaptor

MODEL = Path(__file__).parents[1] / "data" / "models" / "alas"
WAVE = {"kind": "sinusoidal", "amplitude": [0, 0, 0.1], "period": "40 fs"}


def dynamics(**changes):
    settings = {"ensemble": "nve", "steps": 10, "fields": [WAVE], "responses_every": 5, "save_every": 1, **changes}
    return {"dynamics": settings}


def test_a_flow_keeps_p_born_charges_and_the_field(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(MODEL)
    structure = AseAtomsAdaptor.get_structure(bulk("AlAs", "zincblende", a=5.65))
    relax = ForceFieldRelaxMaker(
        calculator_meta="fieldloop.model.interfaces.ase.load_calculator", calculator_kwargs={"model": str(MODEL)}
    ).make(structure)
    run = FieldDynamicsMaker(models=["model"], settings=dynamics()).make(relax.output.structure)
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    run_locally(Flow([relax, run]), store=store, root_dir=tmp_path, create_folders=True, ensure_success=True, log=False)
    found = FieldDynamics.model_validate(store.get_output(run.uuid, load=True))
    assert json.loads(found.model_dump_json())
    replica = found.replicas[0]
    assert replica.status == "finished"
    assert replica.time == 10.0
    assert replica.field == pytest.approx([0, 0, 0.1])
    atoms = replica.frame.to_atoms()
    atoms.calc = load_calculator(MODEL, field=[0, 0, 0.1])
    assert replica.polarization == pytest.approx(atoms.get_dipole_moment(), rel=1e-9)
    born = atoms.calc.get_property("born_effective_charges", atoms)
    assert replica.born_effective_charges == pytest.approx(born, abs=1e-9)
    trajectory = read_trajectory(found.trajectory)
    assert trajectory.series(0).field[:, 2] == pytest.approx(0.1 * np.sin(2 * np.pi * np.arange(11) / 40))
    assert len(trajectory.responses(0)) == 3


def test_without_responses_there_are_no_born_charges(tmp_path):
    frame = Frame.from_atoms(bulk("AlAs", "zincblende", a=5.65))
    job = FieldDynamicsMaker(models=[str(MODEL)], settings=dynamics(responses_every=None, steps=2)).make(frame)
    job = type(job).from_dict(json.loads(json.dumps(job.as_dict(), default=lambda value: value.as_dict())))
    out = run_locally(job, root_dir=tmp_path, create_folders=True, ensure_success=True, log=False)
    found = out[job.uuid][1].output
    assert found.replicas[0].born_effective_charges is None


@pytest.mark.parametrize(
    ("maker", "message"),
    [
        (FieldDynamicsMaker(settings=dynamics()), "models"),
        (FieldDynamicsMaker(models=["a"], settings=dynamics(ensemble="nvx")), "dynamics.ensemble"),
        (FieldDynamicsMaker(models=["a"], settings={"dynamics": {"steps": 1}, "fields": [0, 0, 1]}), "fields"),
    ],
)
def test_bad_settings_are_refused_when_the_job_is_made(maker, message):
    with pytest.raises(ConfigError, match=message):
        maker.make(Frame.from_atoms(bulk("AlAs", "zincblende", a=5.65)))
