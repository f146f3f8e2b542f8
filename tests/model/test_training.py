"""Losses, masks, branches, references; training: what is learned, and that resuming changes nothing."""

import numpy as np
import pytest
import torch
from fieldloop.dft_inputs.records import LABELS, Quality
from fieldloop.model.data import make_batch, mean_neighbours
from fieldloop.model.losses import loss, loss_sums, residuals, squared_errors
from fieldloop.model.references import fit_references
from fieldloop.model.responses import Responses, compute_responses
from fieldloop.model.settings import Tolerances, TrainingSettings
from fieldloop.model.steps import ExampleSet, StepSampler
from fieldloop.model.training import train
from numpy.testing import assert_allclose

FIELD = (0.05, -0.02, 0.08)


def exact(batch) -> Responses:
    """The labels themselves as a prediction."""
    return Responses(**batch.labels)


@pytest.fixture
def teacher(make_network):
    return make_network(seed=11)


@pytest.fixture
def frames(teacher, make_frame, make_labelled):
    return [make_labelled(make_frame(seed, cubic=False), teacher) for seed in range(6)]


def test_a_perfect_prediction_has_no_loss(frames, teacher):
    batch = make_batch(frames, teacher)
    predicted = compute_responses(teacher, batch.graph, stress=True, born=True)
    assert float(loss(predicted, batch, TrainingSettings())) < 1e-16
    assert set(squared_errors(predicted, batch).rmse()) == set(LABELS)


def test_loss_is_one_at_the_tolerance(frames, teacher):
    """An error of one tolerance in every component of one label gives a loss of one."""
    batch = make_batch(frames, teacher)
    for name in LABELS:
        tolerance = getattr(Tolerances(), name)
        off = {**batch.labels, name: batch.labels[name] + tolerance * (batch.atoms if name == "enthalpy" else 1.0)}
        assert float(loss(Responses(**off), batch, TrainingSettings())) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("kind", ["mse", "huber"])
def test_gradient_of_the_loss(frames, make_network, name, kind):
    """By the weights along a random direction, through up to three derivatives, against a finite difference."""
    student = make_network(seed=4, layers=1, l_max=1)
    alone = Tolerances(**{other: getattr(Tolerances(), other) if other == name else None for other in LABELS})
    settings = TrainingSettings(tolerances=alone, loss=kind)
    batch = make_batch([frames[0]], student)
    weights = list(student.parameters())
    random = torch.Generator().manual_seed(0)
    direction = [torch.randn(p.shape, generator=random) for p in weights]

    def value():
        return loss(compute_responses(student, batch.graph, stress=True, born=True, create_graph=True), batch, settings)

    def moved(step):
        with torch.no_grad():
            for p, d in zip(weights, direction, strict=True):
                p.add_(step * d)
        return float(value().detach())

    value().backward()
    slope = sum(float((p.grad * d).sum()) for p, d in zip(weights, direction, strict=True) if p.grad is not None)
    up, down = moved(1e-5), moved(-2e-5)
    assert slope == pytest.approx((up - down) / 2e-5, rel=1e-5)


@pytest.mark.parametrize("quanta", [(1, 0, 0), (-2, 1, 3)])
def test_branches_of_polarization_do_not_matter(make_frame, make_labelled, teacher, quanta):
    """A label on another branch, enthalpy moved by -E.nQ, is the same label; without the move it is not."""
    frame = make_frame(0, cubic=False)
    label = make_labelled(frame, teacher, field=FIELD)
    shift = np.array(quanta) @ frame.cell
    moved = {
        "polarization": label.response.polarization + shift,
        "enthalpy": label.response.enthalpy - float(np.dot(FIELD, shift)),
    }
    other = label.model_copy(update={"response": label.response.model_copy(update=moved)})
    for item in (label, other):
        batch = make_batch([item], teacher)
        predicted = compute_responses(teacher, batch.graph, stress=True, born=True)
        assert float(loss(predicted, batch, TrainingSettings())) < 1e-12
    wrong = moved | {"enthalpy": label.response.enthalpy}
    batch = make_batch([label.model_copy(update={"response": label.response.model_copy(update=wrong)})], teacher)
    assert squared_errors(compute_responses(teacher, batch.graph), batch).rmse()["enthalpy"] > 0.01


def test_missing_labels_are_masked(make_frame, make_labelled, make_network, teacher):
    """A missing label changes neither the loss nor the gradient of the others."""
    student = make_network(seed=1)
    full = make_labelled(make_frame(0, cubic=False), teacher)
    bare = make_labelled(
        make_frame(1), teacher, born_effective_charges=None, polarizability=None, polarization=None, stress=None
    )

    def rmse(items):
        batch = make_batch(items, student)
        return squared_errors(compute_responses(student, batch.graph, stress=True, born=True), batch).rmse()

    both, alone = rmse([full, bare]), rmse([full])
    for name in ("born_effective_charges", "polarizability", "polarization", "stress"):
        assert both[name] == pytest.approx(alone[name], rel=1e-10)
    assert both["forces"] != pytest.approx(alone["forces"], rel=1e-3)
    assert set(rmse([bare])) == {"enthalpy", "forces"}


def test_no_label_in_the_loss_is_an_error(make_frame, make_labelled, teacher):
    item = make_labelled(make_frame(0), teacher, stress=None)
    batch = make_batch([item], teacher)
    only_stress = TrainingSettings(tolerances=Tolerances(**{name: None for name in LABELS if name != "stress"}))
    with pytest.raises(ValueError, match="no label"):
        loss(exact(batch), batch, only_stress)


def test_references_are_least_squares(make_frame, make_labelled, make_network):
    """Energies and polarizabilities made of species sums are recovered; the composition varies in the set."""
    model = make_network(seed=2, repulsion=False)
    items = []
    for seed, swap in ((0, False), (1, True), (2, False)):
        frame = make_frame(seed)
        if swap:
            frame = frame.model_copy(update={"species": ("As",) * 5 + ("Al",) * 3})
        al, arsenic = frame.species.count("Al"), frame.species.count("As")
        made = {"enthalpy": -2.5 * al + 4.0 * arsenic, "polarizability": np.eye(3) * (0.2 * al + 0.9 * arsenic)}
        items.append(make_labelled(frame, model, **made))
    fit_references([model], items)
    assert_allclose(model.energy_reference, [-2.5, 4.0], atol=1e-10)
    assert_allclose(model.polarizability_reference, [0.2, 0.9], atol=1e-10)


def test_mean_neighbours_of_zincblende(make_frame, make_labelled, teacher):
    """Within 4.2 A an atom of AlAs has 4 + 12 neighbours."""
    item = make_labelled(make_frame(0, stdev=0.0), teacher)
    assert mean_neighbours([item], ("Al", "As"), 4.2) == 16


def test_charged_cells_are_refused(make_network, make_frame, make_labelled):
    model = make_network(reference_charges={"Al": 3, "As": -2})
    with pytest.raises(ValueError, match=r"add up to \+4 e"):
        make_batch([make_labelled(make_frame(0), make_network())], model)


def test_bad_sets_are_refused(frames, make_network):
    model = make_network()
    flagged = frames[0].model_copy(update={"quality": Quality(flags=("enthalpy_law_error",))})
    with pytest.raises(ValueError, match="empty"):
        train(model, [], frames, TrainingSettings())
    with pytest.raises(ValueError, match="both"):
        train(model, frames, frames[:1], TrainingSettings())
    with pytest.raises(ValueError, match="flagged"):
        train(model, [flagged], [], TrainingSettings())


def test_directions_weigh_as_whole_tensors(frames, teacher, make_network):
    """Mean squared errors of Z* and alpha along three orthogonal directions, one at a time, are those of the tensors
    in mean, and so are their gradients."""
    student, batch = make_network(seed=3), make_batch(frames[:2], teacher)
    settings = TrainingSettings(
        tolerances=Tolerances(enthalpy=None, forces=None, stress=None, polarization=None), optimizer="adam"
    )

    def value_and_gradient(directions):
        predicted = compute_responses(student, batch.graph, born=True, directions=directions, create_graph=True)
        sums, counts = loss_sums([residuals(predicted, batch, directions)], settings)
        value = sum(sums[name].sum() / counts[name] for name in sums)
        return value.detach(), torch.autograd.grad(value, student.edge_weights)[0]

    whole, of_whole = value_and_gradient(None)
    rows = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    parts = [value_and_gradient(row[None]) for row in rows]
    assert_allclose(sum(value for value, _ in parts) / 3, whole, rtol=1e-10)
    assert_allclose(sum(gradient for _, gradient in parts) / 3, of_whole, rtol=1e-8, atol=1e-10)
    assert len({round(float(value), 6) for value, _ in parts}) == 3


def test_directions_of_a_step_are_orthonormal_and_repeatable(frames):
    examples = ExampleSet(frames, [], field_points=False)
    for count in (1, 2):
        sampler = StepSampler(examples, TrainingSettings(field_directions=count), seed=4)
        plans = list(sampler)
        assert plans == list(sampler)
        for plan in plans:
            rows = np.array(plan.directions)
            assert_allclose(rows @ rows.T, np.eye(count), atol=1e-14)
        assert len({plan.directions for plan in plans}) == len(plans)
    assert all(plan.directions is None for plan in StepSampler(examples, TrainingSettings(field_directions=3), seed=4))
