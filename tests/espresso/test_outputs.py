"""Real outputs are read in full precision; half a run never gives a number."""

import gzip

import numpy as np
import pytest
from ase.io import read
from fieldloop.dft_inputs.espresso import PwOutputError, read_pw_output
from fieldloop.dft_inputs.espresso.outputs import failure_reason
from fieldloop.dft_inputs.units import BOHR_IN_ANGSTROM, RYDBERG_FIELD_IN_V_PER_ANGSTROM, RYDBERG_IN_EV

RUNS = ["alas_cubic_rattled/zero", "alas_primitive/field+x", "quartz/field-z", "allegro_pol/SiO2-T300/Ex"]


def unpacked(folder, target):
    """Plain copies of a run's two files."""
    paths = []
    for name in ("pw.out", "pw.xml"):
        path = target / name
        path.write_bytes(gzip.decompress((folder / f"{name}.gz").read_bytes()))
        paths.append(path)
    return paths


@pytest.mark.parametrize("run", RUNS)
def test_agrees_with_what_pw_prints(data, tmp_path, run):
    output = read_pw_output(data / run)
    stdout, xml = unpacked(data / run, tmp_path)
    assert read_pw_output(stdout, xml).enthalpy == output.enthalpy
    text = stdout.read_text()
    printed = float(text[text.index("!") :].split("=")[1].split()[0])
    assert output.enthalpy / RYDBERG_IN_EV == pytest.approx(printed, abs=1e-8)
    atoms = read(stdout, format="espresso-out")
    assert np.allclose(output.forces, atoms.get_forces(), atol=1e-6)
    assert np.allclose(output.frame.positions, atoms.positions, atol=2e-6)
    assert np.allclose(output.frame.cell, atoms.cell.array, atol=2e-5)
    if "stress" in atoms.calc.results:
        assert np.allclose(output.stress, atoms.get_stress(voigt=False), atol=1e-6)


def test_details_of_a_field_run(data):
    output = read_pw_output(data / "alas_primitive" / "field+x")
    assert output.field / RYDBERG_FIELD_IN_V_PER_ANGSTROM == pytest.approx([1e-4, 0, 0])
    assert (output.nspin, output.n_electrons, output.kpoints) == (1, 8, (2, 2, 2))
    assert output.valences == {"Al": 3, "As": 5}
    assert not output.even_valences
    assert output.version.startswith("6.7")
    assert output.iterations > 1
    assert 0 < output.scf_accuracy < 1e-11
    assert output.stress is None


def test_dipoles_are_cartesian_in_a_skew_cell(data):
    """The ionic dipole is the sum of valence times position; the electronic one the XML's in lattice components."""
    for run in ("alas_primitive/field+x", "quartz/field-z"):
        output = read_pw_output(data / run)
        charges = [output.valences[symbol] for symbol in output.frame.species]
        assert np.allclose(output.ionic_dipole, charges @ output.frame.positions, atol=1e-6)
        xml = gzip.decompress((data / run / "pw.xml.gz").read_bytes()).decode()
        text = xml.split("<electronicDipole>")[1].split("<")[0]
        components = np.array(text.split(), dtype=float) * BOHR_IN_ANGSTROM / np.sqrt(2)
        directions = output.frame.cell / np.linalg.norm(output.frame.cell, axis=1)[:, None]
        assert np.allclose(components @ directions, output.electronic_dipole, atol=1e-10)


@pytest.mark.parametrize("cut_file", ["pw.out", "pw.xml"])
@pytest.mark.parametrize("run", RUNS[:3])
def test_truncated_output_gives_no_number(data, tmp_path, run, cut_file):
    unpacked(data / run, tmp_path)
    whole = (tmp_path / cut_file).read_bytes()
    end = len(whole.rstrip())
    cuts = {*np.linspace(0, end - 1, 60, dtype=int).tolist(), *range(end - 100, end)}
    for cut in sorted(cuts):
        (tmp_path / cut_file).write_bytes(whole[:cut])
        with pytest.raises(PwOutputError, match=cut_file):
            read_pw_output(tmp_path)


@pytest.mark.parametrize("lost", ["<etot>", "<nelec>", "<forces", "convergence_achieved", "cell>", "creator"])
def test_xml_without_an_entry(data, tmp_path, lost):
    _, xml = unpacked(data / RUNS[0], tmp_path)
    tag = lost.strip("<>")
    xml.write_text(xml.read_text().replace(f"<{tag}", "<gone").replace(f"</{tag}>", "</gone>"))
    with pytest.raises(PwOutputError):
        read_pw_output(tmp_path)


def test_files_of_different_runs(data, tmp_path):
    """An XML left over from the run before is noticed."""
    unpacked(data / "alas_primitive" / "field+x", tmp_path)
    for other in ("zero", "field+y"):
        (tmp_path / "pw.xml").write_bytes(gzip.decompress((data / "alas_primitive" / other / "pw.xml.gz").read_bytes()))
        with pytest.raises(PwOutputError, match="of different runs"):
            read_pw_output(tmp_path)


def test_missing_and_ambiguous_files(data, tmp_path):
    with pytest.raises(PwOutputError, match="no such directory"):
        read_pw_output(tmp_path / "nowhere")
    with pytest.raises(PwOutputError, match=r"expected one \*\.out file, found 0"):
        read_pw_output(tmp_path)
    stdout, _ = unpacked(data / RUNS[0], tmp_path)
    stdout.rename(tmp_path / "one.out")
    assert read_pw_output(tmp_path).n_electrons == 32
    (tmp_path / "two.out").write_text("")
    with pytest.raises(PwOutputError, match=r"expected one \*\.out file, found 2"):
        read_pw_output(tmp_path)
    (tmp_path / "broken.xml.gz").write_bytes(b"\x1f\x8b nonsense")
    with pytest.raises(PwOutputError, match="cannot be read"):
        read_pw_output(tmp_path / "one.out", tmp_path / "broken.xml.gz")


def test_unconverged_run_is_refused_though_its_job_is_done(data, tmp_path):
    stdout, xml = unpacked(data / RUNS[0], tmp_path)
    text = stdout.read_text()
    done = text.replace("convergence has been achieved in", "convergence NOT achieved after 7 iterations: stopping")
    stdout.write_text(done)
    assert "JOB DONE" in done
    with pytest.raises(PwOutputError, match="SCF not converged in 7 iterations"):
        read_pw_output(tmp_path)
    stdout.write_text(text)
    xml.write_text(xml.read_text().replace("<convergence_achieved>true", "<convergence_achieved>false"))
    with pytest.raises(PwOutputError, match="SCF not converged"):
        read_pw_output(tmp_path)


def test_reasons_in_words():
    old = " %%%%\n     task #         0\n     from iosys : error #         1\n     electric fields not available\n %%%%"
    new = " %%%%\n     Error in routine iosys (1):\n     electric fields not available\n %%%%"
    assert failure_reason(new) == "pw.x stopped in iosys (1): electric fields not available"
    assert failure_reason(old) == "pw.x stopped in iosys: electric fields not available"
    assert failure_reason("Maximum CPU time exceeded") == "pw.x reached its time limit"
    assert failure_reason("all is well") is None
