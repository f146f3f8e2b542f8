import numpy as np
import pytest
from fieldloop.active_learning.labels import LabelBounds
from fieldloop.active_learning.selection import (
    Candidate,
    Selection,
    SelectionError,
    SelectionSettings,
    select,
    typical_distance,
)
from fieldloop.active_learning.uncertainty.committee import UncertaintyError
from fieldloop.dft_inputs.records import Proposal
from pydantic import ValidationError

BOUNDS = LabelBounds(forces=0.1, polarization=0.02)


def settings(**changes) -> SelectionSettings:
    return SelectionSettings(**{"bounds": BOUNDS, "count": 4, "minimum": 1, "random_share": 0.0, **changes})


@pytest.fixture
def candidate(alas):
    """Makes a candidate; ``number`` sets its geometry."""

    def make(number: int, descriptor, forces=0.2, polarization=0.001, positions=None, **proposal) -> Candidate:
        moved = alas.positions.copy()
        moved[0, 0] += 1e-3 * (number + 1)
        frame = alas.model_validate({**alas.model_dump(), "positions": moved if positions is None else positions})
        origin = Proposal(**{"origin": "dynamics", "generation": 1, **proposal})
        return Candidate(frame, origin, np.array(descriptor, float), {"forces": forces, "polarization": polarization})

    return make


def chosen_ids(selection: Selection) -> list[str]:
    return [chosen.frame.frame_id for chosen in selection.chosen]


def test_every_candidate_is_accounted_for_with_a_reason(candidate, rng):
    pool = [candidate(i, rng.normal(size=3), forces=0.02 * (i + 1)) for i in range(20)]
    selection = select(pool, settings(random_share=0.25))
    assert len(selection.chosen) == 4
    ids = {*chosen_ids(selection), *(refused.frame_id for refused in selection.refused)}
    assert ids == {c.frame.frame_id for c in pool}
    assert all(chosen.proposal.reason for chosen in selection.chosen)
    assert all(refused.reason and "\n" not in refused.reason for refused in selection.refused)
    assert selection.flagged_share == pytest.approx(15 / 20)
    assert selection.chosen[0].proposal.uncertainty == pytest.approx({"forces": 0.4, "polarization": 0.001})
    assert Selection.model_validate_json(selection.model_dump_json()) == selection


def test_the_most_uncertain_goes_first_and_the_worst_label_counts(candidate):
    pool = [candidate(0, [0.0], forces=0.3), candidate(1, [1.0], forces=0.01, polarization=0.1), candidate(2, [2.0])]
    selection = select(pool, settings(count=1))
    assert chosen_ids(selection) == [pool[1].frame.frame_id]
    assert selection.chosen[0].score == pytest.approx(5.0)
    assert "polarization 0.1 e A, 5.00 times its bound" in selection.chosen[0].proposal.reason


def test_order_of_the_candidates_does_not_matter(candidate, rng):
    pool = [
        candidate(i, rng.normal(size=2), forces=rng.choice([0.05, 0.2, 0.2, 0.3]), temperature=rng.choice([300, 600]))
        for i in range(30)
    ]
    reference = select(pool, settings(count=8, random_share=0.5, min_distance=0.1))
    for _ in range(5):
        shuffled = [pool[i] for i in rng.permutation(len(pool))]
        assert select(shuffled, settings(count=8, random_share=0.5, min_distance=0.1)) == reference
    other = select(pool, settings(count=8, random_share=0.5, min_distance=0.1, seed=1))
    assert other.chosen[:4] == reference.chosen[:4] and other != reference


def test_exact_duplicates_of_the_store_and_within_the_pool_are_never_taken(candidate):
    pool = [candidate(0, [0.0], forces=5.0), candidate(1, [1.0]), candidate(1, [1.0], temperature=300.0)]
    selection = select(pool, settings(), known_ids=[pool[0].frame.frame_id])
    assert chosen_ids(selection) == [pool[1].frame.frame_id]
    assert {r.reason for r in selection.refused} == {"already labelled", "a duplicate within the pool"}


def test_ten_near_identical_frames_count_once(candidate, rng):
    pool = [candidate(i, [5.0 + 1e-3 * rng.normal(), 0.0], forces=3.0 + i) for i in range(10)]
    pool.append(candidate(20, [0.0, 3.0]))
    known = rng.uniform(-1, 1, size=(30, 2))
    selection = select(pool, settings(), known_descriptors=known)  # min_distance from the known frames
    assert len(selection.chosen) == 2
    assert sum("near duplicate of the chosen frame" in r.reason for r in selection.refused) == 9
    near_known = candidate(30, known[0] + 1e-4, forces=9.0)
    assert near_known.frame.frame_id not in chosen_ids(select([*pool, near_known], settings(), known_descriptors=known))


def test_farthest_points_cover_clusters_that_ranking_by_uncertainty_would_miss(candidate, rng):
    centres = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    pool, cluster = [], {}
    for i in range(80):
        home = 0 if i < 50 else 1 + i % 3
        uncertainty = rng.uniform(0.5, 0.6) if home == 0 else rng.uniform(0.11, 0.2)
        pool.append(candidate(i, centres[home] + rng.normal(scale=0.2, size=2), forces=uncertainty))
        cluster[pool[-1].frame.frame_id] = home
    assert {cluster[i] for i in chosen_ids(select(pool, settings()))} == {0, 1, 2, 3}
    ranked = sorted(pool, key=lambda c: -c.uncertainty["forces"])[:4]
    assert {cluster[c.frame.frame_id] for c in ranked} == {0}


def test_known_frames_push_the_choice_away(candidate):
    pool = [candidate(0, [0.0], forces=0.2), candidate(1, [5.0], forces=0.19), candidate(2, [9.0], forces=0.18)]
    known = np.array([[8.0], [10.0]])
    chosen = chosen_ids(select(pool, settings(count=2, min_distance=0.0), known_descriptors=known))
    assert chosen == [pool[0].frame.frame_id, pool[1].frame.frame_id]


def test_exploded_frames_are_refused_however_uncertain_and_count_as_flagged(candidate, alas):
    overlap, blown = alas.positions.copy(), alas.positions.copy()
    overlap[1] = overlap[0] + 0.1
    blown[2] = 1e12
    pool = [
        candidate(0, [0.0], forces=1e6, positions=overlap),
        candidate(1, [1.0], forces=1e6, positions=blown),
        candidate(2, [2.0], forces=0.15),
        candidate(3, [3.0], forces=0.01),
        candidate(4, [np.nan], forces=0.5),
    ]
    selection = select(pool, settings())
    assert chosen_ids(selection) == [pool[2].frame.frame_id]
    reasons = " | ".join(r.reason for r in selection.refused)
    assert "overlapping" in reasons and "exploded" in reasons and "descriptor" in reasons
    assert selection.flagged == 4
    lost = select(pool[2:4], settings(plausibility={"max_score": 1.2}))
    assert any("the model is lost here" in r.reason for r in lost.refused)


def test_a_sure_model_is_still_tested_on_the_minimum(candidate):
    pool = [candidate(i, [float(i)], forces=0.01 * i + 0.001) for i in range(8)]
    selection = select(pool, settings(count=6, minimum=2))
    assert chosen_ids(selection) == [pool[7].frame.frame_id, pool[6].frame.frame_id]
    assert selection.flagged == 0
    assert all("honest errors" in chosen.proposal.reason for chosen in selection.chosen)
    assert not select(pool, settings(minimum=0)).chosen


def test_random_picks_visit_every_origin(candidate, rng):
    pool = []
    for i in range(60):  # one origin is rare
        field = [0.0, 0.0, 0.01] if i % 20 == 0 else [0.0, 0.0, 0.0]
        pool.append(candidate(i, rng.normal(size=3), forces=0.05, temperature=300.0 + 300 * (i % 2), field=field))
    selection = select(pool, settings(count=3, random_share=1.0))
    origins = {(c.proposal.temperature, *c.proposal.field) for c in selection.chosen}
    assert len(selection.chosen) == len(origins) == 3
    assert all(c.proposal.reason.startswith("random pick") for c in selection.chosen)


def test_random_selection_is_fair(candidate):
    """The control: with a random share of one, every frame of a stratum is taken equally often, sure or not."""
    pool = [candidate(i, [float(i)], forces=0.5 if i < 2 else 0.01) for i in range(6)]
    taken = [i for seed in range(300) for i in chosen_ids(select(pool, settings(count=1, random_share=1.0, seed=seed)))]
    counts = np.array([taken.count(c.frame.frame_id) for c in pool])
    assert counts.sum() == 300
    assert np.sum((counts - 50) ** 2 / 50) < 20.5  # chi squared of 5 degrees of freedom at 99.9 %


def test_a_pool_of_one_works_and_an_empty_one_is_refused(candidate):
    only = candidate(0, [0.0])
    assert chosen_ids(select([only], settings())) == [only.frame.frame_id]
    assert chosen_ids(select([candidate(0, [0.0], forces=0.01)], settings(random_share=0.5))) == [only.frame.frame_id]
    with pytest.raises(SelectionError, match="pool is empty"):
        select([], settings())


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf"), -1.0])
def test_uncertainties_that_say_nothing_are_refused(candidate, value):
    pool = [candidate(i, [float(i)], forces=value, polarization=value) for i in range(3)]
    with pytest.raises(UncertaintyError, match="says anything") as error:
        select(pool, settings())
    assert "\n" not in str(error.value)
    selection = select([*pool, candidate(9, [9.0])], settings())
    assert len(selection.chosen) == 1  # the others are refused one by one, and never taken for certain
    assert selection.flagged == 4


def test_unbounded_or_missing_labels_are_an_error_and_not_certainty(candidate):
    pool = [candidate(0, [0.0])]
    with pytest.raises(UncertaintyError, match="no uncertainty is given of born_effective_charges"):
        select(pool, settings(bounds=LabelBounds(born_effective_charges=0.1)))


def test_a_selection_reads_back_whatever_the_unbounded_labels_say(candidate):
    made = candidate(0, [0.0])
    made.uncertainty["polarizability"] = float("nan")
    made.uncertainty["born_effective_charges"] = np.float32(0.25)
    selection = select([made], settings())
    assert Selection.model_validate_json(selection.model_dump_json()) == selection
    assert selection.chosen[0].proposal.uncertainty == {
        "forces": 0.2,
        "polarization": 0.001,
        "born_effective_charges": 0.25,
    }


def test_descriptors_must_fit(candidate):
    with pytest.raises(SelectionError, match="one shape"):
        select([candidate(0, [0.0]), candidate(1, [0.0, 1.0])], settings())
    with pytest.raises(SelectionError, match="known descriptors"):
        select([candidate(0, [0.0])], settings(), known_descriptors=np.zeros((4, 2)))
    with pytest.raises(SelectionError, match="known descriptor has NaN"):
        select([candidate(0, [0.0])], settings(), known_descriptors=np.array([[np.nan]]))


def test_typical_distance_of_a_grid():
    grid = np.stack(np.meshgrid(np.arange(4.0), np.arange(4.0)), axis=-1).reshape(-1, 2) * 0.5
    assert typical_distance(grid) == pytest.approx(0.5)
    assert typical_distance(grid[:1]) == 0.0


@pytest.mark.parametrize("bad", [{"count": 0}, {"random_share": 1.5}, {"cuont": 3}, {"bounds": {}}])
def test_settings_refuse_nonsense(bad):
    with pytest.raises(ValidationError):
        settings(**bad)
