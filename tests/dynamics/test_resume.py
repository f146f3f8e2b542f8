"""Checkpoints and segments: a run that was interrupted is the run that was not."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch
from fieldloop.model.dynamics import DynamicsSettings, SinusoidalField, read_trajectory, run_dynamics

COLUMNS = (
    "step",
    "time",
    "positions",
    "velocities",
    "cell",
    "field",
    "enthalpy",
    "kinetic",
    "polarization",
    "conserved",
)
SETTINGS = {
    "timestep": 2.0,
    "steps": 150,
    "save_every": 3,
    "observe_every": 10,
    "checkpoint_every": 20,
    "segment_frames": 4,
    "skin": 0.1,
    "temperatures": (300.0, 900.0, 600.0),
    "fields": (SinusoidalField((0.0, 0.0, 0.1), period=100.0), (0.0, 0.0, 0.0), (0.1, 0.0, 0.0)),
}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def frames(crystal):
    return [crystal(rattle=0.02, seed=seed) for seed in range(3)]


def assert_bitwise_equal(trajectory, other):
    for run, expected in zip(trajectory.replicas(), other.replicas(), strict=True):
        for name in COLUMNS:
            assert np.array_equal(getattr(run, name), getattr(expected, name)), name
    for replica in range(trajectory.n_replicas):
        assert_same(trajectory.series(replica), other.series(replica))
        assert_same(trajectory.responses(replica), other.responses(replica))


def assert_same(found, expected):
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(astuple(found), astuple(expected), strict=True))


class PowerCutError(Exception):
    pass


def stop_second_at_70(step, observation):
    return [step == 70 and replica == 1 for replica in observation.replicas]


NPT = {"ensemble": "npt", "cell": "flexible", "barostat_time": 500.0}
RUNS = {
    "nve": ({"ensemble": "nve"}, (70, 130)),
    "langevin": ({"ensemble": "langevin"}, (10,)),
    "langevin later": ({"ensemble": "langevin"}, (140,)),
    "csvr": ({"ensemble": "csvr"}, (70, 130)),
    "nose-hoover": ({"ensemble": "nose-hoover", "fixed": "displacement"}, (50, 60)),
    "npt": (NPT, (70, 130)),
    "npt, chain": ({**NPT, "thermostat": "nose-hoover", "fixed": "voltage", "responses_every": 25}, (50, 60)),
    "npt, langevin": ({**NPT, "thermostat": "langevin"}, (70,)),
}


@pytest.mark.parametrize(("changes", "interrupted"), RUNS.values(), ids=RUNS)
def test_resumed_runs_are_bitwise_equal(morse, frames, tmp_path, changes, interrupted):
    settings = DynamicsSettings(**SETTINGS, **changes)
    whole = run_dynamics(morse, frames, settings, observer=stop_second_at_70)
    for moment in interrupted:

        def observer(step, observation, moment=moment):
            if step == moment:
                raise PowerCutError
            return stop_second_at_70(step, observation)

        with pytest.raises(PowerCutError):
            run_dynamics(morse, frames, settings, directory=tmp_path, observer=observer)
    resumed = run_dynamics(morse, frames, settings, directory=tmp_path, observer=stop_second_at_70)
    assert resumed.steps == 150 - 20 * ((interrupted[-1] - 1) // 20)
    assert resumed.outcomes == whole.outcomes
    assert_bitwise_equal(resumed.trajectory, whole.trajectory)
    assert_bitwise_equal(read_trajectory(tmp_path), whole.trajectory)


def test_a_finished_run_is_not_repeated_and_can_be_extended(morse, frames, tmp_path):
    short = DynamicsSettings(**{**SETTINGS, "steps": 77})
    run_dynamics(morse, frames, short, directory=tmp_path)
    again = run_dynamics(morse, frames, short, directory=tmp_path)
    assert again.steps == 0
    assert [outcome.status for outcome in again.outcomes] == ["finished"] * 3
    longer = DynamicsSettings(**SETTINGS)
    extended = run_dynamics(morse, frames, longer, directory=tmp_path)
    assert extended.steps == 150 - 77
    assert_bitwise_equal(extended.trajectory, run_dynamics(morse, frames, longer).trajectory)


@pytest.mark.parametrize("what", ["timestep", "frames", "model"])
def test_a_directory_of_another_run_is_refused(morse, frames, tmp_path, what):
    settings = DynamicsSettings(**{**SETTINGS, "steps": 5})
    run_dynamics(morse, frames, settings, directory=tmp_path)
    if what == "timestep":
        settings = settings.model_copy(update={"timestep": 1.0})
    elif what == "frames":
        frames = frames[::-1]
    else:
        with torch.no_grad():
            morse.depth += 1e-9
    with pytest.raises(ValueError, match=f"another run.*{what}"):
        run_dynamics(morse, frames, settings, directory=tmp_path)


def test_two_runs_do_not_share_a_directory(morse, frames, tmp_path):
    settings = DynamicsSettings(**{**SETTINGS, "steps": 5})

    def observer(step, observation):
        run_dynamics(morse, frames, settings, directory=tmp_path)

    with pytest.raises(RuntimeError, match="another process"):
        run_dynamics(morse, frames, settings, directory=tmp_path, observer=observer)


PROGRAM = """
import importlib.util, sys
import torch
spec = importlib.util.spec_from_file_location("doubles", sys.argv[1])
doubles = importlib.util.module_from_spec(spec)
spec.loader.exec_module(doubles)
from fieldloop.model.dynamics import DynamicsSettings, run_dynamics
torch.set_num_threads(1)
settings = DynamicsSettings.model_validate_json(sys.argv[3])
frames = [doubles.zincblende(rattle=0.02, seed=seed) for seed in range(3)]
run_dynamics(doubles.PolarizableMorse(), frames, settings, directory=sys.argv[2])
"""


def test_kill_9_loses_nothing(morse, frames, tmp_path):
    settings = DynamicsSettings(**{**SETTINGS, "steps": 360})
    arguments = [str(Path(__file__).with_name("conftest.py")), str(tmp_path), settings.model_dump_json()]
    deaths = 0
    for wanted in (4, 18):  # segments on disk when the process is killed
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments])
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("segment_*.npz"))) < wanted and time.monotonic() < deadline:
            time.sleep(0.002)
        while_running = read_trajectory(tmp_path).replica(0)
        assert np.array_equal(while_running.step, 3 * np.arange(len(while_running)))
        assert len(while_running) > 1
        os.kill(process.pid, signal.SIGKILL)
        deaths += process.wait(timeout=60) == -signal.SIGKILL
    assert deaths == 2
    after_death = read_trajectory(tmp_path)
    assert 0 < after_death.last_step < 360
    resumed = run_dynamics(morse, frames, settings, directory=tmp_path)
    assert 0 < resumed.steps < 360
    assert_bitwise_equal(read_trajectory(tmp_path), run_dynamics(morse, frames, settings).trajectory)
