"""Compiled derivatives against those of autograd, in any field, in training too.

The slow tests compile by the default compiler, for a minute or so; the quick ones trace and split the same programs.
"""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from ase.build import bulk
from fieldloop.dft_inputs.records import Frame
from fieldloop.model import compiled
from fieldloop.model.blocks import plan_blocks, responses_in_blocks
from fieldloop.model.compiled import CompiledModel, few_sizes
from fieldloop.model.dynamics import DynamicsSettings, run_dynamics
from fieldloop.model.dynamics.identity import model_digest
from fieldloop.model.graph import build_graph
from fieldloop.model.network import EnthalpyNetwork
from fieldloop.model.responses import Responses, compute_responses
from fieldloop.model.settings import NetworkConfig, TrainingSettings
from fieldloop.model.training import train, train_committee


@pytest.fixture(scope="module")
def network() -> EnthalpyNetwork:
    config = NetworkConfig(
        species=("Al", "As"),
        reference_charges={"Al": 3, "As": -3},
        cutoff=4.0,
        l_max=2,
        layers=2,
        scalars=8,
        tensors=2,
        neighbours=16.0,
    )
    return EnthalpyNetwork(config, seed=3)


@pytest.fixture(scope="module")
def graph(network):
    """Two crystals in two fields, 23 and two atoms: padded to 26 in one block, to 20 and 6 in two."""
    crystal = bulk("AlAs", "zincblende", a=5.61, cubic=True) * (3, 1, 1)
    crystal.rattle(0.1, seed=1)
    del crystal[3]
    small = bulk("AlAs", "zincblende", a=5.5)
    small.rattle(0.1, seed=2)
    frames = [Frame.from_atoms(crystal), Frame.from_atoms(small)]
    return build_graph(frames, network.species, network.cutoff, np.array([[0.2, -0.1, 0.3], [0, 0.05, 0]]))


@pytest.fixture
def items(make_labelled, make_frame, make_network):
    """Frames labelled by another network."""
    teacher = make_network(seed=7)
    return [make_labelled(make_frame(seed, cubic=False), teacher) for seed in range(4)]


# PyTorch gives the C++ compiler its own path without quotes.
_COMPILES = (pytest.mark.slow, pytest.mark.skipif(" " in torch.__file__, reason="PyTorch lies in a path with a space"))


@pytest.fixture(scope="module", params=["aot_eager", pytest.param("inductor", marks=_COMPILES)])
def model(network, request) -> CompiledModel:
    return CompiledModel(network, request.param)


def assert_equal(actual, expected, relative=1e-11):
    for name in Responses.__dataclass_fields__:
        one, other = getattr(actual, name), getattr(expected, name)
        assert (one is None) == (other is None), name
        if other is not None:
            assert float((one - other).abs().max()) <= relative * float(other.abs().max()), name


def test_all_responses_are_those_of_the_model(model, network, graph):
    expected = compute_responses(network, graph, stress=True, born=True)
    assert_equal(responses_in_blocks(model, graph, stress=True, born=True), expected)
    assert model.compiled_shapes == 1
    without = graph.replace(field=0 * graph.field)
    expected = compute_responses(network, without, stress=True, born=True)
    assert_equal(responses_in_blocks(model, without, stress=True, born=True), expected)
    assert model.compiled_shapes == 1


def test_blocks_in_threads_are_those_of_the_model(network, graph):
    model = CompiledModel(network, "aot_eager")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = responses_in_blocks(model, graph, stress=True, block=5)
    finally:
        torch.set_num_threads(before)
    assert_equal(found, compute_responses(network, graph, stress=True))
    assert 1 <= model.compiled_shapes <= 3


def scale_of(tensors):
    return max(float(one.abs().max()) for one in tensors if one is not None)


def test_gradients_of_a_training_step_are_those_of_the_model(model, network, graph):
    directions = torch.tensor([[0.6, 0.0, 0.8]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    probes = {}

    def gradients(evaluate):
        out = evaluate(stress=True, born=True, directions=directions, create_graph=True)
        total = torch.zeros((), dtype=torch.float64)
        for name in Responses.__dataclass_fields__:
            value = getattr(out, name)
            if name not in probes:
                probes[name] = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            total = total + (probes[name] * value).sum()
        return out, torch.autograd.grad(total, [*network.parameters()], allow_unused=True)

    expected, right = gradients(lambda **k: compute_responses(network, graph, **k))
    actual, found = gradients(lambda **k: responses_in_blocks(model, graph, block=graph.n_atoms, **k))
    assert_equal(actual, expected)
    assert actual.born_effective_charges.shape == (graph.n_atoms, 1, 3)
    _, in_two = gradients(lambda **k: responses_in_blocks(network, graph, block=19, **k))
    for one, other in zip(in_two, right, strict=True):
        assert (one is None) == (other is None)
        assert other is None or float((one - other).abs().max()) < 1e-10 * scale_of(right)
    scale = scale_of(right)
    for one, other in zip(found, right, strict=True):
        assert (one is None) == (other is None)
        if other is not None:
            assert float((one - other).abs().max()) < 1e-10 * scale


def test_weights_are_not_frozen_into_the_program(model, network, graph):
    before = responses_in_blocks(model, graph, stress=True, born=True)
    programs = model.compiled_shapes
    kept = [p.detach().clone() for p in network.parameters()]
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(1.1)
    try:
        after = responses_in_blocks(model, graph, stress=True, born=True)
        assert_equal(after, compute_responses(network, graph, stress=True, born=True))
        assert float((after.forces - before.forces).abs().max()) > 1e-3
    finally:
        with torch.no_grad():
            for p, old in zip(network.parameters(), kept, strict=True):
                p.copy_(old)
    assert model.compiled_shapes == programs


def test_without_a_compiler_the_model_is_evaluated_as_it_is(network, graph, monkeypatch):
    def broken(*_, **__):
        def call(*_):
            raise RuntimeError("InvalidCxxCompiler: no working C++ compiler found\nmore")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    model = CompiledModel(network)
    with pytest.warns(UserWarning, match="not compiled, and slower for it: InvalidCxxCompiler: no working C"):
        found = responses_in_blocks(model, graph)
    assert_equal(found, compute_responses(network, graph))
    assert model.compiled_shapes == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_equal(responses_in_blocks(model, graph), compute_responses(network, graph))


def test_frozen_weights_do_not_keep_it_from_being_compiled(network, graph):
    frozen = copy.deepcopy(network).requires_grad_(False)
    model = CompiledModel(frozen, "aot_eager")
    out = responses_in_blocks(model, graph, create_graph=True)
    assert model.compiled_shapes == 1
    assert_equal(out, compute_responses(network, graph))


def test_copies_make_programs_of_their_own(model, network, graph):
    """Processes that are spawned for several devices get one, too."""
    other = pickle.loads(pickle.dumps(model))
    assert other.compiled_shapes == 0
    assert model_digest(other) == model_digest(network)


def test_more_shapes_than_programs_are_evaluated_all_the_same(network, graph, monkeypatch):
    monkeypatch.setattr(compiled, "MOST_PROGRAMS", 1)
    model = CompiledModel(network, "aot_eager")
    with pytest.warns(UserWarning, match="no more than 1 sizes of blocks are compiled"):
        found = responses_in_blocks(model, graph, block=16)
    assert_equal(found, compute_responses(network, graph))
    assert model.compiled_shapes == 1


def test_sizes_are_few_and_waste_little():
    sizes = {few_sizes(n) for n in range(1, 100_000)}
    assert len(sizes) < 8 * 17 + 8
    assert all(n <= few_sizes(n) <= n * 9 / 8 for n in range(1, 2000))


def test_blocks_have_a_size_that_is_compiled_for(model, graph):
    block = plan_blocks(model, graph).block
    assert few_sizes(block) == block


def test_training_compiled_takes_the_same_steps(items, make_network, monkeypatch):
    """What is traced is what is trained; the compiler itself is left out here."""
    traced = []
    monkeypatch.setattr(torch, "compile", lambda program, **_: traced.append(program) or program)
    settings = TrainingSettings(epochs=3, batch_size=1, validate_every=3, optimizer="adam")
    results = []
    for compiled_too in (False, True):
        network = make_network()
        changed = settings.model_copy(update={"compile": compiled_too})
        results.append(train(network, items[:3], items[3:], changed))
    assert traced
    plain, other = results
    assert other.validation == pytest.approx(plain.validation, rel=1e-6)
    assert settings.identity() == changed.identity()


def test_networks_in_one_pass_are_not_compiled(items, make_network):
    with pytest.raises(ValueError, match="compile: true is for networks that are trained one by one"):
        train_committee([make_network(), make_network()], items, [], TrainingSettings(epochs=1, compile=True))


def test_dynamics_of_a_compiled_model_are_those_of_the_model(network, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda program, **_: program)
    crystal = bulk("AlAs", "zincblende", a=5.61, cubic=True)
    settings = DynamicsSettings(ensemble="nve", temperatures=300, steps=5, fields=[[0, 0, 0.05]])
    runs = [run_dynamics(one, [Frame.from_atoms(crystal)], settings) for one in (network, CompiledModel(network))]
    energies = [run.trajectory.series(0).enthalpy for run in runs]
    assert energies[1] == pytest.approx(energies[0], abs=1e-10)
