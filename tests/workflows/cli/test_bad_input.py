"""Bad input gets one clear line and exit code 2, before the campaign's DFT starts."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write
from fieldloop.workflows.cli import app
from typer.testing import CliRunner


def refused(place, *arguments):
    """Run in this process; the one line on stderr."""
    result = CliRunner().invoke(app, [*map(str, arguments or ("loop", place.file))])
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.output
    assert not (place.run / "labels").exists()
    return result.stderr


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("workers: 2", "wrokers: 2", "unknown key wrokers"),
        ("workers: 2", "workers: two", "workers"),
        ("{count: 4,", "{cuont: 4,", "unknown key seeds.cuont"),
        ("5 MV/cm", "5 volts", "'5 volts' is no field"),
        ("60 fs", "60 A", "'60 A' is no time"),
        ("50 K", "50 C", "'50 C' is no temperature"),
        ("protocol: fast", "protocol: quick", "unknown protocol 'quick'"),
        ("protocol: fast", "protocol: fast\n  settings: {kpoints: Gamma}", "no finite field for a Gamma mesh"),
        ("protocol: fast", "protocol: fast\n  settings: {kpoints: [1, 1, 1]}", "at least two k-points"),
        ("protocol: fast", "protocol: fast\n  settings: {ecut: 20}", "unknown key ecut"),
        ("protocol: fast", "protocol: fast\n  field_step: 1e-9 V/A", "pw.x ignores fields below"),
        ("protocol: fast", "protocol: fast\n  field_step: 200 MV/cm", "field step must lie between"),
        ("Al.pz-vbc.UPF", "nothing.UPF", "cannot read the pseudopotential"),
        ("{Al: 3, As: -3}", "{Al: 3, As: -2}", "charge +1"),
        ("{Al: 3, As: -3}", "{Al: 3}", "reference_charges must name every species"),
        ("cutoff: 3.5", "cutof: 3.5", "unknown key cutof"),
        ("AlAs.vasp", "missing.vasp", "there is no structure file"),
        ("AlAs.vasp", "loop.yaml", "cannot read the structure"),
        ("count: 1", "count: 0", "selection.count"),
        ("name: tiny", "name: [", "is not valid YAML"),
        ("directory: run", "directory: loop.yaml", "loop.yaml"),
    ],
)
def test_of_the_campaign_file(place, old, new, words):
    place.change(old, new)
    assert words in refused(place)
    assert place.calls() == []


def test_no_such_file(place):
    assert "cannot read" in refused(place, "loop", place.folder / "other.yaml")


def test_pw_is_missing(place, monkeypatch):
    place.change(str(place.folder / "pw.sh"), "pw.x")
    monkeypatch.setenv("PATH", str(place.folder))
    assert "pw.x not found: load the module" in refused(place)


def test_an_element_without_a_pseudopotential(place):
    write(place.folder / "AlAs.vasp", bulk("GaAs", "zincblende", a=5.65))
    place.change("{Al: 3, As: -3}", "{Ga: 3, As: -3}")
    assert "no pseudopotential for Ga" in refused(place)


def test_a_molecule(place):
    write(place.folder / "AlAs.xyz", Atoms("AlAs", positions=[[0, 0, 0], [0, 0, 2.4]]))
    place.change("AlAs.vasp", "AlAs.xyz")
    assert "periodic in three directions" in refused(place)


def test_overlapping_atoms(place):
    crystal = bulk("AlAs", "zincblende", a=5.66)
    crystal.positions[1] = crystal.positions[0] + 0.1
    write(place.folder / "AlAs.vasp", crystal)
    assert "parent structure is unusable" in refused(place)


def test_an_unreadable_structure(place):
    (place.folder / "AlAs.vasp").write_bytes(np.random.default_rng(0).bytes(500))
    assert "cannot read the structure" in refused(place)


def test_an_odd_number_of_electrons_is_a_metal(place):
    write(place.folder / "AlAs.vasp", bulk("Al", "fcc", a=4.0) * (3, 1, 1))
    place.change("reference_charges: {Al: 3, As: -3}", "reference_charges: {}")
    assert "9 electrons leave a band half filled" in refused(place)
    assert place.calls() == []


def test_a_metal_is_told_by_one_scf(place):
    write(place.folder / "AlAs.vasp", bulk("Al", "fcc", a=4.0) * (2, 1, 1))
    place.change("reference_charges: {Al: 3, As: -3}", "reference_charges: {}")
    assert "metallic: fields need an insulator" in refused(place)
    assert len(place.calls()) == 1


def test_fields_above_the_critical_one(place):
    """They can be corrected in the same directory, as a refused campaign does not claim it."""
    place.change("protocol: fast", "protocol: fast\n  field_step: 50 MV/cm")
    assert "times the critical field" in refused(place)
    place.change("protocol: fast\n  field_step: 50 MV/cm", "protocol: fast")
    place.change("5 MV/cm", "500 MV/cm")
    assert "lower exploration.fields" in refused(place)
    assert len(place.calls()) == 1, "both ask for the same gap run"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("name: tiny", "name: other", 'name is "tiny", not "other"'),
        ("protocol: fast", "protocol: fast\n  settings: {ecutwfc: 14}", "ecutwfc is 12.0, not 14.0"),
        ("protocol: fast", "protocol: fast\n  order: 4", "order is 2, not 4"),
    ],
)
def test_a_store_of_another_project_or_protocol(finished, old, new, words):
    finished.change(old, new)
    result = CliRunner().invoke(app, ["loop", str(finished.file)])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert words in result.stderr
    assert finished.calls() == []


def test_a_store_that_is_none(place):
    place.run.mkdir()
    (place.run / "fieldloop.sqlite").write_text("not a database, but long enough to be read as one" * 20)
    assert "fieldloop.sqlite" in refused(place)


def test_from_a_real_process(place):
    place.change("workers: 2", "wrokers: 2")
    done = place.fieldloop("loop", place.file)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"fieldloop: {place.file}: unknown key wrokers\n"


@pytest.mark.parametrize("structure", ["missing.xyz", "loop.yaml"])
def test_frames_to_label(place, structure):
    assert structure in refused(place, "label", place.folder / structure, "--config", place.file)


def test_looking_at_a_campaign_that_has_not_begun(place):
    for verb in ("status", "report"):
        assert "start with `fieldloop loop`" in refused(place, verb, place.file)
        assert not place.run.exists(), "looking leaves nothing behind"
