"""The Makers are plain jobflow: any structure class goes in, and jobflow's own manager runs them."""

import pytest
from ase.build import bulk
from fieldloop.dft_inputs.abinit import AbinitSettings
from fieldloop.dft_inputs.espresso.settings import PwSettings
from fieldloop.dft_inputs.records import LABELS, Frame, LabelledFrame
from fieldloop.workflows.labelling import LabelMaker
from jobflow import run_locally
from pymatgen.io.ase import AseAtomsAdaptor


@pytest.fixture
def atoms():
    atoms = bulk("AlAs", "zincblende", a=5.65)
    atoms.rattle(0.05, seed=1)
    return atoms


def test_a_label_has_one_identity_whatever_class_it_came_in(atoms):
    maker = LabelMaker(settings=PwSettings.from_protocol("fast"))
    frame = Frame.from_atoms(atoms)
    uuids = {maker.make(structure).uuid for structure in (frame, atoms, AseAtomsAdaptor.get_structure(atoms))}
    assert len(uuids) == 1


def test_paths_and_parallelism_do_not_change_a_label_but_physics_does(atoms):
    frame = Frame.from_atoms(atoms)
    maker = LabelMaker(settings=PwSettings.from_protocol("fast"))
    same = [
        LabelMaker(settings=maker.settings, code=maker.code.model_copy(update={"launcher": ("env",), "timeout": 9.0})),
        LabelMaker(settings=PwSettings.from_protocol("fast", mixing_beta=0.3, electron_maxstep=200)),
        LabelMaker(settings=PwSettings.from_protocol("fast", ecutrho=48.0)),
    ]
    assert {other.label_id(frame) for other in same} == {maker.label_id(frame)}
    different = [
        LabelMaker(settings=PwSettings.from_protocol("fast", ecutwfc=14.0)),
        LabelMaker(settings=PwSettings.from_protocol("fast", kpoints=(3, 3, 3))),
        LabelMaker(settings=PwSettings.from_protocol("fast", input_dft="PBE")),
        LabelMaker(settings=maker.settings, step=2 * maker.step),
        LabelMaker(settings=maker.settings, order=4),
    ]
    ids = {other.label_id(frame) for other in different}
    assert len(ids) == len(different)
    assert maker.label_id(frame) not in ids


def test_a_label_job_runs_under_jobflows_own_manager(atoms, tmp_path):
    job = LabelMaker(settings=PwSettings.from_protocol("fast")).make(atoms)
    output = run_locally(job, root_dir=tmp_path, create_folders=True)[job.uuid][1].output
    assert isinstance(output, LabelledFrame)
    assert set(output.response.labels) == set(LABELS)
    assert output.quality.passed


def test_settings_and_code_must_be_of_one_program(atoms):
    maker = LabelMaker(settings=AbinitSettings.from_protocol("fast"))
    with pytest.raises(ValueError, match=r"AbinitSettings cannot be run by pw\.x: give an AbinitCode"):
        maker.label_id(Frame.from_atoms(atoms))
