"""Many-body functions by least squares: what is recovered, and that the equations are those of the model."""

import numpy as np
import pytest
import torch
from fieldloop.model import many_body_equations
from fieldloop.model.data import make_batch
from fieldloop.model.many_body_equations import Unexplained
from fieldloop.model.references import fit_references
from fieldloop.model.responses import compute_responses
from fieldloop.model.training import initial_committee, initial_network
from numpy.testing import assert_allclose


@pytest.fixture
def silent(make_network):
    """A model that is its references alone."""

    def build(seed=0, **changes):
        model = make_network(seed, repulsion=False, reference="many_body", **{"reference_charges": {}, **changes})
        model.energy_scale.fill_(0.0)
        return model

    return build


@pytest.mark.parametrize("l_max", [1, 2, 3])
def test_equations_are_those_of_the_model(silent, make_frame, make_graph, monkeypatch, l_max):
    """Coefficients that solve the equations for the labels of a model: put in, the rows give the labels."""
    model = silent(3, l_max=l_max)
    model.energy_reference.fill_(0.0)
    model.polarizability_reference.fill_(0.0)
    graph = make_graph(model, make_frame(3, cubic=False))
    wanted = compute_responses(model, graph, stress=True, born=True)
    labels = Unexplained(
        graph=graph,
        energy=float(wanted.enthalpy),
        forces=wanted.forces.numpy(),
        virial=(wanted.stress[0] * graph.volume()).numpy(),
        born_effective_charges=wanted.born_effective_charges.numpy(),
        polarizability=wanted.polarizability[0].numpy(),
    )
    basis = model.many_body
    rows, columns = torch.triu_indices(basis.channels, basis.channels)
    twice = torch.where(rows == columns, 1.0, 2.0)
    symmetric = (basis.energy_triples + basis.energy_triples.transpose(2, 3)) / 2
    triples = (symmetric[:, :, rows, columns] * twice).flatten(1)
    constants = np.zeros(2)
    products = basis.products
    energy = torch.cat([basis.pairs[:, 0], triples, products.energy.flatten(1)], 1).flatten()
    energy = np.concatenate([energy, constants])
    dipole = torch.cat([basis.pairs[:, 1], basis.dipole_triples.flatten(1), products.dipole.flatten(1)], 1)
    dipole = dipole.flatten().numpy()
    parts = [basis.pairs[:, 2:], products.isotropic, products.anisotropic]
    polarizability = np.concatenate([torch.cat([part.flatten(1) for part in parts], 1).flatten(), constants])
    for equations, coefficients in (
        (many_body_equations.energy_equations, energy),
        (many_body_equations.dipole_equations, dipole),
        (many_body_equations.polarizability_equations, polarizability),
    ):
        matrix, values = equations(basis, labels)
        assert_allclose(matrix @ coefficients, values, atol=1e-8, err_msg=equations.__name__)


def test_what_is_of_pairs_and_triples_is_recovered(silent, make_frame, make_labelled):
    """Labels of such a model, beside energies of the species, are met on a frame not fitted to."""
    teacher, model = silent(5), silent(6)
    with torch.no_grad():
        teacher.energy_reference.copy_(torch.tensor([-250.0, 90.0]))
    fit_references([model], [make_labelled(make_frame(seed), teacher) for seed in range(24)])
    model.energy_scale.fill_(0.0)
    item = make_labelled(make_frame(50), teacher)
    found = compute_responses(model, make_batch([item], model).graph, stress=True, born=True)
    for name in ("forces", "stress", "born_effective_charges", "polarizability"):
        label = getattr(item.response, name)
        error = np.square(getattr(found, name).numpy().reshape(label.shape) - label).mean()
        assert error < 0.1**2 * np.square(label - label.mean(0)).mean(), name
    assert float(found.enthalpy) == pytest.approx(item.response.enthalpy, abs=0.02 * 8)


def test_few_frames_are_not_learned_by_heart(silent, make_network, make_frame, make_labelled):
    """Hundreds of coefficients on 48 forces: the ridge is chosen so that frames left out do not suffer."""
    teacher = make_network(1)
    training = [make_labelled(make_frame(seed), teacher) for seed in range(2)]
    model = silent()
    fit_references([model], training)
    model.energy_scale.fill_(0.0)
    other = [make_labelled(make_frame(seed), teacher) for seed in range(10, 16)]
    found = compute_responses(model, make_batch(other, model).graph).forces.numpy()
    labels = np.concatenate([item.response.forces for item in other])
    assert np.square(found - labels).mean() < 1.2 * np.square(labels).mean()


def test_a_field_is_taken_off_the_forces(silent, make_frame, make_labelled):
    """Labels in a field give the references of those without, where Z* tells how forces follow it."""
    teacher, models = silent(5), (silent(6), silent(6))
    for model, field in zip(models, ((0.0, 0.0, 0.0), (0.0, 0.03, 0.0)), strict=True):
        fit_references([model], [make_labelled(make_frame(s), teacher, field=field, stress=None) for s in range(4)])
    item, found = make_labelled(make_frame(50), teacher), []
    for model in models:
        model.energy_scale.fill_(0.0)
        found.append(compute_responses(model, make_batch([item], model).graph).forces.numpy())
    assert np.square(found[1] - found[0]).mean() < 0.05**2 * np.square(item.response.forces).mean()


def test_a_label_that_is_missing_leaves_its_part_at_zero(silent, make_frame, make_labelled):
    teacher, model = silent(5), silent(6)
    missing = {"born_effective_charges": None, "polarizability": None}
    fit_references([model], [make_labelled(make_frame(s), teacher, **missing) for s in range(3)])
    assert bool(model.many_body.pairs[:, 0].any())
    assert not bool(model.many_body.pairs[:, 1:].any())
    assert not bool(model.many_body.dipole_triples.any())


def test_what_is_left_sets_the_scale(make_network, make_frame, make_labelled):
    teacher = make_network(1)
    frames = [make_labelled(make_frame(seed), teacher) for seed in range(12)]
    plain, fitted = (
        initial_network(teacher.config.model_copy(update=changes), frames, seed=0)
        for changes in ({}, {"reference": "many_body"})
    )
    assert float(fitted.energy_scale) <= float(plain.energy_scale)


def test_members_in_one_pass_have_their_own(silent, make_frame, make_graph):
    from fieldloop.model.stack import NetworkStack, stack_responses

    members = [silent(1), silent(2)]
    graph = make_graph(members[0], make_frame(1), field=(0.1, 0.2, -0.1))
    found = stack_responses(NetworkStack(members), graph, born=True)
    for place, member in enumerate(members):
        alone = compute_responses(member, graph, born=True)
        for name in ("forces", "polarization", "born_effective_charges", "polarizability"):
            assert_allclose(getattr(found, name)[place], getattr(alone, name), atol=1e-9, err_msg=name)


def test_members_differ_more_where_labels_leave_them_free(make_network, make_frame, make_labelled):
    """Draws from the posterior spread more on hotter frames than those fitted to, and less after more labels."""
    teacher = make_network(1)
    config = teacher.config.model_copy(update={"reference": "many_body", "l_max": 1})
    like, hot = ([make_labelled(make_frame(seed, stdev=s), teacher) for seed in range(40, 42)] for s in (0.05, 0.3))

    def spread(n_frames, frames):
        training = [make_labelled(make_frame(seed, stdev=0.05), teacher) for seed in range(n_frames)]
        members = initial_committee(config, training, range(3))
        forces = [compute_responses(m, make_batch(frames, m).graph).forces.numpy() for m in members]
        return float(np.std(forces, axis=0).mean())

    few = spread(6, like)
    assert 2 * few < spread(6, hot)
    assert spread(18, like) < few


def test_without_a_committee_every_seed_has_the_same_references(make_network, make_frame, make_labelled):
    teacher = make_network(1)
    config = teacher.config.model_copy(update={"reference": "many_body"})
    frames = [make_labelled(make_frame(seed), teacher) for seed in range(3)]
    models = [initial_network(config, frames, seed) for seed in range(2)]
    forces = [compute_responses(model, make_batch(frames, model).graph).forces for model in models]
    assert_allclose(forces[0], forces[1], atol=1e-9)


def test_the_zero_of_energy_does_not_matter(silent, make_network, make_frame, make_labelled):
    """Total energies of DFT lie a thousand eV an atom below zero: forces and the choice of the ridge do not notice."""
    teacher, found = make_network(1), []
    for shift in (0.0, -1000.0):
        labels = [make_labelled(make_frame(seed), teacher) for seed in range(4)]
        training = [
            item.model_copy(
                update={"response": item.response.model_copy(update={"enthalpy": item.response.enthalpy + 8 * shift})}
            )
            for item in labels
        ]
        model = silent()
        fit_references([model], training)
        model.energy_scale.fill_(0.0)
        graph = make_batch([make_labelled(make_frame(9), teacher)], model).graph
        found.append(compute_responses(model, graph).forces)
    assert_allclose(found[0], found[1], atol=1e-6)
