"""A label whose fields are jobs of their own is the label of one job, bit for bit."""

import pytest
from ase.build import bulk
from fieldloop.dft_inputs.espresso import PwCode, PwSettings
from fieldloop.dft_inputs.labelling import label_part, run_fields
from fieldloop.dft_inputs.program import lease
from fieldloop.dft_inputs.records import Frame, LabelledFrame
from fieldloop.dft_inputs.stencil import Stencil
from fieldloop.workflows.executors import run_flow
from fieldloop.workflows.labelling import LabelMaker
from fieldloop.workflows.store import SQLiteStore
from jobflow import Flow, JobStore, run_locally


@pytest.fixture(scope="module")
def frame() -> Frame:
    atoms = bulk("AlAs", "zincblende", a=5.65)
    atoms.positions[0] += (0.12, -0.05, 0.03)
    return Frame.from_atoms(atoms)


@pytest.fixture(scope="module")
def maker() -> LabelMaker:
    return LabelMaker(settings=PwSettings.from_protocol("fast"), split_fields=True)


def numbers(label: LabelledFrame) -> dict:
    return label.model_dump(include={"label_id", "frame", "status", "response", "quality"})


@pytest.fixture(scope="module")
def whole(frame, maker, tmp_path_factory) -> LabelledFrame:
    job = LabelMaker(settings=maker.settings).make(frame)
    return run_locally(job, root_dir=tmp_path_factory.mktemp("whole"), create_folders=True)[job.uuid][1].output


def run(flow, root, retry=None):
    root.mkdir(exist_ok=True)
    store = JobStore(SQLiteStore(root / "store.sqlite"))
    store.connect()
    try:
        result = run_flow(flow, store=store, root=root, retry=retry)
        assert result.ok, result.failed
        return LabelledFrame.model_validate(store.get_output(flow.jobs[-1].uuid))
    finally:
        store.close()


def test_split_label_equals_the_whole_one(frame, maker, whole, tmp_path):
    flow = maker.make(frame)
    assert isinstance(flow, Flow)
    assert [job.name for job in flow.jobs] == ["label zero", "label x", "label y", "label z", "label"]
    label = run(flow, tmp_path / "run")
    assert label.status == "done", label.failure
    assert numbers(label) == numbers(whole)
    assert label.provenance.directory == f"labels/{label.label_id}"
    assert not list((tmp_path / "run").rglob("wfc*"))


def test_split_label_runs_under_jobflows_own_manager(frame, maker, whole, tmp_path):
    flow = maker.make(frame)
    output = run_locally(flow, root_dir=tmp_path, create_folders=True)[flow.jobs[-1].uuid][1].output
    assert numbers(output) == numbers(whole)


def test_a_part_that_fails_is_named_and_retried_alone(frame, maker, whole, tmp_path):
    """A launcher that fails along y, once."""
    script, log = tmp_path / "launch.sh", tmp_path / "log"
    script.write_text(f'#!/bin/bash\necho "$PWD" >> {log}\ncase "$PWD" in *field+y) exit 7;; esac\nexec "$@"\n')
    script.chmod(0o755)
    broken = LabelMaker(settings=maker.settings, code=PwCode(launcher=str(script)), split_fields=True)
    label = run(broken.make(frame), tmp_path / "run")
    assert label.status == "failed"
    assert label.failure == "pw.x failed (exit 7) at +y: no message"
    assert label.label_id == whole.label_id
    started = len(log.read_text().splitlines())
    script.write_text(f'#!/bin/bash\necho "$PWD" >> {log}\nexec "$@"\n')
    label = run(broken.make(frame), tmp_path / "run", retry=lambda document: document["output"]["status"] == "failed")
    assert label.status == "done", label.failure
    assert numbers(label) == numbers(whole)
    assert [line.rsplit("/", 1)[-1] for line in log.read_text().splitlines()[started:]] == ["field+y", "field-y"]


def test_a_part_leaves_the_points_of_others_alone(frame, maker, tmp_path):
    """One that has just ended is still in the hands of its own part: nobody else marks it or drops its files."""
    engine = maker.engine(frame)
    job = engine.prepare(frame, Stencil(), tmp_path)
    with lease(tmp_path, job.code) as descriptor:
        assert dict(run_fields(job, descriptor, only=("zero", "+x")))
    marked, scratch = job.folder("+x") / "pw.xml", job.folder("+x") / "scratch"
    marked.unlink()
    assert label_part(engine, frame, Stencil(), tmp_path, "z") is None
    assert not marked.exists() and any(scratch.iterdir())
    assert job.has_files("zero")
    assert label_part(engine, frame, Stencil(), tmp_path, "x") is None
    assert marked.exists() and not scratch.exists()


def logging_launcher(tmp_path):
    script, log = tmp_path / "count.sh", tmp_path / "started"
    script.write_text(f'#!/bin/bash\necho "$PWD" >> {log}\nexec "$@"\n')
    script.chmod(0o755)
    return PwCode(launcher=(str(script),)), log


def test_split_label_of_a_perfect_crystal_leaves_to_symmetry_what_the_whole_one_does(maker, tmp_path):
    crystal = Frame.from_atoms(bulk("AlAs", "zincblende", a=5.65))
    code, log = logging_launcher(tmp_path)
    label = run(LabelMaker(settings=maker.settings, code=code, split_fields=True).make(crystal), tmp_path / "run")
    assert label.status == "done", label.failure
    started = [line.rsplit("/", 1)[-1] for line in log.read_text().splitlines()]
    computed = [point.name for point in label.field_points if point.rotated_from is None]
    assert sorted(started) == sorted(name if name == "zero" else f"field{name}" for name in computed)
    assert len(started) == label.provenance.scf_count < 4


def test_split_label_of_a_metal_ends_at_zero_field(maker, tmp_path):
    """The gap of AlAs stretched by a quarter is below the least of an insulator, though its SCF converges."""
    atoms = bulk("AlAs", "zincblende", a=1.25 * 5.65)
    atoms.positions[0] += (0.12, -0.05, 0.03)
    metal = Frame.from_atoms(atoms)
    code, log = logging_launcher(tmp_path)
    label = run(LabelMaker(settings=maker.settings, code=code, split_fields=True).make(metal), tmp_path / "run")
    assert label.status == "failed"
    assert label.failure.startswith("metallic: fields need an insulator")
    assert [line.rsplit("/", 1)[-1] for line in log.read_text().splitlines()] == ["zero"]
