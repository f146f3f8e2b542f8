"""DFPT labels as jobs and from the command line."""

import pytest
import yaml
from ase.build import bulk
from ase.io import write
from fieldloop.dft_inputs.espresso.dfpt import PhCode, PhSettings
from fieldloop.dft_inputs.espresso.settings import PwSettings
from fieldloop.dft_inputs.records import LabelledFrame
from fieldloop.workflows.cli import app
from fieldloop.workflows.dfpt import DfptLabelMaker
from fieldloop.workflows.labelling import LabelMaker, as_frame
from jobflow import run_locally
from typer.testing import CliRunner


@pytest.fixture
def atoms():
    atoms = bulk("AlAs", "zincblende", a=5.65)
    atoms.rattle(0.05, seed=1)
    return atoms


@pytest.fixture
def maker():
    return DfptLabelMaker(settings=PwSettings.from_protocol("fast"))


def test_job_runs_under_jobflows_own_manager(atoms, maker, tmp_path):
    job = maker.make(atoms)
    output = run_locally(job, root_dir=tmp_path, create_folders=True)[job.uuid][1].output
    assert isinstance(output, LabelledFrame)
    assert output.status == "done", output.failure
    assert output.label_id == maker.label_id(as_frame(atoms))
    assert output.quality.flags == ("acoustic_sum_rule",)  # two k-points along each axis are far too few


def test_identity(atoms, maker):
    frame = as_frame(atoms)
    others = [
        DfptLabelMaker(settings=maker.settings, response=PhSettings(tr2_ph=1e-16)),
        DfptLabelMaker(settings=PwSettings.from_protocol("fast", ecutwfc=14.0)),
        LabelMaker(settings=maker.settings),
    ]
    assert len({maker.label_id(frame), *(other.label_id(frame) for other in others)}) == 4
    elsewhere = DfptLabelMaker(settings=maker.settings, code=PhCode(command="/opt/ph.x"))
    assert elsewhere.make(atoms).uuid == maker.make(atoms).uuid


def test_label_command(atoms, tmp_path):
    """A second call finds the label; finite-field labels of the same frame are labels of their own."""
    write(tmp_path / "frame.vasp", atoms)
    campaign = {
        "name": "dfpt",
        "structure": "frame.vasp",
        "label": {"protocol": "fast"},
        "selection": {"bounds": {"forces": 0.1}},
        "stop": {"forces": 0.1},
    }
    (tmp_path / "campaign.yaml").write_text(yaml.safe_dump(campaign))
    command = ["label", str(tmp_path / "frame.vasp"), "--config", str(tmp_path / "campaign.yaml"), "--quiet"]
    for _ in range(2):
        result = CliRunner().invoke(app, [*command, "--source", "dfpt"])
        assert result.exit_code == 0, result.output
        assert "1 done, 0 failed, 1 flagged" in result.output
    assert len(list((tmp_path / "run" / "labels").iterdir())) == 1
