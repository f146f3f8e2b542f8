"""Foreign labels keep their meaning on the way in and out; real pw.x output says what that meaning is."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from ase.io import read
from fieldloop.dft_inputs.conventions import (
    CONVENTIONS,
    Convention,
    ConventionError,
    Quantity,
)
from fieldloop.dft_inputs.formats import read_extxyz, write_extxyz
from fieldloop.dft_inputs.polarization import fold, quantum_lattice
from fieldloop.dft_inputs.records import ElectricResponse, Frame, LabelledFrame, Provenance, Quality
from fieldloop.dft_inputs.units import (
    KBAR_IN_EV_PER_CUBIC_ANGSTROM,
    RYDBERG_DIPOLE_IN_E_ANGSTROM,
    RYDBERG_FIELD_IN_V_PER_ANGSTROM,
    RYDBERG_FORCE_IN_EV_PER_ANGSTROM,
    RYDBERG_IN_EV,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

DATA = Path(__file__).parent.parent / "data" / "allegro_pol"
NUMBERS = st.floats(-1e3, 1e3, allow_nan=False, width=64)
SYMBOLS = st.sampled_from(["H", "O", "Al", "As", "Ba", "Ti"])


def numbers(*shape):
    return arrays(float, shape, elements=NUMBERS)


@st.composite
def skew_cells(draw):
    """Triangular cells of finite volume, turned into a general orientation by a shear of the rows."""
    lengths = draw(arrays(float, 3, elements=st.floats(2.0, 20.0)))
    shear = draw(arrays(float, (3, 3), elements=st.floats(-3.0, 3.0)))
    return np.diag(lengths) + np.tril(shear, -1) + 0.1 * np.triu(shear, 1)


@st.composite
def labelled_frames(draw, convention):
    natoms = draw(st.integers(1, 4))
    frame = Frame(
        species=draw(st.tuples(*[SYMBOLS] * natoms)),
        positions=draw(numbers(natoms, 3)),
        cell=draw(skew_cells()),
        pbc=draw(st.tuples(*[st.booleans()] * 3)) if convention == "fieldloop" else (True, True, True),
    )
    shapes = {
        "enthalpy": (),
        "forces": (natoms, 3),
        "stress": (3, 3),
        "polarization": (3,),
        "born_effective_charges": (natoms, 3, 3),
        "polarizability": (3, 3),
    }
    chosen = draw(st.sets(st.sampled_from(sorted(shapes)), min_size=1))
    labels = {name: draw(NUMBERS if name == "enthalpy" else numbers(*shapes[name])) for name in sorted(chosen)}
    quality = Quality()
    if convention == "fieldloop":
        labels["field"] = draw(numbers(3))
        if "polarization" in chosen and draw(st.booleans()):
            labels["polarization_quanta"] = quantum_lattice(frame.cell, 2)
        quality = Quality(flags=draw(st.lists(st.text(max_size=8), max_size=2)))
    elif "polarization" in chosen:
        labels["polarization_quanta"] = quantum_lattice(frame.cell)
        labels["polarization"] = fold(labels["polarization"], frame.cell)
    return LabelledFrame(
        label_id=draw(st.text("0123456789abcdef", min_size=1, max_size=16)),
        frame=frame,
        response=ElectricResponse(**labels),
        provenance=Provenance(code="import", protocol=convention),
        quality=quality,
    )


@pytest.mark.parametrize("convention", ["fieldloop", "allegro-pol"])
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_round_trip_gives_equal_records(tmp_path, convention, data):
    frames = data.draw(st.lists(labelled_frames(convention), min_size=1, max_size=3))
    assert write_extxyz(tmp_path / "a.xyz", frames, convention) == len(frames)
    back = list(read_extxyz(tmp_path / "a.xyz", convention))
    assert [f.frame for f in back] == [f.frame for f in frames]
    assert [f.response for f in back] == [f.response for f in frames]
    if convention == "fieldloop":
        assert back == frames
    write_extxyz(tmp_path / "b.xyz", back, convention)
    assert (tmp_path / "b.xyz").read_bytes() == (tmp_path / "a.xyz").read_bytes() or convention != "fieldloop"
    assert list(read_extxyz(tmp_path / "b.xyz", convention)) == back


@pytest.fixture(scope="module")
def published():
    (labelled,) = read_extxyz(DATA / "SiO2_300K.xyz", "allegro-pol")
    return labelled


@pytest.fixture(scope="module")
def raw_runs():
    return json.loads((DATA / "SiO2_300K_pwx.json").read_text())["runs"]


def test_published_frame_is_complete(published):
    assert published.response.labels == (
        "enthalpy", "forces", "stress", "polarization", "born_effective_charges", "polarizability",
    )  # fmt: skip
    assert published.provenance == Provenance(code="import", protocol="allegro-pol")
    assert not published.response.field.any()
    np.testing.assert_array_equal(published.response.polarization_quanta, published.frame.cell)
    assert isinstance(published.response.enthalpy, float)


def test_published_energy_and_forces_are_those_of_pwx(published, raw_runs):
    """Their Rydberg is 5e-7 larger than CODATA 2018, 12 meV in a cell of 24 keV."""
    zero = raw_runs["zero"]
    assert published.response.enthalpy == pytest.approx(zero["energy_ry"] * RYDBERG_IN_EV, rel=1e-6)
    forces = np.array(zero["forces"]) * RYDBERG_FORCE_IN_EV_PER_ANGSTROM
    np.testing.assert_allclose(published.response.forces[:3], forces, atol=3e-6)


def test_stress_has_the_sign_of_ase(published, raw_runs):
    """pw.x prints the pressure tensor: positive where the cell pushes outwards, so dU/d(strain) is negative."""
    pressure = np.array(raw_runs["zero"]["stress_kbar"]) * KBAR_IN_EV_PER_CUBIC_ANGSTROM
    np.testing.assert_allclose(published.response.stress, -pressure, atol=5e-6)


def test_born_charges_are_indexed_atom_field_displacement(published, raw_runs):
    """Row a is dF/dE_a; the transpose of this rattled frame is far away."""
    h = 1e-4 * RYDBERG_FIELD_IN_V_PER_ANGSTROM
    zero = np.array(raw_runs["zero"]["forces"])
    rows = [(np.array(raw_runs[f"+{axis}"]["forces"]) - zero) * RYDBERG_FORCE_IN_EV_PER_ANGSTROM / h for axis in "xyz"]
    expected = np.stack(rows, axis=1)
    published_charges = published.response.born_effective_charges[:3]
    np.testing.assert_allclose(published_charges, expected, atol=2e-4)
    assert np.abs(published_charges.transpose(0, 2, 1) - expected).max() > 0.1


def dipole(run):
    return (np.array(run["electronic_dipole"]) + np.array(run["ionic_dipole"])) * RYDBERG_DIPOLE_IN_E_ANGSTROM


def test_polarizability_is_indexed_dipole_field(published, raw_runs):
    h = 1e-4 * RYDBERG_FIELD_IN_V_PER_ANGSTROM
    columns = [(dipole(raw_runs[f"+{axis}"]) - dipole(raw_runs["zero"])) / h for axis in "xyz"]
    np.testing.assert_allclose(published.response.polarizability, np.stack(columns, axis=1), atol=3e-6)


def test_polarization_is_the_cell_dipole_modulo_the_cell(published, raw_runs):
    difference = published.response.polarization - dipole(raw_runs["zero"])
    np.testing.assert_allclose(fold(difference, published.frame.cell), 0, atol=2e-4)


def test_export_is_read_by_plain_ase_with_its_own_stress(tmp_path, published):
    write_extxyz(tmp_path / "out.xyz", [published], "allegro-pol")
    ours, theirs = read(tmp_path / "out.xyz"), read(DATA / "SiO2_300K.xyz")
    np.testing.assert_array_equal(ours.get_stress(), theirs.get_stress())
    np.testing.assert_array_equal(ours.get_forces(), theirs.get_forces())
    np.testing.assert_array_equal(ours.arrays["born_charge"], theirs.arrays["born_charge"])
    np.testing.assert_array_equal(ours.positions, theirs.positions)
    assert ours.info["total_energy"] == theirs.info["total_energy"]


def test_export_to_allegro_pol_folds_the_polarization(tmp_path, published):
    moved = published.response.polarization + np.array([2, -1, 3]) @ published.frame.cell
    response = published.response.model_copy(update={"polarization": moved})
    write_extxyz(tmp_path / "out.xyz", [published.model_copy(update={"response": response})], "allegro-pol")
    (back,) = read_extxyz(tmp_path / "out.xyz", "allegro-pol")
    np.testing.assert_allclose(back.response.polarization, published.response.polarization, atol=1e-12)


def test_identity_follows_content(tmp_path, published):
    """Two labels of one geometry differ; the same label under two conventions differs too."""
    again = next(read_extxyz(DATA / "SiO2_300K.xyz", "allegro-pol"))
    assert again.label_id == published.label_id
    shifted = published.response.model_copy(update={"enthalpy": published.response.enthalpy + 1.0})
    frames = [published, published.model_copy(update={"response": shifted})]
    write_extxyz(tmp_path / "two.xyz", frames, "allegro-pol")
    first, second = read_extxyz(tmp_path / "two.xyz", "allegro-pol")
    assert first.label_id == published.label_id != second.label_id
    assert first.frame.frame_id == second.frame.frame_id


def test_reading_is_streaming(tmp_path, published):
    """A damaged frame does not keep the ones before it from being read."""
    write_extxyz(tmp_path / "a.xyz", [published] * 3, "fieldloop")
    text = (tmp_path / "a.xyz").read_text()
    (tmp_path / "cut.xyz").write_text(text[: int(len(text) * 0.9)])
    frames = read_extxyz(tmp_path / "cut.xyz", "fieldloop")
    assert next(frames) == next(frames)
    with pytest.raises(ConventionError, match=r"cut\.xyz: frame 2: the file ends within its 72 atoms"):
        next(frames)


GOOD = (
    '2\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3:forces:R:3 total_energy=-1.5 pbc="T T T"\n'
    "Al 0 0 0 0 0 0.1\nAs 1 1 1 0 0 -0.1\n"
)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("2\n", "two\n", "expected a number of atoms, got 'two'"),
        ("2\n", "3\n", "ends within its 3 atoms"),
        ("2\n", "0\n", "frame 1: .*no label|at least one atom|expected a number"),
        ("0 0 -0.1", "0 -0.1", "atom 1 has 6 columns, expected 7"),
        ("0 0 0.1\n", "0 0 0.1 9\n", "atom 0 has 8 columns, expected 7"),
        ("forces:R:3", "forces:R:2:c:R:1", "forces has 4 numbers, expected 6"),
        ("-0.1", "nan", "forces has NaN or infinite entries"),
        ("-0.1", "zero", "could not convert"),
        ("Al 0", "Qq 0", "Qq"),
        ("total_energy=-1.5", 'total_energy="1 2"', "total_energy has 2 numbers, expected 1"),
        ("total_energy=-1.5", "total_energy", "total_energy is not made of numbers"),
        ("total_energy=-1.5", "total_energy=inf", "total_energy has NaN or infinite entries"),
        ("pos:R:3", "place:R:3", "must name species and pos"),
        ('"4 0 0 0 4 0 0 0 4"', '"4 4 4"', "Lattice"),
        ("pbc", 'polarizability="1 2 3" pbc', "polarizability has 3 numbers, expected 9"),
        ("pbc", 'stress="1 2 3 4 5 6" pbc', "stress"),
        ('pbc="T T T"', 'polarization="1 2 3" pbc="T T F"', "cell must be periodic"),
        (
            "forces:R:3 total_energy=-1.5",
            "force:R:3 energy=-1.5",
            "no label under a key of convention 'allegro-pol'; keys in the file: energy, force",
        ),
    ],
)
def test_malformed_frames_give_one_line_with_file_and_index(tmp_path, old, new, message):
    assert old in GOOD
    path = tmp_path / "bad.xyz"
    path.write_text(GOOD + GOOD.replace(old, new, 1))
    frames = read_extxyz(path, "allegro-pol")
    assert next(frames).response.labels == ("enthalpy", "forces")
    with pytest.raises(ConventionError, match=message) as caught:
        list(frames)
    assert str(caught.value).startswith(f"{path}: frame 1: ")
    assert "\n" not in str(caught.value)


def test_unknown_convention_is_refused_before_anything_is_read_or_written(tmp_path):
    with pytest.raises(ConventionError, match="unknown label convention 'nequip'; known: fieldloop, allegro-pol"):
        read_extxyz(tmp_path / "absent.xyz", "nequip")
    with pytest.raises(ConventionError, match="unknown label convention"):
        write_extxyz(tmp_path / "absent.xyz", [], "nequip")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "convention", "message"),
    [
        ({"status": "failed", "failure": "killed"}, "fieldloop", "no labels"),
        ({"response": ElectricResponse()}, "fieldloop", "no labels"),
        ({"quality": Quality(flags=("enthalpy_law",))}, "allegro-pol", r"flagged \(enthalpy_law\)"),
        ({"response": ElectricResponse(field=(0, 0, 1e-3), enthalpy=1.0)}, "allegro-pol", "finite field"),
    ],
)
def test_export_refuses_what_it_cannot_tell_and_leaves_the_old_file(tmp_path, published, changes, convention, message):
    path = tmp_path / "out.xyz"
    path.write_text("old")
    with pytest.raises(ConventionError, match=message) as caught:
        write_extxyz(path, [published, published.model_copy(update=changes)], convention)
    assert str(caught.value).startswith(f"{path}: frame 1 ({published.label_id}): ")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.xyz"]


def test_a_convention_of_other_units_orders_and_signs_is_one_object(tmp_path, monkeypatch, published):
    """P per volume in uC/cm^2, stress in pw.x's sign, Z* as [displacement, field]."""

    def per_area(polarization, frame):
        return polarization / frame.volume * 1602.176634

    def per_cell(polarization, frame):
        return polarization * frame.volume / 1602.176634

    def negated(value, _):
        return -value

    def transposed(value, _):
        return value.swapaxes(1, 2)

    other = Convention(
        name="other",
        quantities=(
            Quantity("stress", "pressure", (3, 3), encode=negated, decode=negated),
            Quantity("polarization", "P", (3,), encode=per_area, decode=per_cell),
            Quantity("born_effective_charges", "bec", (3, 3), per_atom=True, encode=transposed, decode=transposed),
        ),
        electrons_per_quantum=1,
    )
    monkeypatch.setitem(CONVENTIONS, "other", other)
    write_extxyz(tmp_path / "other.xyz", [published], "other")
    atoms, response = read(tmp_path / "other.xyz"), published.response
    assert np.trace(atoms.info["pressure"].reshape(3, 3)) == -np.trace(response.stress) > 0
    assert atoms.arrays["bec"][4, 1] == response.born_effective_charges[4, 1, 0]
    assert np.linalg.norm(atoms.info["P"]) == pytest.approx(3.1, abs=0.1)
    (back,) = read_extxyz(tmp_path / "other.xyz", "other")
    assert back.response.labels == ("stress", "polarization", "born_effective_charges")
    np.testing.assert_array_equal(back.response.stress, response.stress)
    np.testing.assert_array_equal(back.response.born_effective_charges, response.born_effective_charges)
    np.testing.assert_allclose(back.response.polarization, response.polarization, rtol=1e-12)


def test_lattice_vectors_stay_rows_in_a_skew_cell(tmp_path):
    """Read back by ASE itself, so that two equal mistakes cannot cancel."""
    cell = np.array([[4.0, 0.1, 0.2], [1.0, 5.0, 0.3], [-1.5, 2.0, 6.0]])
    alpha = np.arange(9.0).reshape(3, 3)
    labelled = LabelledFrame(
        label_id="12e4",
        frame=Frame(species=("Al",), positions=np.zeros((1, 3)), cell=cell),
        response=ElectricResponse(polarizability=alpha, stress=alpha, polarization_quanta=2 * cell),
        provenance=Provenance(code="import", protocol="fieldloop"),
    )
    write_extxyz(tmp_path / "skew.xyz", [labelled], "fieldloop")
    atoms = read(tmp_path / "skew.xyz")
    np.testing.assert_array_equal(atoms.cell.array, cell)
    np.testing.assert_array_equal(atoms.info["polarizability"], alpha.ravel())
    np.testing.assert_array_equal(atoms.info["polarization_quanta"], 2 * cell.ravel())
    assert atoms.info["label_id"] == "12e4"
    assert all(a is not b for a, b in pairwise(read_extxyz(tmp_path / "skew.xyz", "fieldloop")))
    assert next(read_extxyz(tmp_path / "skew.xyz", "fieldloop")) == labelled
