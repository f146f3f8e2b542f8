"""Stress at fixed field and at fixed voltage against numerical strain derivatives; relaxation of what they act on."""

import numpy as np
import pytest
import torch
from ase.calculators.fd import calculate_numerical_stress
from fieldloop.model.graph import build_graph
from fieldloop.model.interfaces.ase import EnthalpyCalculator
from fieldloop.model.relaxation import relax
from fieldloop.model.responses import compute_responses, strain_derivative
from fieldloop.model.voltage import fixed_voltage_stress

FIELD = np.array([0.15, -0.1, 0.3])


def strained(frame, strain):
    deformation = np.eye(3) + strain
    return frame.model_copy(update={"positions": frame.positions @ deformation.T, "cell": frame.cell @ deformation.T})


def enthalpy_of(model, frame, field):
    return float(compute_responses(model, build_graph([frame], model.species, model.cutoff, field)).enthalpy)


@pytest.fixture
def skewed(crystal):
    frame = crystal(rattle=0.1)
    return strained(frame, np.array([[0.02, 0.03, 0.0], [0.0, -0.03, 0.01], [0.02, 0.0, 0.01]]))


def test_fixed_voltage_stress_is_the_strain_derivative_at_fixed_voltages(morse, skewed):
    """Of all nine strains: no torque is left, as E turns with the cell."""
    graph = build_graph([skewed], morse.species, morse.cutoff, FIELD)
    out = compute_responses(morse, graph, stress=True)
    sigma = fixed_voltage_stress(out.stress, graph.field, out.polarization, graph.volume())[0].numpy()
    voltages, step = skewed.cell @ FIELD, 1e-5
    for a, b in np.ndindex(3, 3):
        values = []
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[a, b] = sign * step
            frame = strained(skewed, strain)
            values.append(enthalpy_of(morse, frame, np.linalg.solve(frame.cell, voltages)))
        assert sigma[a, b] == pytest.approx((values[0] - values[1]) / (2 * step * skewed.volume), abs=1e-8)
    assert np.abs(sigma - out.stress[0].numpy()).max() > 1e-3
    raw = strain_derivative(morse, graph)[0].numpy() + np.outer(FIELD, out.polarization[0].numpy())
    assert raw / skewed.volume == pytest.approx(sigma, abs=1e-10)
    assert np.abs(raw - raw.T).max() < 1e-9


def test_fixed_voltage_stress_does_not_know_the_branch_of_P(morse, skewed):
    """An atom taken to another cell changes P by a quantum, and with it the stress at fixed field alone."""
    moved = skewed.positions.copy()
    moved[0] += skewed.cell[2] - 2 * skewed.cell[1]
    stresses = []
    for positions in (skewed.positions, moved):
        frame = skewed.model_copy(update={"positions": positions})
        graph = build_graph([frame], morse.species, morse.cutoff, FIELD)
        out = compute_responses(morse, graph, stress=True)
        stresses.append((out.stress, fixed_voltage_stress(out.stress, graph.field, out.polarization, graph.volume())))
    assert float((stresses[0][0] - stresses[1][0]).abs().max()) > 1e-3
    assert torch.allclose(stresses[0][1], stresses[1][1], atol=1e-12)


def test_the_calculator_of_ase_holds_voltages(morse, skewed):
    atoms = skewed.to_atoms()
    atoms.calc = EnthalpyCalculator(morse, voltages=skewed.cell @ FIELD)
    assert atoms.calc.field_of(atoms) == pytest.approx(FIELD)
    assert atoms.get_stress() == pytest.approx(calculate_numerical_stress(atoms, eps=1e-5), abs=1e-7)
    atoms.info["field"] = FIELD
    with pytest.raises(ValueError, match="remove one"):
        atoms.get_potential_energy()
    with pytest.raises(ValueError, match="which of them"):
        EnthalpyCalculator(morse, field=FIELD, voltages=FIELD)


def test_ions_move_in_a_small_field_by_the_inverse_force_constants_times_born_charges(morse, crystal):
    frame, field = crystal(), 0.01 * FIELD
    out = compute_responses(morse, build_graph([frame], morse.species, morse.cutoff), born=True)
    born, step, columns = out.born_effective_charges.numpy(), 1e-4, []
    for place in range(24):
        forces = []
        for sign in (1, -1):
            moved = frame.positions.copy()
            moved.reshape(-1)[place] += sign * step
            graph = build_graph([frame.model_copy(update={"positions": moved})], morse.species, morse.cutoff)
            forces.append(compute_responses(morse, graph).forces.numpy().ravel())
        columns.append((forces[1] - forces[0]) / (2 * step))
    expected = (np.linalg.pinv(np.stack(columns), rcond=1e-6) @ np.einsum("iab,a->ib", born, field).ravel()).reshape(
        8, 3
    )
    relaxed = relax(morse, frame, tuple(field), fmax=1e-7, optimizer="lbfgs")
    assert relaxed.converged
    assert relaxed.largest_force < 1e-7
    moved = relaxed.frame.positions - frame.positions
    assert moved - moved.mean(0) == pytest.approx(expected - expected.mean(0), abs=0.01 * np.abs(expected).max())
    assert np.abs(expected).max() > 1e-4


@pytest.mark.parametrize(("fixed", "pressure"), [("field", 0.0), ("voltage", 0.02)])
def test_a_relaxed_cell_is_where_no_strain_lowers_the_enthalpy(morse, crystal, fixed, pressure):
    start = crystal(rattle=0.02)
    options = {"fmax": 1e-3, "smax": 2e-5, "optimizer": "lbfgs" if fixed == "voltage" else "fire"}
    relaxed = relax(morse, start, tuple(FIELD), relax_cell=True, fixed=fixed, pressure=pressure, **options)
    assert relaxed.converged
    assert relaxed.largest_force < 1e-3
    assert relaxed.largest_stress < 2e-5
    frame, voltages = relaxed.frame, start.cell @ FIELD
    assert (relaxed.field == pytest.approx(FIELD, abs=1e-9)) == (fixed == "field")
    assert frame.cell @ relaxed.field == pytest.approx(frame.cell @ FIELD if fixed == "field" else voltages)
    for a, b in ((0, 0), (1, 2)):
        values = []
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[a, b] = strain[b, a] = sign * 1e-4
            moved = strained(frame, strain)
            field = FIELD if fixed == "field" else np.linalg.solve(moved.cell, voltages)
            values.append(enthalpy_of(morse, moved, field) + pressure * moved.volume)
        assert abs(values[0] - values[1]) / (2e-4 * frame.volume) < 1e-4


def test_a_relaxation_that_makes_no_sense_is_refused(morse, crystal):
    molecule = crystal().model_copy(update={"pbc": (True, True, False)})
    with pytest.raises(ValueError, match="periodic"):
        relax(morse, molecule, relax_cell=True)
    with pytest.raises(ValueError, match="pressure"):
        relax(morse, crystal(), pressure=0.1)


def test_responses_of_a_batch_are_those_of_each(morse, crystal, skewed):
    frames, fields = [crystal(rattle=0.05), skewed], np.stack([FIELD, -2 * FIELD])
    graph = build_graph(frames, morse.species, morse.cutoff, fields)
    out = compute_responses(morse, graph, stress=True)
    together = fixed_voltage_stress(out.stress, graph.field, out.polarization, graph.volume())
    for place, (frame, field) in enumerate(zip(frames, fields, strict=True)):
        alone = build_graph([frame], morse.species, morse.cutoff, field)
        one = compute_responses(morse, alone, stress=True)
        single = fixed_voltage_stress(one.stress, alone.field, one.polarization, alone.volume())
        assert torch.allclose(together[place], single[0], atol=1e-12)
