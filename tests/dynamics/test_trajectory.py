import json

import numpy as np
import pytest
from fieldloop.model.dynamics import DynamicsSettings, read_trajectory, run_dynamics


@pytest.fixture
def settings():
    return DynamicsSettings(timestep=2.0, steps=60, save_every=4, checkpoint_every=1000, segment_frames=5)


def test_what_is_read_is_what_was_computed(morse, crystal, tmp_path, settings):
    frames = [crystal(rattle=0.02), crystal(repeat=(2, 1, 1))]
    written = run_dynamics(morse, frames, settings, directory=tmp_path).trajectory
    kept = run_dynamics(morse, frames, settings).trajectory
    read = read_trajectory(tmp_path)
    assert read.n_replicas == 2
    assert read.last_step == kept.last_step == 60
    assert read.meta == written.meta
    for run, expected in zip(read.replicas(), kept.replicas(), strict=True):
        assert run.step.tolist() == list(range(0, 61, 4))
        assert run.time == pytest.approx(2.0 * run.step)
        assert run.positions.shape == (16, len(expected.start), 3)
        assert np.array_equal(run.positions, expected.positions)
        assert run.frame(0).frame_id == expected.start.frame_id
        assert len(run.frame(-1)) == len(expected.start)
    assert sorted(path.name for path in tmp_path.glob("segment*")) == [f"segment_{i:05d}.npz" for i in (1, 2, 3, 4)]


def test_temperature_counts_degrees_of_freedom(morse, crystal, settings):
    run = run_dynamics(morse, [crystal()], settings).trajectory.replica(0)
    assert run.temperature(21) == pytest.approx(run.temperature() * 24 / 21)


def test_half_written_files_are_not_seen(morse, crystal, tmp_path, settings):
    run_dynamics(morse, [crystal()], settings, directory=tmp_path)
    (tmp_path / ".segment_00009.npz.part").write_bytes(b"PK\x03\x04 torn")
    assert read_trajectory(tmp_path).replica(0).step[-1] == 60


def test_segments_without_a_checkpoint_are_started_again(morse, crystal, tmp_path, settings):
    run_dynamics(morse, [crystal()], settings, directory=tmp_path)
    (tmp_path / "checkpoint.npz").unlink()
    assert run_dynamics(morse, [crystal()], settings, directory=tmp_path).steps == 60
    assert read_trajectory(tmp_path).replica(0).step.tolist() == list(range(0, 61, 4))


def test_a_directory_without_a_trajectory_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"meta\.json"):
        read_trajectory(tmp_path)


def test_a_trajectory_of_another_version_is_refused(morse, crystal, tmp_path, settings):
    run_dynamics(morse, [crystal()], settings, directory=tmp_path)
    meta = tmp_path / "meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "thermostat": "other"}))
    with pytest.raises(ValueError, match="does not describe a trajectory"):
        read_trajectory(tmp_path)


def test_nothing_is_pickled(morse, crystal, tmp_path, settings):
    run_dynamics(morse, [crystal()], settings, directory=tmp_path)
    for path in tmp_path.glob("*.npz"):
        with np.load(path, allow_pickle=False) as archive:
            assert all(archive[name].dtype != object for name in archive.files)
