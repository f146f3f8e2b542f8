"""Settings are refused early, inputs are what pw.x needs, and a label's name depends on what it should."""

from dataclasses import replace

import numpy as np
import pytest
from ase.io import read
from fieldloop.dft_inputs.errors import ProgramNotFoundError
from fieldloop.dft_inputs.espresso import PwCode, PwEngine, PwSettings, label_id, protocols
from fieldloop.dft_inputs.espresso.inputs import field_input
from fieldloop.dft_inputs.espresso.outputs import PwOutputError, read_pw_output
from fieldloop.dft_inputs.espresso.points import check_neutral
from fieldloop.dft_inputs.labelling import label_frame
from fieldloop.dft_inputs.pseudopotentials import PseudopotentialError
from fieldloop.dft_inputs.stencil import Stencil
from fieldloop.dft_inputs.units import RYDBERG_FIELD_IN_V_PER_ANGSTROM
from pydantic import ValidationError


def test_protocols_are_complete():
    assert protocols() == ["fast", "paper", "standard"]
    for name in protocols():
        assert PwSettings.from_protocol(name).protocol == name
    assert PwSettings.from_protocol("fast", ecutwfc=20).ecutwfc == 20


def test_unknown_protocol_and_setting():
    with pytest.raises(ValueError, match="unknown protocol 'slow'; there are fast, paper, standard"):
        PwSettings.from_protocol("slow")
    with pytest.raises(ValidationError, match="ecutwfk"):
        PwSettings.from_protocol("fast", ecutwfk=20)


@pytest.mark.parametrize("mesh", ["gamma", "Gamma"])
def test_gamma_mesh_is_refused(mesh):
    with pytest.raises(ValidationError, match="no finite field for a Gamma mesh"):
        PwSettings.from_protocol("fast", kpoints=mesh)


@pytest.mark.parametrize("mesh", [(0, 2, 2), (2, 2), (2, 2, -1), (2.5, 2, 2)])
def test_broken_meshes(mesh):
    with pytest.raises(ValidationError):
        PwSettings.from_protocol("fast", kpoints=mesh)


def test_single_kpoint_needs_an_upright_cell(primitive, rattled):
    settings = PwSettings.from_protocol("fast", kpoints=(1, 2, 2))
    settings.check_cell(rattled.cell)
    with pytest.raises(ValueError, match="at least two k-points along lattice vector 1"):
        settings.check_cell(primitive.cell)


def test_input_holds_the_field_and_the_geometry(rattled, fast, code, tmp_path):
    pseudopotentials = code.find_pseudopotentials(rattled.species)
    field = np.array([0.0, -2e-4, 1e-4]) * RYDBERG_FIELD_IN_V_PER_ANGSTROM
    text = field_input(rattled, fast, pseudopotentials, field, comment="one")
    (tmp_path / "pw.in").write_text(text)
    atoms = read(tmp_path / "pw.in", format="espresso-in")
    assert np.allclose(atoms.positions, rattled.positions, atol=1e-10)
    values = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in text.splitlines())}
    assert [float(values[f"efield_cart({i})"]) for i in (1, 2, 3)] == pytest.approx([0, -2e-4, 1e-4], rel=1e-12)
    assert values["efield_phase"] == "'read'"
    assert values["tstress"] == ".false."
    assert "K_POINTS automatic" in text


def test_fields_that_pw_would_ignore_are_refused(rattled, fast, code):
    pseudopotentials = code.find_pseudopotentials(rattled.species)
    with pytest.raises(ValueError, match="ignores field components below"):
        field_input(rattled, fast, pseudopotentials, np.array([1e-6, 0, 0]), comment="one")


def test_label_id_depends_on_what_determines_the_numbers(rattled, primitive, fast, code, tmp_path):
    pseudopotentials = code.find_pseudopotentials(rattled.species)
    reference = label_id(rattled, fast, pseudopotentials, Stencil())
    harder = fast.model_copy(update={"ecutwfc": 13.0})
    other_file = {**pseudopotentials, "Al": pseudopotentials["Al"].model_copy(update={"sha256": "0"})}
    different = {
        label_id(primitive, fast, pseudopotentials, Stencil()),
        label_id(rattled, harder, pseudopotentials, Stencil()),
        label_id(rattled, fast, other_file, Stencil()),
        label_id(rattled, fast, pseudopotentials, Stencil(order=4)),
        label_id(rattled, fast, pseudopotentials, Stencil(base=(0.01, 0, 0))),
    }
    assert len(different | {reference}) == 6
    elsewhere = {e: p.model_copy(update={"path": tmp_path / p.path.name}) for e, p in pseudopotentials.items()}
    renamed = fast.model_copy(update={"protocol": "mine"})
    assert label_id(rattled, renamed, elsewhere, Stencil()) == reference


@pytest.mark.parametrize("missing", [{"command": "no-such-pw.x"}, {"launcher": "no-such-mpirun -np 2"}])
def test_missing_program_says_what_to_do(rattled, fast, tmp_path, missing):
    with pytest.raises(
        ProgramNotFoundError, match=r"no-such-.*not found: load the module .*conda-forge.*apt.*codes\.pw\.command"
    ):
        label_frame(PwEngine(fast, PwCode(**missing)), rattled, Stencil(), tmp_path / "frame")
    assert not (tmp_path / "frame").exists()


def test_missing_pseudopotential_is_refused_before_anything_runs(rattled, fast, tmp_path):
    code = PwCode(pseudo_dir=str(tmp_path))
    with pytest.raises(PseudopotentialError, match="no pseudopotential for Al"):
        label_frame(PwEngine(fast, code), rattled, Stencil(), tmp_path / "frame")
    with pytest.raises(PseudopotentialError, match="by file, not by path"):
        PwCode(pseudopotentials={"Al": "/tmp/Al.UPF"}).find_pseudopotentials(["Al"])


def test_launcher_may_be_a_shell_line():
    assert PwCode(launcher="mpirun -np 4").launcher == ("mpirun", "-np", "4")


def test_charged_cells_are_refused(data):
    output = read_pw_output(data / "quartz" / "zero")
    check_neutral(output)
    with pytest.raises(PwOutputError, match="the cell is charged: 47 electrons for valences of 48"):
        check_neutral(replace(output, n_electrons=47.0))


def test_odd_electrons_are_refused_before_any_run(code, fast, primitive):
    pseudopotentials = code.find_pseudopotentials(primitive.species)
    fast.check_electrons(primitive.species, pseudopotentials)
    with pytest.raises(ValueError, match="11 electrons leave a band half filled"):
        fast.check_electrons([*primitive.species, "Al"], pseudopotentials)
