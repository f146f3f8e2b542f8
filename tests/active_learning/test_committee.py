import numpy as np
import pytest
from fieldloop.active_learning.uncertainty.committee import Committee, Spread, UncertaintyError, committee_spread


def test_spread_of_many_members_is_the_standard_deviation_they_were_drawn_with(rng):
    members = 4000
    sigma = np.array([0.1, 0.1, 0.4, 0.1])  # the third atom is the unsure one
    spread = committee_spread(
        Committee(
            forces=rng.normal(size=(members, 4, 3)) * sigma[:, None],
            polarization=rng.normal(size=(members, 3)) * [0.3, 0.4, 1.2],
            born_effective_charges=2.0 + rng.normal(size=(members, 4, 3, 3)) * sigma[:, None, None],
            polarizability=rng.normal(size=(members, 3, 3)) * 0.7,
        )
    )
    assert spread.forces == pytest.approx(0.4, rel=0.03)
    assert spread.polarization == pytest.approx(np.sqrt((0.3**2 + 0.4**2 + 1.2**2) / 3), rel=0.03)
    assert spread.born_effective_charges == pytest.approx(0.4, rel=0.03)
    assert spread.polarizability == pytest.approx(0.7, rel=0.03)


def test_variance_of_small_committees_is_unbiased(rng):
    squares = [committee_spread(Committee(polarization=rng.normal(size=(3, 3)))).polarization ** 2 for _ in range(4000)]
    assert np.mean(squares) == pytest.approx(1.0, rel=0.03)


def test_two_members_by_hand():
    forces = np.zeros((2, 2, 3))
    forces[1, 1] = [3.0, 0.0, 4.0]
    spread = committee_spread(Committee(forces=forces))
    assert spread == Spread(forces=np.sqrt((9 + 16) / 3 / 2))
    assert spread.by_label() == {"forces": spread.forces}


def test_members_on_different_branches_agree(rng):
    quanta = np.array([[4.0, 0.0, 0.0], [1.9, 3.5, 0.0], [1.9, 1.2, 3.3]])  # skew
    near = np.array([1.0, 2.0, 3.0]) + rng.normal(scale=0.05, size=(6, 3))
    hopped = near + rng.integers(-3, 4, size=(6, 3)) @ quanta
    expected = committee_spread(Committee(polarization=near, polarization_quanta=quanta))
    folded = committee_spread(Committee(polarization=hopped, polarization_quanta=quanta))
    assert folded.polarization == pytest.approx(expected.polarization, rel=1e-12)
    assert committee_spread(Committee(polarization=hopped)).polarization > 10 * folded.polarization


def test_spread_does_not_depend_on_orientation_or_order(rng):
    forces, charges = rng.normal(size=(4, 5, 3)), rng.normal(size=(4, 5, 3, 3))
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turned = committee_spread(
        Committee(
            forces=(forces @ rotation.T)[::-1],
            born_effective_charges=np.einsum("ac,bd,kncd->knab", rotation, rotation, charges)[::-1],
        )
    )
    spread = committee_spread(Committee(forces=forces, born_effective_charges=charges))
    assert turned.forces == pytest.approx(spread.forces, rel=1e-12)
    assert turned.born_effective_charges == pytest.approx(spread.born_effective_charges, rel=1e-12)


def test_zero_force_spread_of_a_symmetric_crystal_is_allowed_where_another_label_disagrees(rng):
    spread = committee_spread(
        Committee(forces=np.zeros((3, 2, 3)), born_effective_charges=rng.normal(size=(3, 2, 3, 3)))
    )
    assert spread.forces == 0.0


NAN = np.zeros((3, 4, 3))
NAN[2, 1, 0] = np.nan


@pytest.mark.parametrize(
    ("committee", "message"),
    [
        (Committee(forces=np.ones((1, 4, 3))), "committee of 1"),
        (Committee(forces=np.ones((0, 4, 3))), "committee of 0"),
        (Committee(), "predicts none of"),
        (Committee(forces=np.full((5, 4, 3), 0.1), polarization=np.full((5, 3), 0.3)), "predict the same"),
        (Committee(forces=NAN), "member 2 predicts NaN"),
        (Committee(forces=np.zeros((4, 3))), "shape"),
        (Committee(forces=np.zeros((3, 4, 3)), polarization=np.ones((2, 3))), "different numbers of members"),
        (Committee(forces=np.zeros((3, 4, 3)), born_effective_charges=np.zeros((3, 5, 3, 3))), "numbers of atoms"),
    ],
)
def test_committees_that_say_nothing_are_refused_in_one_line(committee, message):
    with pytest.raises(UncertaintyError, match=message) as error:
        committee_spread(committee)
    assert "\n" not in str(error.value)
