"""Labels from VASP against a model whose responses are known, and against real outputs."""

import gzip
import re
import shutil
from pathlib import Path

import ase
import numpy as np
import pytest
from fieldloop.dft_inputs.formats.entries import Unreadable
from fieldloop.dft_inputs.formats.vasp_runs import read_labels
from fieldloop.dft_inputs.polarization import fold, quantum_lattice
from fieldloop.dft_inputs.stencil import Stencil
from fieldloop.dft_inputs.vasp.labels import label_vasp_runs
from fieldloop.dft_inputs.vasp.outputs import read_vasp_label
from fieldloop.dft_inputs.vasp.results import VaspOutputError
from fieldloop.dft_inputs.vasp.run_output import read_vasp_output
from fieldloop.workflows.data_card import make_card

STENCIL = Stencil(step=0.01)
ASE_FILES = Path(ase.__file__).parent / "test" / "testdata" / "vasp"


@pytest.mark.parametrize("xml", [True, False])
@pytest.mark.parametrize("order", [2, 4])
def test_stencil_gives_the_responses_of_the_model(synthetic, runs, xml, order):
    """Runs on random branches, other signs, another order of atoms; wrapped positions."""
    crystal, stencil = synthetic.Crystal(), Stencil(step=0.01, order=order)
    label = label_vasp_runs(runs(stencil, xml=xml), stencil, crystal.frame)
    response = label.response
    # OUTCAR prints forces with six decimals, dipoles with five.
    assert response.born_effective_charges == pytest.approx(crystal.born, abs=2e-4)
    assert response.polarizability == pytest.approx(crystal.alpha, abs=2e-3)
    assert response.forces == pytest.approx(crystal.forces(np.zeros(3)), abs=2e-6)
    assert label.quality.flags == (), label.quality
    assert label.quality.enthalpy_slope_error < 1e-4
    lattice = 2 * synthetic.CELL / np.array([[4], [6], [6]])  # of single strings
    assert fold(response.polarization - crystal.dipole(np.zeros(3)), lattice) == pytest.approx(np.zeros(3), abs=2e-5)
    assert label.frame == crystal.frame


def test_enthalpies_lie_on_the_branch_of_the_dipoles(synthetic, runs):
    """H(E) - H(0) = -P(0).E - 1/2 E.alpha.E with the P that is stored."""
    crystal = synthetic.Crystal()
    label = label_vasp_runs(runs(STENCIL), STENCIL, crystal.frame)
    for point in label.field_points:
        expected = -label.response.polarization @ point.field - 0.5 * point.field @ crystal.alpha @ point.field
        assert point.enthalpy - label.response.enthalpy == pytest.approx(expected, abs=5e-7)


def test_polarization_follows_displacements(synthetic, tmp_path):
    """dP/du = Z*, also for an ion that passes the border of the cell, where p[ion] jumps by no quantum."""
    crystal, step = synthetic.Crystal(), 0.02
    for atom in range(4):
        moved = [synthetic.moved(crystal, atom, 2, by) for by in (step, -step)]
        folders = [synthetic.write_run(tmp_path / f"{atom}{i}", one, np.zeros(3)) for i, one in enumerate(moved)]
        plus, minus = (
            read_vasp_label(folder, one.frame).response.polarization for folder, one in zip(folders, moved, strict=True)
        )
        strings = 2 * synthetic.CELL / np.array([[4], [6], [6]])
        slope = fold(plus - minus, strings) / (2 * step)
        assert slope == pytest.approx(crystal.born[atom, :, 2], abs=2e-3)


def test_single_run_in_a_field(synthetic, tmp_path):
    crystal, applied = synthetic.Crystal(), np.array([0.0, 0.03, -0.02])
    label = read_vasp_label(synthetic.write_run(tmp_path / "run", crystal, applied), crystal.frame)
    response = label.response
    assert response.field == pytest.approx(applied)
    assert response.forces == pytest.approx(crystal.forces(applied), abs=1e-6)
    quanta = response.polarization - crystal.dipole(applied)
    assert response.enthalpy == pytest.approx(crystal.enthalpy(applied) - applied @ quanta, abs=1e-6)
    assert response.stress is None


def test_response_run(synthetic, tmp_path):
    """Rows of the Born block are fields: the model's Z* is far from symmetric."""
    crystal = synthetic.Crystal()
    run = synthetic.write_run(tmp_path / "run", crystal, np.zeros(3), synthetic.Faults(born=True))
    label = read_vasp_label(run, crystal.frame)
    assert np.abs(crystal.born - crystal.born.swapaxes(1, 2)).max() > 0.3
    assert label.response.born_effective_charges == pytest.approx(crystal.born, abs=1e-5)
    assert label.response.polarizability == pytest.approx(crystal.alpha, abs=1e-6)
    assert label.quality.acoustic_sum_rule < 1e-5
    (run / "OUTCAR").unlink()
    assert read_vasp_label(run, crystal.frame).response.born_effective_charges == pytest.approx(crystal.born, abs=1e-7)


def test_stress_is_of_ase_sign(synthetic, tmp_path):
    run = synthetic.write_run(tmp_path / "run", synthetic.Crystal(), np.zeros(3))
    stress = read_vasp_output(run).stress
    assert stress[0] * 1602.176634 == pytest.approx([-12.0, -1.0, 2.0], abs=1e-6)


def test_another_sign_of_the_field_is_noticed(synthetic, runs):
    with pytest.raises(VaspOutputError, match=r"polarizability is negative.*doctor --vasp"):
        folders = runs(STENCIL, faults=synthetic.Faults(sign=1.0))
        swapped = {n: folders[n.translate(str.maketrans("+-", "-+"))] for n in folders}
        label_vasp_runs(swapped, STENCIL)


def test_forces_without_the_field_are_noticed(synthetic, runs):
    with pytest.raises(VaspOutputError, match="leaves the field out"):
        label_vasp_runs(runs(STENCIL, faults=synthetic.Faults(deaf_forces=True)), STENCIL)


def test_runs_that_do_not_belong_together(synthetic, runs, tmp_path):
    folders = runs(STENCIL)
    with pytest.raises(VaspOutputError, match="no run given for -z"):
        label_vasp_runs({n: f for n, f in folders.items() if n != "-z"}, STENCIL)
    with pytest.raises(VaspOutputError, match=r"its field is .* V/A, not \["):
        label_vasp_runs({**folders, "+x": folders["+y"]}, STENCIL)
    other = synthetic.write_run(tmp_path / "other", synthetic.moved(synthetic.Crystal(), 0, 0, 0.1), [0.01, 0, 0])
    with pytest.raises(VaspOutputError, match="structure is another"):
        label_vasp_runs({**folders, "+x": other}, STENCIL)
    other = synthetic.write_run(tmp_path / "other", synthetic.moved(synthetic.Crystal(), 0, 0, 0.1), np.zeros(3))
    (folders["zero"] / "vasprun.xml").write_bytes((other / "vasprun.xml").read_bytes())
    with pytest.raises(VaspOutputError, match="are of different runs"):
        read_vasp_output(folders["zero"])


@pytest.mark.parametrize("file", ["OUTCAR", "vasprun.xml"])
def test_truncated_files(synthetic, tmp_path, file):
    """Cut anywhere, a file gives one line that names it, or the same label; never a part of one."""
    crystal = synthetic.Crystal()
    run = synthetic.write_run(tmp_path / "run", crystal, [0, 0, 0.01], synthetic.Faults(born=True))
    path, whole = run / file, (run / file).read_text()
    for other in {"OUTCAR", "vasprun.xml"} - {file}:
        (run / other).unlink()
    full = read_vasp_output(run)
    told = 0
    for end in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_text(whole[:end])
        try:
            cut = read_vasp_output(run)
        except VaspOutputError as error:
            told += 1
            assert str(path) in str(error)
            assert "\n" not in str(error)
        else:
            assert cut.enthalpy == full.enthalpy
            assert np.array_equal(cut.forces, full.forces)
    assert told >= 58


def test_missing_lines_of_an_outcar(data, tmp_path):
    text = (data / "BaTiO3_8" / "OUTCAR").read_text()
    for lost, reason in (
        ("      2.01476      2.01476      4.05030         0.000000     -0.000000     -0.084774\n", "forces of 4 atoms"),
        ("   ions per type =               1   1   3\n", "ions per type"),
        ("  free  energy   TOTEN  =       -39.88818609 eV\n", "TOTEN"),
    ):
        (tmp_path / "OUTCAR").write_text(text.replace(lost, ""))
        with pytest.raises(VaspOutputError, match=reason):
            read_vasp_output(tmp_path)


def test_unconverged_and_absent(synthetic, tmp_path):
    run = synthetic.write_run(tmp_path / "a", synthetic.Crystal(), np.zeros(3), synthetic.Faults(unconverged=True))
    with pytest.raises(VaspOutputError, match="SCF not converged"):
        read_vasp_output(run)
    with pytest.raises(VaspOutputError, match="neither OUTCAR nor vasprun"):
        read_vasp_output(tmp_path / "nowhere")


def test_gzipped_files(synthetic, tmp_path):
    run = synthetic.write_run(tmp_path / "run", synthetic.Crystal(), np.zeros(3))
    before = read_vasp_label(run)
    for file in list(run.iterdir()):
        (run / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    assert read_vasp_label(run) == before


@pytest.mark.parametrize(("image", "scale"), [("BaTiO3_8", 1.0), ("BaTiO3_1", 8.28)])
def test_real_dipoles_of_barium_titanate(data, image, scale):
    """P of real runs is what cubic BaTiO3's Born charges give for their displacements (Ghosez et al., PRB 58, 6224)."""
    label = read_vasp_label(data / image)
    z = (label.frame.positions @ np.linalg.inv(label.frame.cell))[:, 2]
    moved = (z - z[0] - np.array([0.0, 0.5, 0.5, 0.5, 1.0])) * label.frame.cell[2, 2]
    assert moved[1] / 0.0084 == pytest.approx(scale, rel=0.02)  # of titanium, relative to barium
    expected = moved @ np.array([2.77, 7.25, -2.15, -2.15, -5.71])
    polarization = fold(label.response.polarization, quantum_lattice(label.frame.cell))
    # Charges shrink on the way to the tetragonal structure.
    assert polarization[2] == pytest.approx(expected, rel=0.03 if scale == 1 else 0.15)
    assert np.abs(polarization[:2]).max() < 1e-3
    assert label.response.enthalpy == pytest.approx({"BaTiO3_8": -39.88818609, "BaTiO3_1": -39.93986596}[image])


def test_vasps_own_ionic_dipole_loses_ions(data):
    """Two oxygens of image 8 lie at 0.5016 c: p[ion] leaves them out, a third of P."""
    output = read_vasp_output(data / "BaTiO3_8")
    printed = fold(output.electronic_dipole + output.ionic_dipole, output.frame.cell)[2]
    ours = fold(read_vasp_label(data / "BaTiO3_8").response.polarization, output.frame.cell)[2]
    lost = 2 * 6.0 * (output.frame.positions[2, 2] - output.frame.cell[2, 2] / 2)
    assert ours - printed == pytest.approx(lost, abs=1e-4)


def test_real_response_of_rock_salt():
    """NaCl by LEPSILON of VASP 6.3.2, shipped with ASE; the energies that it lists last are no ground state's."""
    label = read_vasp_label(ASE_FILES / "vasprun_dfpt.xml")
    response = label.response
    assert response.enthalpy == pytest.approx(-6.74587304)
    assert response.born_effective_charges[0] == pytest.approx(1.14672091 * np.eye(3))
    assert response.stress[0, 0] == pytest.approx(-36.08907525 / 1602.176634)
    volume = label.frame.volume
    assert 1 + np.trace(response.polarizability) / 3 / (5.526349358e-3 * volume) == pytest.approx(2.6958435)
    assert response.polarization is None
    assert label.provenance.kpoints == (3, 3, 3)


def test_real_outcar_without_responses():
    """Nickel of VASP 5.3.3, shipped with ASE, against ASE's own reader."""
    from ase.io import read

    label = read_vasp_label(ASE_FILES / "OUTCAR_example_1")
    atoms = read(ASE_FILES / "OUTCAR_example_1", format="vasp-out")
    assert label.response.forces == pytest.approx(atoms.get_forces())
    assert label.response.stress == pytest.approx(atoms.get_stress(voigt=False), rel=1e-4)
    assert label.response.enthalpy == pytest.approx(atoms.get_potential_energy(force_consistent=True))
    assert label.response.labels == ("enthalpy", "forces", "stress")


def relaxation(synthetic, directory, xml=True, **setup):
    """Three geometries, the last without displacements of the third atom."""
    shifts = [scale * synthetic.SHIFT for scale in (2.0, 1.0, 0.5)]
    crystals = [synthetic.Crystal(shift=shift) for shift in shifts]
    setup = synthetic.Setup(ibrion=2, **setup)
    return crystals, synthetic.write_run(directory, crystals, np.zeros(3), xml=xml, setup=setup)


@pytest.mark.parametrize("xml", [True, False])
@pytest.mark.parametrize("dipoles", [True, False])
def test_every_geometry_of_a_relaxation_is_a_label(synthetic, tmp_path, xml, dipoles):
    crystals, run = relaxation(synthetic, tmp_path / "relax", xml, dipoles=dipoles)
    labels = list(read_labels(tmp_path))
    assert len({label.label_id for label in labels}) == 3
    order = list(synthetic.GROUPED)
    for label, crystal in zip(labels, crystals, strict=True):
        assert label.response.enthalpy == pytest.approx(crystal.enthalpy(np.zeros(3)), abs=1e-6)
        assert label.response.forces == pytest.approx(crystal.forces(np.zeros(3))[order], abs=1e-6)
        moved = fold(label.frame.positions - crystal.positions[order], synthetic.CELL)
        assert np.abs(moved).max() < 1e-4
        assert label.response.stress is not None
        assert (label.response.polarization is not None) is dipoles
    first, *others = labels
    assert first.proposal.parent_frame_id is None
    assert {label.proposal.parent_frame_id for label in others} == {first.frame.frame_id}
    card = make_card("relaxation", labels)
    assert (card.frames, card.trajectories) == (3, 1)
    assert read_vasp_label(run).response == labels[-1].response


def test_dynamics_that_were_cut_off_give_what_is_whole(synthetic, tmp_path):
    """Cut anywhere: whole geometries alone, and a line that says that the run did not end."""
    _, run = relaxation(synthetic, tmp_path / "relax")
    wanted, text = list(read_labels(run)), (run / "OUTCAR").read_text()
    starts = [text.index(f"Iteration {number:6d}(") for number in (1, 2, 3)]
    for end in range(200, len(text) - 200, 397):
        (run / "OUTCAR").write_text(text[:end])
        whole = sum(end > start + 30 for start in starts) - 1
        found = list(read_labels(run))
        (told,) = (item for item in found if isinstance(item, Unreadable))
        labels = [item for item in found if item is not told]
        assert "the run did not end" in told.reason
        assert len(labels) == max(whole, 0)
        for label, other in zip(labels, wanted, strict=False):
            assert label.response.forces == pytest.approx(other.response.forces, abs=1e-6)
            assert label.response.enthalpy == other.response.enthalpy
        with pytest.raises(VaspOutputError, match="did not end"):
            read_vasp_output(run)


def test_an_unconverged_geometry_is_left_out(synthetic, tmp_path):
    _, run = relaxation(synthetic, tmp_path / "relax")
    text = (run / "OUTCAR").read_text()
    second = text.index("aborting loop", text.index("Iteration      2("))
    worse = text[second:].replace("because EDIFF is reached", "EDIFF was not reached (unconverged)  ", 1)
    (run / "OUTCAR").write_text(text[:second] + worse)
    first, told, third = read_labels(run)
    assert (told.where, told.reason) == (f"{run}, geometry 2", "SCF not converged in 9 iterations")
    assert isinstance(first, type(third))


def test_fields_of_which_four_decimals_are_printed(synthetic, runs):
    """By a VASP that neither echoes INCAR nor names the field in vasprun.xml."""
    crystal, stencil = synthetic.Crystal(), Stencil()
    folders = runs(stencil)
    for folder in folders.values():
        for file, words in (("vasprun.xml", r"<v name=.EFIELD_PEAD.*?</v>"), ("OUTCAR", r"   EFIELD_PEAD =.*\n")):
            (folder / file).write_text(re.sub(words, "", (folder / file).read_text()))
        text = re.sub(r"(EFIELD_PEAD=.*)", lambda m: re.sub(r"\d(?= |$)", " ", m[1]), (folder / "OUTCAR").read_text())
        (folder / "OUTCAR").write_text(text)
    assert read_vasp_output(folders["+x"]).field == pytest.approx([0.0036, 0.0, 0.0], abs=1e-9)
    assert read_vasp_output(folders["+x"]).stress is None
    label = label_vasp_runs(folders, stencil, crystal.frame)
    assert label.field_points[1].field == pytest.approx([-stencil.step, 0.0, 0.0])
    assert label.response.born_effective_charges == pytest.approx(crystal.born, abs=5e-4)
    assert label.quality.enthalpy_slope_error < 1e-4


def test_vasp_5_calls_an_unconverged_scf_converged(synthetic, tmp_path):
    """It says that EDIFF is reached where NELM was; the energy tells. One that took NELM iterations to converge has."""
    crystal = synthetic.Crystal()
    for change in (1e-3, 1e-9):
        setup = synthetic.Setup(nelm=9, last_change=change)
        run = synthetic.write_run(tmp_path / f"{change:g}", crystal, np.zeros(3), setup=setup)
        assert "EDIFF is reached" in (run / "OUTCAR").read_text()
        if change > 1e-7:
            with pytest.raises(VaspOutputError, match="SCF not converged in 9 iterations"):
                read_vasp_output(run)
        else:
            assert read_vasp_output(run).scf_accuracy == change


def test_forces_of_a_machine_learned_potential_are_no_labels(synthetic, tmp_path):
    """On-the-fly learning prints them after those of DFT, in the same layout."""
    crystals, run = relaxation(synthetic, tmp_path / "learn", xml=False)
    text = (run / "OUTCAR").read_text()
    table = text[text.index(" POSITION") : text.index("  free  energy   TOTEN")]
    learned = table.replace("0.0", "0.5").replace("(eV/Angst)", "(eV/Angst) (ML)")
    learned = f"  ML FORCE on cell =-STRESS in cart. coord. units (eV/cell)\n  in kB {6 * '     9.00000'}\n {learned}"
    places = [text.index(f"Iteration      {n}(") - 40 for n in (2, 3)] + [text.index(" General timing")]
    for place in reversed(places):
        text = f"{text[:place]}{learned}{text[place:]}"
    before = list(read_labels(run))
    (run / "OUTCAR").write_text(text)
    assert [label.response for label in read_labels(run)] == [label.response for label in before]
    assert len(before) == len(crystals)


def test_forces_that_outcar_leaves_out_come_from_vasprun(synthetic, tmp_path):
    _, run = relaxation(synthetic, tmp_path / "quiet")
    wanted = [label.response.forces for label in read_labels(run)]
    text = (run / "OUTCAR").read_text()
    (run / "OUTCAR").write_text(text.replace(" POSITION  ", " NWRITE = 0 "))
    assert np.array_equal([label.response.forces for label in read_labels(run)], wanted)
    (run / "vasprun.xml").unlink()
    (told,) = read_labels(run)
    assert "NWRITE = 0 leaves forces out" in told.reason


def test_columns_of_van_der_waals_methods(synthetic, tmp_path):
    run = synthetic.write_run(tmp_path / "run", synthetic.Crystal(), np.zeros(3), xml=False)
    wanted, lines = read_vasp_output(run).forces, (run / "OUTCAR").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if "POSITION" in line) + 2
    for i in range(start, start + 4):
        lines[i] += "     0.100000     -0.200000      0.300000"
    (run / "OUTCAR").write_text("\n".join(lines) + "\n")
    assert np.array_equal(read_vasp_output(run).forces, wanted)


def test_a_second_nelm_in_vasprun_is_not_that_of_the_scf(synthetic, tmp_path):
    run = synthetic.write_run(tmp_path / "run", synthetic.Crystal(), np.zeros(3))
    (run / "OUTCAR").unlink()
    text = (run / "vasprun.xml").read_text()
    (run / "vasprun.xml").write_text(text.replace("</parameters>", '<i type="int" name="NELM">1</i></parameters>'))
    assert read_vasp_output(run).iterations == 9


@pytest.mark.parametrize("lost", [(), ("-z",)])
def test_runs_of_a_stencil_are_one_label(synthetic, runs, tmp_path, lost):
    """Beside a run of another geometry; those that form no stencil are labels by themselves."""
    crystal, folders = synthetic.Crystal(), runs(STENCIL)
    synthetic.write_run(tmp_path / "elsewhere", synthetic.moved(crystal, 0, 0, 0.1), np.zeros(3))
    for name in lost:
        shutil.rmtree(folders[name])
    labels = list(read_labels(tmp_path))
    if lost:
        assert len(labels) == 7
        assert all(label.response.polarizability is None for label in labels)
        return
    other, label = sorted(labels, key=lambda one: len(one.field_points))
    assert other.response.polarizability is None
    assert label.response.polarizability == pytest.approx(crystal.alpha, abs=2e-3)
    charges = crystal.born[list(synthetic.GROUPED)]
    assert label.response.born_effective_charges == pytest.approx(charges, abs=2e-4)
