"""Batches of replicas: independence, limits, observers."""

import numpy as np
import pytest
import torch
from fieldloop.dft_inputs.records import Frame
from fieldloop.model.dynamics import DynamicsSettings, SinusoidalField, run_dynamics
from fieldloop.model.graph import build_graph
from fieldloop.model.interface import EnthalpyModel
from fieldloop.model.responses import compute_responses
from torch import nn

COLUMNS = ("positions", "velocities", "field", "enthalpy", "kinetic", "polarization", "conserved")


def primitive(rattle=0.0):
    from ase.build import bulk

    atoms = bulk("AlAs", "zincblende", a=5.66)
    atoms.positions[1] += rattle
    return Frame.from_atoms(atoms)


def difference(run, other):
    return max(np.abs(getattr(run, name) - getattr(other, name)).max() for name in COLUMNS)


@pytest.mark.parametrize("ensemble", ["langevin", "npt"])
def test_a_batch_equals_its_replicas_one_by_one(morse, crystal, ensemble):
    frames = [crystal(rattle=0.05), primitive(0.1), crystal(rattle=0.02, repeat=(2, 1, 1), seed=4)]
    temperatures, seeds = (100.0, 300.0, 700.0), (11, 12, 13)
    cell = {"fixed": "voltage", "cell": "flexible"} if ensemble == "npt" else {}
    fields = ((0.0, 0.0, 0.1), SinusoidalField((0.1, 0.0, 0.0), period=40.0), (0.0, 0.0, 0.0))
    common = {"ensemble": ensemble, "timestep": 2.0, "steps": 80, "save_every": 4, "skin": 0.2, **cell}
    settings = DynamicsSettings(temperatures=temperatures, fields=fields, seed=seeds, **common)
    batch = run_dynamics(morse, frames, settings).trajectory.replicas()
    for frame, temperature, field, seed, run in zip(frames, temperatures, fields, seeds, batch, strict=True):
        alone = DynamicsSettings(temperatures=temperature, fields=(field,), seed=(seed,), **common)
        assert difference(run, run_dynamics(morse, [frame], alone).trajectory.replica(0)) < 1e-10


def test_replicas_of_one_batch_draw_different_noise(morse, crystal):
    frame = crystal()
    settings = DynamicsSettings(timestep=2.0, steps=20, save_every=20)
    first, second = run_dynamics(morse, [frame, frame], settings).trajectory.replicas()
    assert np.abs(first.velocities[0] - second.velocities[0]).max() > 1e-4
    assert np.abs(first.positions[-1] - second.positions[-1]).max() > 1e-4


def test_the_same_seed_gives_the_same_run_and_another_seed_another(morse, crystal):
    def run(seed):
        settings = DynamicsSettings(timestep=2.0, steps=30, save_every=10, seed=seed)
        return run_dynamics(morse, [crystal()], settings).trajectory.replica(0)

    assert difference(run(5), run(5)) == 0
    assert difference(run(5), run(6)) > 1e-3


def poisoned(model):
    """The model with an enthalpy of NaN for a structure whose first atom left x < 0.5 A."""
    original = model.forward

    def forward(graph):
        first = torch.searchsorted(graph.structure, torch.arange(graph.n_structures))
        factor = torch.where(graph.positions[first, 0].detach() < 0.5, 1.0, float("nan"))
        return factor * original(graph)

    model.forward = forward
    return model


@pytest.mark.parametrize(
    ("kind", "reason"), [("fast", "an atom moved"), ("hot", "kinetic temperature"), ("nan", "not finite")]
)
def test_an_exploding_replica_ends_with_its_last_good_frame(morse, crystal, kind, reason):
    frames = [crystal(rattle=0.02), crystal(rattle=0.02 if kind == "nan" else 0.3), crystal(rattle=0.02)]
    calm = np.random.default_rng(0).normal(scale=0.002, size=(8, 3))
    wild = calm.copy()
    wild[0, 0] += 0.04 if kind == "nan" else 0.0
    limits = {"fast": {"max_displacement": 0.03}, "hot": {"max_temperature": 500.0}, "nan": {}}[kind]
    settings = DynamicsSettings(ensemble="nve", timestep=2.0, steps=60, save_every=1, **limits)
    alone = run_dynamics(morse, frames[:1], settings, velocities=[calm]).trajectory.replica(0)
    model = poisoned(morse) if kind == "nan" else morse
    result = run_dynamics(model, frames, settings, velocities=[calm, wild, calm])
    assert [outcome.status for outcome in result.outcomes] == ["finished", "exploded", "finished"]
    bad = result.outcomes[1]
    assert reason in bad.reason
    run = result.trajectory.replica(1)
    assert np.isfinite(run.positions).all()
    assert 0 < bad.step == run.step[-1] < 60
    assert np.array_equal(bad.frame.positions, run.positions[-1])
    for index in (0, 2):
        assert len(result.trajectory.replica(index)) == 61
        assert difference(result.trajectory.replica(index), alone) < 1e-10


def test_atoms_on_top_of_each_other_end_a_replica_at_once(morse, crystal):
    close = crystal().positions.copy()
    close[1] = close[0] + [0.5, 0.0, 0.0]
    frame = crystal().model_copy(update={"positions": close})
    result = run_dynamics(morse, [frame, crystal()], DynamicsSettings(steps=20))
    assert result.outcomes[0].status == "exploded"
    assert result.outcomes[0].step == 0
    assert "covalent radii" in result.outcomes[0].reason
    assert result.outcomes[1].status == "finished"
    assert len(result.trajectory.replica(0)) == 0


def test_a_run_whose_replicas_all_ended_ends(morse, crystal, tmp_path):
    settings = DynamicsSettings(steps=1000, max_temperature=1.0)
    for _ in range(2):
        result = run_dynamics(morse, [crystal()] * 2, settings, directory=tmp_path)
        assert [outcome.status for outcome in result.outcomes] == ["exploded", "exploded"]
        assert result.steps == 0


def test_an_observer_sees_the_batch_and_can_stop_replicas(morse, crystal):
    seen = []

    def observer(step, observation):
        out = compute_responses(morse, observation.graph)
        assert torch.allclose(out.forces, observation.state.forces, atol=1e-12)
        frames = observation.frames
        assert np.array_equal(np.concatenate([f.positions for f in frames]), observation.state.positions.numpy())
        assert observation.fields[:, 2] == pytest.approx([0.1] * len(frames))
        seen.append((step, observation.replicas))
        return [step == 20 and replica == 1 for replica in observation.replicas]

    settings = DynamicsSettings(
        timestep=2.0,
        steps=40,
        save_every=5,
        observe_every=10,
        fields=((0.0, 0.0, 0.1),),
        temperatures=(300.0, 400.0, 5.0),
    )
    result = run_dynamics(morse, [crystal()] * 3, settings, observer=observer)
    assert seen == [(0, (0, 1, 2)), (10, (0, 1, 2)), (20, (0, 1, 2)), (30, (0, 2)), (40, (0, 2))]
    stopped = result.outcomes[1]
    assert (stopped.status, stopped.step, stopped.time, stopped.temperature) == ("stopped", 20, 40.0, 400.0)
    assert result.trajectory.replica(1).step.tolist() == [0, 5, 10, 15, 20]
    assert np.array_equal(result.trajectory.replica(1).positions[-1], stopped.frame.positions)
    assert result.trajectory.replica(2).step[-1] == 40


def test_an_observer_that_answers_for_other_replicas_is_refused(morse, crystal):
    with pytest.raises(ValueError, match="2 active replicas"):
        run_dynamics(morse, [crystal()] * 2, DynamicsSettings(steps=5), observer=lambda *_: [True])


class Fieldless(EnthalpyModel):
    """Harmonic ions that know of no field."""

    species = ("Al", "As")
    cutoff = 3.0

    def __init__(self):
        super().__init__()
        self.stiffness = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    def forward(self, graph):
        return graph.sum_structures(self.stiffness * (graph.positions**2).sum(-1))


@pytest.mark.parametrize("change", [{"fields": ((0, 0, 0.1),)}, {"fixed": "displacement"}])
def test_a_field_for_a_model_without_one_is_an_error(crystal, change):
    with pytest.raises(ValueError, match="no field as input"):
        run_dynamics(Fieldless(), [crystal()], DynamicsSettings(steps=1, **change))
    assert run_dynamics(Fieldless(), [crystal()], DynamicsSettings(steps=1)).steps == 1


def test_a_thin_cell_that_moves_has_its_images(morse):
    """A primitive cell thinner than the cutoff: what is conserved, and the enthalpy of a fresh list at the end."""
    morse.cutoff = 6.5
    settings = DynamicsSettings(
        ensemble="nph", cell="flexible", timestep=2.0, steps=60, save_every=20, fields=((0.1, 0, 0.2),), skin=0.1
    )
    run = run_dynamics(morse, [primitive(0.1)], settings).trajectory.replica(0)
    assert np.abs(np.diff(run.cell, axis=0)).max() > 1e-2
    for index in range(4):
        graph = build_graph([run.frame(index)], morse.species, morse.cutoff, run.field[index])
        assert float(compute_responses(morse, graph).enthalpy) == pytest.approx(run.enthalpy[index], abs=1e-9)
    assert np.ptp(run.conserved) < 0.03 * np.ptp(run.kinetic)


@pytest.mark.parametrize("change", [{"ensemble": "npt"}, {"fixed": "displacement"}])
def test_what_needs_a_cell_is_refused_without_one(morse, sites, change):
    with pytest.raises(ValueError, match="periodic in all three"):
        run_dynamics(morse, [sites], DynamicsSettings(steps=1, **change))


def test_a_cell_that_runs_away_ends_its_replica(morse, crystal):
    settings = DynamicsSettings(ensemble="npt", pressure=-2.0, timestep=2.0, steps=400, max_expansion=1.3)
    outcome = run_dynamics(morse, [crystal()], settings).outcomes[0]
    assert outcome.status == "exploded"
    assert "volume" in outcome.reason
    assert outcome.frame.volume < 1.3 * crystal().volume


def test_progress_reaches_the_end(morse, crystal):
    calls = []
    run_dynamics(morse, [crystal()] * 2, DynamicsSettings(steps=30), progress=calls.append)
    last = calls[-1]
    assert (last.step, last.steps, last.active) == (30, 30, 2)
    assert last.ns_per_day > 0
    assert "16 atoms" in last.blocks
    assert last.atom_steps_per_second > 0


def test_a_single_precision_model_moves_in_double_precision(morse, crystal):
    model = morse.float()
    settings = DynamicsSettings(ensemble="nve", timestep=2.0, steps=100, save_every=1)
    run = run_dynamics(model, [crystal(rattle=0.05)], settings).trajectory.replica(0)
    assert run.positions.dtype == np.float64
    assert np.ptp(run.conserved) < 1e-2 * np.ptp(run.kinetic)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": []}, "at least one frame"),
        ({"frames": [Frame(species=("Ge",), positions=[[0, 0, 0]], cell=np.eye(3) * 9)]}, "Ge"),
        ({"velocities": [np.zeros((3, 3))]}, "shape"),
        ({"velocities": []}, "0 sets of velocities"),
    ],
)
def test_bad_input_is_refused(morse, crystal, change, message):
    frames = change.pop("frames", [crystal()])
    with pytest.raises(ValueError, match=message):
        run_dynamics(morse, frames, DynamicsSettings(steps=5), **change)
