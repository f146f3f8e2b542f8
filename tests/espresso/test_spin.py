"""Spin-polarized insulators: no net moment, as pw.x differentiates that wrongly in a field."""

import numpy as np
import pytest
from ase import Atoms
from fieldloop.dft_inputs.espresso import PwCode, PwEngine, PwSettings, band_gap
from fieldloop.dft_inputs.espresso.inputs import field_input
from fieldloop.dft_inputs.insulators import gap_of_bands
from fieldloop.dft_inputs.labelling import label_frame
from fieldloop.dft_inputs.quality import assemble
from fieldloop.dft_inputs.records import Frame
from fieldloop.dft_inputs.stencil import Stencil
from pydantic import ValidationError


@pytest.fixture(scope="module")
def hydrogen():
    """Hydrogen atoms on two shifted fcc lattices: an antiferromagnet without inversion."""
    cell = 2.8 * (np.ones((3, 3)) - np.eye(3))
    return Frame.from_atoms(Atoms("H2", cell=cell, positions=[[0, 0, 0], [2.5, 0.1, 0]], pbc=True))


@pytest.fixture(scope="module")
def antiferromagnet():
    return PwSettings(
        ecutwfc=16, kpoints=(2, 2, 2), conv_thr=1e-12, mixing_beta=0.3, nspin=2,
        starting_magnetization={"H": (0.9, -0.9)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def hydrogen_code():
    return PwCode(pseudopotentials={"H": "H.pz-vbc.UPF"})


def test_two_channels_reproduce_one(primitive_label, fast, code, tmp_path):
    """A nonmagnetic crystal is the same with and without spin polarization."""
    label, _ = primitive_label
    settings = PwSettings(**{**fast.model_dump(), "nspin": 2, "starting_magnetization": {"Al": 0.1}})
    spin = label_frame(PwEngine(settings, code), label.frame, Stencil(), tmp_path)
    assert spin.status == "done", spin.failure
    assert spin.trainable
    assert spin.label_id != label.label_id
    one, two = label.response, spin.response
    assert two.enthalpy == pytest.approx(one.enthalpy, abs=1e-6)
    assert np.allclose(two.polarization, one.polarization, atol=1e-5)
    assert np.allclose(two.born_effective_charges, one.born_effective_charges, atol=1e-3)
    assert np.allclose(two.polarizability, one.polarizability, atol=1e-3)
    assert spin.quality.critical_field_fraction == pytest.approx(label.quality.critical_field_fraction, rel=1e-4)
    assert np.allclose(two.polarization_quanta, label.frame.cell)


def test_an_antiferromagnet_obeys_the_enthalpy_law(hydrogen, antiferromagnet, hydrogen_code, tmp_path):
    label = label_frame(PwEngine(antiferromagnet, hydrogen_code), hydrogen, Stencil(), tmp_path / "label")
    assert label.trainable, (label.failure, label.quality)
    assert label.quality.enthalpy_law_error < 0.01
    assert label.quality.magnetization_change < 1e-3
    for point in label.field_points:
        assert point.magnetization == pytest.approx(0, abs=1e-6)
        assert point.absolute_magnetization > 1.0
    found = band_gap(hydrogen, antiferromagnet, hydrogen_code, tmp_path / "gap")
    assert not found.metallic


def test_without_a_start_that_breaks_the_symmetry_there_is_no_moment(
    hydrogen, antiferromagnet, hydrogen_code, tmp_path
):
    """What ``starting_magnetization`` says is what pw.x starts from."""
    same = antiferromagnet.model_copy(update={"starting_magnetization": {"H": 0.0}})
    label = label_frame(PwEngine(same, hydrogen_code), hydrogen, Stencil(), tmp_path)
    moments = [point.absolute_magnetization for point in label.field_points]
    assert not moments or max(moments) < 0.1


def test_starting_magnetization_reaches_each_atom(hydrogen, antiferromagnet, hydrogen_code):
    pseudopotentials = hydrogen_code.find_pseudopotentials(["H"])
    lines = field_input(hydrogen, antiferromagnet, pseudopotentials, np.zeros(3), comment="spin").splitlines()
    values = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
    species = [line.split()[0] for line in lines if line.endswith("H.pz-vbc.UPF")]
    atoms = [line.split()[0] for line in lines[lines.index("ATOMIC_POSITIONS angstrom") + 1 :] if line.strip()]
    assert [float(values[f"starting_magnetization({species.index(atom) + 1})"]) for atom in atoms[:2]] == [0.9, -0.9]
    assert float(values["tot_magnetization"]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"nspin": 2, "tot_magnetization": 2, "starting_magnetization": {"O": 1}},
            "tot_magnetization must be 0, not 2",
        ),
        ({"starting_magnetization": {"O": 1}}, "needs nspin: 2"),
        ({"nspin": 2}, "needs starting_magnetization"),
        ({"nspin": 4}, "nspin"),
        ({"nspin": 2, "starting_magnetization": {"O": 2}}, "less than or equal to 1"),
    ],
)
def test_what_cannot_work_is_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        PwSettings.from_protocol("fast", **options)


def test_a_magnetization_of_an_absent_element_is_refused(primitive, code):
    settings = PwSettings.from_protocol("fast", nspin=2, starting_magnetization={"Fe": 0.5})
    with pytest.raises(ValueError, match="names Fe, which the crystal does not hold"):
        settings.check_electrons(primitive.species, code.find_pseudopotentials(primitive.species))


def test_the_gap_is_that_of_both_channels():
    """Up: occupied to 0 eV, empty from 3; down: occupied to 1, empty from 2.5; two k-points, one band occupied."""
    levels = np.array([[-1.0, 3.0, 0.5, 2.5], [0.0, 4.0, 1.0, 2.6]])
    assert gap_of_bands(levels, 1, nspin=2) == pytest.approx(1.5)


def test_flipped_spins_are_flagged(stored):
    points, frame = stored("alas_primitive")
    spins = {
        name: point.model_copy(update={"magnetization": 0.0, "absolute_magnetization": 1.5 if name == "+x" else 1.2})
        for name, point in points.items()
    }
    _, quality = assemble(spins, frame, Stencil())
    assert quality.magnetization_change == pytest.approx(0.3)
    assert quality.flags == ("magnetization_change",)
    assert assemble(points, frame, Stencil())[1].magnetization_change is None
