"""A campaign that names VASP: the same words, store and records as with any code. The program is synthetic."""

import pytest
import yaml
from case_vasp import vasp_program
from fieldloop.workflows.campaign import STORE_FILE, read_store
from fieldloop.workflows.cli import app
from fieldloop.workflows.queries import find
from fieldloop.workflows.query import Query
from typer.testing import CliRunner


@pytest.fixture
def campaign(synthetic, tmp_path):
    """A campaign file beside the frame to label; the program can be another."""
    code = vasp_program(tmp_path)
    synthetic.Crystal().frame.to_atoms().write(tmp_path / "parent.extxyz")

    def write(command=code.command):
        words = {
            "name": "mgo",
            "structure": "parent.extxyz",
            "directory": "run",
            "workers": 1,
            "reference_charges": {"Mg": 2, "O": -2},
            "codes": {"vasp": {"command": command, "potcar_dir": code.potcar_dir}},
            "label": {"code": "vasp", "protocol": "standard", "settings": {"kpoints": list(synthetic.MESH)}},
            "exploration": {"temperatures": ["200 K"], "fields": [[0, 0, 0]], "timestep": "2 fs", "duration": "1 ps"},
            "selection": {"bounds": {"forces": 0.1, "polarization": 0.05, "born_effective_charges": 0.08}},
            "stop": {"forces": 0.05, "polarization": 0.04, "born_effective_charges": 0.04},
        }
        (tmp_path / "campaign.yaml").write_text(yaml.safe_dump(words))
        return ["label", str(tmp_path / "parent.extxyz"), "--config", str(tmp_path / "campaign.yaml"), "--quiet"]

    return write


def test_frames_are_labelled_by_the_program_of_the_campaign(synthetic, campaign, tmp_path):
    result = CliRunner().invoke(app, campaign())
    assert result.exit_code == 0, result.output
    assert "1 done, 0 failed, 0 flagged" in result.output
    store = read_store(tmp_path / "run" / STORE_FILE)
    (label,) = find(store, Query(code="vasp"))
    store.close()
    crystal = synthetic.Crystal()
    assert label.response.born_effective_charges == pytest.approx(crystal.born, abs=2e-4)
    # The step is that of VASP, whose dipoles have five decimals, not that of pw.x.
    assert {abs(round(float(point.field.sum()), 6)) for point in label.field_points} == {0.0, 0.01}


def test_a_program_that_is_missing_is_told_before_anything_runs(campaign, tmp_path):
    result = CliRunner().invoke(app, campaign("no-such-vasp"))
    assert result.exit_code != 0
    assert "set codes.vasp.command" in " ".join(result.output.split())
    assert not list((tmp_path / "run").glob("labels/*"))
