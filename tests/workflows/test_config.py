"""The campaign file: what is read, and what is refused with the place where it stands."""

import shlex
from pathlib import Path

import pytest
from fieldloop.workflows.config import ConfigError, load_config

DEMO = Path(__file__).parents[2] / "examples" / "alas" / "loop.yaml"


def refused(tmp_path, old: str, new: str) -> str:
    text = DEMO.read_text()
    assert old in text
    path = tmp_path / "loop.yaml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_demo_is_read_with_its_units():
    config = load_config(DEMO)
    assert config.structure == DEMO.parent / "AlAs.vasp"
    assert config.label.field_step == pytest.approx(3.6e-3)
    assert config.exploration.duration == pytest.approx(1000.0)
    network = config.network(("As", "Al", "As"))
    assert network.species == ("Al", "As")
    assert network.reference_charges == {"Al": 3, "As": -3}


def test_a_committee_that_trains_in_one_pass_is_not_compiled(tmp_path):
    path = tmp_path / "loop.yaml"
    path.write_text(DEMO.read_text().replace("tolerances: {", "compile: true\n    tolerances: {", 1))
    (tmp_path / "AlAs.vasp").write_text((DEMO.parent / "AlAs.vasp").read_text())
    assert load_config(path).committee.training.compile
    path.write_text(path.read_text().replace("members:", "together: true\n  members:", 1))
    with pytest.raises(ConfigError, match=r"training\.compile is for networks that are trained one by one"):
        load_config(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("workers: 2", "wrokers: 2", "unknown key wrokers"),
        ("field_step: 0.36 MV/cm", "field_step: 0.36 MV", "label.field_step"),
        ("duration: 1 ps", "duration: 1 eV", "exploration.duration"),
        ("field_step: 0.36 MV/cm", "field_step: 0.36 MV/cm\n  field_step: 0.4 MV/cm", "given twice"),
        ("candidate_every: 50 fs", "candidate_every: 50 ps", "between timestep"),
        ("duration: 1 ps", "duration: .inf", "exploration.duration: Input should be a finite number"),
        ("temperatures: [200 K", "temperatures: [-200 K", "exploration.temperatures.0"),
        ("command: pw.x", "command: ' '", "codes.pw.command: name a program"),
        ("command: pw.x", "launcher: mpirun 'a", "codes.pw.launcher"),
        (
            "tolerances: {",
            "tolerances: {forces: null, enthalpy: null, polarization: null, "
            "born_effective_charges: null, polarizability: null, ",
            "every label is left out",
        ),
        ("members:", "members: 1 #", "committee.members"),
        ("count: 10", "count: 3", "validation"),
        ("name: alas", "name: a/b", "name"),
        ("structure: AlAs.vasp", "", "structure is missing"),
    ],
)
def test_mistakes_are_named(tmp_path, old, new, message):
    assert message in refused(tmp_path, old, new)


def test_no_text_and_no_mapping_are_refused(tmp_path):
    path = tmp_path / "loop.yaml"
    path.write_bytes(bytes(range(128, 256)))
    with pytest.raises(ConfigError, match="not a text file"):
        load_config(path)
    path.write_text("- a list")
    with pytest.raises(ConfigError, match="mapping"):
        load_config(path)
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path / "absent.yaml")


def test_architecture_mistakes_are_named(tmp_path):
    path = tmp_path / "loop.yaml"
    path.write_text(DEMO.read_text().replace("cutoff: 5.0", "cutof: 5.0").replace("cutoff: 4.2", "cutof: 4.2"))
    with pytest.raises(ConfigError, match="unknown key cutof"):
        load_config(path).network(("Al", "As"))


def test_what_is_known_from_elsewhere_is_not_given_again(tmp_path):
    path = tmp_path / "loop.yaml"
    path.write_text(DEMO.read_text().replace("network: {", "network: {reference_charges: {Al: 1, As: -1}, "))
    with pytest.raises(ConfigError, match="reference_charges is known from elsewhere"):
        load_config(path).network(("Al", "As"))


def test_relative_paths_are_those_beside_the_file(tmp_path):
    """pw.x runs in directories of its own, so nothing may depend on the working directory."""
    folder = tmp_path / "a b"
    folder.mkdir()
    text = DEMO.read_text().replace("command: pw.x", "command: ./bin/pw.x -nd 1\n    pseudo_dir: pseudo")
    (folder / "loop.yaml").write_text(text)
    pw = load_config(folder / "loop.yaml").codes.pw
    assert pw.pseudo_dir == str(folder / "pseudo")
    assert shlex.split(pw.command) == [str(folder / "bin" / "pw.x"), "-nd", "1"]
    assert load_config(DEMO).codes.pw.command == "pw.x"
