"""Forces and Born effective charges by two routes, for every engine."""

import numpy as np
import pytest
from engine_case import DIRECTION, MOVE


def test_forces_are_the_slope_of_the_energy(case, displaced, points):
    rise = displaced[1]["zero"].enthalpy - displaced[-1]["zero"].enthalpy
    force = points["zero"].forces[case.cation] @ DIRECTION
    assert -rise / (2 * MOVE) == pytest.approx(force, abs=case.tolerances.forces)


def test_forces_in_a_field_are_the_slope_of_the_enthalpy(case, displaced, points):
    """What the field adds to both, so that neither the rest nor its curvature hides it."""
    added = {sign: found["+x"].enthalpy - found["zero"].enthalpy for sign, found in displaced.items()}
    pull = (points["+x"].forces - points["zero"].forces)[case.cation] @ DIRECTION
    slope = -(added[1] - added[-1]) / (2 * MOVE)
    assert slope == pytest.approx(pull, abs=case.tolerances.charges * case.stencil.step)
    assert abs(pull) > 20 * case.tolerances.charges * case.stencil.step


def test_charges_from_forces_are_charges_from_dipoles(case, displaced, label):
    """dF_b/dE_a = dP_a/du_b, first index the field: the transposed matrix would not do."""
    change = (displaced[1]["zero"].polarization - displaced[-1]["zero"].polarization) / (2 * MOVE)
    charges = label.response.born_effective_charges[case.cation]
    assert charges @ DIRECTION == pytest.approx(change, abs=case.tolerances.charges)
    assert np.abs(charges.T @ DIRECTION - change).max() > np.abs(charges @ DIRECTION - change).max()


def test_charges_at_a_field_are_there_too(case, displaced):
    """dP/du in the field differs little from that without, and is on one branch with it."""
    changes = [
        (displaced[1][name].polarization - displaced[-1][name].polarization) / (2 * MOVE) for name in ("zero", "+x")
    ]
    assert changes[1] == pytest.approx(changes[0], abs=0.05)
