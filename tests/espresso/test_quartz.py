"""Quartz, 9 atoms: three routes to Z*: forces in a field, dipoles of displaced atoms, and DFPT."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fieldloop.dft_inputs.branches import align_dipoles, align_enthalpies, string_lattice
from fieldloop.dft_inputs.espresso import PwSettings, read_pw_output
from fieldloop.dft_inputs.espresso.dfpt import PhCode, PhSettings, label_frame_dfpt, read_ph_output
from fieldloop.dft_inputs.espresso.phases import dipole_from_phases, read_phases
from fieldloop.dft_inputs.polarization import fold
from fieldloop.dft_inputs.stencil import Stencil

MOVED = 3
"""The atom that the displaced runs have moved, an oxygen."""


@pytest.fixture
def points(stored):
    return stored("quartz")


@pytest.fixture
def charges(points):
    return Stencil().born_effective_charges(points[0])


def test_all_seven_points_are_on_one_branch(points):
    """Dipoles and enthalpies, each checked by itself against jumps of single k-strings."""
    named, frame = points
    lattice = string_lattice(frame.cell, (2, 2, 2), 2)
    assert align_dipoles(named, lattice)[1] == []
    assert align_enthalpies(named, lattice)[1] == []


def test_charges_from_forces_and_from_dipoles(data, charges):
    """dF/dE of the stencil against dP/du of an oxygen moved by 0.02 A either way along (1, 2, 2)/3: within 1 %."""
    runs = [data / "quartz_displaced" / name for name in ("plus", "minus")]
    outputs = [read_pw_output(run) for run in runs]
    lattice = string_lattice(outputs[0].frame.cell, outputs[0].kpoints, 2)
    step = outputs[0].frame.positions - outputs[1].frame.positions
    assert np.count_nonzero(np.linalg.norm(step, axis=1) > 1e-6) == 1
    electronic = [dipole_from_phases(read_phases(run), o.frame.cell) for run, o in zip(runs, outputs, strict=True)]
    change = fold(electronic[0] - electronic[1], lattice) + outputs[0].ionic_dipole - outputs[1].ionic_dipole
    expected = charges[MOVED] @ step[MOVED]
    assert np.linalg.norm(change - expected) < 0.01 * np.linalg.norm(expected)
    transposed = charges[MOVED].T @ step[MOVED]
    assert np.linalg.norm(change - transposed) > 0.03 * np.linalg.norm(expected)


def test_charges_from_finite_fields_converge_to_dfpt(data, charges):
    """Strings of N k-points leave an error of 1/N^2 in finite fields; on 3x3x3 ph.x is converged to 0.002 e.

    pw.x removes the net force, so the sum rule is restored in the charges of ph.x before they are compared.
    """
    dfpt = read_ph_output(data / "dfpt" / "quartz").born_effective_charges
    assert np.abs(dfpt.mean(axis=0)).max() < 0.03
    dfpt = dfpt - dfpt.mean(axis=0)
    denser = np.array(json.loads((data / "quartz_3x3x3.json").read_text())["born_effective_charges"])
    extrapolated = denser + (denser - charges) / (9 / 4 - 1)
    errors = [np.linalg.norm(found - dfpt) / np.linalg.norm(dfpt) for found in (charges, denser, extrapolated)]
    assert errors[0] < 0.03
    assert errors[1] < 0.02
    assert errors[2] < 0.015
    assert np.linalg.norm(extrapolated.transpose(0, 2, 1) - dfpt) > 3 * np.linalg.norm(extrapolated - dfpt)


def test_charges_from_finite_fields_are_those_of_converged_dfpt(data, charges):
    """The label of 40 Ry and 2x2x2 against ph.x on 3x3x3 at 80 Ry, where the sum rule of DFPT holds to 0.008 e."""
    dfpt = np.array(json.loads((data / "quartz_dfpt_80Ry.json").read_text())["born_effective_charges"])
    assert np.abs(dfpt.mean(axis=0)).max() < 0.008
    dfpt = dfpt - dfpt.mean(axis=0)
    assert np.linalg.norm(charges - dfpt) < 0.02 * np.linalg.norm(dfpt)
    for atom in range(3):
        assert np.diag(charges[atom]) == pytest.approx(np.diag(dfpt[atom]), rel=0.02)


@pytest.mark.slow
def test_dfpt_of_quartz(data, goedecker, code, tmp_path):
    """Two minutes: the stored ph.x run is reproduced from the parameters of the pseudopotentials."""
    frame = read_pw_output(data / "quartz" / "zero").frame
    settings = PwSettings(ecutwfc=40, kpoints=(3, 3, 3), conv_thr=1e-12)
    pw = code.model_copy(update={"pseudo_dir": str(goedecker)})
    label = label_frame_dfpt(frame, settings, PhSettings(), PhCode(pw=pw), tmp_path / "label")
    assert label.status == "done", label.failure
    expected = read_ph_output(data / "dfpt" / "quartz")
    assert np.allclose(label.response.born_effective_charges, expected.born_effective_charges, atol=1e-3)
