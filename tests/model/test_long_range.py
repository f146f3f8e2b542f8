"""The interaction of screened charges: against published sums, the physics of dipoles, and blocks."""

import math

import numpy as np
import pytest
import torch
from ase import units
from ase.build import bulk
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from fieldloop.dft_inputs.records import Frame
from fieldloop.model.blocks import responses_in_blocks
from fieldloop.model.checks import TrainingDataError
from fieldloop.model.compiled import CompiledModel
from fieldloop.model.graph import build_graph
from fieldloop.model.interfaces.ase import EnthalpyCalculator
from fieldloop.model.interfaces.lammps_wheel import LammpsError
from fieldloop.model.interfaces.mliap import PairEnthalpy
from fieldloop.model.long_range import measured_charges, screened_energy
from fieldloop.model.responses import compute_responses
from fieldloop.model.stack import NetworkStack, stack_responses
from fieldloop.model.training import initial_network
from numpy.testing import assert_allclose

COULOMB = 14.399645
SCREENED = {"long_range": True, "screened_charges": {"Al": 0.7, "As": -0.7}}


@pytest.mark.parametrize(
    ("name", "structure", "lattice", "madelung"),
    [("rock salt", "rocksalt", 5.64, 1.747564594633), ("zincblende", "zincblende", 5.6, 1.638055053388)],
)
def test_madelung_constants(name, structure, lattice, madelung):
    """Smeared charges, with their own energy off and the short-ranged rest of point charges on, are point charges."""
    atoms = bulk("NaCl", structure, a=lattice, cubic=True)
    frame, cutoff = Frame.from_atoms(atoms), 5.0
    width = cutoff / 5.0
    signs = np.where(np.array(frame.species) == "Na", 1.0, -1.0)
    graph = build_graph([frame], ("Na", "Cl"), 12.0)
    smeared = float(screened_energy(graph, torch.tensor(signs), cutoff))
    own = COULOMB * len(signs) / (2 * math.sqrt(math.pi) * width)
    r = graph.vectors().norm(dim=-1)
    products = torch.tensor(signs)[:, None] * torch.tensor(signs)[graph.neighbours]
    rest = float((products * COULOMB * torch.erfc(r / (2 * width)) / r * graph.mask).sum() / 2)
    nearest = float(r[graph.mask].min())
    wanted = -madelung * COULOMB / nearest * len(signs) / 2
    assert smeared - own + rest == pytest.approx(wanted, rel=2e-7)


def test_longitudinal_modes_lie_higher_than_transverse_ones():
    """Planes of charge that move against each other along their normal cost 2 pi k_e P^2 more than along
    themselves: the splitting of LO and TO that no local model knows."""
    cutoff, amplitude, cells = 5.0, 0.02, 16
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True) * (cells, 1, 1)
    signs = np.where(atoms.numbers == 11, 1.0, -1.0)
    wave = np.cos(2 * np.pi * atoms.get_scaled_positions()[:, 0])

    def energy(axis):
        moved = atoms.copy()
        moved.positions[:, axis] += amplitude * signs * wave
        return float(
            screened_energy(build_graph([Frame.from_atoms(moved)], ("Na", "Cl"), 3.0), torch.tensor(signs), cutoff)
        )

    # 2 pi k_e P(x)^2 over the volume, with P(x) = (N u/V) cos(q x).
    splitting = math.pi * COULOMB * (len(atoms) * amplitude) ** 2 / atoms.get_volume()
    assert energy(0) - energy(1) == pytest.approx(splitting, rel=0.02)


def test_supercell_is_extensive(make_network, make_graph):
    model = make_network(**SCREENED)
    atoms = bulk("AlAs", "zincblende", a=5.61)
    atoms.rattle(0.1, seed=5)
    one, many = (
        compute_responses(model, make_graph(model, Frame.from_atoms(some)), stress=True)
        for some in (atoms, atoms * (2, 2, 2))
    )
    assert_allclose(many.forces, one.forces.repeat(8, 1), atol=1e-6)
    assert_allclose(many.stress, one.stress, atol=1e-8)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "traced"])
def test_blocks_add_the_long_range_part(make_network, make_frame, make_graph, compiled):
    model = make_network(**SCREENED)
    graph = make_graph(model, make_frame(1), make_frame(2, cubic=False), field=(0.1, 0.0, -0.2))
    wanted = compute_responses(model, graph, stress=True, born=True)
    found = responses_in_blocks(
        CompiledModel(model, backend="eager") if compiled else model, graph, stress=True, born=True, block=3
    )
    for name in ("enthalpy", "forces", "polarization", "stress", "born_effective_charges", "polarizability"):
        assert_allclose(getattr(found, name), getattr(wanted, name), atol=1e-9, err_msg=name)


def test_members_in_one_pass_have_their_own_charges(make_network, make_frame, make_graph):
    members = [
        make_network(seed, long_range=True, screened_charges={"Al": charge, "As": -charge})
        for seed, charge in ((1, 0.5), (2, 0.9))
    ]
    graph = make_graph(members[0], make_frame(1), make_frame(2))
    found = stack_responses(NetworkStack(members), graph, stress=True)
    for place, member in enumerate(members):
        alone = compute_responses(member, graph, stress=True)
        for name in ("enthalpy", "forces", "stress"):
            assert_allclose(getattr(found, name)[place], getattr(alone, name), atol=1e-9, err_msg=name)


def test_charges_are_measured(make_network, make_frame, make_labelled):
    """Z* of +-2.1 in a medium of eps_inf = 9, less what is not neutral."""
    frame = make_frame(0)
    signs = np.where(np.array(frame.species) == "Al", 1.0, -1.0)
    born = (2.1 * signs + 0.03)[:, None, None] * np.eye(3)
    alpha = np.eye(3) * 8 * frame.volume / (4 * np.pi * COULOMB)
    item = make_labelled(frame, make_network(), born_effective_charges=born, polarizability=alpha)
    charges = measured_charges([item], ("Al", "As"))
    assert charges == pytest.approx({"Al": 0.7, "As": -0.7})


def test_a_fresh_network_gets_them_or_says_what_is_missing(make_network, make_frame, make_labelled):
    teacher = make_network()
    config = teacher.config.model_copy(update={"long_range": True})
    model = initial_network(config, [make_labelled(make_frame(seed), teacher) for seed in range(2)], seed=0)
    assert not model.strictly_local
    with pytest.raises(TrainingDataError, match=r"labels of Z\* and alpha.*Al, As"):
        initial_network(config, [make_labelled(make_frame(0), teacher, born_effective_charges=None)], seed=0)


def test_pairs_of_lammps_cannot_carry_them(make_network):
    with pytest.raises(LammpsError, match="strictly local"):
        PairEnthalpy(make_network(**SCREENED))


def test_molecules_are_refused(make_network, make_frame):
    model = make_network(**SCREENED)
    atoms = make_frame(0).to_atoms()
    atoms.pbc = (True, True, False)
    atoms.calc = EnthalpyCalculator(model)
    with pytest.raises(ValueError, match="periodic in three directions"):
        atoms.get_potential_energy()


def test_dynamics_conserves_energy_in_a_field(make_network, make_frame):
    """Forces of all parts belong to one enthalpy: NVE, blocks of atoms and all."""
    model = make_network(reference="many_body", **SCREENED)
    for coefficients in (model.many_body.pairs, model.many_body.energy_triples):
        coefficients.mul_(0.01)
    atoms = make_frame(1, stdev=0.05).to_atoms()
    atoms.calc = EnthalpyCalculator(model, field=(0.0, 0.1, 0.0))
    rng = np.random.default_rng(0)
    MaxwellBoltzmannDistribution(atoms, temperature_K=200, rng=rng)
    totals = []
    dynamics = VelocityVerlet(atoms, timestep=0.5 * units.fs)
    dynamics.attach(lambda: totals.append(atoms.get_total_energy()))
    dynamics.run(60)
    assert np.ptp(totals) < 0.02 * atoms.get_kinetic_energy()


def test_charges_are_neutral_in_every_composition_or_refused(make_network, make_frame, make_labelled):
    """Al4As4 beside Al8As8 has charges; beside Al5As3 none but zero would be neutral in both."""
    teacher, frame = make_network(), make_frame(0)
    signs = np.where(np.array(frame.species) == "Al", 1.0, -1.0)
    labels = {
        "born_effective_charges": (2.1 * signs)[:, None, None] * np.eye(3),
        "polarizability": np.eye(3) * 8 * frame.volume / (4 * np.pi * COULOMB),
    }
    other = frame.model_copy(update={"species": ("Al",) * 5 + ("As",) * 3})
    item = make_labelled(frame, teacher, **labels)
    with pytest.raises(ValueError, match="leave neutral"):
        measured_charges([item, make_labelled(other, make_network(reference_charges={}), **labels)], ("Al", "As"))
    upside_down = {**labels, "polarizability": -labels["polarizability"]}
    with pytest.raises(ValueError, match=r"eps_inf = .*below 1"):
        measured_charges([make_labelled(frame, teacher, **upside_down)], ("Al", "As"))


def test_settings_that_contradict_each_other_are_refused(make_network):
    with pytest.raises(ValueError, match="long_range: true"):
        make_network(screened_charges={"Al": 0.7, "As": -0.7})
    with pytest.raises(ValueError, match="initial_network measures them"):
        make_network(long_range=True)
