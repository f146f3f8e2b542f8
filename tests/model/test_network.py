"""The network against finite differences, symmetries, locality and sum rules, in float64."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from e3nn import o3
from fieldloop.dft_inputs.records import Frame
from fieldloop.model.files import ModelFileError, load_model, save_model
from fieldloop.model.graph import build_graph
from fieldloop.model.layers.perceptron import Perceptron
from fieldloop.model.network import EnthalpyNetwork
from fieldloop.model.responses import compute_responses
from fieldloop.model.settings import NetworkConfig
from numpy.testing import assert_allclose

_spec = importlib.util.spec_from_file_location("model_physics", Path(__file__).with_name("physics.py"))
physics = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(physics)

ZERO, FINITE = (0.0, 0.0, 0.0), (0.21, -0.13, 0.34)
ARCHITECTURES = {
    "default": {},
    "one layer": {"layers": 1},
    "three layers, l 1": {"layers": 3, "l_max": 1},
    "three layers, both parities": {"layers": 3, "l_max": 1, "parity": "both", "tensors": 3},
    "l 3": {"l_max": 3, "tensors": 3},
    "no charges, no repulsion": {"reference_charges": {}, "repulsion": False},
    "many-body references": {"reference": "many_body"},
    "long range": {"long_range": True, "screened_charges": {"Al": 0.7, "As": -0.7}},
}


@pytest.fixture(params=ARCHITECTURES, ids=str)
def model(request, make_network):
    """Every architecture, in double precision."""
    return make_network(seed=3, **ARCHITECTURES[request.param])


@pytest.fixture(params=[*ARCHITECTURES, "single precision"], ids=str)
def rounded_model(request, make_network):
    """Every architecture and precision."""
    return make_network(seed=3, **ARCHITECTURES.get(request.param, {"dtype": "float32"}))


@pytest.fixture(params=[*(name for name in ARCHITECTURES if name != "long range"), "single precision"], ids=str)
def local_model(request, make_network):
    """Those that are strictly local, in every precision."""
    return make_network(seed=3, **ARCHITECTURES.get(request.param, {"dtype": "float32"}))


@pytest.mark.parametrize("field", [ZERO, FINITE], ids=["zero field", "finite field"])
def test_first_derivatives(model, make_frame, make_graph, field):
    physics.check_first_derivatives(model, make_graph(model, make_frame(1, cubic=False), field=field))


@pytest.mark.parametrize("field", [ZERO, FINITE], ids=["zero field", "finite field"])
def test_second_derivatives(model, make_frame, make_graph, field):
    physics.check_second_derivatives(model, make_graph(model, make_frame(2, cubic=False), field=field))


@pytest.mark.parametrize("field", [ZERO, FINITE], ids=["zero field", "finite field"])
def test_rotation_and_inversion(rounded_model, make_frame, make_graph, field):
    torch.manual_seed(0)
    rotation = o3.rand_matrix(dtype=torch.float64)
    graph = make_graph(rounded_model, make_frame(3), field=field)
    physics.check_rotation(rounded_model, graph, rotation)
    physics.check_rotation(rounded_model, graph, -torch.eye(3))
    physics.check_rotation(rounded_model, graph, -rotation)


@pytest.mark.parametrize("field", [ZERO, FINITE], ids=["zero field", "finite field"])
def test_translation_and_charge_sum_rule(rounded_model, make_frame, make_graph, field):
    physics.check_translation(rounded_model, make_graph(rounded_model, make_frame(4), make_frame(5), field=field))


def test_torque(rounded_model, make_frame, make_graph):
    physics.check_torque(rounded_model, make_graph(rounded_model, make_frame(6), make_frame(7), field=FINITE))


def test_permutation(rounded_model, make_frame):
    physics.check_permutation(rounded_model, make_frame(8), FINITE)


def test_batch_independence(rounded_model, make_frame):
    physics.check_batch_independence(rounded_model, [make_frame(9), make_frame(10, cubic=False)], FINITE)


def test_locality(local_model):
    physics.check_locality(local_model, FINITE)


def test_smooth_at_the_cutoff(local_model):
    physics.check_smooth_at_the_cutoff(local_model, FINITE)


def test_save_and_load_are_bit_identical(rounded_model, make_frame, make_graph, tmp_path):
    physics.check_save_and_load(rounded_model, make_graph(rounded_model, make_frame(1), field=FINITE), tmp_path)


def test_responses_of_one_layer_depend_on_the_field(make_network, make_frame, make_graph):
    """Not a quadratic form: at a finite field alpha differs from alpha at zero field."""
    model = make_network()
    alpha = [
        compute_responses(model, make_graph(model, make_frame(1), field=f), born=True).polarizability
        for f in (ZERO, FINITE)
    ]
    assert float((alpha[0] - alpha[1]).abs().max()) > 1e-4


def test_supercell_is_extensive(make_network, make_graph):
    """Eight primitive cells at once and one at a time: U adds up, forces repeat. The primitive cell is thinner than the
    cutoff, so periodic images are at work."""
    model = make_network()
    from ase.build import bulk

    atoms = bulk("AlAs", "zincblende", a=5.61)
    atoms.rattle(0.1, seed=5)
    one = compute_responses(model, make_graph(model, Frame.from_atoms(atoms), field=FINITE), born=True)
    many = compute_responses(model, make_graph(model, Frame.from_atoms(atoms * (2, 2, 2)), field=FINITE), born=True)
    field = torch.tensor(FINITE)
    # The reference charges' dipole depends on where the copies stand: compare U without it.
    neutral = many.enthalpy[0] + field @ many.polarization[0] - 8 * (one.enthalpy[0] + field @ one.polarization[0])
    assert abs(float(neutral)) < 1e-9
    physics.assert_close(many.forces, one.forces.repeat(8, 1), 1e-10)
    physics.assert_close(many.polarizability, 8 * one.polarizability, 1e-10)


def test_isolated_atom(make_network):
    """An atom without neighbours has its reference energy and its on-site polarizability, and no forces."""
    model = make_network(reference_charges={})
    frame = Frame(species=("As",), positions=[[0, 0, 0]], cell=np.eye(3) * 30, pbc=(False,) * 3)
    graph = build_graph([frame], model.species, model.cutoff, np.array([FINITE]))
    responses = compute_responses(model, graph, born=True)
    assert float(responses.enthalpy) == pytest.approx(1.0 - 0.5 * 1.1 * sum(x * x for x in FINITE))
    assert float(responses.forces.abs().max()) == 0
    physics.assert_close(responses.polarizability[0], 1.1 * torch.eye(3), 1e-12)


def test_single_precision_follows_double(make_network, make_frame, make_graph):
    double, single = make_network(seed=1), make_network(seed=1, dtype="float32")
    single.load_state_dict(double.state_dict())
    frame = make_frame(1)
    a = compute_responses(double, make_graph(double, frame, field=FINITE), born=True)
    b = compute_responses(single, make_graph(single, frame, field=FINITE), born=True)
    assert b.forces.dtype == torch.float32
    for name in ("enthalpy", "forces", "polarization", "born_effective_charges", "polarizability"):
        physics.assert_close(getattr(b, name).double(), getattr(a, name), 1e-4)


@pytest.mark.parametrize("damage", ["weights", "config", "nonsense", "list", "missing", "format"])
def test_tampered_files_are_refused(make_network, tmp_path, damage):
    save_model(make_network(), tmp_path)
    weights, config = tmp_path / "weights.safetensors", tmp_path / "config.json"
    if damage == "weights":
        blob = bytearray(weights.read_bytes())
        blob[-1] ^= 1
        weights.write_bytes(blob)
    elif damage == "config":
        config.write_text(config.read_text().replace('"cutoff": 4.2', '"cutoff": 4.3'))
    elif damage == "nonsense":
        config.write_text(config.read_text().replace('"cutoff": 4.2', '"cutoff": -1'))
    elif damage == "list":
        config.write_text("[]")
    elif damage == "format":
        config.write_text(config.read_text().replace('"format_version": 1', '"format_version": 99'))
    else:
        weights.unlink()
    with pytest.raises(ModelFileError):
        load_model(tmp_path)


def test_unknown_species_and_bad_configuration(make_network, make_graph):
    model = make_network()
    frame = Frame(species=("Ga",), positions=[[0, 0, 0]], cell=np.eye(3) * 5)
    with pytest.raises(ValueError, match="not Ga"):
        make_graph(model, frame)
    with pytest.raises(ValueError, match="every species"):
        NetworkConfig(species=("Al", "As"), reference_charges={"Al": 3})
    with pytest.raises(ValueError, match="twice"):
        NetworkConfig(species=("Al", "Al"))


def test_seed_fixes_the_weights(make_network):
    a, b, c = (EnthalpyNetwork(make_network().config, seed) for seed in (1, 1, 2))
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert any(not torch.equal(x, y) for x, y in zip(a.parameters(), c.parameters(), strict=True))


def test_a_silent_perceptron_learns_at_once():
    """Its output is zero; after one step down the gradient of the last two layers the first has one too."""
    torch.manual_seed(0)
    perceptron = Perceptron(5, 7, 7, 1).double()
    perceptron.silence()
    x = torch.randn(5, 20, dtype=torch.float64)
    assert_allclose(perceptron(x).detach(), 0.0, atol=1e-14)
    for layer in (1, 0):
        gradients = torch.autograd.grad((perceptron(x) - 1).square().mean(), list(perceptron.parameters()))
        assert float(gradients[layer].abs().max()) > 1e-3
        with torch.no_grad():
            for weight, gradient in zip(perceptron.parameters(), gradients, strict=True):
                weight.sub_(0.1 * gradient)
