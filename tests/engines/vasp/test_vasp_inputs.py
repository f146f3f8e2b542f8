"""Inputs of VASP runs, read back by pymatgen; identities of labels."""

import numpy as np
import pytest
from fieldloop.dft_inputs.records import Frame
from fieldloop.dft_inputs.stencil import Stencil
from fieldloop.dft_inputs.vasp.inputs import (
    VASP_STEP,
    field_incar,
    grouped,
    response_incar,
    static_incar,
    vasp_label_id,
    write_inputs,
)
from fieldloop.dft_inputs.vasp.outputs import read_vasp_label
from fieldloop.dft_inputs.vasp.settings import VaspSettings
from pydantic import ValidationError
from pymatgen.io.vasp import Incar, Kpoints, Poscar

SETTINGS = VaspSettings(kpoints=(4, 4, 3))


def test_files_as_vasp_reads_them(synthetic, tmp_path):
    frame, field = synthetic.Crystal().frame, np.array([0.0, 0.00363609, -0.01])
    write_inputs(tmp_path / "run", frame, SETTINGS, field_incar(SETTINGS, field))
    incar = Incar.from_file(tmp_path / "run" / "INCAR")
    # The force field on an electron, eV/A: against the field.
    assert [float(v) for v in incar["EFIELD_PEAD"]] == pytest.approx(-field)
    assert (incar["ISYM"], incar["ISMEAR"], incar["LCALCPOL"], incar["LREAL"]) == (-1, 0, True, False)
    assert incar.check_params() is None  # pymatgen knows every tag and its type
    kpoints = Kpoints.from_file(tmp_path / "run" / "KPOINTS")
    assert (kpoints.style.name, kpoints.kpts[0]) == ("Gamma", (4, 4, 3))
    poscar = Poscar.from_file(tmp_path / "run" / "POSCAR", check_for_potcar=False).structure
    assert [site.specie.symbol for site in poscar] == ["O", "O", "Mg", "Mg"]
    assert poscar.lattice.matrix == pytest.approx(frame.cell)
    moved = poscar.frac_coords - (frame.positions @ np.linalg.inv(frame.cell))[grouped(frame)]
    assert np.abs(moved - np.round(moved)).max() < 1e-10


def test_order_of_atoms_comes_back(synthetic, tmp_path):
    """A frame with mixed species is labelled in its own order, however VASP groups it."""
    crystal = synthetic.Crystal()
    shuffled = [3, 0, 2, 1]
    frame = Frame(
        species=tuple(crystal.frame.species[i] for i in shuffled),
        positions=crystal.frame.positions[shuffled],
        cell=crystal.frame.cell,
    )
    run = synthetic.write_run(tmp_path / "run", crystal, np.zeros(3))
    assert read_vasp_label(run, frame).response.forces == pytest.approx(crystal.forces(np.zeros(3))[shuffled], abs=1e-6)


def test_zero_field_and_small_fields():
    assert field_incar(SETTINGS, np.zeros(3)) == static_incar(SETTINGS)
    with pytest.raises(ValueError, match="are lost in VASP"):
        field_incar(SETTINGS, np.array([0.01, 5e-5, 0.0]))


def test_response_methods():
    dfpt, fields = response_incar(SETTINGS), response_incar(SETTINGS, "finite-field")
    assert "LCALCEPS" not in dfpt
    assert dfpt["LEPSILON"]
    assert "LEPSILON" not in fields
    assert fields["EFIELD_PEAD"] == (VASP_STEP,) * 3


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"incar": {"efield_pead": "0 0 1"}}, "incar cannot set EFIELD_PEAD"),
        ({"incar": {"ISYM": 2}}, "incar cannot set ISYM"),
        ({"incar": {"SKIP_EDOTP": True}}, "incar cannot set SKIP_EDOTP"),
        ({"incar": {"LSORBIT": True}}, "incar cannot set LSORBIT"),
        ({"incar": {"ENCUT": 300}}, "another setting fixes it"),
        ({"kpoints": None}, "give one of kpoints"),
        ({"kpoint_density": 20.0}, "give one of kpoints"),
        ({"ediff": 1e-3}, "less than or equal"),
        ({"potcar_functional": "PBE_99"}, "potcar_functional"),
    ],
)
def test_bad_settings_are_refused(wrong, reason):
    with pytest.raises(ValidationError, match=reason):
        VaspSettings(**{"kpoints": (4, 4, 4), **wrong})


def test_identity(synthetic):
    frame, stencil = synthetic.Crystal().frame, Stencil(step=0.01)
    same = VaspSettings(kpoints=(4, 4, 3), protocol="another name", nelm=60)
    assert vasp_label_id(frame, same, stencil, {}) == vasp_label_id(frame, SETTINGS, stencil, {})
    others = [
        vasp_label_id(frame, VaspSettings(kpoints=(4, 4, 4)), stencil, {}),
        vasp_label_id(frame, SETTINGS.model_copy(update={"encut": 600.0}), stencil, {}),
        vasp_label_id(frame, SETTINGS.model_copy(update={"potcars": {"O": "O_s"}}), stencil, {}),
        vasp_label_id(frame, SETTINGS, Stencil(step=0.02), {}),
        vasp_label_id(frame, SETTINGS, "dfpt", {}),
        vasp_label_id(frame, SETTINGS, "finite-field", {}),
    ]
    assert len({vasp_label_id(frame, SETTINGS, stencil, {}), *others}) == 7


def test_mesh_of_a_supercell(synthetic):
    cell = synthetic.CELL
    settings = VaspSettings(kpoint_density=25.0).for_cell(cell)
    assert (np.array(settings.mesh) * np.linalg.norm(cell, axis=1) >= 25.0).all()
    double = np.diag([2, 1, 1]) @ cell
    assert VaspSettings(kpoints=(6, 6, 6)).for_cell(double, cell).mesh == (3, 6, 6)
