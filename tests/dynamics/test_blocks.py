"""Blocks of atoms against the whole system."""

import numpy as np
import pytest
import torch
from fieldloop.dft_inputs.records import Frame
from fieldloop.model.blocks import plan_blocks, responses_in_blocks
from fieldloop.model.graph import build_graph
from fieldloop.model.network import EnthalpyNetwork
from fieldloop.model.responses import Responses, compute_responses
from fieldloop.model.settings import NetworkConfig

ARCHITECTURES = {
    "two layers": {},
    "one layer": {"layers": 1},
    "three layers, both parities": {"layers": 3, "l_max": 1, "parity": "both"},
    "no charges, no repulsion": {"reference_charges": {}, "repulsion": False},
}


def network(**changes) -> EnthalpyNetwork:
    settings = {"species": ("Al", "As"), "reference_charges": {"Al": 3, "As": -3}, "cutoff": 4.0, "scalars": 8}
    model = EnthalpyNetwork(NetworkConfig(**{**settings, "tensors": 2, "neighbours": 16.0, **changes}), seed=2)
    with torch.no_grad():
        model.polarizability_reference.copy_(torch.tensor([0.3, 1.1]))
    return model


def batch(model, crystal):
    """Three structures in three fields; one is thinner than the cutoff, one a lone atom without neighbours."""
    from ase.build import bulk

    thin = bulk("AlAs", "zincblende", a=5.61)
    thin.rattle(0.1, seed=5)
    lone = Frame(species=("As",), positions=[[1.0, 2.0, 3.0]], cell=20 * np.eye(3), pbc=(False,) * 3)
    frames = [crystal(rattle=0.1), Frame.from_atoms(thin), lone, crystal(rattle=0.2, seed=4)]
    fields = np.array([[0, 0, 0], [0.2, -0.1, 0.3], [0.1, 0, 0], [0, 0.4, -0.2]])
    return build_graph(frames, model.species, model.cutoff, fields, model.dtype)


def assert_equal(actual, expected, relative):
    for name in Responses.__dataclass_fields__:
        one, other = getattr(actual, name), getattr(expected, name)
        assert (one is None) == (other is None), name
        if other is not None:
            assert float((one - other).abs().max()) <= relative * max(float(other.abs().max()), 1e-3), name


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_blocks_equal_the_whole(crystal, architecture):
    model = network(**ARCHITECTURES[architecture])
    graph = batch(model, crystal)
    whole = compute_responses(model, graph, stress=True, born=True)
    for block in (3, 8):
        assert_equal(responses_in_blocks(model, graph, stress=True, born=True, block=block), whole, 1e-12)
    assert_equal(responses_in_blocks(model, graph, block=10), compute_responses(model, graph), 1e-12)


def test_one_block_is_the_whole_to_the_bit(crystal):
    model = network()
    graph = batch(model, crystal)
    assert plan_blocks(model, graph).n_blocks == 1
    whole = compute_responses(model, graph, stress=True, born=True)
    block = responses_in_blocks(model, graph, stress=True, born=True)
    assert all(torch.equal(getattr(whole, name), getattr(block, name)) for name in Responses.__dataclass_fields__)


def test_the_number_of_threads_changes_no_bit(crystal):
    model = network(dtype="float32")
    graph = batch(model, crystal)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(responses_in_blocks(model, graph, stress=True, block=3))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    one, other = found
    assert torch.equal(one.forces, other.forces) and torch.equal(one.enthalpy, other.enthalpy)


def test_single_precision_sums_in_double(crystal):
    """Blocks of a float32 model: float64 responses, those of the double model up to single rounding."""
    double, single = network(), network(dtype="float32")
    single.load_state_dict(double.state_dict())
    out = responses_in_blocks(single, batch(single, crystal), stress=True, born=True, block=4)
    assert out.enthalpy.dtype == out.forces.dtype == torch.float64
    assert_equal(out, compute_responses(double, batch(double, crystal), stress=True, born=True), 1e-4)


def test_a_model_that_is_not_local_goes_whole(morse, crystal):
    graph = build_graph([crystal(rattle=0.1)], morse.species, morse.cutoff)
    assert plan_blocks(morse, graph, block=2).n_blocks == 1
    assert_equal(responses_in_blocks(morse, graph, block=2), compute_responses(morse, graph), 0)


def test_a_block_of_no_atom_is_refused(morse, crystal):
    graph = build_graph([crystal()], morse.species, morse.cutoff)
    with pytest.raises(ValueError, match="one atom or more"):
        responses_in_blocks(morse, graph, block=0)
