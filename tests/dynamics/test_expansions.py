"""Expansions about zero field against the full model: right to their order, and enthalpies of their own."""

import numpy as np
import pytest
import torch
from fieldloop.model.dynamics import DynamicsSettings, run_dynamics
from fieldloop.model.expansions import FirstOrderExpansion, QuadraticExpansion
from fieldloop.model.graph import build_graph
from fieldloop.model.network import EnthalpyNetwork
from fieldloop.model.responses import compute_responses
from fieldloop.model.settings import NetworkConfig

DIRECTION = np.array([0.3, -0.5, 0.8])
EXPANSIONS = pytest.mark.parametrize("expansion", [FirstOrderExpansion, QuadraticExpansion])


@pytest.fixture(scope="module")
def network():
    """A random network with strong responses of every order."""
    config = NetworkConfig(
        species=("Al", "As"), reference_charges={"Al": 3, "As": -3}, cutoff=3.5, scalars=8, tensors=4, radial=4
    )
    model = EnthalpyNetwork(config, seed=1)
    with torch.no_grad():
        model.polarizability_reference.copy_(torch.tensor([0.3, 1.1]))
    return model


def responses(model, frame, strength, **wanted):
    graph = build_graph([frame], model.species, model.cutoff, strength * DIRECTION[None], model.dtype)
    return compute_responses(model, graph, **wanted)


@pytest.mark.parametrize(("expansion", "first_power_missing"), [(FirstOrderExpansion, 2), (QuadraticExpansion, 3)])
def test_errors_grow_with_the_first_power_of_the_field_that_is_left_out(
    network, crystal, expansion, first_power_missing
):
    frame, strengths = crystal(rattle=0.1), (0.0025, 0.005)
    full = [responses(network, frame, strength) for strength in strengths]
    expanded = [responses(expansion(network), frame, strength) for strength in strengths]
    for name, power in (("enthalpy", first_power_missing), ("forces", first_power_missing), ("polarization", 0)):
        errors = [float((getattr(a, name) - getattr(b, name)).norm()) for a, b in zip(full, expanded, strict=True)]
        slope = np.log2(errors[1] / errors[0])
        assert slope == pytest.approx(power or first_power_missing - 1, abs=0.25), name


@EXPANSIONS
def test_at_zero_field_they_are_the_model(network, crystal, expansion):
    frame = crystal(rattle=0.1)
    full, expanded = (responses(m, frame, 0.0, stress=True, born=True) for m in (network, expansion(network)))
    for name in ("enthalpy", "forces", "polarization", "stress", "born_effective_charges"):
        assert torch.allclose(getattr(full, name), getattr(expanded, name), atol=1e-10), name
    alpha = full.polarizability if expansion is QuadraticExpansion else torch.zeros(1, 3, 3, dtype=torch.float64)
    assert torch.allclose(expanded.polarizability, alpha, atol=1e-10)


def test_the_published_form_is_zero_field_plus_born_charges_times_field(network, crystal):
    frame, field = crystal(rattle=0.1), 0.2 * DIRECTION
    at_rest = responses(network, frame, 0.0, born=True)
    first = responses(FirstOrderExpansion(network), frame, 0.2)
    pushed = at_rest.forces + torch.einsum("iab,a->ib", at_rest.born_effective_charges, torch.tensor(field))
    assert torch.allclose(first.forces, pushed, atol=1e-10)
    assert torch.allclose(first.polarization, at_rest.polarization, atol=1e-12)


@EXPANSIONS
def test_responses_are_derivatives_of_the_enthalpy(network, crystal, expansion):
    """Forces, P and stress by finite differences of U, in a field."""
    from scipy.linalg import expm

    model, frame, h = expansion(network), crystal(rattle=0.1), 1e-4
    out = responses(model, frame, 0.3, stress=True, born=True)
    move = np.random.default_rng(0).normal(size=(8, 3))
    strain = np.random.default_rng(1).normal(size=(3, 3))
    strain = (strain + strain.T) / 2

    def moved(sign):
        return frame.model_copy(update={"positions": frame.positions + sign * h * move})

    def strained(sign):
        matrix = expm(sign * h * strain)
        return frame.model_copy(update={"positions": frame.positions @ matrix, "cell": frame.cell @ matrix})

    ups, downs = ([responses(model, f(s), 0.3) for f in (moved, strained)] for s in (1, -1))
    slopes = [float(up.enthalpy - down.enthalpy) / (2 * h) for up, down in zip(ups, downs, strict=True)]
    assert slopes[0] == pytest.approx(-float((out.forces.numpy() * move).sum()), rel=1e-6)
    assert slopes[1] == pytest.approx(frame.volume * float((out.stress[0].numpy() * strain).sum()), rel=1e-6)
    moved_dipole = (ups[0].polarization - downs[0].polarization)[0].numpy() / (2 * h)
    assert moved_dipole == pytest.approx(np.einsum("iab,ib->a", out.born_effective_charges.numpy(), move), rel=1e-5)
    further, nearer = (responses(model, frame, 0.3 + sign * h) for sign in (1, -1))
    slope = float(further.enthalpy - nearer.enthalpy) / (2 * h)
    assert slope == pytest.approx(-float(out.polarization[0].numpy() @ DIRECTION), rel=1e-6)


def test_a_model_that_is_quadratic_in_the_field_is_its_own_quadratic_expansion(morse, crystal):
    frame = crystal(rattle=0.1)
    full, expanded = (responses(m, frame, 0.5, stress=True, born=True) for m in (morse, QuadraticExpansion(morse)))
    for name in ("enthalpy", "forces", "polarization", "stress", "born_effective_charges", "polarizability"):
        assert torch.allclose(getattr(full, name), getattr(expanded, name), atol=1e-10), name


def test_a_model_that_is_linear_in_the_field_is_its_own_expansion(oscillators, sites):
    full = responses(oscillators, sites, 0.5)
    for expansion in (FirstOrderExpansion, QuadraticExpansion):
        expanded = responses(expansion(oscillators), sites, 0.5)
        assert torch.allclose(full.enthalpy, expanded.enthalpy)
        assert torch.allclose(full.forces, expanded.forces)
    graph = build_graph([sites], oscillators.species, oscillators.cutoff, DIRECTION[None])
    with torch.no_grad():
        assert not QuadraticExpansion(oscillators)(graph).requires_grad


@EXPANSIONS
def test_their_dynamics_conserves_their_energy(morse, crystal, expansion):
    def error(timestep):
        settings = DynamicsSettings(
            ensemble="nve",
            timestep=timestep,
            steps=int(60 / timestep),
            temperatures=400.0,
            fields=((0.0, 0.1, 0.2),),
            save_every=1,
        )
        run = run_dynamics(expansion(morse), [crystal(rattle=0.05)], settings).trajectory.replica(0)
        return np.ptp(run.conserved), np.ptp(run.kinetic)

    (coarse, _), (fine, kinetic) = error(2.0), error(1.0)
    assert coarse / fine == pytest.approx(4, rel=0.15)
    assert fine < 5e-3 * kinetic
