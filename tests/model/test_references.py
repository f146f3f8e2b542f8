"""Pairs and triples by least squares: what is recovered, and that the equations are those of the model."""

import numpy as np
import pytest
import torch
from fieldloop.model.layers.three_body import ThreeBody
from fieldloop.model.references import _design, _set_coefficients, _size, fit_references, fit_three_body
from fieldloop.model.responses import compute_responses
from fieldloop.model.training import initial_network
from numpy.testing import assert_allclose

THREE_BODY = {"reference": "three_body"}


@pytest.fixture
def silent(make_network):
    """A model that is its references alone."""

    def build(seed=0, **changes):
        model = make_network(seed, repulsion=False, **THREE_BODY, **changes)
        model.energy_scale.fill_(0.0)
        return model

    return build


def test_equations_are_those_of_the_layer(silent, make_frame, make_graph):
    """Energy, forces and virial of any coefficients, by the equations and by derivatives of the model."""
    model = silent()
    model.energy_reference.fill_(0.0)
    basis = model.three_body
    coefficients = torch.randn(_size(basis), generator=torch.Generator().manual_seed(1))
    _set_coefficients(basis, coefficients.numpy())
    graph = make_graph(model, make_frame(3, cubic=False))
    wanted, design = compute_responses(model, graph, stress=True), _design(basis, graph)
    assert design.energy @ coefficients.numpy() == pytest.approx(float(wanted.enthalpy), rel=1e-10)
    assert_allclose(design.forces @ coefficients.numpy(), wanted.forces, atol=1e-9)
    virial = wanted.stress[0] * graph.volume()
    assert_allclose(design.virial @ coefficients.numpy(), virial, atol=1e-9)


def test_an_energy_of_pairs_and_triples_is_recovered(silent, make_frame, make_labelled):
    """Labels of such an energy, from few frames and beside energies of the species, are met on other frames."""
    teacher = silent(5)
    with torch.no_grad():
        for name in ("pairs", "triples"):
            getattr(teacher.three_body, name).mul_(0.1)
        teacher.energy_reference.copy_(torch.tensor([-250.0, 90.0]))
    model = silent(6)
    fit_references(model, [make_labelled(make_frame(seed), teacher) for seed in range(24)])
    model.energy_scale.fill_(0.0)
    item = make_labelled(make_frame(50), teacher)
    found = compute_responses(model, _graph(model, item))
    size = float(np.square(item.response.forces).mean() ** 0.5)
    assert float((found.forces - torch.tensor(item.response.forces)).square().mean().sqrt()) < 0.05 * size
    assert float(found.enthalpy) == pytest.approx(item.response.enthalpy, abs=0.05 * 8)


def test_few_frames_are_not_learned_by_heart(silent, make_network, make_frame, make_labelled):
    """Hundreds of coefficients on 48 numbers: the ridge is chosen so that frames left out do not suffer."""
    teacher = make_network(1)
    training = [make_labelled(make_frame(seed), teacher) for seed in range(2)]
    other = [make_labelled(make_frame(seed), teacher) for seed in range(10, 16)]
    model = silent()
    fit_references(model, training)
    model.energy_scale.fill_(0.0)
    left, labels = (
        np.concatenate([array.ravel() for array in arrays])
        for arrays in (
            [compute_responses(model, _graph(model, i)).forces.numpy() - i.response.forces for i in other],
            [i.response.forces for i in other],
        )
    )
    assert np.square(left).mean() < 1.2 * np.square(labels).mean()


def test_a_field_is_taken_off_the_forces(silent, make_frame, make_labelled):
    """Labels in a field give the references of those without, where Z* tells how forces follow it."""
    teacher, models = silent(5), (silent(6), silent(6))
    for model, field in zip(models, ((0.0, 0.0, 0.0), (0.0, 0.03, 0.0)), strict=True):
        fit_references(model, [make_labelled(make_frame(s), teacher, field=field, stress=None) for s in range(4)])
    assert_allclose(models[0].three_body.pairs, models[1].three_body.pairs, atol=1e-5)


def test_the_scale_is_that_of_what_is_left(make_network, make_frame, make_labelled):
    teacher = make_network(1)
    frames = [make_labelled(make_frame(seed), teacher) for seed in range(12)]
    plain, fitted = (
        initial_network(teacher.config.model_copy(update=changes), frames, seed=0)
        for changes in ({}, {"reference": "three_body"})
    )
    assert float(fitted.energy_scale) <= float(plain.energy_scale)


def test_no_labels_leave_it_at_zero(make_frame):
    layer = ThreeBody(2, 4.0, 1)
    fit_three_body(layer, [], ("Al", "As"))
    assert not bool(layer.pairs.any())


def _graph(model, item):
    from fieldloop.model.data import make_batch

    return make_batch([item], model).graph
