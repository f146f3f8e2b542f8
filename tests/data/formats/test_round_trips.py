"""Every convention in every format: what was written comes back, whatever the cell and whichever labels are missing."""

import sys

import numpy as np
import pytest
from ase.db import connect
from fieldloop.dft_inputs.conventions import CONVENTIONS, ConventionError
from fieldloop.dft_inputs.formats import FORMATS, Unreadable, read_labels, read_labels_or_stop, write_labels
from fieldloop.dft_inputs.polarization import fold, quantum_lattice
from fieldloop.dft_inputs.records import (
    LABELS,
    ElectricResponse,
    FieldPoint,
    Frame,
    LabelledFrame,
    Proposal,
    Provenance,
    Quality,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

NEEDS = {"aselmdb": "ase_db_backends", "parquet": "pyarrow"}
NAMES = {"extxyz": "a.xyz", "ase-db": "a.db", "aselmdb": "a.aselmdb", "deepmd": "a", "parquet": "a.parquet"}
HERE = list(NAMES)
NUMBERS = st.floats(-1e3, 1e3, allow_nan=False, allow_subnormal=False)
QUICK = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))


def numbers(*shape):
    return arrays(float, shape, elements=NUMBERS)


@st.composite
def skew_cells(draw):
    lengths = draw(arrays(float, 3, elements=st.floats(4.0, 20.0)))
    shear = draw(arrays(float, (3, 3), elements=st.floats(-3.0, 3.0)))
    return np.diag(lengths) + np.tril(shear, -1) + 0.1 * np.triu(shear, 1)


@st.composite
def labels(draw, convention):
    """A label that the convention can tell in full."""
    natoms = draw(st.integers(1, 3))
    own = convention == "fieldloop"
    frame = Frame(
        species=draw(st.tuples(*[st.sampled_from(["H", "O", "Ba"])] * natoms)),
        positions=draw(numbers(natoms, 3)),
        cell=draw(skew_cells()),
        pbc=draw(st.tuples(*[st.booleans()] * 3)) if own else (True, True, True),
    )
    known = {q.label for q in CONVENTIONS[convention].quantities}
    shapes = {"enthalpy": (), "forces": (natoms, 3), "polarization": (3,), "born_effective_charges": (natoms, 3, 3)}
    names = [name for name in LABELS if name in known]
    chosen = draw(st.sets(st.sampled_from(names), min_size=1))
    values = {name: draw(numbers(*shapes.get(name, (3, 3)))) for name in sorted(chosen)}
    if "enthalpy" in values:
        values["enthalpy"] = float(values["enthalpy"])
    if "field" in known:
        values["field"] = draw(numbers(3))
    if "polarization" in values:
        values["polarization"] = fold(values["polarization"], frame.cell)
        values["polarization_quanta"] = quantum_lattice(frame.cell)
    points = ()
    if own and draw(st.booleans()):
        points = (
            FieldPoint(name="zero", field=(0, 0, 0), enthalpy=1.5, forces=frame.positions, polarization=(1, 2, 3)),
        )
    return LabelledFrame(
        label_id=draw(st.text("0123456789abcdef", min_size=1, max_size=16)),
        frame=frame,
        response=ElectricResponse(**values),
        field_points=points,
        proposal=Proposal(
            origin="dynamics" if own else "import", generation=2 if own else 0, uncertainty={"forces": 1.0}
        ),
        provenance=Provenance(code="pw.x" if own else "import", protocol=convention, pseudopotentials={"H": "ab"}),
        quality=Quality(scf_accuracy=1e-9, flags=draw(st.lists(st.text(max_size=8), max_size=2)) if own else ()),
    )


@pytest.mark.parametrize("file_format", HERE)
@pytest.mark.parametrize("convention", sorted(CONVENTIONS))
@QUICK
@given(data=st.data())
def test_what_was_written_comes_back(tmp_path, convention, file_format, data):
    frames = data.draw(st.lists(labels(convention), min_size=1, max_size=3))
    path = tmp_path / NAMES[file_format]
    assert write_labels(path, iter(frames), convention, file_format) == len(frames)
    back = list(read_labels_or_stop(path, convention, file_format))
    assert [label.frame for label in back] == [label.frame for label in frames]
    if convention == "fieldloop":
        assert back == frames
    for one, other in zip(back, frames, strict=True):
        assert one.response.labels == other.response.labels
        for name in (*one.response.labels, "field", "polarization_quanta"):
            mine, theirs = getattr(one.response, name), getattr(other.response, name)
            if mine is None or theirs is None:
                assert mine is theirs
            elif name == "polarization":
                # A component on the border of the cell of quanta may come back on its other side.
                assert np.abs(fold(mine - theirs, other.frame.cell)).max() < 1e-9
            else:
                np.testing.assert_allclose(mine, theirs, rtol=1e-14, atol=1e-300)
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith("-lock")] == [path.name]


@pytest.mark.parametrize("file_format", list(NEEDS))
def test_a_missing_package_is_one_clear_line(tmp_path, published, monkeypatch, file_format):
    monkeypatch.setitem(sys.modules, NEEDS[file_format], None)
    with pytest.raises(ConventionError, match=r"needs the package \w+: pip install 'fieldloop\[\w+\]'"):
        write_labels(tmp_path / NAMES[file_format], [published], "fieldloop")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("file_format", HERE)
def test_frames_are_taken_one_at_a_time_and_a_failure_leaves_the_old_file(tmp_path, published, file_format):
    path = tmp_path / NAMES[file_format]
    write_labels(path, [published], "fieldloop")

    def frames():
        yield published
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_labels(path, frames(), "fieldloop")
    assert list(read_labels(path, "fieldloop")) == [published]
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith("-lock")] == [path.name]


def test_ase_finds_energy_and_forces_in_its_own_database(tmp_path, published):
    write_labels(tmp_path / "a.db", [published], "mace-field")
    atoms = connect(tmp_path / "a.db").get(1).toatoms()
    assert atoms.get_potential_energy() == published.response.enthalpy
    np.testing.assert_array_equal(atoms.get_forces(), published.response.forces)


def test_deepmd_kit_finds_its_files(tmp_path, published):
    """Energy (n,), force (n, 3N), virial -V sigma (n, 9), as its documentation lays them out."""
    write_labels(tmp_path / "a", [published, published], "deepmd")
    (system,) = (tmp_path / "a").iterdir()
    names = (system / "type_map.raw").read_text().split()
    kinds = np.loadtxt(system / "type.raw", dtype=int)
    assert tuple(names[kind] for kind in kinds) == published.frame.species
    arrays = {
        name: np.load(system / "set.000" / f"{name}.npy") for name in ("coord", "box", "energy", "force", "virial")
    }
    assert {name: array.shape for name, array in arrays.items()} == {
        "coord": (2, 216), "box": (2, 9), "energy": (2,), "force": (2, 216), "virial": (2, 9),
    }  # fmt: skip
    assert arrays["energy"][1] == published.response.enthalpy
    np.testing.assert_allclose(arrays["virial"][0].reshape(3, 3), -published.frame.volume * published.response.stress)


def test_mace_field_has_p_and_alpha_per_volume(tmp_path, published):
    write_labels(tmp_path / "a.xyz", [published], "mace-field")
    (entry,) = read_labels(tmp_path / "a.xyz", "mace-field")
    header = (tmp_path / "a.xyz").read_text().splitlines()[1]
    written = float(header.split('REF_polarization="')[1].split()[0])
    assert written == pytest.approx(published.response.polarization[0] / published.frame.volume, rel=1e-12)
    np.testing.assert_allclose(entry.response.polarizability, published.response.polarizability, rtol=1e-14)


def test_a_file_that_is_no_file_of_the_format_is_told(tmp_path):
    (tmp_path / "a.db").write_text("no database")
    (unreadable,) = read_labels(tmp_path / "a.db", "fieldloop")
    assert isinstance(unreadable, Unreadable)
    (tmp_path / "empty").mkdir()
    for name, message in (("empty", "no file below it"), ("absent.xyz", "there is no"), ("a.db", "unknown format")):
        with pytest.raises(ConventionError, match=message):
            list(read_labels(tmp_path / name, "fieldloop", "hdf5" if name == "a.db" else None))
    with pytest.raises(ConventionError, match="read only"):
        write_labels(tmp_path / "a.txt", [], "fireann", "fireann")
    assert set(NAMES) | {"fireann"} == set(FORMATS)


def test_a_foreign_folder_is_not_replaced(tmp_path, published):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("precious")
    with pytest.raises(ConventionError, match="name another one"):
        write_labels(tmp_path / "thesis", [published], "fieldloop", "deepmd")
    assert (tmp_path / "thesis" / "chapter").read_text() == "precious"
