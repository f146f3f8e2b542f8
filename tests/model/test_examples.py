"""What enters a step: field points on their branch, label noise, order, replay, devices; frames that are refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fieldloop.dft_inputs.formats import read_labels, read_labels_or_stop
from fieldloop.dft_inputs.records import LABELS, LabelledFrame, Quality
from fieldloop.model.checks import TrainingDataError, check_frames
from fieldloop.model.data import make_batch
from fieldloop.model.examples import Example, example_of, field_examples, label_noise
from fieldloop.model.losses import loss, residuals
from fieldloop.model.parts import LearnedPart
from fieldloop.model.responses import Responses, compute_responses
from fieldloop.model.settings import Tolerances, TrainingSettings
from fieldloop.model.stack import NetworkStack
from fieldloop.model.steps import ExampleSet, StepData, StepPlan, StepSampler
from numpy.testing import assert_allclose

RUNS = Path(__file__).parents[1] / "data" / "espresso"


@pytest.fixture(scope="module")
def quartz():
    """A label of pw.x with its six field points."""
    (label,) = read_labels_or_stop(RUNS / "quartz", "pw.x")
    return label


def published():
    """One SiO2 and one BaTiO3 label; the enthalpy of one field point of the latter was printed on another branch."""
    return [item for item in read_labels(RUNS / "allegro_pol", "pw.x") if isinstance(item, LabelledFrame)]


def test_field_points_of_pwx_lie_on_one_branch(quartz):
    """U(E) - U(0) = -(P(0) + P(E)).E / 2 to third order in E, which a quantum of P off would break by 0.02 eV; forces
    follow Z*.E."""
    labels = [quartz, *published()]
    assert [len(field_examples(label)) for label in labels] == [6, 3, 3]
    assert any("enthalpy moved" in repair for label in labels for repair in label.quality.repairs)
    for zero, example in ((label.response, example) for label in labels for example in field_examples(label)):
        point = example.response
        mean = (zero.polarization + point.polarization) / 2
        assert point.enthalpy - zero.enthalpy == pytest.approx(-float(mean @ point.field), abs=2e-6)
        linear = zero.forces + np.einsum("iab,a->ib", zero.born_effective_charges, point.field)
        assert np.abs(point.forces - linear).max() < 2e-4
        assert point.born_effective_charges is None


def test_examples_on_another_branch_are_the_same(quartz, make_network):
    """Every point finds the branch of the prediction by itself, its enthalpy with it."""
    model = make_network(seed=1, layers=1, l_max=1, species=("O", "Si"), reference_charges={"O": -2, "Si": 4})
    for example in field_examples(quartz)[:2]:
        response = example.response
        shift = np.array([2, -1, 1]) @ response.polarization_quanta
        moved = {
            "polarization": response.polarization + shift,
            "enthalpy": response.enthalpy - float(response.field @ shift),
        }
        other = Example(example.label_id, example.frame, response.model_copy(update=moved), example.noise)
        both = []
        for item in (example, other):
            batch = make_batch([item], model)
            both.append(residuals(compute_responses(model, batch.graph), batch))
        for name in ("enthalpy", "polarization"):
            assert torch.allclose(both[0][name].error, both[1][name].error, atol=1e-9), name


def test_noise_of_a_label_is_what_its_checks_say(quartz):
    noise = label_noise(quartz)
    assert noise["enthalpy"] == pytest.approx(quartz.quality.scf_accuracy / 9)
    assert noise["born_effective_charges"] == pytest.approx(quartz.quality.born_effective_charges_accuracy)
    alpha = quartz.response.polarizability
    assert noise["polarizability"] == pytest.approx(np.abs(alpha - alpha.T).max() / 2)
    assert set(field_examples(quartz)[0].noise) <= {"enthalpy", "forces", "polarization"}


def test_noise_adds_to_the_tolerance_in_quadrature(make_frame, make_labelled, make_network):
    """An error of sqrt(tolerance^2 + noise^2) counts as one, and as more where noise is left out."""
    teacher = make_network(seed=11)
    label = make_labelled(make_frame(0, cubic=False), teacher)
    label = label.model_copy(update={"quality": Quality(polarization_accuracy=0.03)})
    batch = make_batch([example_of(label)], teacher)
    settings = TrainingSettings(tolerances=Tolerances(polarization=0.04))
    off = {**batch.labels, "polarization": batch.labels["polarization"] + 0.05}
    assert float(loss(Responses(**off), batch, settings)) == pytest.approx(1.0)
    plain = settings.model_copy(update={"label_noise": False})
    assert float(loss(Responses(**off), batch, plain)) == pytest.approx((0.05 / 0.04) ** 2)


def test_huber_is_the_square_near_zero_and_linear_far_away(make_frame, make_labelled, make_network):
    teacher = make_network(seed=11)
    batch = make_batch([make_labelled(make_frame(0, cubic=False), teacher)], teacher)

    def huber(tolerances):
        off = {**batch.labels, "forces": batch.labels["forces"] + 0.03 * tolerances}
        return float(loss(Responses(**off), batch, TrainingSettings(loss="huber", huber_delta=3.0)))

    assert huber(1.0) == pytest.approx(1.0)
    assert huber(2.9) == pytest.approx(2.9**2)
    assert huber(20.0) - huber(10.0) == pytest.approx(2 * 3.0 * 10.0)


@pytest.fixture
def items(make_frame, make_labelled, make_network):
    teacher = make_network(seed=11, layers=1, l_max=1)
    return [make_labelled(make_frame(seed, cubic=False), teacher) for seed in range(7)]


def test_each_frame_enters_an_epoch_once_whatever_the_devices(items):
    settings = TrainingSettings(batch_size=3, devices=2)
    examples = ExampleSet(items, (), field_points=False)
    one = StepSampler(examples, settings, seed=5)
    parts = [StepSampler(examples, settings, seed=5, device=d, devices=2) for d in (0, 1)]
    for sampler in (one, *parts):
        sampler.set_epoch(4)
    whole, left, right = ([*sampler] for sampler in (one, *parts))
    assert sorted(i for plan in whole for i in plan.examples) == list(range(7))
    assert len(one) == len(whole) == len(left) == len(right) == 3
    for plan, a, b in zip(whole, left, right, strict=True):
        shared = [i for part in (a, b) if part.counts for i in part.examples]
        assert sorted(shared) == sorted(plan.examples)
    assert not right[-1].counts  # the last step has a single frame: the other device only keeps step
    one.set_epoch(5)
    assert [*one] != whole


def test_replayed_frames_have_their_share_of_an_epoch(items):
    settings = TrainingSettings(batch_size=1, replay=0.6)
    examples = ExampleSet(items[:4], items[4:], field_points=False)
    sampler = StepSampler(examples, settings, seed=1)
    drawn = [i for plan in sampler for i in plan.examples]
    assert len(sampler) == len(drawn) == 10
    assert [drawn.count(i) for i in range(4)] == [1, 1, 1, 1]
    assert sorted(drawn.count(i) for i in range(4, 7)) == [2, 2, 2]


def test_field_points_come_along_in_their_share(quartz):
    examples = ExampleSet([quartz], (), field_points=True)
    settings = TrainingSettings(batch_size=1, field_points=0.5)
    sampler = StepSampler(examples, settings, seed=1)
    extra = []
    for epoch in range(200):
        sampler.set_epoch(epoch)
        extra += [i for plan in sampler for i in plan.examples if i]
    assert len(extra) == pytest.approx(100, abs=25)
    assert set(extra) == set(range(1, 7))


def test_only_frames_with_second_derivatives_pay_for_them(items, make_network):
    """Field points, and frames without Z* and alpha, are computed apart from those that need a second derivative."""
    bare = items[1].response.model_copy(update={"born_effective_charges": None, "polarizability": None})
    labels = [items[0], items[1].model_copy(update={"response": bare})]
    data = StepData(ExampleSet(labels, (), field_points=False), [make_network(layers=1, l_max=1)], Tolerances().used())
    sampler = StepSampler(data.examples, TrainingSettings(batch_size=2), seed=0)
    (step,) = (data[plan] for plan in sampler)
    assert [batch.holds("born_effective_charges") for batch in step.batches] == [True, False]
    assert sum(batch.graph.n_structures for batch in step.batches) == 2


@pytest.mark.parametrize("copies", [1, 2])
def test_what_is_left_to_learn(items, make_network, copies):
    """Errors of the learned part against the labels that are left are those of the whole against the labels."""
    changes = {"reference": "many_body", "long_range": True, "screened_charges": {"Al": 1.3, "As": -1.3}}
    networks = [make_network(seed, layers=1, l_max=1, **changes) for seed in range(copies)]
    data = StepData(ExampleSet(items[:2], (), field_points=False), networks, Tolerances().used())
    (batch,) = data[StepPlan((0, 1))].batches
    learned = NetworkStack([LearnedPart(network) for network in networks])
    found = residuals(compute_responses(learned, batch.graph, stress=True, born=True), batch)
    whole = make_batch(items[:2], networks[0])
    expected = [residuals(compute_responses(n, whole.graph, stress=True, born=True), whole) for n in networks]
    for name, residual in found.items():
        assert_allclose(residual.error, torch.cat([one[name].error for one in expected]), atol=1e-8, err_msg=name)
    assert set(found) == set(LABELS)


def changed(label, **changes):
    frame = label.frame.model_copy(update=changes)
    return label.model_copy(update={"frame": frame})


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("flat", "its cell has no volume: put molecules and slabs into a box"),
        ("overlap", r"frame \w+ \(Al1As1\): atoms 0 \(Al\) and 1 \(As\) are 0\.\d+ A apart"),
        ("species", r"frame \w+ \(Al1Ga1\): the model knows Al, As, not Ga"),
        ("shape", r"frame \w+ \(Al1As1\): forces of 3 atoms, but it has 2"),
        ("charge", r"frame \w+ \(Al2\): reference charges of Al2 add up to \+6 e"),
        ("flagged", r"1 training frames failed or are flagged \(first: \w+ \(Al1As1\)\)"),
        ("empty", "the training set is empty"),
    ],
)
def test_frames_that_would_teach_nonsense_are_named(items, fault, words):
    label = items[0]
    bad = {
        "flat": lambda: changed(label, cell=np.diag([5.0, 5.0, 0.0]), pbc=(True, True, False)),
        "overlap": lambda: changed(label, positions=np.diag([0.3, 0.0, 0.0])[:2]),
        "species": lambda: changed(label, species=("Al", "Ga")),
        "shape": lambda: label.model_copy(
            update={"response": label.response.model_copy(update={"forces": np.zeros((3, 3))})}
        ),
        "charge": lambda: changed(label, species=("Al", "Al")),
        "flagged": lambda: label.model_copy(update={"quality": Quality(flags=("scf_accuracy",))}),
        "empty": None,
    }[fault]
    frames = [items[1], bad()] if bad else []
    with pytest.raises(TrainingDataError, match=words) as refusal:
        check_frames(frames, "training", ("Al", "As"), {"Al": 3, "As": -3})
    assert "\n" not in str(refusal.value)


def test_earlier_trainings_keep_their_identity():
    """Settings that came later enter the content keys only where they differ from before; devices never do."""
    before = {
        "epochs", "batch_size", "learning_rate", "final_learning_rate", "warmup", "ema_decay", "gradient_clip",
        "tolerances", "checkpoint_every", "validate_every",
    }  # fmt: skip
    as_before = TrainingSettings(optimizer="adam", field_directions=3)
    assert set(as_before.identity()) == before
    assert set(TrainingSettings().identity()) == before | {"optimizer", "field_directions"}
    assert TrainingSettings(devices=2, accelerator="cpu", tensorboard=True).identity() == TrainingSettings().identity()
    changed = as_before.model_copy(update={"loss": "huber", "field_points": 0.5})
    assert set(changed.identity()) == before | {"loss", "field_points"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"devices": 4}, "make batch_size larger"),
        ({"early_stop": 2}, "must be at least validate_every"),
        ({"loss": "mae"}, "huber"),
        ({"replay": 1.0}, "less than 1"),
    ],
)
def test_settings_that_cannot_work(changes, words):
    with pytest.raises(ValueError, match=words):
        TrainingSettings(**changes)
