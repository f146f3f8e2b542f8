"""Local dipoles: exact shares of P, and units whose dipoles do not depend on the origin."""

import numpy as np
import pytest
from fieldloop.dft_inputs.records import Frame
from fieldloop.model.dynamics import DynamicsSettings, run_dynamics
from fieldloop.model.graph import build_graph
from fieldloop.model.local_dipoles import atomic_dipoles, dipoles_along, dipoles_of, unit_dipoles, units_about
from fieldloop.model.network import EnthalpyNetwork
from fieldloop.model.responses import compute_responses
from fieldloop.model.settings import NetworkConfig

FIELD = np.array([0.1, -0.2, 0.3])


@pytest.fixture(scope="module")
def network():
    config = NetworkConfig(
        species=("Al", "As"), reference_charges={"Al": 3, "As": -3}, cutoff=3.5, scalars=8, tensors=4, radial=4
    )
    return EnthalpyNetwork(config, seed=1)


def cell_dipole(model, frame, field):
    graph = build_graph([frame], model.species, model.cutoff, field[None], model.dtype)
    return compute_responses(model, graph).polarization[0].numpy()


def test_they_add_up_to_p_at_any_field(network, crystal):
    frame = crystal(rattle=0.1)
    for field in (np.zeros(3), FIELD):
        atomic, charges = dipoles_of(network, frame, field)
        total = atomic.sum(0) + charges @ frame.positions
        assert total == pytest.approx(cell_dipole(network, frame, field), abs=1e-10)


def test_each_is_the_slope_of_its_own_share_of_the_enthalpy(network, crystal):
    frame, h = crystal(rattle=0.1), 1e-4

    def shares(field):
        graph = build_graph([frame], network.species, network.cutoff, field[None], network.dtype)
        return network.local_enthalpy(graph.environments(network.dtype)).detach().numpy()

    slopes = [(shares(FIELD - h * axis) - shares(FIELD + h * axis)) / (2 * h) for axis in np.eye(3)]
    graph = build_graph([frame], network.species, network.cutoff, FIELD[None], network.dtype)
    assert atomic_dipoles(network, graph).numpy() == pytest.approx(np.array(slopes).T, abs=1e-7)


def test_a_batch_and_a_far_origin_change_nothing(network, crystal):
    frames = [crystal(rattle=0.1), crystal(rattle=0.1, seed=3)]
    far = frames[1].model_copy(update={"positions": frames[1].positions + 100.0})
    graph = build_graph([frames[0], far], network.species, network.cutoff, FIELD, network.dtype)
    together = atomic_dipoles(network, graph).numpy()
    assert together[8:] == pytest.approx(dipoles_of(network, frames[1], FIELD)[0], abs=1e-10)


def test_units_fill_the_crystal_and_add_up_to_p(network, crystal):
    perfect, frame = crystal(), crystal(rattle=0.1)
    units = units_about(perfect, "Al", {"As": 4})
    assert units.weights.sum() == pytest.approx(8)
    dipoles = unit_dipoles(frame, units, *dipoles_of(network, frame, FIELD))
    from_perfect = cell_dipole(network, frame, FIELD) - cell_dipole(network, perfect, FIELD)
    at_perfect = unit_dipoles(perfect, units, *dipoles_of(network, perfect, FIELD))
    assert (dipoles - at_perfect).sum(0) == pytest.approx(from_perfect, abs=1e-9)
    shifted = frame.model_copy(update={"positions": frame.positions + np.array([7.0, -3.0, 1.0])})
    assert unit_dipoles(shifted, units, *dipoles_of(network, shifted, FIELD)) == pytest.approx(dipoles, abs=1e-9)


def test_along_a_run_they_follow_p(network, crystal):
    perfect = crystal()
    settings = DynamicsSettings(ensemble="nve", steps=4, save_every=2, fields=(tuple(0.1 * FIELD),), seed=1)
    replica = run_dynamics(network, [perfect], settings).trajectory.replica(0)
    dipoles = dipoles_along(network, replica, units_about(perfect, "As", {"Al": 4}))
    changes = dipoles.sum(1) - dipoles[0].sum(0)
    assert np.abs(changes[-1]).max() > 1e-4
    assert changes == pytest.approx(replica.polarization - replica.polarization[0], abs=1e-8)


def perovskite(repeat=1, shift=0.0) -> Frame:
    from ase import Atoms

    sites = [(0, 0, 0), (0.5, 0.5, 0.5 + shift), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
    return Frame.from_atoms(Atoms("BaTiO3", scaled_positions=sites, cell=4 * np.eye(3), pbc=True) * ((repeat,) * 3))


def test_cells_of_a_perovskite(network):
    """A Ti atom off its place by u gives its own unit the dipole q u, and the others none."""
    frame = perovskite(2)
    units = units_about(frame, "Ti", {"O": 6, "Ba": 8})
    charges = np.array([{"Ba": 2.0, "Ti": 4.0, "O": -2.0}[symbol] for symbol in frame.species])
    moves = np.zeros((40, 3))
    moves[units.centres[3], 2] = 0.1
    moved = frame.model_copy(update={"positions": frame.positions + moves})
    dipoles = unit_dipoles(moved, units, np.zeros((40, 3)), charges)
    expected = np.zeros((8, 3))
    expected[3, 2] = 0.4
    assert dipoles == pytest.approx(expected, abs=1e-12)
    assert unit_dipoles(
        frame, units_about(frame, "Ti", {"O": 6, "Ba": 8}), np.zeros((40, 3)), charges
    ) == pytest.approx(np.zeros((8, 3)), abs=1e-12)


@pytest.mark.parametrize(
    ("centre", "shells", "message"),
    [
        ("Zr", {"O": 6}, "need a centre and a shell"),
        ("Ti", {"O": 6}, "every other species"),
        ("Ti", {"O": 5, "Ba": 8}, "evenly"),
    ],
)
def test_units_that_do_not_fill_the_crystal_are_refused(centre, shells, message):
    with pytest.raises(ValueError, match=message):
        units_about(perovskite(), centre, shells)
