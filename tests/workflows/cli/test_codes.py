"""The same commands with another DFT code: ``label.code`` in the campaign file."""

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io import write
from fieldloop.dft_inputs.abinit import AbinitCode
from fieldloop.dft_inputs.vasp.code import VaspCode
from fieldloop.workflows.campaign import read_store
from fieldloop.workflows.cli import app
from fieldloop.workflows.doctor import check_program
from fieldloop.workflows.queries import read_campaign
from typer.testing import CliRunner

PSEUDOPOTENTIALS = Path(__file__).parents[2] / "data" / "pseudopotentials"


def with_code(place, section: str, label: str):
    place.change(f"pw: {{command: {place.folder / 'pw.sh'}}}", section)
    place.change("protocol: fast\n  pseudopotentials: {Al: Al.pz-vbc.UPF, As: As.pz-bhs.UPF}", label)
    return place


@pytest.fixture
def abinit(place):
    """The campaign with ABINIT and Goedecker's files."""
    return with_code(place, f"abinit: {{pseudo_dir: {PSEUDOPOTENTIALS}}}", "code: abinit\n  protocol: fast")


def run(*arguments):
    result = CliRunner().invoke(app, [*map(str, arguments)])
    return result.exit_code, result.output


def test_abinit_labels_a_file_and_its_store_takes_no_other_code(abinit):
    crystal = bulk("AlAs", "zincblende", a=5.66)
    crystal.positions[1] += 0.05
    write(abinit.folder / "moved.xyz", crystal)
    words = ("label", abinit.folder / "moved.xyz", "--config", abinit.file)
    code, output = run(*words, "--source", "dfpt")
    assert code == 2
    assert "labels by DFPT are made with ph.x: set label.code to pw.x" in output
    code, output = run(*words)
    assert code == 0, output
    assert "1 frames: 1 done, 0 failed, 0 flagged" in output
    store = read_store(abinit.run / "fieldloop.sqlite")
    (label,) = read_campaign(store, abinit.run).labels
    assert label.provenance.code == "abinit"
    assert label.response.born_effective_charges is not None
    assert np.trace(label.response.born_effective_charges[0]) / 3 == pytest.approx(2.1, abs=0.2)
    assert abinit.calls() == []
    assert "3 SCFs in" in run("status", abinit.file)[1], "the others follow by symmetry"
    abinit.change("code: abinit\n  protocol: fast", "protocol: fast\n  pseudopotentials: {Al: Al.pz-vbc.UPF}")
    code, output = run("loop", abinit.file)
    assert code == 2
    assert 'code is "abinit", not unset' in output


def test_the_doctor_knows_the_version_of_each_code():
    assert check_program("abinit", AbinitCode()).detail.startswith("version ")
    assert check_program("vasp", VaspCode(command="sh")).detail.startswith("found ")


@pytest.mark.parametrize(
    ("section", "label", "words"),
    [
        ("pw: {}", "code: castep", "label.code: unknown code 'castep'; there are pw.x, abinit, vasp"),
        ("abinit: {command: no-abinit}", "code: abinit", "no-abinit not found: load the module of ABINIT"),
        ("vasp: {command: no-vasp}", "code: vasp", "no-vasp not found: load the module of VASP"),
        ("abinit: {command: 'abinit \"'}", "code: abinit", "is no command line: No closing quotation"),
        ("vasp: {command: ' '}", "code: vasp", "codes.vasp.command: name a program"),
        ("vasp: {command: vasp_gam}", "code: vasp", "codes.vasp: vasp_gam takes orbitals as real"),
        ("vasp: {pseudo_dir: here}", "code: vasp", "unknown key codes.vasp.pseudo_dir"),
        ("abinit: {}", "code: abinit\n  settings: {ecutwfc: 30}", "unknown key ecutwfc"),
        ("vasp: {}", "code: vasp\n  pseudopotentials: {Al: Al_GW}", "name POTCAR files in label.settings.potcars"),
        ("abinit: {pseudo_dir: nowhere}", "code: abinit", "pseudopotential folder"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(place, section, label, words):
    with_code(place, section, f"{label}\n  protocol: fast")
    result = CliRunner().invoke(app, ["loop", str(place.file)])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert words in result.stderr
    assert not (place.run / "labels").exists()
