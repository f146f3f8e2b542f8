import numpy as np
import pytest
from fieldloop.active_learning.errors import LabelErrors
from fieldloop.active_learning.uncertainty.calibration import (
    Calibration,
    Pair,
    coverage,
    fit_calibration,
    pairs_of,
    rank_correlation,
)
from fieldloop.active_learning.uncertainty.committee import Committee, Spread, UncertaintyError, committee_spread


def simulated(rng, frames: int, overconfidence: float, members: int = 8) -> list[Pair]:
    """Committees whose members scatter too little by a known factor about a mean that is wrong by sigma."""
    pairs = []
    for sigma in rng.uniform(0.02, 0.2, size=frames):
        predictions = rng.normal(scale=sigma / overconfidence, size=(members, 3))
        error = rng.normal(scale=sigma, size=3)
        spread = committee_spread(Committee(polarization=predictions)).polarization
        assert spread is not None
        pairs.append(Pair("polarization", spread, float(np.sqrt(np.mean(error**2)))))
    return pairs


@pytest.mark.parametrize("overconfidence", [0.5, 1.0, 4.0])
def test_recovers_a_known_miscalibration_and_covers(rng, overconfidence):
    calibration = fit_calibration(simulated(rng, 600, overconfidence))
    assert calibration.scale("polarization") == pytest.approx(overconfidence, rel=0.12)
    unseen = simulated(rng, 2000, overconfidence)
    for level in (0.5, 0.9):
        assert coverage(unseen, level, calibration) == pytest.approx(level, abs=0.05)
    entry = calibration.labels[0]
    assert (entry.frames, entry.unit) == (600, "e A")
    assert entry.coverage_90 == pytest.approx(0.9, abs=0.05)
    assert entry.rank_correlation is not None and entry.rank_correlation > 0.6


def test_an_overconfident_committee_is_found_out_by_its_coverage(rng):
    assert coverage(simulated(rng, 1000, overconfidence=4.0), 0.9) < 0.3


def test_scale_is_the_likeliest_of_a_gaussian(rng):
    pairs = simulated(rng, 50, overconfidence=2.5)
    fitted = fit_calibration(pairs, prior_frames=0.0, floor=0.0).scale("polarization")

    def log_likelihood(scale: float) -> float:
        return float(sum(-3 * np.log(scale * p.spread) - 1.5 * (p.error / (scale * p.spread)) ** 2 for p in pairs))

    assert all(log_likelihood(fitted) > log_likelihood(fitted * factor) for factor in (0.9, 0.99, 1.01, 1.1))


def test_few_frames_stay_near_the_previous_scale_and_many_leave_it(rng):
    previous = fit_calibration(simulated(rng, 500, 3.0))
    one = [Pair("polarization", 0.1, 0.01)]
    shrunk = fit_calibration(one, previous).scale("polarization")
    assert 0.8 * previous.scale("polarization") < shrunk < previous.scale("polarization")
    assert fit_calibration(one * 4000, previous).scale("polarization") == pytest.approx(0.1, abs=0.05)
    assert fit_calibration([], previous) == previous


def test_one_lucky_agreement_does_not_rule(rng):
    pairs = simulated(rng, 40, 2.0)
    lucky = [*pairs, Pair("polarization", 1e-9, 0.05)]
    assert fit_calibration(lucky).scale("polarization") < 4.0


def test_labels_are_calibrated_each_in_its_unit_and_others_left_alone(rng):
    spread = Spread(forces=0.1, born_effective_charges=0.02)
    errors = LabelErrors(frames=1, atoms=8, forces=0.1, worst_forces=0.3, polarization=0.2).as_spread()
    pairs = pairs_of(spread, errors)
    assert pairs == [Pair("forces", 0.1, 0.3)]
    calibration = fit_calibration(pairs * 1000)
    applied = calibration.apply(spread)
    assert applied["forces"] == pytest.approx(0.3, rel=0.01)
    assert applied["born_effective_charges"] == 0.02
    assert Calibration.model_validate_json(calibration.model_dump_json()) == calibration


def test_rank_correlation_of_known_orders():
    def pairs(errors):
        return [Pair("forces", float(i + 1), float(e)) for i, e in enumerate(errors)]

    assert rank_correlation(pairs([1, 4, 9, 16])) == pytest.approx(1.0)
    assert rank_correlation(pairs([8, 4, 2, 1])) == pytest.approx(-1.0)
    assert rank_correlation(pairs([1, 1, 2])) == pytest.approx(np.sqrt(3) / 2)  # ties share their mean rank
    assert rank_correlation(pairs([1, 2])) is None
    assert rank_correlation(pairs([2, 2, 2])) is None


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([Pair("forces", 0.0, 0.1), Pair("forces", 0.0, 0.2)], "all zero"),
        ([Pair("forces", float("nan"), 0.1)], "finite"),
        ([Pair("forces", 0.1, float("inf"))], "finite"),
        ([Pair("forces", -0.1, 0.1)], "not negative"),
        ([Pair("stress", 0.1, 0.1)], "cannot calibrate"),
    ],
)
def test_pairs_that_say_nothing_are_refused(pairs, message):
    with pytest.raises(UncertaintyError, match=message):
        fit_calibration(pairs)


def test_coverage_needs_frames_and_a_level():
    with pytest.raises(UncertaintyError):
        coverage([], 0.9)
    with pytest.raises(ValueError, match="between 0 and 1"):
        coverage([Pair("forces", 0.1, 0.1)], 90)
