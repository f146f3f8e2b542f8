"""`fieldloop doctor --vasp`: its verdicts on synthetic runs, right and wrong in one thing each."""

import numpy as np
import pytest
from fieldloop.dft_inputs.records import Frame
from fieldloop.dft_inputs.vasp import verdict
from fieldloop.dft_inputs.vasp.results import VaspOutputError
from fieldloop.workflows.cli import app
from fieldloop.workflows.vasp_doctor import examine_vasp
from typer.testing import CliRunner

STEP = 0.01
NAMES = [
    "sign of the field",
    "field in V/A, enthalpy with -E.P",
    "polarization in the enthalpy",
    "forces in the field",
    "rows of the Born block are fields",
]


@pytest.fixture
def trial(synthetic, tmp_path, monkeypatch):
    """The trial runs with the model as the crystal, its second atom as the oxygen."""
    crystal = synthetic.Crystal()

    def frame(move: float = 0.0) -> Frame:
        return synthetic.moved(crystal, verdict.OXYGEN, verdict.Z, move).frame

    monkeypatch.setattr(verdict, "trial_crystal", frame)

    def write(faults=None, scale=1.0):
        z = np.array([0, 0, STEP])
        plan = {"zero": 0 * z, verdict.PLUS: z, verdict.MINUS: -z}
        for name, field in plan.items():
            synthetic.write_run(tmp_path / name, crystal, scale * field, faults)
            if scale != 1.0:  # the code says one field and applies another
                for file in ("OUTCAR", "vasprun.xml"):
                    text = (tmp_path / name / file).read_text()
                    said, real = ("".join(f"{v:.8f}" for v in [-s * field[2]]) for s in (1.0, scale))
                    (tmp_path / name / file).write_text(text.replace(real, said))
        for name, by in ((verdict.UP, verdict.MOVE), (verdict.DOWN, -verdict.MOVE)):
            moved = synthetic.moved(crystal, verdict.OXYGEN, verdict.Z, by)
            synthetic.write_run(tmp_path / name, moved, np.zeros(3), faults)
        synthetic.write_run(tmp_path / verdict.RESPONSE, crystal, np.zeros(3), synthetic.Faults(born=True))
        return tmp_path

    return write


def failed(folder) -> list[str]:
    verdicts = verdict.judge_trial_runs(folder)
    assert [one.name for one in verdicts] == NAMES
    return [one.name for one in verdicts if not one.ok]


def test_all_as_assumed(trial):
    folder = trial()
    assert failed(folder) == []
    assert {finding.state for finding in examine_vasp(folder)} == {"ok"}


def test_other_sign(trial, synthetic):
    assert "sign of the field" in failed(trial(synthetic.Faults(sign=1.0)))


def test_other_unit(trial):
    """A field twice as strong as it says: P and the enthalpy do not agree on alpha, nor forces and P on Z*."""
    assert {"field in V/A, enthalpy with -E.P", "forces in the field"} <= set(failed(trial(scale=2.0)))


def test_forces_without_the_field(trial, synthetic):
    folder = trial(synthetic.Faults(deaf_forces=True))
    assert "forces in the field" in failed(folder)
    assert any("take DFPT" in finding.fix for finding in examine_vasp(folder))


def test_transposed_born_block(trial, synthetic):
    folder = trial()
    crystal = synthetic.Crystal()
    crystal.charges, crystal.bent = crystal.charges.swapaxes(1, 2), crystal.bent.swapaxes(1, 2)
    synthetic.write_run(folder / verdict.RESPONSE, crystal, np.zeros(3), synthetic.Faults(born=True))
    # Only the block is of interest; the geometry is the same.
    assert "rows of the Born block are fields" in failed(folder)


def test_without_the_response_run(trial):
    folder = trial()
    (folder / verdict.RESPONSE / "OUTCAR").unlink()
    assert [one.name for one in verdict.judge_trial_runs(folder)] == NAMES[:-1]


def test_a_missing_run_is_named(trial):
    folder = trial()
    for file in (folder / verdict.UP).iterdir():
        file.unlink()
    with pytest.raises(VaspOutputError, match=verdict.UP):
        verdict.judge_trial_runs(folder)


def test_command_writes_inputs_first(tmp_path):
    folder = tmp_path / "check"
    result = CliRunner().invoke(app, ["doctor", "--vasp", str(folder)])
    assert result.exit_code == 0, result.output
    assert {run.name for run in folder.iterdir()} == {
        "zero", verdict.PLUS, verdict.MINUS, verdict.UP, verdict.DOWN, verdict.RESPONSE
    }  # fmt: skip
    assert "EFIELD_PEAD = 0 0 -0.01" in (folder / verdict.PLUS / "INCAR").read_text()
    result = CliRunner().invoke(app, ["doctor", "--vasp", str(folder)])
    assert result.exit_code == 1
    assert "neither OUTCAR nor vasprun.xml" in " ".join(result.output.split())
