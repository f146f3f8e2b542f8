"""Dynamics with a network trained on real DFT: a committee member of the AlAs demo, in ``tests/data/models``."""

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from fieldloop.dft_inputs.records import Frame
from fieldloop.model.dynamics import DynamicsSettings, StaticField, run_dynamics
from fieldloop.model.files import load_model

MODEL = Path(__file__).parents[1] / "data" / "models" / "alas"


def drift(steps: int, field: tuple[float, float, float]) -> tuple[float, float]:
    """Slope of K + U(R, E) extrapolated to 10 ps, and its largest excursion over the run, eV/atom, NVE from 300 K."""
    frame = Frame.from_atoms(bulk("AlAs", "zincblende", a=5.6139, cubic=True))
    settings = DynamicsSettings(
        ensemble="nve",
        timestep=1.0,
        steps=steps,
        temperatures=600.0,
        fields=(StaticField(field),),
        seed=1,
        save_every=10,
    )
    replica = run_dynamics(load_model(MODEL), [frame], settings).trajectory.replica(0)
    assert replica.step[-1] == steps
    assert replica.temperature()[len(replica) // 2 :].mean() > 150  # it moves: equipartition halves the initial 600 K
    per_atom = replica.conserved / len(frame)
    slope = np.polyfit(replica.time, per_atom, 1)[0]
    return abs(float(slope)) * 1e4, float(np.ptp(per_atom))


@pytest.mark.parametrize("field", [(0.0, 0.0, 0.0), (0.0, 0.0, 0.05)])
def test_energy_in_a_static_field_is_conserved(field):
    slope, excursion = drift(1000, field)
    assert slope < 1e-4
    assert excursion < 2e-3


@pytest.mark.slow
def test_drift_over_ten_picoseconds():
    """Below 1e-4 eV/atom over 10 ps of AlAs in a static field."""
    slope, _ = drift(10_000, (0.0, 0.0, 0.05))
    print(f"drift {slope:.2e} eV/atom in 10 ps")
    assert slope < 1e-4
