"""Committees in one pass: the same numbers as the members one by one, and the same training steps."""

import numpy as np
import pytest
import torch
from fieldloop.model.calibration import measured_scales
from fieldloop.model.committee import predict
from fieldloop.model.data import make_batch
from fieldloop.model.losses import loss
from fieldloop.model.member import copy_of
from fieldloop.model.responses import Responses, compute_responses
from fieldloop.model.settings import TrainingSettings
from fieldloop.model.stack import NetworkStack, repeat_batch, stack_responses
from fieldloop.model.training import train, train_committee
from numpy.testing import assert_allclose

FIELD = (0.05, -0.02, 0.08)


@pytest.fixture
def members(make_network, make_frame):
    """Three networks that differ in weights, references, mean neighbours and scales of their activations."""
    networks = []
    for seed in range(3):
        plain = make_network(seed=seed, neighbours=14.0 + seed)
        scales = measured_scales(plain, [make_frame(seed)])
        networks.append(make_network(seed=seed, neighbours=14.0 + seed, scales=scales))
    with torch.no_grad():
        networks[1].energy_scale.fill_(1.7)
    return networks


def test_responses_are_those_of_the_members(members, make_frame, make_graph):
    """Two structures of different size, at a field: every response of every member."""
    frames = make_frame(1), make_frame(2, cubic=False)
    graph = make_graph(members[0], *frames, field=FIELD)
    together = stack_responses(NetworkStack(members), graph, stress=True, born=True)
    for index, member in enumerate(members):
        alone = compute_responses(member, graph, stress=True, born=True)
        for name in Responses.__dataclass_fields__:
            assert_allclose(getattr(together, name)[index], getattr(alone, name), rtol=1e-10, atol=1e-11)


def test_training_together_is_training_alone(members, make_frame, make_labelled, make_network):
    """Each member takes the steps that it takes alone with the same seed; a missing label stays masked."""
    teacher = make_network(seed=11)
    labels = [make_labelled(make_frame(5), teacher), make_labelled(make_frame(6, cubic=False), teacher, stress=None)]
    labels.append(make_labelled(make_frame(8), teacher, born_effective_charges=None, polarizability=None))
    judge = [make_labelled(make_frame(7), teacher)]
    settings = TrainingSettings(epochs=2, batch_size=2, learning_rate=1e-3, optimizer="adam", validate_every=1)
    alone = [train(copy_of(member), labels, judge, settings, seed=3) for member in members]
    together = train_committee([copy_of(member) for member in members], labels, judge, settings, seed=3)
    for one, both in zip(alone, together, strict=True):
        assert_allclose(list(both.validation.values()), list(one.validation.values()), rtol=1e-5)
        assert_allclose(both.curve[-1].loss, one.curve[-1].loss, rtol=1e-6)
        for a, b in zip(both.model.state_dict().values(), one.model.state_dict().values(), strict=True):
            # Adam divides by the size of a gradient: rounding shows in the weights that hardly have one.
            assert_allclose(a, b, atol=1e-7)
    assert len({result.curve[-1].loss for result in together}) == len(members)


def test_no_member_depends_on_the_others(members, make_frame, make_labelled, make_network):
    """SOAP looks at whole weights, but at one network's at a time."""
    labels = [make_labelled(make_frame(5), make_network(seed=11))]
    settings = TrainingSettings(epochs=5, batch_size=1, tolerances={"stress": None})
    first, other = (
        train_committee([copy_of(members[0]), copy_of(fellow)], labels, [], settings)[0].model for fellow in members[1:]
    )
    for a, b in zip(first.state_dict().values(), other.state_dict().values(), strict=True):
        assert_allclose(a, b, atol=1e-9)
    assert not torch.equal(first.edge_weights, members[0].edge_weights)


def test_the_loss_of_a_stack_is_the_sum_of_its_members(members, make_frame, make_labelled, make_network):
    batch = make_batch([make_labelled(make_frame(5), make_network(seed=11))], members[0])
    copies = repeat_batch(batch, len(members))
    predicted = compute_responses(NetworkStack(members), copies.graph, stress=True, born=True)
    total = loss(predicted, copies, TrainingSettings(), len(members))
    alone = [
        loss(compute_responses(member, batch.graph, stress=True, born=True), batch, TrainingSettings())
        for member in members
    ]
    assert_allclose(total, sum(alone), rtol=1e-12)


def test_committee_of_different_architectures(make_network, make_frame):
    """They cannot share a pass: same answers, member by member; nothing depends on how frames are dealt to passes."""
    networks = [make_network(seed=0), make_network(seed=1, l_max=1)]
    with pytest.raises(ValueError, match="different architectures"):
        NetworkStack(networks)
    frames = [make_frame(seed) for seed in range(3)]
    mixed = predict(networks, frames, np.array(FIELD))
    for index, network in enumerate(networks):
        alone = predict([network], frames, np.array(FIELD), batch_size=2)
        for one, both in zip(alone, mixed, strict=True):
            assert_allclose(both.born_effective_charges[index], one.born_effective_charges[0], atol=1e-10)
            assert_allclose(both.stress[index], one.stress[0], atol=1e-10)


def test_an_empty_committee_is_refused():
    with pytest.raises(ValueError, match="at least one member"):
        NetworkStack([])
    with pytest.raises(ValueError, match="at least one member"):
        train_committee([], [], [], TrainingSettings())
    with pytest.raises(ValueError, match="at least one member"):
        predict([], [])
