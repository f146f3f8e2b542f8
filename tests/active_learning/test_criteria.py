import pytest
from fieldloop.active_learning.criteria import GenerationScore, StopCriterion, decide
from fieldloop.active_learning.errors import LabelErrors
from pydantic import ValidationError

CRITERION = StopCriterion(forces=0.1, polarization=0.02, max_flagged_share=0.1, consecutive=2, max_generations=5)


def score(generation: int, forces=0.05, polarization=0.01, flagged=0.0) -> GenerationScore:
    errors = LabelErrors(frames=4, atoms=32, forces=forces, polarization=polarization)
    return GenerationScore(generation=generation, errors=errors, flagged_share=flagged, frames=10)


def test_stops_after_the_asked_generations_in_a_row_and_says_what_passed():
    assert not decide([], CRITERION).stop
    first = decide([score(1)], CRITERION)
    assert not first.stop and "1 of 2" in first.reason
    second = decide([score(2), score(1)], CRITERION)  # any order
    assert second.stop and second.converged
    assert "forces 0.05 <= 0.1 eV/A" in second.reason and "flagged share" in second.reason


def test_a_failure_breaks_the_row_and_is_named():
    decision = decide([score(1), score(2, forces=0.2, flagged=0.4)], CRITERION)
    assert not decision.stop
    assert "forces 0.2 > 0.1 eV/A" in decision.reason and "flagged share 40.0% > 10.0%" in decision.reason
    assert "polarization" not in decision.reason
    assert not decide([score(1), score(2, forces=0.2), score(3)], CRITERION).stop
    assert not decide([score(1), score(3)], CRITERION).stop  # generation 2 is not known to have passed


@pytest.mark.parametrize(
    "silent",
    [
        GenerationScore(generation=2, flagged_share=0.0),
        score(2, polarization=None),
    ],
)
def test_a_generation_without_an_honest_error_never_passes(silent):
    decision = decide([score(1), silent], CRITERION)
    assert not decision.stop and not decision.converged
    assert decide([silent.model_copy(update={"generation": g}) for g in range(1, 5)], CRITERION).converged is False


def test_nan_is_no_error():
    with pytest.raises(ValidationError, match="finite"):
        score(1, forces=float("nan"))


def test_gives_up_after_max_generations_without_claiming_convergence():
    history = [score(g, forces=0.2) for g in range(1, 6)]
    assert not decide(history[:-1], CRITERION).stop
    decision = decide(history, CRITERION)
    assert decision.stop and not decision.converged
    assert "max_generations (5)" in decision.reason and "forces 0.2 > 0.1" in decision.reason
    assert decide([*history[:3], score(4), score(5)], CRITERION).converged


def test_reasons_are_one_line():
    for history in ([], [score(1)], [score(1), score(2)], [score(g, forces=None) for g in range(5)]):
        assert "\n" not in decide(history, CRITERION).reason


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"forces": -1.0},
        {"forces": float("inf")},
        {"force": 0.1},
        {"forces": 0.1, "consecutive": 3, "max_generations": 2},
        {"forces": 0.1, "max_flagged_share": 1.5},
    ],
)
def test_a_criterion_that_cannot_be_judged_is_refused(bad):
    with pytest.raises(ValidationError):
        StopCriterion(**bad)


def test_a_generation_is_scored_once():
    with pytest.raises(ValueError, match="twice"):
        decide([score(1), score(1)], CRITERION)
