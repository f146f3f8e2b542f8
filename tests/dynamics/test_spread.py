"""A model on several devices. Copies on the CPU stand for GPUs: who evaluates a block must not matter."""

import threading

import numpy as np
import pytest
from fieldloop.model.blocks import plan_blocks, responses_in_blocks
from fieldloop.model.compiled import CompiledModel
from fieldloop.model.dynamics import DynamicsSettings, StaticField, run_dynamics
from fieldloop.model.graph import build_graph
from fieldloop.model.network import EnthalpyNetwork
from fieldloop.model.responses import Responses, compute_responses
from fieldloop.model.settings import NetworkConfig
from fieldloop.model.spread import SpreadModel

FIELDS = np.array([[0, 0, 0], [0.1, -0.2, 0.05], [0, 0, 0.3]])


@pytest.fixture(scope="module")
def network() -> EnthalpyNetwork:
    sizes = {"scalars": 8, "tensors": 2, "cutoff": 4.0, "neighbours": 16.0}
    return EnthalpyNetwork(NetworkConfig(species=("Al", "As"), reference_charges={"Al": 3, "As": -3}, **sizes), seed=2)


@pytest.fixture
def frames(crystal):
    return [crystal(rattle=0.1, seed=seed) for seed in range(3)]


def assert_equal(actual, expected, relative=1e-11):
    for name in Responses.__dataclass_fields__:
        one, other = getattr(actual, name), getattr(expected, name)
        assert float((one - other).abs().max()) <= relative * max(float(other.abs().max()), 1e-3), name


def test_replicas_are_shared_by_the_devices(network, frames):
    graph = build_graph(frames, network.species, network.cutoff, FIELDS, network.dtype)
    model = SpreadModel(network, ["cpu", "cpu"])
    plan = plan_blocks(model, graph)
    assert (plan.n_blocks, plan.threads) == (2, 2)
    expected = compute_responses(network, graph, stress=True, born=True)
    assert_equal(responses_in_blocks(model, graph, stress=True, born=True), expected)


def test_all_copies_work_at_the_same_time(network, frames, monkeypatch):
    graph = build_graph(frames, network.species, network.cutoff, FIELDS, network.dtype)
    both, original = threading.Barrier(2, timeout=30), EnthalpyNetwork.local_enthalpy
    seen = set()

    def meeting(self, environments):
        both.wait()
        seen.add(id(self))
        return original(self, environments)

    monkeypatch.setattr(EnthalpyNetwork, "local_enthalpy", meeting)
    responses_in_blocks(SpreadModel(network, ["cpu", "cpu"]), graph)
    assert len(seen) == 2


def test_copies_of_a_compiled_model_are_compiled(network, frames):
    graph = build_graph(frames, network.species, network.cutoff, FIELDS, network.dtype)
    model = SpreadModel(CompiledModel(network, "aot_eager"), ["cpu", "cpu"])
    expected = compute_responses(network, graph, stress=True, born=True)
    assert_equal(responses_in_blocks(model, graph, stress=True, born=True), expected)
    assert all(copy.compiled_shapes > 0 for copy in model.copies)


def test_trajectories_do_not_depend_on_the_devices(network, frames):
    settings = DynamicsSettings(
        ensemble="langevin", steps=8, temperatures=300.0, fields=tuple(StaticField(vector=v) for v in FIELDS)
    )
    expected = run_dynamics(network, frames, settings)
    runs = [run_dynamics(SpreadModel(network, ["cpu"] * n), frames, settings) for n in (2, 2, 3)]
    for found, other in zip(runs[0].outcomes, runs[1].outcomes, strict=True):
        assert np.array_equal(found.frame.positions, other.frame.positions)
    for run in runs:
        for found, other in zip(run.outcomes, expected.outcomes, strict=True):
            assert np.allclose(found.frame.positions, other.frame.positions, rtol=0, atol=1e-9)


def test_a_device_that_is_not_there_is_named(network):
    with pytest.raises(ValueError, match="devices: name at least one"):
        SpreadModel(network, [])
    with pytest.raises(ValueError, match="devices: cuda:9 cannot be used"):
        SpreadModel(network, ["cpu", "cuda:9"])
