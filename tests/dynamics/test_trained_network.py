"""Dynamics with a network trained on real DFT: a committee member of the AlAs demo, in ``tests/data/models``."""

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from fieldloop.dft_inputs.records import Frame
from fieldloop.model.dynamics import DynamicsSettings, SinusoidalField, StaticField, run_dynamics
from fieldloop.model.files import load_model

MODEL = Path(__file__).parents[1] / "data" / "models" / "alas"
FIELDS = (StaticField(), StaticField((0.0, 0.0, 0.1)), SinusoidalField((0.0, 0.0, 0.1), period=250.0))


def series_of(steps, fields, **settings):
    """Scalars of one replica in each field, all from the same velocities of 600 K."""
    frame = Frame.from_atoms(bulk("AlAs", "zincblende", a=5.6139, cubic=True))
    seeds = (1,) * len(fields)
    chosen = DynamicsSettings(steps=steps, temperatures=600.0, fields=fields, seed=seeds, **settings)
    trajectory = run_dynamics(load_model(MODEL), [frame] * len(fields), chosen).trajectory
    return [trajectory.series(replica) for replica in range(len(fields))]


@pytest.mark.parametrize(
    ("steps", "settings"),
    [(400, {"ensemble": "nve"}), (100, {"ensemble": "npt", "cell": "flexible", "fixed": "voltage"})],
    ids=["nve", "npt"],
)
def test_what_is_conserved_is_conserved_in_a_field_too(steps, settings):
    """At rest, in 10 MV/cm, and in a field of that amplitude that changes."""
    runs = series_of(steps, FIELDS, **settings)
    per_atom = [run.conserved / 8 for run in runs]
    without, *in_field = [np.ptp(values) for values in per_atom]
    assert without < 2e-3
    assert max(in_field) < 1.5 * without
    for run in runs:
        assert run.temperature[steps // 2 :].mean() > 150  # it moves: equipartition halves the initial 600 K
    assert np.ptp(runs[2].enthalpy + runs[2].kinetic) > 5 * np.ptp(runs[2].conserved)


@pytest.mark.slow
def test_drift_over_ten_picoseconds():
    """Below 1e-4 eV/atom over 10 ps of AlAs in a static field."""
    (run,) = series_of(10_000, (StaticField((0.0, 0.0, 0.05)),), ensemble="nve")
    slope = abs(float(np.polyfit(run.time, run.conserved / 8, 1)[0])) * 1e4
    print(f"drift {slope:.2e} eV/atom in 10 ps")
    assert slope < 1e-4
