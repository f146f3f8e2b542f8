"""Committees in one pass: the same numbers as the members one by one, and the same training steps."""

from functools import partial

import numpy as np
import pytest
import torch
from fieldloop.model.committee import predict
from fieldloop.model.data import make_batch
from fieldloop.model.losses import loss
from fieldloop.model.responses import Responses, compute_responses
from fieldloop.model.settings import TrainingSettings
from fieldloop.model.stack import NetworkStack, stack_loss, stack_responses
from numpy.testing import assert_allclose

FIELD = (0.05, -0.02, 0.08)


@pytest.fixture
def members(make_network):
    """Three networks that differ in weights, references and normalization."""
    networks = [make_network(seed=seed, neighbours=14.0 + seed) for seed in range(3)]
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


def test_steps_are_those_of_the_members(members, make_frame, make_labelled, make_network):
    """Two steps of Adam on the stack move every member as two steps of its own; a missing label stays masked."""
    teacher = make_network(seed=11)
    frames = [make_labelled(make_frame(5), teacher), make_labelled(make_frame(6, cubic=False), teacher, stress=None)]
    batch = make_batch(frames, members[0])
    settings = TrainingSettings()
    stack = NetworkStack(members)
    own = [(network.parameters(), partial(_own_loss, network, batch, settings)) for network in members]
    for parameters, value in [(stack.parameters(), partial(stack_loss, stack, batch, settings)), *own]:
        optimizer = torch.optim.Adam(parameters, lr=1e-3)
        for _ in range(2):
            optimizer.zero_grad()
            value().backward()
            optimizer.step()
    for trained, alone in zip(stack.members(), members, strict=True):
        for a, b in zip(trained.state_dict().values(), alone.state_dict().values(), strict=True):
            # Adam divides by the size of a gradient: rounding shows in the weights that hardly have one.
            assert_allclose(a, b, atol=1e-7)


def _own_loss(network, batch, settings):
    predicted = compute_responses(network, batch.graph, stress=True, born=True, create_graph=True)
    return loss(predicted, batch, settings)


def test_members_come_out_as_they_went_in(members):
    for before, after in zip(members, NetworkStack(members).members(), strict=True):
        assert before.config == after.config
        state = after.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in before.state_dict().items())


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
        predict([], [])
