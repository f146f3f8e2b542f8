"""Force-field Makers of atomate2 on a trained network in a field, really run."""

import json
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from atomate2.forcefields.jobs import ForceFieldRelaxMaker, ForceFieldStaticMaker
from atomate2.forcefields.md import ForceFieldMDMaker
from fieldloop.model.interfaces.ase import load_calculator
from jobflow import Flow, JobStore, run_locally
from maggma.stores import MemoryStore
from monty.json import jsanitize
from pymatgen.io.ase import AseAtomsAdaptor

MODEL = Path(__file__).parents[1] / "data" / "models" / "alas"
FIELD = [0.0, 0.0, 0.05]


def options(field):
    return {
        "calculator_meta": "fieldloop.model.interfaces.ase.load_calculator",
        "calculator_kwargs": {"model": str(MODEL), "field": field, "device": "cpu"},
    }


@pytest.fixture
def structure():
    return AseAtomsAdaptor.get_structure(bulk("AlAs", "zincblende", a=5.7))


def run(flow, folder):
    """Documents of the jobs, by name."""
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    out = run_locally(flow, store=store, root_dir=folder, create_folders=True, ensure_success=True, log=False)
    return {job.name: out[job.uuid][1].output for job in flow.jobs}


def test_relax_static_and_dynamics_in_a_field(structure, tmp_path):
    relax = ForceFieldRelaxMaker(relax_kwargs={"fmax": 1e-3}, **options(FIELD)).make(structure)
    static = ForceFieldStaticMaker(**options(FIELD)).make(relax.output.structure)
    dynamics = ForceFieldMDMaker(n_steps=3, time_step=1.0, ensemble="nve", temperature=300.0, **options(FIELD))
    found = run(Flow([relax, static, dynamics.make(relax.output.structure)]), tmp_path)
    relaxed, at_rest = found[relax.name], found[static.name]
    atoms = AseAtomsAdaptor.get_atoms(relaxed.structure)
    atoms.calc = load_calculator(MODEL, field=FIELD)
    assert at_rest.output.energy == pytest.approx(atoms.get_potential_energy(), rel=1e-10)
    assert np.abs(atoms.get_forces()).max() < 1e-3
    assert np.abs(atoms.get_stress()).max() < 1e-4
    separations = [one[0].coords - one[1].coords for one in (relaxed.structure, structure)]
    assert np.abs(separations[0][2] - separations[1][2]) > 0.01
    assert relaxed.forcefield_name == "load_calculator"
    # What the page says of these documents: neither P nor the field is in them.
    stored = json.dumps(jsanitize(list(found.values()), strict=True))
    assert "polariz" not in stored
    assert "calculator_kwargs" not in stored


def test_a_maker_survives_json(structure, tmp_path):
    """As a job database holds it."""
    maker = ForceFieldStaticMaker(**options(FIELD))
    again = ForceFieldStaticMaker.from_dict(json.loads(json.dumps(jsanitize(maker.as_dict(), strict=True))))
    assert again.calculator_meta == maker.calculator_meta
    assert again.calculator_kwargs == maker.calculator_kwargs
    job = again.make(structure)
    atoms = AseAtomsAdaptor.get_atoms(structure)
    atoms.calc = load_calculator(MODEL, field=FIELD)
    found = run(Flow([job]), tmp_path)[job.name]
    assert found.output.energy == pytest.approx(atoms.get_potential_energy(), rel=1e-10)


def test_a_field_in_time_is_refused_by_makers_that_know_no_time(structure, tmp_path):
    rising = {"kind": "ramped", "start": [0, 0, 0], "end": FIELD, "duration": "10 fs"}
    maker = ForceFieldMDMaker(n_steps=3, time_step=1.0, ensemble="nve", temperature=300.0, **options(rising))
    with pytest.raises(Exception, match="depends on time"):
        maker._run_ase_safe(structure)
