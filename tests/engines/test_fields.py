"""Sign and unit of the field, for every engine."""

from dataclasses import replace

import numpy as np
import pytest
from fieldloop.dft_inputs.labelling import run_fields
from fieldloop.dft_inputs.program import lease
from fieldloop.dft_inputs.stencil import AXES


def pairs(points, step):
    """Points at either end of each axis, and the field between them."""
    return [(axis, points[f"+{name}"], points[f"-{name}"], 2 * step) for axis, name in enumerate(AXES)]


def test_a_cation_is_pushed_along_the_field(case, points):
    for axis, plus, minus, span in pairs(points, case.stencil.step):
        assert (plus.forces - minus.forces)[case.cation, axis] / span > 0.5


def test_the_dipole_grows_along_the_field(case, label, points):
    for axis, plus, minus, _ in pairs(points, case.stencil.step):
        assert (plus.polarization - minus.polarization)[axis] > 0
    assert (np.linalg.eigvalsh((label.response.polarizability + label.response.polarizability.T) / 2) > 0).all()


def test_the_enthalpy_falls_with_the_stored_dipole(case, label, points):
    """-dH/dE = P with sign, size and branch: H(+) - H(-) = -2 P.E."""
    for axis, plus, minus, span in pairs(points, case.stencil.step):
        slope = -(plus.enthalpy - minus.enthalpy) / span
        assert slope == pytest.approx(label.response.polarization[axis], abs=case.tolerances.dipole)


def test_the_enthalpy_bends_with_the_polarizability(case, label, points):
    """H(+) + H(-) - 2 H(0) = -alpha E^2, where alpha is dP/dE: the field is in V/A in both."""
    for axis, plus, minus, span in pairs(points, case.stencil.step):
        bend = -(plus.enthalpy + minus.enthalpy - 2 * points["zero"].enthalpy) / (span / 2) ** 2
        assert bend == pytest.approx(label.response.polarizability[axis, axis], rel=case.tolerances.alpha)


def test_inputs_ask_for_the_field_of_the_point(case, job, points):
    for name, wanted in case.stencil.points().items():
        assert points[name].field == pytest.approx(wanted, abs=1e-8)
        assert case.written_field(job.folder(name)) == pytest.approx(wanted, rel=1e-7, abs=1e-10)


def test_a_field_along_no_axis_does_what_the_derivatives_say(case, label, points, home):
    """Zero of a stencil about a field: F = F(0) + E.Z*, P = P(0) + alpha E, H = H(0) - P(0).E - E.alpha.E / 2."""
    base = np.array([0.006, -0.004, 0.008])
    job = case.engine.prepare(case.frame, replace(case.stencil, base=tuple(base)), home / "about a field")
    with lease(job.directory, job.code) as descriptor:
        (run,) = (run for _, run in run_fields(job, descriptor, only=("zero",)))
    zero, response = points["zero"], label.response
    point = case.on_branch(run.point, zero)
    assert point.field == pytest.approx(base, abs=1e-8)
    pull = np.einsum("a,iab->ib", base, response.born_effective_charges)
    assert point.forces - zero.forces == pytest.approx(pull, abs=0.01 * np.abs(pull).max())
    change = response.polarizability @ base
    assert point.polarization - zero.polarization == pytest.approx(change, abs=0.02 * np.abs(change).max())
    expected = -zero.polarization @ base - change @ base / 2
    assert point.enthalpy - zero.enthalpy == pytest.approx(expected, abs=0.02 * change @ base)


def test_the_polarizability_is_symmetric(label):
    alpha = label.response.polarizability
    assert np.abs(alpha - alpha.T).max() < 1e-3 * np.trace(alpha)


def test_a_label_holds_all_that_was_asked_for(case, label):
    expected = {"enthalpy", "forces", "stress", "polarization", "born_effective_charges", "polarizability"}
    assert set(label.response.labels) == expected
    assert label.provenance.code == case.engine.name
    assert label.provenance.code_version
    assert label.provenance.scf_count == len(case.stencil.points())
    assert label.provenance.pseudopotentials == case.engine.pseudopotentials(case.frame.species)
    assert label.quality.critical_field_fraction < 0.5
