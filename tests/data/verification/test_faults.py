"""Published labels with a fault made on purpose: physics names it where it can, and says where it cannot."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from fieldloop.dft_inputs.formats import read_labels_or_stop
from fieldloop.dft_inputs.records import ElectricResponse, Frame, LabelledFrame, Provenance
from fieldloop.dft_inputs.units import BOHR_IN_ANGSTROM, RYDBERG_IN_EV, VACUUM_PERMITTIVITY
from fieldloop.dft_inputs.verification import verify

DATA = Path(__file__).parents[2] / "data" / "foreign"
SETS = {
    "SiO2": ("SiO2.xyz", "allegro-pol"),
    "BaTiO3": ("BaTiO3.xyz", "allegro-pol"),
    "ZrO2": ("ZrO2.xyz", "sevennet-polar"),
    "water": ("water.txt", "fireann"),
}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    sets = {}
    for name, (file, convention) in SETS.items():
        (folder / file).write_bytes(gzip.decompress((DATA / f"{file}.gz").read_bytes()))
        sets[name] = list(read_labels_or_stop(folder / file, convention))
    return sets


def changed(frames, label, change):
    return [
        item.model_copy(
            update={"response": item.response.model_copy(update={label: change(getattr(item.response, label), item)})}
        )
        for item in frames
    ]


def transposed(charges, _):
    return charges.swapaxes(1, 2)


def negated(value, _):
    return -value


def per_volume(value, item):
    return value / item.frame.volume


def times_volume(value, item):
    return value * item.frame.volume


def in_ry_per_bohr(forces, _):
    return forces / (RYDBERG_IN_EV / BOHR_IN_ANGSTROM)


def susceptibility(alpha, item):
    return alpha / (4 * np.pi * VACUUM_PERMITTIVITY * item.frame.volume)


def in_cubic_bohr(alpha, _):
    return alpha / (BOHR_IN_ANGSTROM**2 / (2 * RYDBERG_IN_EV))


CHARGES, P, ALPHA = "born_effective_charges", "polarization", "polarizability"
NAMED = [
    ("SiO2", CHARGES, transposed, "Z* is transposed"),
    ("SiO2", CHARGES, negated, "Z* has the opposite sign"),
    ("SiO2", P, negated, "P has the opposite sign"),
    ("SiO2", P, per_volume, "P is divided by the volume"),
    ("SiO2", P, times_volume, "P is multiplied by the volume"),
    ("SiO2", "forces", negated, "forces have the opposite sign (gradients)"),
    ("SiO2", "forces", in_ry_per_bohr, "forces are in Ry/bohr"),
    ("SiO2", ALPHA, negated, "alpha has the opposite sign"),
    ("SiO2", ALPHA, susceptibility, "alpha is the susceptibility (eps - 1)/4pi"),
    ("SiO2", ALPHA, in_cubic_bohr, "alpha is in bohr^3"),
    ("BaTiO3", CHARGES, transposed, "Z* is transposed"),
    ("BaTiO3", CHARGES, negated, "Z* has the opposite sign"),
    ("BaTiO3", P, negated, "P has the opposite sign"),
    ("BaTiO3", P, per_volume, "P is divided by the volume"),
    ("ZrO2", CHARGES, negated, "Z* has the opposite sign"),
    ("water", P, negated, "P has the opposite sign"),
    ("water", P, per_volume, "P is divided by the volume"),
    ("water", ALPHA, negated, "alpha has the opposite sign"),
]


@pytest.mark.parametrize("name", SETS)
def test_nothing_is_wrong_with_the_published_labels(published, name):
    verdicts = verify(published[name])
    assert not [verdict for verdict in verdicts if verdict.outcome == "wrong"]
    assert sum(verdict.outcome == "ok" for verdict in verdicts) >= 2
    assert all(verdict.detail for verdict in verdicts)


@pytest.mark.parametrize(("name", "label", "change", "fault"), NAMED)
def test_a_fault_is_named(published, name, label, change, fault):
    faults = {v.fault for v in verify(changed(published[name], label, change)) if v.outcome == "wrong"}
    assert any(fault in found for found in faults)
    assert len(faults) == 1


def test_both_signs_wrong_are_both_named(published):
    frames = changed(changed(published["SiO2"], CHARGES, negated), P, negated)
    faults = {verdict.fault for verdict in verify(frames) if verdict.outcome == "wrong"}
    assert faults == {"Z* has the opposite sign", "P has the opposite sign"}


def test_two_faults_of_different_kinds_are_both_named(published):
    frames = changed(changed(published["SiO2"], CHARGES, transposed), P, per_volume)
    faults = {verdict.fault for verdict in verify(frames) if verdict.outcome == "wrong"}
    assert faults == {"Z* is transposed", "P is divided by the volume"}


def test_a_transposed_set_of_unrelated_frames_without_p_cannot_be_told(published):
    """Six cells of different size and composition: no loop closes, and nothing else depends on the order."""
    for frames in (published["ZrO2"], changed(published["ZrO2"], CHARGES, transposed)):
        (verdict,) = [v for v in verify(frames) if v.check == "index order of Z* (closed loops)"]
        assert verdict.outcome == "cannot tell"
        assert "loops over three frames of the same atoms and cell" in verdict.detail


def test_closed_loops_find_a_transpose_without_p(published):
    frames = [
        item.model_copy(update={"response": item.response.model_copy(update={P: None, "polarization_quanta": None})})
        for item in published["SiO2"]
    ]
    assert not [v for v in verify(frames) if v.outcome == "wrong"]
    faults = [v.fault for v in verify(changed(frames, CHARGES, transposed)) if v.outcome == "wrong"]
    assert faults == ["Z* is transposed"]


def test_one_frame_cannot_be_compared_with_neighbours(published):
    verdicts = {verdict.check: verdict for verdict in verify(published["SiO2"][:1])}
    assert verdicts["sign of Z*"].outcome == "ok"
    assert verdicts["energy against forces (dU = -F.dR)"].outcome == "cannot tell"
    assert verdicts["index order of Z* (dP = Z*.dR)"].outcome == "cannot tell"
    assert verify([]) == ()


def test_folding_hides_nothing(published):
    """P on arbitrary branches, as codes print it."""
    rng = np.random.default_rng(3)
    frames = changed(published["SiO2"], P, lambda p, item: p + rng.integers(-3, 4, 3) @ item.frame.cell)
    assert not [v for v in verify(frames) if v.outcome == "wrong"]
    faults = [v.fault for v in verify(changed(frames, CHARGES, transposed)) if v.outcome == "wrong"]
    assert faults == ["Z* is transposed"] * 2


def molecule(seed, field):
    """Fixed charges on springs, and an atom whose charge follows its bond: every label in closed form.

    P = sum q_i r_i + s |d|^2 d with d the bond of the first two atoms, U = sum of springs - E.P.
    """
    rng = np.random.default_rng(seed)
    charges, s, k = np.array([0.8, -0.5, -0.3]), 0.3, 2.0
    r = rng.normal(size=(3, 3))
    d = r[1] - r[0]
    jacobian = s * (d @ d * np.eye(3) + 2 * np.outer(d, d))
    z = charges[:, None, None] * np.eye(3)
    z[1] += jacobian
    z[0] -= jacobian
    # The bond's dipole also turns with a fixed direction of a third atom, so that Z* is not symmetric.
    e = r[2] - r[0]
    extra = 0.4 * (d @ e) * e
    gradient_d = 0.4 * np.outer(e, e)
    gradient_e = 0.4 * (np.outer(e, d) + (d @ e) * np.eye(3))
    z[1] += gradient_d
    z[2] += gradient_e
    z[0] -= gradient_d + gradient_e
    p = charges @ r + s * (d @ d) * d + extra
    springs = np.zeros((3, 3))
    for i, j in ((0, 1), (1, 2), (0, 2)):
        bond = r[j] - r[i]
        force = k * (np.linalg.norm(bond) - 1.0) * bond / np.linalg.norm(bond)
        springs[i] += force
        springs[j] -= force
    return LabelledFrame(
        label_id=str(seed),
        frame=Frame(species=("C", "O", "F"), positions=r, cell=np.zeros((3, 3)), pbc=(False, False, False)),
        response=ElectricResponse(
            field=field,
            forces=springs + np.einsum("iab,a->ib", z, field),
            polarization=p,
            born_effective_charges=z,
            polarizability=np.zeros((3, 3)) + 1e-9 * np.eye(3),
        ),
        provenance=Provenance(code="import"),
    )


def rotational(frames):
    return {v.check: v for v in verify(frames) if v.check.startswith("rotational")}


@pytest.mark.parametrize("field", [(0, 0, 0), (0.3, -0.2, 0.5)])
def test_turning_a_molecule_tells_the_index_order_and_the_sign(field):
    frames = [molecule(seed, np.array(field)) for seed in range(8)]
    assert [v.outcome for v in rotational(frames).values()] == ["ok", "ok"]
    verdicts = rotational(changed(frames, CHARGES, transposed))
    assert verdicts["rotational sum rule of Z* and P"].fault == "Z* is transposed"
    verdicts = rotational(changed(frames, P, negated))
    assert "opposite signs" in verdicts["rotational sum rule of Z* and P"].fault
    torque = verdicts["rotational sum rule of the forces"]
    assert torque.outcome == ("wrong" if any(field) else "ok")
