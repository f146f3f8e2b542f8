"""Scalars of every step and responses of some, beside the frames."""

import numpy as np
import pytest
from fieldloop.dft_inputs.units import BOLTZMANN
from fieldloop.model.dynamics import DynamicsSettings, SinusoidalField, read_trajectory, run_dynamics
from fieldloop.model.dynamics.series import ROW, SERIES
from fieldloop.model.graph import build_graph
from fieldloop.model.responses import compute_responses

WAVE = SinusoidalField((0.0, 0.0, 0.1), period=60.0)


@pytest.fixture
def settings():
    return DynamicsSettings(
        ensemble="npt",
        timestep=2.0,
        steps=40,
        save_every=8,
        responses_every=20,
        checkpoint_every=15,
        fields=(WAVE, (0, 0, 0)),
        pressure="1 GPa",
    )


def test_a_row_for_every_step_and_the_frames_among_them(morse, crystal, tmp_path, settings):
    frames = [crystal(rattle=0.02), crystal()]
    written = run_dynamics(morse, frames, settings, directory=tmp_path).trajectory
    assert (tmp_path / SERIES).stat().st_size == 2 * 41 * ROW.itemsize
    for replica in range(2):
        series, run = read_trajectory(tmp_path).series(replica), written.replica(replica)
        assert series.step.tolist() == list(range(41))
        assert series.time == pytest.approx(2.0 * series.step)
        for name in ("field", "enthalpy", "kinetic", "polarization", "conserved"):
            assert np.array_equal(getattr(series, name)[::8], getattr(run, name)), name
        assert series.volume[::8] == pytest.approx(np.linalg.det(run.cell))
        assert series.temperature == pytest.approx(2 * series.kinetic / (21 * BOLTZMANN))
        assert np.ptp(series.volume) > 0
    assert run.frame(-1).cell == pytest.approx(run.cell[-1])
    in_memory = run_dynamics(morse, frames, settings).trajectory.series(1)
    assert np.array_equal(in_memory.polarization, series.polarization)


def test_pressure_is_that_of_the_atoms_in_motion(morse, crystal, settings):
    """2K/3V minus a third of the trace of the stress, here by a numerical change of the volume."""
    run = run_dynamics(morse, [crystal(rattle=0.02), crystal()], settings).trajectory
    frame, row = run.replica(0).frame(-1), run.series(0)
    energies = []
    for scale in (1 - 1e-5, 1 + 1e-5):
        stretched = frame.model_copy(update={"positions": frame.positions * scale, "cell": frame.cell * scale})
        graph = build_graph([stretched], morse.species, morse.cutoff, row.field[-1:] / scale)  # at fixed voltage
        energies.append(float(compute_responses(morse, graph).enthalpy))
    slope = (energies[1] - energies[0]) / (frame.volume * 6e-5)
    assert row.pressure[-1] == pytest.approx(2 * row.kinetic[-1] / (3 * frame.volume) - slope, rel=1e-5)


def test_responses_every_few_steps(morse, crystal, tmp_path, settings):
    frames = [crystal(rattle=0.02), crystal()]
    run_dynamics(morse, frames, settings, directory=tmp_path)
    trajectory = read_trajectory(tmp_path)
    responses, run = trajectory.responses(0), trajectory.replica(0)
    assert responses.step.tolist() == [0, 20, 40]
    assert responses.born_effective_charges.shape == (3, 8, 3, 3)
    graph = build_graph([run.frame(-1)], morse.species, morse.cutoff, run.field[-1:])
    out = compute_responses(morse, graph, born=True)
    assert responses.born_effective_charges[-1] == pytest.approx(out.born_effective_charges.numpy(), abs=1e-10)
    assert responses.polarizability[-1] == pytest.approx(out.polarizability[0].numpy(), abs=1e-10)


def test_a_torn_row_is_not_seen_and_is_removed(morse, crystal, tmp_path, settings):
    frames = [crystal(rattle=0.02), crystal()]
    run_dynamics(morse, frames, settings, directory=tmp_path)
    whole = (tmp_path / SERIES).read_bytes()
    with (tmp_path / SERIES).open("ab") as handle:
        handle.write(b"torn")
    assert len(read_trajectory(tmp_path).series(0)) == 41
    longer = settings.model_copy(update={"steps": 45})
    run_dynamics(morse, frames, longer, directory=tmp_path)
    assert (tmp_path / SERIES).read_bytes()[: len(whole)] == whole
    assert read_trajectory(tmp_path).series(1).step.tolist() == list(range(46))


def test_a_checkpoint_of_another_version_is_not_overwritten(morse, crystal, tmp_path, settings):
    frames = [crystal(), crystal()]
    run_dynamics(morse, frames, settings, directory=tmp_path)
    with np.load(tmp_path / "checkpoint.npz") as archive:
        old = {name: archive[name] for name in archive.files if name != "state_chain"}
    np.savez(tmp_path / "checkpoint.npz", **old)
    with pytest.raises(ValueError, match="another version"):
        run_dynamics(morse, frames, settings, directory=tmp_path)
    assert read_trajectory(tmp_path).last_step == 40
