import numpy as np
import pytest
from fieldloop.active_learning.errors import honest_errors, pool_errors
from fieldloop.dft_inputs.records import ElectricResponse

QUANTA = np.array([[4.0, 0.0, 0.0], [1.9, 3.5, 0.0], [1.9, 1.2, 3.3]])


def quadratic_response(field: np.ndarray, jump: np.ndarray) -> ElectricResponse:
    """Labels of U = U0 - E.P0 - E.alpha.E/2 on a branch of P0; the force part is fixed."""
    p0, alpha = np.array([0.3, -0.2, 0.5]) + jump, np.diag([2.0, 3.0, 4.0])
    return ElectricResponse(
        field=field,
        enthalpy=-7.0 - field @ p0 - 0.5 * field @ alpha @ field,
        forces=np.ones((2, 3)),
        polarization=p0 + alpha @ field,
        polarization_quanta=QUANTA,
        polarizability=alpha,
    )


def test_a_prediction_on_another_branch_of_the_label_has_no_error(rng):
    field = np.array([0.02, -0.1, 0.05])
    label = quadratic_response(field, np.zeros(3))
    for n in rng.integers(-3, 4, size=(10, 3)):
        errors = honest_errors(quadratic_response(field, n @ QUANTA), label, atoms=2)
        assert errors.polarization == pytest.approx(0.0, abs=1e-12)
        assert errors.enthalpy == pytest.approx(0.0, abs=1e-12)


def test_errors_by_hand_and_missing_labels_are_absent():
    label = ElectricResponse(enthalpy=-10.0, forces=np.zeros((2, 3)), born_effective_charges=np.zeros((2, 3, 3)))
    forces, charges = np.zeros((2, 3)), np.zeros((2, 3, 3))
    forces[1] = [0.3, 0.0, 0.4]
    charges[0, 1, 2] = 0.6
    predicted = ElectricResponse(
        enthalpy=-9.9, forces=forces, born_effective_charges=charges, polarization=[1.0, 0.0, 0.0]
    )
    errors = honest_errors(predicted, label, atoms=2)
    assert errors.enthalpy == pytest.approx(0.05)
    assert errors.forces == pytest.approx(np.sqrt(0.25 / 6))
    assert errors.worst_forces == pytest.approx(np.sqrt(0.25 / 3))
    assert errors.born_effective_charges == pytest.approx(np.sqrt(0.36 / 18))
    assert errors.worst_born_effective_charges == pytest.approx(0.2)
    assert errors.polarization is None and errors.polarizability is None
    assert errors.as_spread().by_label() == {
        "forces": errors.worst_forces,
        "born_effective_charges": pytest.approx(0.2),
    }


def test_pooling_equals_one_rmse_over_all_numbers(rng):
    sizes = (2, 5, 9)
    differences = [rng.normal(size=(n, 3)) for n in sizes]
    dipoles = rng.normal(size=(3, 3))
    errors = [
        honest_errors(
            ElectricResponse(forces=d, polarization=p if n != 5 else None),
            ElectricResponse(forces=np.zeros((n, 3)), polarization=np.zeros(3)),
            atoms=n,
        )
        for n, d, p in zip(sizes, differences, dipoles, strict=True)
    ]
    pooled = pool_errors(errors)
    assert (pooled.frames, pooled.atoms) == (3, 16)
    assert pooled.forces == pytest.approx(np.sqrt(np.mean(np.concatenate(differences) ** 2)))
    assert pooled.polarization == pytest.approx(np.sqrt(np.mean(dipoles[[0, 2]] ** 2)))
    assert pooled.enthalpy is None
    everything = np.concatenate(differences)
    assert pooled.worst_forces == pytest.approx(np.sqrt((everything**2).mean(axis=1).max()))
    assert pool_errors([pool_errors(errors[:2]), errors[2]]).forces == pytest.approx(pooled.forces)


def test_predictions_must_fit_the_label():
    label = ElectricResponse(forces=np.zeros((2, 3)), field=[0.0, 0.0, 0.01])
    with pytest.raises(ValueError, match="at field"):
        honest_errors(ElectricResponse(forces=np.zeros((2, 3))), label, atoms=2)
    with pytest.raises(ValueError, match="3 atoms"):
        honest_errors(ElectricResponse(forces=np.zeros((2, 3)), field=[0.0, 0.0, 0.01]), label, atoms=3)
    with pytest.raises(ValueError, match="no errors to pool"):
        pool_errors([])
