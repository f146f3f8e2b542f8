"""First frames of campaigns: kept on disk, and the same for everybody who needs them."""

import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read, write
from fieldloop.active_learning.sampling.seeds import SeedSettings, seed_frames
from fieldloop.dft_inputs.records import Frame
from fieldloop.workflows.cli import app
from fieldloop.workflows.config import CampaignConfig, ConfigError, SamplingConfig, load_config, load_project
from fieldloop.workflows.labelling import LabelMaker
from fieldloop.workflows.loop import LoopMaker, label_maker
from fieldloop.workflows.seeding import campaign_frames, first_frames
from typer.testing import CliRunner

MD = """\
    - kind: classical-md
      potential: {preset: vashishta-SiO2}
      temperatures: [300 K, 600 K]
      equilibration: 20 fs
      interval: 20 fs
      count: 4
"""


@pytest.fixture
def quartz() -> Atoms:
    places = [[0.4697, 0, 1 / 3], [0, 0.4697, 2 / 3], [0.5303, 0.5303, 0]]
    x, y, z = 0.4133, 0.2672, 0.2145
    places += [[x, y, z], [-y, x - y, z + 1 / 3], [y - x, -x, z + 2 / 3]]
    places += [[y, x, -z], [x - y, -y, 1 / 3 - z], [-x, y - x, 2 / 3 - z]]
    return Atoms("Si3O6", scaled_positions=places, cell=[4.9137, 4.9137, 5.4047, 90, 90, 120], pbc=True)


@pytest.fixture
def project(tmp_path, quartz):
    """A file with structure and sources alone."""
    write(tmp_path / "quartz.vasp", quartz)
    file = tmp_path / "quartz.yaml"
    file.write_text(f"structure: quartz.vasp\nseeds:\n  sources:\n{MD}    - {{kind: rattle, count: 2}}\n")
    return file


def sampled(file, *arguments):
    return CliRunner().invoke(app, ["sample", str(file), *map(str, arguments)])


def test_sample_writes_frames_with_their_provenance(project, tmp_path):
    result = sampled(project, "--out", tmp_path / "frames.extxyz")
    assert result.exit_code == 0, result.output
    assert "7 frames in" in result.stdout and "1 parent, 4 classical-md, 2 rattle" in result.stdout
    images = read(tmp_path / "frames.extxyz", ":")
    config = load_project(project, SamplingConfig)
    parent = Frame.from_atoms(read(tmp_path / "quartz.vasp"))
    frames = seed_frames(parent, config.seeds)
    assert len(images) == len(frames) == 7
    for atoms, (frame, proposal) in zip(images, frames, strict=True):
        assert np.allclose(atoms.positions, frame.positions, atol=1e-7)
        assert atoms.info["origin"] == proposal.origin
        assert atoms.info["reason"] == proposal.reason
        assert atoms.info["frame_id"] == frame.frame_id
    assert images[2].info["temperature"] == 600


def test_frames_are_made_once(project, tmp_path):
    assert sampled(project, "-o", tmp_path / "first.extxyz").exit_code == 0
    (kept,) = (tmp_path / "run" / "seeds").iterdir()
    written = kept.stat().st_mtime_ns
    start = time.perf_counter()
    assert sampled(project, "-o", tmp_path / "second.extxyz").exit_code == 0
    assert time.perf_counter() - start < 5
    assert kept.stat().st_mtime_ns == written
    assert (tmp_path / "first.extxyz").read_bytes() == (tmp_path / "second.extxyz").read_bytes()
    kept.write_text(kept.read_text()[:-40])
    result = sampled(project, "-o", tmp_path / "second.extxyz")
    assert result.exit_code == 2 and "is damaged: remove it" in result.stderr


def test_frames_are_found_by_content_wherever_the_files_lie(tmp_path):
    parent = Frame.from_atoms(bulk("AlAs", "zincblende", a=5.66, cubic=True))
    moved = [f.to_atoms() for f, _ in seed_frames(parent, SeedSettings(count=4, strain=0.0))[1:]]

    def frames(name, images):
        (tmp_path / name).mkdir(exist_ok=True)
        write(tmp_path / name / "md.extxyz", images)
        source = {"kind": "trajectory", "file": tmp_path / name / "md.extxyz"}
        return first_frames(parent, SeedSettings(sources=[source]), tmp_path / "run")

    def kept():
        return len(list((tmp_path / "run" / "seeds").iterdir()))

    assert frames("here", moved) == frames("there", moved)
    assert kept() == 1
    assert len(frames("there", moved[:2])) == 3
    assert kept() == 2


def test_a_kept_frame_reads_back_exactly(project, tmp_path):
    config = load_project(project, SamplingConfig)
    parent = Frame.from_atoms(read(tmp_path / "quartz.vasp"))
    made = first_frames(parent, config.seeds, config.directory)
    assert first_frames(parent, config.seeds, config.directory) == made


CAMPAIGN = """\
name: quartz
structure: quartz.vasp
seeds: {{sources: [{sources}]}}
committee: {{validation_every: 3}}
selection: {{bounds: {{forces: 0.1}}}}
stop: {{forces: 0.1}}
"""


@pytest.fixture
def campaign(tmp_path, quartz):
    def load(*sources: str) -> tuple[Frame, CampaignConfig]:
        write(tmp_path / "quartz.vasp", quartz)
        (tmp_path / "loop.yaml").write_text(CAMPAIGN.format(sources=", ".join(sources)))
        config = load_config(tmp_path / "loop.yaml")
        return Frame.from_atoms(read(config.structure)), config

    return load


def test_validation_frames_are_known_without_making_the_frames_again(campaign, tmp_path):
    parent, config = campaign("{kind: rattle, count: 3}", "{kind: trajectory, file: md.extxyz}")
    images = [f.to_atoms() for f, _ in seed_frames(parent, SeedSettings(count=6, strain=0.0, seed=9))[1:]]
    write(tmp_path / "md.extxyz", images)
    frames = campaign_frames(parent, config)
    assert len(frames) == 9
    from fieldloop.active_learning.criteria import StopCriterion
    from fieldloop.active_learning.selection import SelectionSettings
    from fieldloop.dft_inputs.espresso.code import PwCode
    from fieldloop.dft_inputs.espresso.settings import PwSettings
    from fieldloop.model.settings import NetworkConfig
    from fieldloop.workflows.training import TrainMaker

    pseudopotentials = str(Path(__file__).parents[1] / "data" / "pseudopotentials")
    maker = LoopMaker(
        train=TrainMaker(network=NetworkConfig(species=("O", "Si"))),
        selection=SelectionSettings(bounds={"forces": 0.1}),
        stop=StopCriterion(forces=0.1),
        label=LabelMaker(settings=PwSettings.from_protocol("fast"), code=PwCode(pseudo_dir=pseudopotentials)),
        seeds=config.seeds,
        validation_every=3,
    )
    (tmp_path / "md.extxyz").unlink()  # a worker on another machine may not see it
    flow = maker.make(parent, frames)
    labels = [job for job in flow.jobs if job.name == "label"]
    assert len(labels) == 9
    planned = next(job for job in flow.jobs if job.name == "plan").function_args[0]
    expected = [maker.label.label_id(frame) for frame, _ in frames[2::3]]
    assert planned.validation_ids(parent) == expected
    again = LoopMaker.from_dict(planned.as_dict())
    assert again.validation_ids(parent) == expected


def test_too_few_frames_are_refused(campaign, tmp_path):
    parent, config = campaign("{kind: trajectory, file: md.extxyz}")
    moved = parent.to_atoms()
    moved.positions[0] += 0.1
    write(tmp_path / "md.extxyz", moved)
    with pytest.raises(ConfigError, match="2 frames leave none to validate on: make at least 3"):
        campaign_frames(parent, config)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("kind: rattle", "kind: ratle", "ratle"),
        ("count: 2", "cuont: 2", "unknown key seeds.sources.1.rattle.cuont"),
        ("vashishta-SiO2", "vashishta-SiO3", "unknown LAMMPS potential 'vashishta-SiO3'"),
        ("quartz.vasp", "other.vasp", "there is no structure file"),
        ("structure:", "structrue:", "structure is missing"),
        ("interval: 20 fs", "interval: 20 K", "'20 K' is no time"),
    ],
)
def test_bad_files_get_one_line(project, tmp_path, old, new, words):
    project.write_text(project.read_text().replace(old, new))
    result = sampled(project, "-o", tmp_path / "frames.extxyz")
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1 and words in result.stderr
    assert not (tmp_path / "frames.extxyz").exists()


def test_a_missing_folder_is_told_before_any_dynamics(project, tmp_path):
    for place in (tmp_path / "nowhere" / "frames.extxyz", tmp_path):
        result = sampled(project, "-o", place)
        assert result.exit_code == 2 and f"cannot write {place}" in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_file_that_cannot_be_written_after_all_is_told_in_one_line(project):
    result = sampled(project, "-o", Path("/proc/frames.extxyz"))
    assert result.exit_code == 2
    assert result.stderr.startswith("fieldloop: cannot write /proc/frames.extxyz")


SUPERCELL = """\
name: wall
structure: BaTiO3.vasp
reference_charges: {Ba: 2, Ti: 4, O: -2}
label: {protocol: fast, settings: {kpoints: MESH}}
seeds: {sources: [{kind: domain-wall, supercell: [4, 1, 1], centres: [Ba, Ti], count: 4}]}
selection: {bounds: {forces: 0.1}}
stop: {forces: 0.1}
"""


@pytest.mark.parametrize(("mesh", "words"), [("[4, 2, 2]", None), ("[3, 2, 2]", r"\[4, 2, 2\] can")])
def test_walls_share_a_data_set_with_their_crystal_if_the_mesh_can_be_divided(tmp_path, mesh, words):
    places = [[0, 0, 0], [0.5, 0.5, 0.5224], [0.5, 0.5, -0.0244], [0.5, 0, 0.4895], [0, 0.5, 0.4895]]
    cell = np.diag([3.9970, 3.9970, 4.0314])
    write(tmp_path / "BaTiO3.vasp", Atoms("BaTiO3", scaled_positions=places, cell=cell, pbc=True))
    (tmp_path / "loop.yaml").write_text(SUPERCELL.replace("MESH", mesh))
    config = load_config(tmp_path / "loop.yaml")
    parent = Frame.from_atoms(read(config.structure))
    frames = campaign_frames(parent, config)
    assert [len(frame) for frame, _ in frames] == [5, 20, 20, 20, 20]
    maker = LabelMaker(settings=label_maker(config).settings).for_parent(parent)
    if words is None:
        assert [maker.settings_for(frame).mesh for frame, _ in frames] == [(4, 2, 2)] + [(1, 2, 2)] * 4
    else:
        with pytest.raises(ValueError, match=words):
            maker.settings_for(frames[1][0])
