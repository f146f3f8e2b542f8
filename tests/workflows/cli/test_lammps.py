"""``fieldloop lammps run`` with a network trained on DFT, and the one line that each kind of bad input gets."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.io import write
from fieldloop.dft_inputs.records import Frame
from fieldloop.model.dynamics.fields import PulsedField, RampedField, SinusoidalField, StaticField, TabulatedField
from fieldloop.model.files import load_model, save_model
from fieldloop.model.graph import build_graph
from fieldloop.model.label_range import LabelRange
from fieldloop.model.responses import compute_responses
from fieldloop.workflows.cli import app
from fieldloop.workflows.lammps_files import ends
from typer.testing import CliRunner

MODEL = Path(__file__).parents[2] / "data" / "models" / "alas"
FIX = "fix field all external pf/callback 1 1"
SCRIPT = f"""\
units metal
atom_style atomic
variable n index 2
read_data alas.data
labelmap atom 1 Al 2 As
pair_style none
{FIX}  # the model
variable ez equal f_field[6]
thermo_style custom step pe f_field f_field[3] v_ez
thermo 1
fix move all nve
label again
variable turn loop 2
run $n post no
next turn
jump SELF after
label after
fix written all print 1 "$(step) $(f_field[3]:%.10g) $(f_field[6]:%.10g)" file p.txt screen no
run 2
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a script, its atoms, and a model whose labels reached 1 MV/cm."""
    monkeypatch.chdir(tmp_path)
    atoms = bulk("AlAs", "zincblende", a=5.6139, cubic=True)
    atoms.rattle(0.02, seed=1)
    write("alas.data", atoms, format="lammps-data", masses=True)
    Path("in.run").write_text(SCRIPT)
    save_model(load_model(MODEL), Path("trained"), LabelRange(largest_field=0.01))
    return tmp_path


def run(*words):
    return CliRunner().invoke(app, ["lammps", "run", *map(str, words)], env={"COLUMNS": "160"})


def refused(*words):
    result = run("in.run", "-m", "trained", *words)
    assert result.exit_code == 2, result.output
    return " ".join(result.output.split())


def test_a_script_runs_with_its_loops_and_variables(place):
    result = run("in.run", "-m", "trained", "--field", "0 0 1 MV/cm", "--var", "n=3", "-q")
    assert result.exit_code == 0, result.output
    assert "step 5 at 0.005 ps" in result.output
    assert "E = 0 0 1 MV/cm; log in log.lammps" in result.output
    table = np.loadtxt("p.txt")
    assert table[:, 0].tolist() == [3.0, 4.0, 5.0]
    assert np.all(table[:, 2] == 0.01)
    assert "f_field[3]" in Path("log.lammps").read_text()


def test_a_field_in_time_from_a_file_and_species_by_hand(place):
    Path("in.run").write_text(SCRIPT.replace("labelmap", "#"))
    Path("lammps.yaml").write_text("field: {kind: sinusoidal, amplitude: [0, 0, 1 MV/cm], period: 20 fs}\n")
    assert "atom type 1, 2 has no chemical symbol" in refused("-q")
    result = run("in.run", "-m", "trained", "-s", "lammps.yaml", "--species", "Al,As", "-q", "--log", "other.log")
    assert result.exit_code == 0, result.output
    assert np.loadtxt("p.txt")[:, 2] == pytest.approx(0.01 * np.sin(2 * np.pi * np.array([2, 3, 4]) / 20), abs=1e-9)
    assert Path("other.log").exists()


def test_the_energy_is_that_of_the_model(place):
    Path("in.run").write_text(SCRIPT.split("label again", maxsplit=1)[0] + "run 0\n")
    result = run("in.run", "-m", "trained", "--field", "0 0 0.005", "-q")
    atoms = bulk("AlAs", "zincblende", a=5.6139, cubic=True)
    atoms.rattle(0.02, seed=1)
    model = load_model(MODEL)
    graph = build_graph([Frame.from_atoms(atoms)], model.species, model.cutoff, np.array([0, 0, 0.005]))
    assert f"U = {float(compute_responses(model, graph).enthalpy):.6f} eV" in result.output


def test_compiled(place, monkeypatch):
    """What is traced is run; the compiler itself is left out here."""
    monkeypatch.setattr(torch, "compile", lambda program, **_: program)
    Path("in.run").write_text(SCRIPT.split("label again", maxsplit=1)[0] + "run 1\n")
    said = [run("in.run", "-m", "trained", "-q", "--set", f"compile={flag}").output for flag in ("false", "true")]
    assert said[0] == said[1]


def test_fields_beyond_the_labels_need_a_word(place):
    Path("ramp.yaml").write_text("field: {kind: ramped, start: [0, 0, 0], end: [0, 0, 3 MV/cm], duration: 1 ps}\n")
    assert "the field reaches 3 MV/cm, the labels of trained 1 MV/cm" in refused("-s", "ramp.yaml")
    assert not Path("log.lammps").exists()
    Path("in.run").write_text(SCRIPT.split("label again", maxsplit=1)[0] + "run 0\n")
    allowed = run("in.run", "-m", "trained", "-s", "ramp.yaml", "--beyond-range", "-q")
    assert allowed.exit_code == 0
    assert "beyond, the response is extrapolated" in allowed.output


@pytest.mark.parametrize(
    ("field", "end"),
    [
        (StaticField(vector=(0, 0, 1)), 0),
        (SinusoidalField(amplitude=(0, 0, 1), period=20), 20),
        (RampedField(start=(0, 0, 0), end=(0, 0, 1), duration=7, begin=3), 10),
        (PulsedField(amplitude=(0, 0, 1), centre=50, width=2), 70),
        (TabulatedField(times=(-5, 12), vectors=((0, 0, 0), (0, 0, 1))), 12),
    ],
)
def test_after_its_end_a_field_is_nothing_new(field, end):
    assert ends(field) == end
    before = max(np.linalg.norm(field(t)) for t in np.linspace(0, end, 2001))
    after = max(np.linalg.norm(field(t)) for t in np.linspace(end, end + 1000, 20001))
    assert after <= before + 1e-12


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (FIX, "", "in.run has no fix external: give the model one place, the line 'fix field all external"),
        (FIX, f"{FIX}\n{FIX}", "in.run has 2 fix external"),
        (FIX, "fix field all external pf/callback 10 1", "line 7: the model acts on all atoms in every step"),
        (FIX, "group some id 1\nfix field some external pf/callback 1 1", "line 8: the model acts on all atoms"),
        ("units metal", "units real", "in.run: units real: the model needs 'units metal'"),
        ("labelmap atom 1 Al", "labelmap atom 1 Ga", "in.run: the model knows Al, As, not Ga"),
        ("read_data alas.data", "read_data none.data", "in.run: LAMMPS: ERROR: Cannot open file none.data"),
        ("run 2", "runn 2", "in.run: LAMMPS: ERROR: Unknown command: runn 2"),
    ],
)
def test_bad_scripts(place, old, new, message):
    Path("in.run").write_text(SCRIPT.replace(old, new))
    assert message in refused("-q")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--field", "0 0 MV/cm"], "--field '0 0 MV/cm': write e.g. '0 0 1 MV/cm'"),
        (["--field", "0 0 1 T"], "is no field"),
        (["--set", "field=[0, 0]"], "field"),
        (["--set", "feild=[0, 0, 1]"], "unknown key feild"),
        (["--set", "field=[0, 0, 0.01]", "--field", "0 0 0.01"], "given twice"),
        (["--species", "Al"], "1 species for 2 atom types"),
        (["--var", "n"], "write e.g. steps=20000"),
        (["--log", "none/log"], "cannot write none/log"),
        (["-m", "nowhere"], "no readable model in nowhere"),
    ],
)
def test_bad_options(place, words, message):
    assert message in refused(*words, "-q")


def test_a_script_that_is_not_there(place):
    result = run("in.none", "-m", "trained")
    assert result.exit_code == 2
    assert "cannot read in.none" in result.output


def export(*words):
    return CliRunner().invoke(app, ["lammps", "export", *map(str, words)], env={"COLUMNS": "160"})


def test_an_export_and_the_lines_that_use_it(place):
    written = export("trained", "-o", "alas.mliap")
    assert written.exit_code == 0, written.output
    assert written.output.splitlines()[1:] == ["pair_style mliap unified alas.mliap 0", "pair_coeff * * Al As"]
    words = ["--field", "0 0 1 MV/cm", "--species", "As,Al,As", "--charges-by-efield"]
    written = export("trained", "-o", "alas.mliap", *words)
    assert "warning" not in written.output
    assert written.output.splitlines()[2:] == [
        "pair_coeff * * As Al As",
        "set type 1 charge -3",
        "set type 2 charge 3",
        "set type 3 charge -3",
        "fix efield all efield 0 0 0.01",
        "fix_modify efield energy yes virial yes",
    ]
    assert pickle.loads(Path("alas.mliap").read_bytes()).cutoff == 5.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "alas.pt"], "LAMMPS gives .pt to torch.load; name it alas.mliap"),
        (["-o", "none/alas.mliap"], "cannot write none/alas.mliap"),
        (["--field", "0 0 1 MV/cm"], "reference charges, on which the field acts by LAMMPS' 'fix efield'"),
        (["--field", "0 0 2 MV/cm", "--charges-by-efield"], "train it on labels at such fields"),
        (["--species", "Al,Ga"], "the model knows Al, As, not Ga"),
    ],
)
def test_bad_exports(place, words, message):
    result = export("trained", *words)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not list(place.glob("*.mliap"))
