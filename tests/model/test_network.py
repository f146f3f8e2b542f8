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
from fieldloop.model.network import EnthalpyNetwork
from fieldloop.model.responses import compute_responses
from fieldloop.model.settings import NetworkConfig

_spec = importlib.util.spec_from_file_location("model_physics", Path(__file__).with_name("physics.py"))
physics = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(physics)

ZERO, FINITE = (0.0, 0.0, 0.0), (0.21, -0.13, 0.34)
ARCHITECTURES = {
    "default": {},
    "one layer": {"layers": 1},
    "three layers, l 1": {"layers": 3, "l_max": 1},
    "l 3": {"l_max": 3, "tensors": 3},
    "no charges, no repulsion": {"reference_charges": {}, "repulsion": False},
}


@pytest.fixture(params=ARCHITECTURES, ids=str)
def model(request, make_network):
    return make_network(seed=3, **ARCHITECTURES[request.param])


@pytest.mark.parametrize("field", [ZERO, FINITE], ids=["zero field", "finite field"])
def test_first_derivatives(model, make_frame, make_graph, field):
    physics.check_first_derivatives(model, make_graph(model, make_frame(1, cubic=False), field=field))


@pytest.mark.parametrize("field", [ZERO, FINITE], ids=["zero field", "finite field"])
def test_second_derivatives(model, make_frame, make_graph, field):
    physics.check_second_derivatives(model, make_graph(model, make_frame(2, cubic=False), field=field))


@pytest.mark.parametrize("field", [ZERO, FINITE], ids=["zero field", "finite field"])
def test_rotation_and_inversion(model, make_frame, make_graph, field):
    torch.manual_seed(0)
    rotation = o3.rand_matrix(dtype=torch.float64)
    graph = make_graph(model, make_frame(3), field=field)
    physics.check_rotation(model, graph, rotation)
    physics.check_rotation(model, graph, -torch.eye(3))
    physics.check_rotation(model, graph, -rotation)


@pytest.mark.parametrize("field", [ZERO, FINITE], ids=["zero field", "finite field"])
def test_translation_and_charge_sum_rule(model, make_frame, make_graph, field):
    physics.check_translation(model, make_graph(model, make_frame(4), make_frame(5), field=field))


def test_torque(model, make_frame, make_graph):
    physics.check_torque(model, make_graph(model, make_frame(6), make_frame(7), field=FINITE))


def test_responses_of_one_layer_depend_on_the_field(make_network, make_frame, make_graph):
    """Not a quadratic form: at a finite field alpha differs from alpha at zero field."""
    model = make_network()
    alpha = [
        compute_responses(model, make_graph(model, make_frame(1), field=f), born=True).polarizability
        for f in (ZERO, FINITE)
    ]
    assert float((alpha[0] - alpha[1]).abs().max()) > 1e-4


def test_permutation(model, make_frame, make_graph):
    frame = make_frame(8)
    order = np.random.default_rng(0).permutation(len(frame))
    shuffled = Frame(species=tuple(frame.species[i] for i in order), positions=frame.positions[order], cell=frame.cell)
    before = compute_responses(model, make_graph(model, frame, field=FINITE), born=True)
    after = compute_responses(model, make_graph(model, shuffled, field=FINITE), born=True)
    physics.assert_close(after.enthalpy, before.enthalpy, 1e-10)
    physics.assert_close(after.forces, before.forces[order], 1e-10)
    physics.assert_close(after.born_effective_charges, before.born_effective_charges[order], 1e-10)
    physics.assert_close(after.polarizability, before.polarizability, 1e-10)


def test_batch_independence(model, make_frame, make_graph):
    frames = [make_frame(9), make_frame(10, cubic=False), make_frame(11)]
    together = compute_responses(model, make_graph(model, *frames, field=FINITE), stress=True, born=True)
    start = 0
    for b, frame in enumerate(frames):
        alone = compute_responses(model, make_graph(model, frame, field=FINITE), stress=True, born=True)
        atoms = slice(start, start + len(frame))
        start += len(frame)
        physics.assert_close(together.enthalpy[b], alone.enthalpy[0], 1e-12)
        physics.assert_close(together.forces[atoms], alone.forces, 1e-10)
        physics.assert_close(together.born_effective_charges[atoms], alone.born_effective_charges, 1e-10)
        physics.assert_close(together.stress[b], alone.stress[0], 1e-10)


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


def _line(model, *xs, species=None):
    positions = np.array([[x, 0.1 * i, 0.0] for i, x in enumerate(xs)])
    species = species or ("Al", "As") * (len(xs) // 2) + ("Al",) * (len(xs) % 2)
    frame = Frame(species=species, positions=positions, cell=np.eye(3) * 100, pbc=(False,) * 3)
    return build_graph([frame], model.species, model.cutoff, np.array([FINITE]))


def test_locality(model):
    """An atom beyond the cutoff leaves a local energy unchanged; beyond twice the cutoff also F and Z*."""
    c = model.cutoff
    chain = (0.0, 0.6 * c, 1.3 * c, 1.9 * c, 2.55 * c)
    local = [model.local_enthalpy(_line(model, *chain[:2], x, *chain[3:])).detach()[0] for x in (1.3 * c, 1.2 * c)]
    assert float(local[0]) == float(local[1])
    responses = [compute_responses(model, _line(model, *chain[:4], x), born=True) for x in (2.55 * c, 2.3 * c)]
    assert torch.equal(responses[0].forces[0], responses[1].forces[0])
    assert torch.equal(responses[0].born_effective_charges[0], responses[1].born_effective_charges[0])
    assert not torch.equal(responses[0].forces[3], responses[1].forces[3])


def test_smooth_at_the_cutoff(make_network):
    """Forces vanish at least quadratically as a neighbour leaves the cutoff: U has two continuous derivatives."""
    model = make_network(reference_charges={})

    def force(distance):
        positions = [[0, 0, 0], [-2.1, 0.3, 0], [distance, 0, 0]]
        frame = Frame(species=("Al", "As", "As"), positions=positions, cell=np.eye(3) * 100, pbc=(False,) * 3)
        graph = build_graph([frame], model.species, model.cutoff, np.array([FINITE]))
        return compute_responses(model, graph).forces[2]

    gaps = [float(force(model.cutoff - d).abs().max()) for d in (1e-2, 1e-3)]
    assert float(force(model.cutoff + 1e-6).abs().max()) == 0
    assert 0 < gaps[1] < 0.02 * gaps[0]
    assert gaps[0] < 1e-2


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


def test_save_and_load_are_bit_identical(make_network, make_frame, make_graph, tmp_path):
    model = make_network(seed=5)
    model_id = save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    frame = make_frame(1)
    assert torch.equal(model(make_graph(model, frame)), loaded(make_graph(loaded, frame)))
    assert save_model(loaded, tmp_path / "again") == model_id


@pytest.mark.parametrize("damage", ["weights", "config", "missing", "format"])
def test_tampered_files_are_refused(make_network, tmp_path, damage):
    save_model(make_network(), tmp_path)
    weights, config = tmp_path / "weights.safetensors", tmp_path / "config.json"
    if damage == "weights":
        blob = bytearray(weights.read_bytes())
        blob[-1] ^= 1
        weights.write_bytes(blob)
    elif damage == "config":
        config.write_text(config.read_text().replace('"cutoff": 4.2', '"cutoff": 4.3'))
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
