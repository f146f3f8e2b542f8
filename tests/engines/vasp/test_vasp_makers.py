"""Flows of VASP on atomate2, whose own mock stands for VASP: inputs are compared, outputs are synthetic."""

import numpy as np
import pytest
from atomate2.utils.testing.vasp import monkeypatch_vasp
from atomate2.vasp.sets.core import StaticSetGenerator
from fieldloop.dft_inputs.records import LabelledFrame
from fieldloop.dft_inputs.vasp.inputs import field_incar, incar_text, kpoints_text, poscar_text, response_incar
from fieldloop.dft_inputs.vasp.settings import VaspSettings
from fieldloop.workflows.vasp import FiniteFieldVaspMaker, VaspDfptLabelMaker, input_set_generator
from fieldloop.workflows.worker import encode_job
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from monty.json import MontyDecoder
from pymatgen.io.vasp.sets import MPStaticSet


@pytest.fixture
def settings(synthetic):
    return VaspSettings(protocol="test", kpoints=synthetic.MESH, potcars={"Mg": "Mg_pv"})


@pytest.fixture
def reference(synthetic, tmp_path, settings, monkeypatch):
    """Reference folders of atomate2's mock; a job whose inputs differ from them fails."""
    folder = tmp_path / "references"
    paths = {}

    def add(name, applied, incar, faults=None):
        inputs, outputs = folder / name / "inputs", folder / name / "outputs"
        inputs.mkdir(parents=True)
        crystal = synthetic.Crystal()
        texts = {"INCAR": incar_text(incar), "KPOINTS": kpoints_text(settings), "POSCAR": poscar_text(crystal.frame)}
        for file, text in {**texts, "POTCAR.spec": "O\nMg_pv\n"}.items():
            (inputs / file).write_text(text)
        synthetic.write_run(outputs, crystal, applied, faults)
        for file in ("INCAR", "KPOINTS", "POSCAR"):  # the mock takes the job's own away
            (outputs / file).write_text(texts[file])
        (outputs / "WAVECAR").write_text("SYNTHETIC")
        paths[f"VASP {name}"] = name

    mock = monkeypatch_vasp(monkeypatch, folder, nelect=16)
    register = next(mock)
    yield add, lambda: register(paths)
    next(mock, None)


def run(flow, folder):
    outputs = run_locally(flow, root_dir=folder, create_folders=True, store=JobStore(MemoryStore()))
    label = outputs[flow.output.uuid][1].output
    assert isinstance(label, LabelledFrame)
    return label, outputs


def test_finite_field_label(synthetic, settings, reference, tmp_path):
    crystal, maker = synthetic.Crystal(), FiniteFieldVaspMaker(settings=settings)
    add, start = reference
    for name, applied in maker.stencil_at().points().items():
        add(name, applied, field_incar(settings, applied))
    start()
    flow = maker.make(crystal.frame)
    label, outputs = run(flow, tmp_path / "runs")
    assert label.status == "done", label.failure
    assert len(outputs) == 8
    assert label.frame == crystal.frame
    assert label.label_id == maker.label_id(crystal.frame)
    assert label.response.born_effective_charges == pytest.approx(crystal.born, abs=2e-4)
    assert label.response.polarizability == pytest.approx(crystal.alpha, abs=2e-3)
    assert label.quality.flags == ()
    assert (label.provenance.code, label.provenance.scf_count, label.provenance.kpoints) == ("vasp", 7, synthetic.MESH)


def test_a_failed_run_gives_a_failed_label(synthetic, settings, reference, tmp_path):
    """The mock has no reference for -y, so that job raises; the label names it."""
    crystal, maker = synthetic.Crystal(), FiniteFieldVaspMaker(settings=settings)
    add, start = reference
    for name, applied in maker.stencil_at().points().items():
        if name != "-y":
            add(name, applied, field_incar(settings, applied))
    start()
    label, _ = run(maker.make(crystal.frame), tmp_path / "runs")
    assert label.status == "failed"
    assert label.failure == "the run at -y has failed; see its job"
    assert label.label_id == maker.label_id(crystal.frame)


def test_dfpt_label(synthetic, settings, reference, tmp_path):
    crystal, maker = synthetic.Crystal(), VaspDfptLabelMaker(settings=settings)
    add, start = reference
    add("response", np.zeros(3), response_incar(settings), synthetic.Faults(born=True))
    start()
    label, _ = run(maker.make(crystal.frame), tmp_path / "runs")
    assert label.status == "done", label.failure
    assert label.response.born_effective_charges == pytest.approx(crystal.born, abs=1e-5)
    assert label.response.polarizability == pytest.approx(crystal.alpha, abs=1e-5)


def test_a_response_run_without_responses_fails(synthetic, settings, reference, tmp_path):
    add, start = reference
    add("response", np.zeros(3), response_incar(settings))
    start()
    label, _ = run(VaspDfptLabelMaker(settings=settings).make(synthetic.Crystal().frame), tmp_path / "runs")
    assert "no Born charges" in label.failure


def test_a_run_on_another_mesh_is_no_label(synthetic, settings, reference, tmp_path):
    """As custodian may correct KPOINTS."""
    add, start = reference
    add("response", np.zeros(3), response_incar(settings), synthetic.Faults(born=True))
    wanted = settings.model_copy(update={"kpoints": (7, 7, 7)})
    (tmp_path / "references" / "response" / "inputs" / "KPOINTS").write_text(kpoints_text(wanted))
    start()
    label, _ = run(VaspDfptLabelMaker(settings=wanted).make(synthetic.Crystal().frame), tmp_path / "runs")
    assert (label.status, label.response.labels) == ("failed", ())
    assert label.failure == f"the mesh of the runs is {synthetic.MESH}, not (7, 7, 7)"


def test_jobs_travel_as_text(synthetic, settings):
    """To the workers of ``run_flow``, tags, mesh and POTCAR files included."""
    flow = FiniteFieldVaspMaker(
        settings=settings, run_vasp_kwargs={"vasp_cmd": "srun vasp_std", "vasp_job_kwargs": {"backup": False}}
    ).make(synthetic.Crystal().frame)
    for job in flow.jobs:
        again = MontyDecoder().decode(encode_job(job))
        assert again.uuid == job.uuid
        if job is not flow.jobs[-1]:
            generator, other = again.maker.input_set_generator, job.maker.input_set_generator
            assert generator.user_incar_settings == other.user_incar_settings
            assert generator.config_dict["POTCAR"] == {"O": "O", "Mg": "Mg_pv"}
            assert again.maker.run_vasp_kwargs["vasp_cmd"] == "srun vasp_std"
            assert again.maker.run_vasp_kwargs["vasp_job_kwargs"] == {"backup": False, "auto_gamma": False}


def test_jobs_are_known_by_their_content(synthetic, settings):
    frame, maker = synthetic.Crystal().frame, FiniteFieldVaspMaker(settings=settings)
    uuids = [job.uuid for job in maker.make(frame).jobs]
    assert uuids == [job.uuid for job in FiniteFieldVaspMaker(settings=settings).make(frame).jobs]
    others = FiniteFieldVaspMaker(settings=settings.model_copy(update={"encut": 600.0})).make(frame).jobs
    assert set(uuids).isdisjoint(job.uuid for job in others)
    moved = FiniteFieldVaspMaker(settings=settings, run_vasp_kwargs={"vasp_cmd": "/opt/vasp"}).make(frame).jobs
    assert uuids == [job.uuid for job in moved]


def test_input_set_adds_nothing_of_its_own(synthetic, settings, tmp_path):
    """Exactly our tags; those that it shares with MPStaticSet and atomate2's static sets differ where a field asks."""
    frame = synthetic.Crystal().frame
    incar = field_incar(settings, np.array([0, 0, 0.01]))
    structure = frame.to_atoms()
    from pymatgen.io.ase import AseAtomsAdaptor

    structure = AseAtomsAdaptor.get_structure(structure[[0, 2, 1, 3]])
    generated = input_set_generator(settings, incar, frame.species).get_input_set(structure, potcar_spec=True)["INCAR"]
    assert {tag: tuple(v) if isinstance(v, list) else v for tag, v in generated.items()} == incar
    zero = synthetic.write_run(tmp_path / "zero", synthetic.Crystal(), np.zeros(3))
    (zero / "INCAR").write_text("MAGMOM = 4*1.0\nLDAU = .TRUE.\nEFIELD_PEAD = 0.0 0.2 0.0\n")
    (zero / "KPOINTS").write_text(kpoints_text(settings))
    (zero / "POSCAR").write_text(poscar_text(frame))
    generator = input_set_generator(settings, incar, frame.species)
    assert generator.get_input_set(structure, prev_dir=zero, potcar_spec=True)["INCAR"] == generated
    expected = {"ALGO", "EDIFF", "ISMEAR", "SIGMA", "LCHARG", "LWAVE", "NELM", "LREAL"}
    for other in (
        MPStaticSet(structure).incar,
        StaticSetGenerator(lcalcpol=True).get_input_set(structure, potcar_spec=True)["INCAR"],
    ):
        shared = {tag for tag in incar if tag in other and other[tag] != incar[tag]}
        assert shared <= expected | {"ENCUT", "ISIF", "IBRION"}, {tag: (incar[tag], other[tag]) for tag in shared}
    assert StaticSetGenerator(lcalcpol=True).incar_updates["LCALCPOL"] == incar["LCALCPOL"]
    dfpt = StaticSetGenerator(lepsilon=True).incar_updates
    ours = response_incar(settings)
    assert (dfpt["LEPSILON"], dfpt["LPEAD"]) == (ours["LEPSILON"], ours["LPEAD"])
