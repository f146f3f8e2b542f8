"""Records survive JSON in every dialect the stores speak, and refuse what they could not mean."""

import json

import numpy as np
import pytest
from ase.build import bulk
from fieldloop.dft_inputs.records import (
    LABELS,
    ElectricResponse,
    FieldPoint,
    Frame,
    LabelledFrame,
    Proposal,
    Provenance,
    Quality,
    imported_label_id,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monty.json import MontyDecoder, MontyEncoder, jsanitize
from pydantic import ValidationError
from pymatgen.core import Structure

NATOMS = 3
RNG = np.random.default_rng(1)


@pytest.fixture
def frame():
    return Frame(
        species=("As", "Al", "Al"),
        positions=RNG.normal(size=(NATOMS, 3)) * 5,
        cell=np.diag([5.0, 6.0, 7.0]) + np.tril(RNG.normal(size=(3, 3)), -1),
        pbc=(True, True, False),
    )


@pytest.fixture
def labelled(frame):
    point = FieldPoint(
        name="+x", field=[1e-3, 0, 0], enthalpy=-1.0, forces=RNG.normal(size=(NATOMS, 3)), polarization=[1, 2, 3]
    )
    return LabelledFrame(
        label_id="12e4",
        frame=frame,
        response=ElectricResponse(
            field=[0, 0, 1e-3],
            enthalpy=-541.123456789012345,
            forces=RNG.normal(size=(NATOMS, 3)),
            polarization=RNG.normal(size=3),
            polarization_quanta=2 * frame.cell,
            born_effective_charges=RNG.normal(size=(NATOMS, 3, 3)),
        ),
        field_points=(point,),
        proposal=Proposal(origin="dynamics", generation=2, field=[0, 0, 0.1], uncertainty={"forces": 0.05}),
        provenance=Provenance(code="pw.x", code_version="6.7", pseudopotentials={"Al": "ab", "As": "cd"}),
        quality=Quality(scf_accuracy=1e-11, repairs=("one quantum along z",), flags=("enthalpy_law",)),
    )


def test_json_gives_the_same_record(labelled):
    assert LabelledFrame.model_validate_json(labelled.model_dump_json()) == labelled


def test_monty_gives_the_same_record(labelled):
    """jobflow sends and stores documents this way."""
    text = json.dumps({"output": [labelled, labelled.frame]}, cls=MontyEncoder)
    decoded = json.loads(text, cls=MontyDecoder)
    assert decoded["output"] == [labelled, labelled.frame]


def test_sanitized_documents_are_plain_and_read_back(labelled):
    """maggma stores sanitized documents; derived values are there to be queried."""
    document = jsanitize(labelled, strict=True, enum_values=True)
    assert json.loads(json.dumps(document)) == document
    assert document["frame"]["formula"] == "Al2As1"
    assert document["frame"]["frame_id"] == labelled.frame.frame_id
    assert document["quality"]["passed"] is False
    assert "born_effective_charges" in document["response"]["labels"]
    assert "stress" not in document["response"]["labels"]
    assert LabelledFrame.model_validate(document) == labelled


def test_sanitized_documents_decode_by_monty(labelled):
    document = jsanitize(labelled, strict=True, enum_values=True)
    assert MontyDecoder().process_decoded(document) == labelled


def test_derived_values_of_a_document_are_not_trusted(labelled):
    document = json.loads(labelled.model_dump_json())
    document["frame"]["frame_id"] = "0" * 16
    document["quality"]["passed"] = True
    again = LabelledFrame.model_validate(document)
    assert again.frame.frame_id == labelled.frame.frame_id
    assert not again.quality.passed


@settings(max_examples=100, deadline=None)
@given(
    positions=arrays(float, (4, 3), elements=st.floats(-1e4, 1e4)),
    order=st.permutations(range(4)),
)
def test_frame_id_ignores_the_order_of_atoms(positions, order):
    species = np.array(["Al", "As", "Al", "O"])
    frame = Frame(species=tuple(species), positions=positions, cell=10 * np.eye(3))
    shuffled = Frame(species=tuple(species[order]), positions=positions[order], cell=10 * np.eye(3))
    assert shuffled.frame_id == frame.frame_id
    assert shuffled.formula == frame.formula


def changed(frame, **values):
    return Frame(**{name: getattr(frame, name) for name in ("species", "positions", "cell", "pbc")} | values)


def test_frame_id_changes_with_anything_that_is_geometry(frame):
    moved = frame.positions.copy()
    moved[0, 1] += 3e-6
    swapped = ("Al", "As", "Al")
    others = [
        changed(frame, positions=moved),
        changed(frame, positions=frame.positions + frame.cell[0]),
        changed(frame, positions=frame.positions + 0.1),
        changed(frame, cell=frame.cell * (1 + 1e-5)),
        changed(frame, cell=frame.cell[[1, 0, 2]]),
        changed(frame, species=swapped),
        changed(frame, species=("As", "Al", "Ga")),
        changed(frame, pbc=(True, True, True)),
    ]
    assert len({frame.frame_id, *(other.frame_id for other in others)}) == len(others) + 1


def test_frame_id_ignores_rounding_noise(frame):
    on_grid = changed(frame, positions=np.round(frame.positions, 6), cell=np.round(frame.cell, 6))
    noisy = changed(frame, positions=on_grid.positions + 4e-8, cell=on_grid.cell - 4e-8)
    assert noisy.frame_id == on_grid.frame_id
    assert noisy != on_grid


def test_frame_id_is_the_same_tomorrow():
    """A stored id must be found again by a later version; a change of this value loses every label."""
    frame = Frame(species=("Al", "As"), positions=[[0, 0, 0], [1.4, 1.4, 1.4]], cell=2.8 * (1 - np.eye(3)))
    assert frame.frame_id == "6843c076d9a76115"


def test_geometry_through_ase_and_pymatgen(frame):
    assert Frame.from_atoms(frame.to_atoms()) == frame
    atoms = bulk("AlAs", "zincblende", a=5.6)
    structure = Structure(atoms.cell.array, ["Al", "As"], atoms.positions, coords_are_cartesian=True)
    from_ase, from_pymatgen = Frame.from_atoms(atoms), Frame.from_structure(structure)
    assert from_ase.frame_id == from_pymatgen.frame_id
    assert from_ase.volume == pytest.approx(5.6**3 / 4)


def test_positions_outside_the_cell_stay_there(frame):
    """P depends on them: nothing may wrap."""
    outside = changed(frame, positions=frame.positions + 7 * frame.cell[2])
    back = Frame.model_validate_json(outside.model_dump_json())
    np.testing.assert_array_equal(back.positions, outside.positions)


@pytest.mark.parametrize(
    ("model", "values"),
    [
        (Frame, {"species": ("Al",), "positions": [[0, 0]], "cell": np.eye(3)}),
        (Frame, {"species": ("Al",), "positions": [0, 0, 0], "cell": np.eye(3)}),
        (Frame, {"species": ("Al", "As"), "positions": [[0, 0, 0]], "cell": np.eye(3)}),
        (Frame, {"species": (), "positions": np.zeros((0, 3)), "cell": np.eye(3)}),
        (Frame, {"species": ("Al",), "positions": [[0, 0, 0]], "cell": [1, 1, 1]}),
        (Frame, {"species": ("Al",), "positions": [[0, 0, np.nan]], "cell": np.eye(3)}),
        (Frame, {"species": ("Al",), "positions": [[0, 0, 0]], "cell": np.full((3, 3), np.inf)}),
        (Frame, {"species": ("Al",), "positions": [[0, 0, 0]], "cell": np.eye(3), "pbc": (True, True)}),
        (ElectricResponse, {"field": [0, 0]}),
        (ElectricResponse, {"forces": [[0, 0, 0, 0]]}),
        (ElectricResponse, {"forces": [[0, np.nan, 0]]}),
        (ElectricResponse, {"stress": [0] * 6}),
        (ElectricResponse, {"born_effective_charges": np.zeros((2, 9))}),
        (ElectricResponse, {"polarizability": "none"}),
        (ElectricResponse, {"polarisation": [0, 0, 0]}),
        (ElectricResponse, {"born_charge": np.zeros((1, 3, 3))}),
        (Quality, {"flag": ("x",)}),
        (Provenance, {}),
        (Proposal, {"origin": "rattle", "generaton": 3}),
    ],
)
def test_bad_shapes_nan_and_unknown_keys_are_refused(model, values):
    with pytest.raises(ValidationError):
        model(**values)


def test_an_unknown_key_in_a_stored_document_is_refused(labelled):
    document = json.loads(labelled.model_dump_json())
    document["response"]["dipole"] = [0, 0, 0]
    with pytest.raises(ValidationError, match="dipole"):
        LabelledFrame.model_validate(document)


def test_records_cannot_be_changed(labelled):
    with pytest.raises(ValidationError):
        labelled.status = "failed"
    with pytest.raises(ValueError, match="read-only"):
        labelled.frame.positions[0, 0] = 1.0


def test_records_do_not_share_memory_with_the_arrays_they_were_made_from():
    positions = np.zeros((1, 3))
    frame = Frame(species=("Al",), positions=positions, cell=np.eye(3))
    positions[0, 0] = 1.0
    assert frame.positions[0, 0] == 0.0


def test_missing_labels_are_none_and_present_ones_are_named(labelled):
    response = labelled.response
    assert response.labels == ("enthalpy", "forces", "polarization", "born_effective_charges")
    assert set(LABELS) - set(response.labels) == {"stress", "polarizability"}
    assert response.stress is None


def test_trainable_needs_a_finished_label_without_flags(labelled):
    clean = labelled.model_copy(update={"quality": Quality()})
    assert not labelled.trainable
    assert clean.trainable
    assert not clean.model_copy(update={"status": "failed", "failure": "not converged"}).trainable


def test_equal_records_have_equal_hashes(labelled):
    again = LabelledFrame.model_validate_json(labelled.model_dump_json())
    assert hash(again) == hash(labelled)
    assert len({again, labelled, labelled.model_copy(update={"label_id": "other"})}) == 2


def test_imports_of_one_frame_that_say_different_things_are_different_labels():
    frame = Frame(species=("H",), positions=[[0.0, 0, 0]], cell=np.eye(3) * 5)
    here, there = (ElectricResponse(field=[0, 0, e], enthalpy=-1.0) for e in (0.0, 0.01))
    assert imported_label_id("pw.x", frame, here) == imported_label_id("pw.x", frame, here.model_copy())
    assert imported_label_id("pw.x", frame, here) != imported_label_id("pw.x", frame, there)
    assert imported_label_id("pw.x", frame, here) != imported_label_id("vasp", frame, here)
