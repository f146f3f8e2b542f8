"""Wavefunctions of pw.x read, turned, extrapolated and written; Berry phases from them against pw.x's own."""

import h5py
import numpy as np
import pytest
from ase.build import bulk
from fieldloop.dft_inputs.espresso import PwEngine, PwSettings
from fieldloop.dft_inputs.espresso.inputs import field_input, occupied_bands, zero_input
from fieldloop.dft_inputs.espresso.phases import read_phases, string_phases, write_phases
from fieldloop.dft_inputs.espresso.run import link_pseudopotentials, run_point
from fieldloop.dft_inputs.espresso.save_files import (
    SaveFileError,
    density_file,
    read_density,
    read_wavefunctions,
    wavefunction_files,
    write_density,
    write_wavefunctions,
)
from fieldloop.dft_inputs.espresso.warm_start import (
    closest_rotation,
    extrapolation_weights,
    orthonormalized,
    write_extrapolated,
)
from fieldloop.dft_inputs.labelling import label_frame
from fieldloop.dft_inputs.program import lease
from fieldloop.dft_inputs.records import Frame
from fieldloop.dft_inputs.stencil import Stencil

MESH = (2, 3, 4)


def berry_run(text: str) -> str:
    """The same run as a zero-field run of pw.x's own field mode, which writes its phases."""
    keys = {"   efield_phase     = 'read'": "   efield_phase = 'write'", "'file'": "'random'"}
    for old, new in keys.items():
        assert old in text
        text = text.replace(old, new)
    return text.replace("startingpot      = 'random'", "startingpot = 'atomic'")


@pytest.fixture(scope="module")
def runs(code, tmp_path_factory):
    """One low-symmetry cell on an uneven mesh: a plain SCF, and pw.x's own run with Berry phases."""
    atoms = bulk("AlAs", "zincblende", a=5.65)
    atoms.rattle(0.08, seed=3)
    frame = Frame.from_atoms(atoms)
    settings = PwSettings.from_protocol("fast", kpoints=MESH)
    pseudopotentials = code.find_pseudopotentials(frame.species)
    root = tmp_path_factory.mktemp("phases")
    texts = {
        "plain": zero_input(frame, settings, pseudopotentials, "plain"),
        "berry": berry_run(field_input(frame, settings, pseudopotentials, np.zeros(3), comment="berry")),
    }
    with lease(root, code) as descriptor:
        link_pseudopotentials(root, pseudopotentials)
        outputs = {
            name: run_point(root / name, text, code, name=name, lease_descriptor=descriptor)
            for name, text in texts.items()
        }
    return root, outputs, occupied_bands(frame, pseudopotentials)


@pytest.fixture
def save(runs):
    return runs[0] / "plain" / "scratch" / "pwscf.save"


def test_phases_are_those_of_pw(runs):
    """From the same wavefunctions to rounding; from those of the plain SCF as far as the two SCFs agree."""
    root, outputs, occupied = runs
    theirs = read_phases(root / "berry" / "scratch", "pwscf.")
    same = string_phases(root / "berry" / "scratch" / "pwscf.save", MESH, occupied)
    plain = string_phases(root / "plain" / "scratch" / "pwscf.save", MESH, occupied)
    for axis, expected in enumerate(theirs):
        assert expected.shape == (1, np.prod(MESH) // MESH[axis])
        assert np.abs(same[axis] - expected).max() < 1e-13
        assert np.abs(plain[axis] - expected).max() < 3e-6
    assert outputs["plain"].enthalpy == pytest.approx(outputs["berry"].enthalpy, abs=1e-9)
    assert outputs["plain"].kpoints == outputs["berry"].kpoints == MESH


def test_phases_come_back_from_their_files(runs, tmp_path):
    phases = [np.exp(1j * np.arange(n * 2).reshape(2, n)) * 1e-12 for n in (12, 8, 6)]
    write_phases(tmp_path, phases, "a.")
    assert all(np.array_equal(a, b) for a, b in zip(phases, read_phases(tmp_path, "a."), strict=True))


def test_wavefunctions_are_orthonormal_bands_at_the_k_points_of_the_mesh(runs, save):
    channels = wavefunction_files(save)
    assert len(channels) == 1
    assert len(channels[0]) == np.prod(MESH)
    bands = [read_wavefunctions(path) for path in channels[0]]
    places = np.array([b.kpoint for b in bands]) * MESH
    assert np.allclose(places, np.rint(places), atol=1e-6)
    assert len({tuple(row) for row in np.rint(places).astype(int)}) == np.prod(MESH)
    for b in bands[::5]:
        assert np.allclose(b.coefficients.conj() @ b.coefficients.T, np.eye(len(b.coefficients)), atol=1e-9)
    # The density at G = 0 counts the electrons of the cell.
    volume = runs[1]["plain"].frame.volume / 0.529177210903**3
    assert read_density(density_file(save))[0, 0].real * volume == pytest.approx(8.0, abs=1e-6)


def test_writing_what_was_read_changes_no_byte(save, tmp_path):
    source = wavefunction_files(save)[0][3]
    write_wavefunctions(tmp_path / "wfc4.dat", source, read_wavefunctions(source).coefficients)
    assert (tmp_path / "wfc4.dat").read_bytes() == source.read_bytes()
    density = density_file(save)
    write_density(tmp_path / "rho.dat", density, read_density(density))
    assert (tmp_path / "rho.dat").read_bytes() == density.read_bytes()


def test_hdf5_builds_are_read_and_written_too(save, tmp_path):
    """In the layout that Quantum ESPRESSO documents; no such build runs here."""
    source = read_wavefunctions(wavefunction_files(save)[0][3])
    path, other = tmp_path / "wfc4.hdf5", tmp_path / "wfc5.hdf5"
    reciprocal = np.array([[0.3, 0.1, 0], [0, 0.4, 0], [0, 0, 0.5]])
    with h5py.File(path, "w") as file:
        file.attrs["xk"] = source.kpoint @ reciprocal
        file["MillerIndices"] = source.miller
        for i in range(3):
            file["MillerIndices"].attrs[f"bg{i + 1}"] = reciprocal[i]
        file["evc"] = np.ascontiguousarray(source.coefficients).view(float)
    read = read_wavefunctions(path)
    assert np.allclose(read.kpoint, source.kpoint)
    assert np.array_equal(read.miller, source.miller)
    assert np.array_equal(read.coefficients, source.coefficients)
    write_wavefunctions(other, path, 2 * source.coefficients[:4])
    written = read_wavefunctions(other).coefficients
    assert np.array_equal(written, np.vstack([2 * source.coefficients[:4], source.coefficients[4:]]))
    assert [p.name for p in wavefunction_files(tmp_path)[0]] == ["wfc4.hdf5", "wfc5.hdf5"]
    density = np.arange(6).reshape(2, 3) * (1 + 2j)
    with h5py.File(tmp_path / "charge-density.hdf5", "w") as file:
        file["rhotot_g"], file["rhodiff_g"] = (row.view(float) for row in density.copy())
    found = density_file(tmp_path)
    assert np.array_equal(read_density(found), density)
    write_density(found, found, density / 2)
    assert np.array_equal(read_density(found), density / 2)


@pytest.mark.parametrize("damage", ["truncated", "empty", "missing"])
def test_broken_files_are_named(save, tmp_path, damage):
    path = tmp_path / "wfc1.dat"
    if damage != "missing":
        content = wavefunction_files(save)[0][0].read_bytes()
        path.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"")
    with pytest.raises(SaveFileError, match=r"wfc1\.dat"):
        read_wavefunctions(path)
    with pytest.raises(SaveFileError, match=r"no wavefunctions|no charge density"):
        density_file(tmp_path / "nowhere") if damage == "empty" else wavefunction_files(tmp_path / "nowhere")


def test_rotations_among_occupied_bands_do_not_matter():
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(3, 6, 40)) + 1j * rng.normal(size=(3, 6, 40))
    reference = orthonormalized(noise[0])
    assert np.allclose(reference.conj() @ reference.T, np.eye(6), atol=1e-12)
    near = orthonormalized(reference + 1e-3 * noise[1])
    unitary = np.linalg.qr(noise[2][:, :6])[0]
    assert np.allclose(closest_rotation(unitary @ near, reference), closest_rotation(near, reference), atol=1e-12)
    assert np.allclose(closest_rotation(unitary @ reference, reference), reference, atol=1e-12)


@pytest.mark.parametrize(("known", "target"), [([0, 1], -1), ([0, 1, -1], 2), ([0, 1, -1, 2], -2), ([0], 1)])
def test_weights_carry_polynomials_through_the_known_places(known, target):
    weights = extrapolation_weights(known, target)
    for power in range(len(known)):
        assert sum(w * place**power for place, w in weights.items()) == pytest.approx(target**power)


def test_extrapolated_start_is_close_to_the_solution(runs, save, tmp_path):
    """From one set of wavefunctions in any two gauges the extrapolation gives them back, and the density with them."""
    import shutil

    turned, target = (shutil.copytree(save, tmp_path / name) for name in ("turned", "target"))
    rng = np.random.default_rng(2)
    for path in wavefunction_files(turned)[0]:
        bands = read_wavefunctions(path).coefficients[:4]
        turn = np.linalg.qr(rng.normal(size=(4, 4)) + 1j * rng.normal(size=(4, 4)))[0]
        write_wavefunctions(path, path, turn @ bands)
    write_extrapolated({save: 2.0, turned: -1.0}, target)
    path, other = (wavefunction_files(folder)[0][5] for folder in (save, target))
    before, after = (read_wavefunctions(p).coefficients[:4] for p in (path, other))
    # The same space of occupied states, whatever the rotation among them.
    assert np.allclose(np.abs(np.linalg.det(before.conj() @ after.T)), 1, atol=1e-6)
    assert np.allclose(read_density(density_file(target)), read_density(density_file(save)), atol=1e-12)


def test_second_point_of_an_axis_takes_half_the_iterations(primitive_label):
    label, _ = primitive_label
    iterations = {point.name: point.scf_iterations for point in label.field_points}
    for axis in "xyz":
        assert iterations[f"-{axis}"] <= iterations[f"+{axis}"] / 2 + 0.5


def test_label_is_that_of_seven_cold_runs(displaced_primitive, fast, code, tmp_path):
    """Each point from random wavefunctions and atomic densities, with the phases alone shared, gives the same."""
    label = label_frame(PwEngine(fast, code), displaced_primitive, Stencil(), tmp_path / "label")
    pseudopotentials = code.find_pseudopotentials(displaced_primitive.species)
    forces = {}
    with lease(tmp_path / "cold", code) as descriptor:
        link_pseudopotentials(tmp_path / "cold", pseudopotentials)
        for name in ("+x", "-x"):
            text = field_input(displaced_primitive, fast, pseudopotentials, Stencil().points()[name], comment=name)
            forces[name] = run_point(
                tmp_path / "cold" / name, berry_run(text), code, name=name, lease_descriptor=descriptor
            ).forces
    charges = (forces["+x"] - forces["-x"]) / (2 * Stencil().step)
    assert np.abs(charges - label.response.born_effective_charges[:, 0]).max() < 2e-3
