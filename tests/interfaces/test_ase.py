"""The ASE calculator around a real network, against ASE's own numerical derivatives."""

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from fieldloop.model.interface import EnthalpyModel
from fieldloop.model.interfaces.ase import EnthalpyCalculator
from fieldloop.model.network import EnthalpyNetwork
from fieldloop.model.settings import NetworkConfig
from torch import nn

FIELD = np.array([0.05, -0.1, 0.2])


@pytest.fixture(scope="module")
def network():
    config = NetworkConfig(
        species=("Al", "As"), reference_charges={"Al": 3, "As": -3}, cutoff=4.0, scalars=8, tensors=4, radial=4
    )
    return EnthalpyNetwork(config, seed=1)


@pytest.fixture
def atoms():
    atoms = bulk("AlAs", "zincblende", a=5.66)
    atoms.rattle(0.05, seed=1)
    return atoms


@pytest.fixture
def calculator(network):
    return EnthalpyCalculator(network)


def test_forces_are_the_numerical_derivatives_of_the_energy(atoms, network):
    atoms.calc = EnthalpyCalculator(network, field=FIELD)
    assert atoms.get_forces() == pytest.approx(calculate_numerical_forces(atoms, eps=1e-4), abs=1e-6)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()


def test_stress_is_the_numerical_strain_derivative_at_fixed_field(atoms, network):
    atoms.calc = EnthalpyCalculator(network, field=FIELD)
    numerical = calculate_numerical_stress(atoms, eps=1e-5)
    assert atoms.get_stress() == pytest.approx(numerical, abs=1e-6)
    assert np.abs(atoms.get_stress()).max() > 1e-4


def test_responses_are_derivatives_with_respect_to_the_field(atoms, calculator):
    atoms.calc = calculator
    step = 1e-4
    atoms.info["field"] = FIELD
    dipole = atoms.get_dipole_moment()
    born = calculator.get_property("born_effective_charges", atoms)
    alpha = calculator.get_property("polarizability", atoms)
    for a in range(3):
        values = {}
        for sign in (1, -1):
            atoms.info["field"] = FIELD + sign * step * np.eye(3)[a]
            polarization = calculator.get_property("polarization", atoms)
            values[sign] = (atoms.get_potential_energy(), atoms.get_forces(), polarization)
        energy, forces, polarization = ((p - m) / (2 * step) for p, m in zip(values[1], values[-1], strict=True))
        assert dipole[a] == pytest.approx(-energy, rel=1e-6)
        assert born[:, a] == pytest.approx(forces, abs=1e-6)
        assert alpha[:, a] == pytest.approx(polarization, abs=1e-6)
    assert np.abs(alpha).max() > 1e-3


def test_born_effective_charges_are_index_field_then_displacement(atoms, calculator):
    atoms.calc = calculator
    born = calculator.get_property("born_effective_charges", atoms)
    step = 1e-4
    for b in range(3):
        values = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[0, b] += sign * step
            moved.calc = calculator
            values.append(moved.get_dipole_moment())
        assert born[0, :, b] == pytest.approx((values[0] - values[1]) / (2 * step), abs=1e-6)


def test_a_changed_field_is_a_changed_system(atoms, calculator):
    atoms.calc = calculator
    at_zero = atoms.get_potential_energy()
    atoms.info["field"] = [0.0, 0.0, 0.1]
    in_field = atoms.get_potential_energy()
    assert in_field != at_zero
    atoms.info["field"][2] = 0.2
    assert atoms.get_potential_energy() != in_field
    del atoms.info["field"]
    assert atoms.get_potential_energy() == at_zero
    calculator.field = (0.0, 0.0, 0.1)
    assert atoms.get_potential_energy() == in_field


def test_expensive_responses_only_when_asked_for(atoms, calculator, network, monkeypatch):
    calls = []
    forward = network.forward
    monkeypatch.setattr(network, "forward", lambda graph: calls.append(1) or forward(graph))
    atoms.calc = calculator
    atoms.get_potential_energy()
    assert "born_effective_charges" not in calculator.results
    assert "stress" not in calculator.results
    atoms.get_forces()
    atoms.get_dipole_moment()
    assert len(calls) == 1
    calculator.get_property("born_effective_charges", atoms)
    calculator.get_property("polarizability", atoms)
    assert len(calls) == 2
    atoms.get_stress()
    assert "polarizability" in calculator.results


def test_a_direct_calculation_of_other_atoms_keeps_nothing_old(atoms, calculator):
    calculator.calculate(atoms, ["stress"])
    atoms.positions[0] += 0.1
    calculator.calculate(atoms, ["energy"])
    assert "stress" not in calculator.results


class Spring(EnthalpyModel):
    """Two ions of charge +-1 e on a spring, U = k/2 (r_1 - r_0)^2 - E . (r_1 - r_0)."""

    species = ("Al", "As")
    cutoff = 3.0

    def __init__(self):
        super().__init__()
        self.stiffness = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, graph):
        bond = graph.positions[1:] - graph.positions[:1]
        return self.stiffness / 2 * (bond**2).sum(-1) - (graph.field * bond).sum(-1)


def test_bfgs_finds_the_displacement_in_a_field():
    atoms = Atoms("AlAs", positions=[[0.0, 0.0, 0.0], [0.3, 0.2, 0.1]], cell=np.eye(3) * 9, pbc=True)
    atoms.calc = EnthalpyCalculator(Spring(), field=FIELD)
    assert BFGS(atoms, logfile=None).run(fmax=1e-6)
    assert atoms.positions[1] - atoms.positions[0] == pytest.approx(FIELD / 0.5, abs=1e-5)


def test_runs_with_the_velocity_verlet_of_ase(atoms, network):
    atoms.calc = EnthalpyCalculator(network, field=FIELD)
    totals = []
    dynamics = VelocityVerlet(atoms, timestep=0.5 * units.fs)
    dynamics.attach(lambda: totals.append(atoms.get_total_energy()))
    dynamics.run(40)
    assert np.ptp(totals) < 0.01 * atoms.get_kinetic_energy()


@pytest.mark.parametrize("field", [[0.0, 0.1], [0, 0, float("nan")], "z", [[0, 0, 1]], 3.0, {"z": 1}])
def test_a_bad_field_is_refused(atoms, calculator, network, field):
    with pytest.raises(ValueError, match="three finite numbers"):
        EnthalpyCalculator(network, field=field)
    atoms.calc = calculator
    atoms.info["field"] = field
    with pytest.raises(ValueError, match=r"info\[\"field\"\] must be three finite numbers"):
        atoms.get_potential_energy()


def test_two_different_fields_are_refused(atoms, network):
    atoms.calc = EnthalpyCalculator(network, field=FIELD)
    atoms.info["field"] = -FIELD
    with pytest.raises(ValueError, match="differ"):
        atoms.get_potential_energy()
    atoms.info["field"] = FIELD.tolist()
    atoms.get_potential_energy()


def test_an_unknown_element_is_named(calculator):
    atoms = bulk("Si")
    atoms.calc = calculator
    with pytest.raises(ValueError, match="Si"):
        atoms.get_potential_energy()


def test_stress_of_a_molecule_does_not_exist(atoms, calculator):
    atoms.pbc = False
    atoms.calc = calculator
    assert np.isfinite(atoms.get_forces()).all()
    with pytest.raises(PropertyNotImplementedError, match="periodic"):
        atoms.get_stress()


def test_the_dipole_of_a_molecule_does_not_depend_on_its_place(atoms, calculator):
    molecule = Atoms(atoms.symbols, positions=atoms.positions)
    molecule.calc = calculator
    molecule.info["field"] = FIELD
    energy, dipole = molecule.get_potential_energy(), molecule.get_dipole_moment()
    assert np.linalg.norm(dipole) > 1
    molecule.translate([11.0, -7.0, 3.0])
    assert molecule.get_dipole_moment() == pytest.approx(dipole, abs=1e-9)
    assert molecule.get_potential_energy() == pytest.approx(energy, abs=1e-9)
