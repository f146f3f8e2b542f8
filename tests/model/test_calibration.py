"""Activations of unit size: what the factors do, and that they leave symmetric crystals and earlier models alone."""

import numpy as np
import pytest
from fieldloop.dft_inputs.records import Frame
from fieldloop.model.calibration import measured_scales
from fieldloop.model.data import make_batch
from fieldloop.model.files import load_model, save_model
from fieldloop.model.graph import build_graph
from fieldloop.model.network import EnthalpyNetwork
from fieldloop.model.responses import compute_responses
from fieldloop.model.settings import NetworkConfig
from fieldloop.model.training import initial_network
from numpy.testing import assert_allclose


def numbers(scales) -> np.ndarray:
    return np.concatenate([[scales.embedding], *scales.environment, scales.coupling, scales.update])


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_network_with_the_factors_needs_no_others(make_network, make_frame, layers):
    """Measured again on a network that has them, they are the same; without them they are far from one."""
    frames = [make_frame(seed) for seed in range(3)]
    network = make_network(seed=2, layers=layers)
    scales = measured_scales(network, frames)
    assert np.abs(np.log(numbers(scales))).max() > 1
    again = EnthalpyNetwork(network.config.model_copy(update={"scales": scales}), seed=2)
    again.load_state_dict(dict(network.named_parameters()), strict=False)
    assert_allclose(numbers(measured_scales(again, frames)), numbers(scales), rtol=1e-6)


def test_factors_do_not_depend_on_the_orientation(make_network, make_frame):
    frame, turn = make_frame(4), np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turned = Frame(species=frame.species, positions=frame.positions @ turn.T, cell=frame.cell @ turn.T)
    network = make_network(seed=2)
    assert_allclose(numbers(measured_scales(network, [turned])), numbers(measured_scales(network, [frame])), rtol=1e-8)


def zincblende(scale=1.0) -> Frame:
    cell = 2.83 * scale * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    return Frame(species=("Al", "As"), positions=[[0, 0, 0], [1.415 * scale] * 3], cell=cell)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_vanishes_by_symmetry_stays(make_network, dtype):
    """About the sites of perfect zincblende the sum of vectors vanishes, but for rounding."""
    frame = zincblende()
    positions = np.concatenate([frame.positions + shift @ frame.cell for shift in np.ndindex(3, 3, 3)])
    large = Frame(species=frame.species * 27, positions=positions, cell=3 * frame.cell)
    scales = measured_scales(make_network(seed=2, dtype=dtype), [large])
    assert scales.environment[0][1] == 1.0
    assert numbers(scales).max() <= 100


def test_fresh_networks_start_small(make_network, make_frame, make_labelled):
    """Their forces are 0.3 of those of the labels, whatever these are."""
    teacher = make_network(seed=11, repulsion=False)
    teacher.energy_scale.fill_(40.0)
    labels = [make_labelled(make_frame(seed), teacher) for seed in range(4)]
    config = teacher.config.model_copy(update={"unit_activations": True})
    model = initial_network(config, labels, seed=5)
    forces = compute_responses(model, make_batch(labels, model).graph).forces
    wanted = np.concatenate([label.response.forces for label in labels])
    assert_allclose(float(forces.square().mean().sqrt()), 0.3 * np.sqrt(np.square(wanted).mean()), rtol=0.05)


def test_factors_of_another_architecture_are_refused(make_network, make_frame):
    scales = measured_scales(make_network(layers=1), [make_frame(1)])
    with pytest.raises(ValueError, match="every layer and degree"):
        NetworkConfig(species=("Al", "As"), layers=2, scales=scales)


def test_factors_survive_files(make_network, make_frame, tmp_path):
    """A model with factors comes back with the same id and enthalpy; one without them says nothing of them."""
    plain = make_network(seed=2)
    assert not {"scales", "unit_activations"} & set(plain.config.model_dump())
    frames = [make_frame(seed) for seed in range(2)]
    scales = measured_scales(plain, frames)
    network = EnthalpyNetwork(plain.config.model_copy(update={"scales": scales, "unit_activations": True}), seed=2)
    identity = save_model(network, tmp_path)
    again = load_model(tmp_path)
    graph = build_graph(frames, network.species, network.cutoff)
    assert_allclose(again(graph).detach(), network(graph).detach(), rtol=0, atol=0)
    assert again.config.scales == scales
    assert save_model(again, tmp_path / "again") == identity


def test_symmetric_crystals_do_not_blow_up(make_network, make_labelled):
    """Forces that vanish by symmetry say nothing of the size of the output."""
    labels = [make_labelled(zincblende(1 + 0.005 * step), make_network(seed=11)) for step in range(3)]
    config = make_network().config.model_copy(update={"unit_activations": True})
    model = initial_network(config, labels, seed=0)
    assert float(model.energy_scale) < 10
