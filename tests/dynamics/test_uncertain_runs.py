"""A committee that watches a run at its field."""

import numpy as np
import pytest
import torch
from fieldloop.active_learning.labels import LabelBounds
from fieldloop.active_learning.uncertainty.calibration import Calibration, LabelCalibration
from fieldloop.active_learning.uncertainty.committee import UncertaintyError
from fieldloop.active_learning.uncertainty.watch import Flagged, UncertaintyWatch, WatchSettings
from fieldloop.model.dynamics import DynamicsSettings, run_dynamics

FIELDS = ((0.0, 0.0, 0.0), (0.0, 0.1, 0.2))
SPREAD = 0.3 * np.sqrt(0.05) / np.sqrt(6)  # charges differ by 0.3 e: dF = 0.3 E, of which two members, three components


@pytest.fixture
def committee(morse):
    """Two members that differ in their charges, so in a field only."""
    other = type(morse)(charge=1.3)
    with torch.no_grad():
        other.depth += 1e-9
    return [morse, other]


def watched(committee, watch, crystal, steps=20, temperature=300.0, **changes):
    settings = DynamicsSettings(
        ensemble="langevin", steps=steps, temperatures=temperature, fields=FIELDS, observe_every=10, seed=1, **changes
    )
    return run_dynamics(committee[0], [crystal(rattle=0.05)] * 2, settings, observer=watch)


def test_it_judges_at_the_field_of_the_run(committee, crystal):
    watch = UncertaintyWatch(
        committee, WatchSettings(flag=LabelBounds(forces=0.9 * SPREAD)), model_id="a", calibration=Calibration()
    )
    result = watched(committee, watch, crystal)
    assert watch.largest["forces"] == pytest.approx(SPREAD, rel=1e-5)
    assert [item.proposal.time for item in watch.flagged] == [0.0, 10.0, 20.0]
    for item in watch.flagged:
        assert item.proposal.field == pytest.approx(FIELDS[1])
        assert item.proposal.temperature == 300.0
        assert item.proposal.uncertainty["forces"] == pytest.approx(SPREAD, rel=1e-5)
        assert "forces" in item.proposal.reason
    assert np.allclose(watch.flagged[-1].frame.positions, result.trajectory.replica(1).positions[-1])


def test_calibration_scales_it_and_a_bound_stops_the_replica_that_passes_it(committee, crystal):
    calibration = Calibration(
        labels=(LabelCalibration(label="forces", unit="eV/A", scale=3.0, frames=9, coverage_90=0.9),)
    )
    settings = WatchSettings(stop=LabelBounds(forces=2.9 * SPREAD))
    first, second = watched(committee, UncertaintyWatch(committee, settings, calibration=calibration), crystal).outcomes
    assert (first.status, first.step) == ("finished", 20)
    assert (second.status, second.step) == ("stopped", 0)
    assert all(
        outcome.status == "finished"
        for outcome in watched(committee, UncertaintyWatch(committee, settings), crystal).outcomes
    )


def test_repeated_moments_flag_no_frame_twice(committee, crystal):
    settings = WatchSettings(flag=LabelBounds(forces=0.9 * SPREAD), most=4)
    told = []
    watch = UncertaintyWatch(committee, settings, on_flag=lambda flagged: told.append(len(flagged)))
    watched(committee, watch, crystal)
    again = UncertaintyWatch(
        committee, settings, known=watch.flagged, on_flag=lambda flagged: told.append(len(flagged))
    )
    watched(committee, again, crystal, steps=40)
    assert told == [1, 2, 3, 4]
    assert len({item.frame.frame_id for item in again.flagged}) == 4
    assert again.flagged[:3] == watch.flagged
    assert isinstance(again.flagged[0], Flagged)


def test_members_that_cannot_be_compared_are_refused(committee, morse):
    with pytest.raises(UncertaintyError, match="committee of 1"):
        UncertaintyWatch(committee[:1], WatchSettings())
    with pytest.raises(UncertaintyError, match="same model"):
        UncertaintyWatch([*committee, type(morse)(charge=1.0)], WatchSettings())
    with pytest.raises(UncertaintyError, match="cutoff"):
        UncertaintyWatch([morse, type(morse)(cutoff=4.0)], WatchSettings())


def test_members_agree_where_symmetry_leaves_them_no_choice(committee, crystal):
    watch = UncertaintyWatch(committee, WatchSettings(stop=LabelBounds(polarizability=1e-9)))
    settings = DynamicsSettings(steps=0, fields=FIELDS[:1])
    outcomes = run_dynamics(committee[0], [crystal()], settings, observer=watch).outcomes
    assert outcomes[0].status == "finished"
    assert watch.largest == {"polarizability": 0.0}


def test_a_member_that_predicts_no_numbers_stops_the_run_and_flags_nothing(committee, crystal):
    with torch.no_grad():
        committee[1].charges[0] = float("nan")
    settings = WatchSettings(flag=LabelBounds(polarization=1.0), stop=LabelBounds(polarization=1.0))
    watch = UncertaintyWatch(committee, settings)
    assert {outcome.status for outcome in watched(committee, watch, crystal).outcomes} == {"stopped"}
    assert watch.flagged == []
