"""Training runs: what is learned, that resuming changes nothing, fields, replay, early stop, several devices."""

import os
import platform
import signal

import numpy as np
import pytest
import torch
from fieldloop.dft_inputs.records import FieldPoint, Frame
from fieldloop.model.checks import TrainingDataError
from fieldloop.model.data import make_batch
from fieldloop.model.losses import evaluate
from fieldloop.model.responses import compute_responses
from fieldloop.model.settings import Tolerances, TrainingSettings
from fieldloop.model.training import initial_network, train

TINY = {"cutoff": 3.6, "l_max": 1, "layers": 2, "scalars": 8, "tensors": 4, "radial": 4, "repulsion": False}
FIRST_DERIVATIVES = Tolerances(stress=None, born_effective_charges=None, polarizability=None)
"""Labels that cost no second derivative: a step takes a third of the time."""
STRONG = 1.0
"""V/A: where alpha, by the teacher's field dependence, is far from its value at zero field."""


@pytest.fixture
def teacher(make_network):
    return stiff(make_network(seed=11, **TINY), 5.0)


def stiff(model, scale):
    """With energies of this size, eV, where those of a fresh network are of one."""
    with torch.no_grad():
        model.energy_scale.fill_(scale)
    return model


@pytest.fixture
def frames(teacher, make_frame, make_labelled):
    return [make_labelled(make_frame(seed, cubic=False), teacher) for seed in range(6)]


@pytest.fixture
def fresh(make_network, frames):
    """A function that makes the same student each time."""
    return lambda items=None: initial_network(make_network(**TINY).config, items or frames[:5], seed=3)


def errors_of(model, items):
    return evaluate(model, [make_batch(items, model)]).rmse()


def test_student_learns(frames, fresh):
    """Errors on an unseen frame of a teacher fall far below those of the fresh network."""
    start = fresh()
    before = errors_of(start, frames[5:])
    settings = TrainingSettings(epochs=16, batch_size=1, learning_rate=3e-2, validate_every=16)
    result = train(start, frames[:5], frames[5:], settings)
    assert result.curve[-1].validation == pytest.approx(result.validation)
    assert result.validation == pytest.approx(errors_of(result.model, frames[5:]))
    for name in ("forces", "polarization", "born_effective_charges"):
        assert result.validation[name] < 0.7 * before[name], name
    assert result.curve[-1].loss < 0.9 * result.curve[0].loss
    assert sum(result.curve[-1].terms.values()) == pytest.approx(result.curve[-1].loss)


class KillAt:
    """Kills this process, as no handler could stop it."""

    def __init__(self, epoch):
        self.epoch = epoch

    def __call__(self, row):
        if row.epoch == self.epoch:
            os.kill(os.getpid(), signal.SIGKILL)


def test_training_resumes_bitwise_after_a_kill(frames, fresh, tmp_path):
    settings = TrainingSettings(epochs=6, batch_size=2, checkpoint_every=2, validate_every=3, field_points=0.5)
    checkpoint = tmp_path / "c.ckpt"
    items = [with_points(frame, point_fields(0.01), None) for frame in frames]
    undisturbed = train(fresh(), items[:5], items[5:], settings, seed=3)
    child = os.fork()
    if not child:
        train(fresh(), items[:5], items[5:], settings, seed=3, checkpoint=checkpoint, progress=KillAt(5))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    rows = []
    resumed = train(fresh(), items[:5], items[5:], settings, seed=3, checkpoint=checkpoint, progress=rows.append)
    assert [row.epoch for row in rows] == [5, 6]
    pairs = zip(undisturbed.model.parameters(), resumed.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert [row.loss for row in undisturbed.curve] == [row.loss for row in resumed.curve]
    assert undisturbed.validation == resumed.validation


class Payload:
    def __reduce__(self):
        return (os.mkdir, ("pwned",))


def test_a_pickled_checkpoint_is_not_loaded(frames, fresh, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "callbacks": Payload()}, tmp_path / "c.ckpt")
    with pytest.raises(ValueError, match=r"c\.ckpt cannot be read as a checkpoint: remove it"):
        train(fresh(), frames[:5], [], TrainingSettings(epochs=1), checkpoint=tmp_path / "c.ckpt")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_a_damaged_checkpoint_is_told_in_one_line(frames, fresh, tmp_path, kept):
    settings = TrainingSettings(epochs=1, checkpoint_every=1, tolerances=FIRST_DERIVATIVES)
    checkpoint = tmp_path / "c.ckpt"
    train(fresh(), frames[:2], [], settings, checkpoint=checkpoint)
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(TrainingDataError, match=r"c\.ckpt cannot be read as a checkpoint: remove it"):
        train(fresh(), frames[:2], [], settings, checkpoint=checkpoint)


def test_a_training_that_is_terminated_dies_of_it(frames, fresh):
    """Not with exit code 0, as a finished one."""
    settings = TrainingSettings(epochs=50, batch_size=1, tolerances=FIRST_DERIVATIVES)
    child = os.fork()
    if not child:
        train(fresh(), frames[:2], [], settings, progress=lambda _: os.kill(os.getpid(), signal.SIGTERM))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


def test_apples_gpus_are_left_alone(frames, fresh, monkeypatch):
    """They know no float64."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    settings = TrainingSettings(epochs=1, tolerances=FIRST_DERIVATIVES)
    assert train(fresh(), frames[:2], [], settings).curve[-1].epoch == 1
    with pytest.raises(TrainingDataError, match="no CUDA device is to be seen"):
        train(fresh(), frames[:2], [], settings.model_copy(update={"accelerator": "gpu"}))


def test_the_seed_fixes_the_run(frames, fresh):
    settings = TrainingSettings(epochs=2, batch_size=2)
    one, two, other = (train(fresh(), frames[:5], [], settings, seed=seed).curve[-1].loss for seed in (3, 3, 4))
    assert one == two != other


def point_fields(strength):
    signs = ((1, "+"), (-1, "-"))
    return {f"{word}{axis}": sign * strength * np.eye(3)[a] for a, axis in enumerate("xyz") for sign, word in signs}


def with_points(label, fields, teacher):
    """A label with field points of a teacher; without one, those that its Z* and alpha promise."""
    from fieldloop.model.graph import build_graph

    response, points = label.response, []
    for name, field in fields.items():
        if teacher is None:
            moved = np.einsum("iab,a->ib", response.born_effective_charges, field)
            values = {
                "enthalpy": response.enthalpy - float(field @ response.polarization),
                "forces": response.forces + moved,
                "polarization": response.polarization + response.polarizability @ field,
            }
        else:
            graph = build_graph([label.frame], teacher.species, teacher.cutoff, np.array([field]))
            made = compute_responses(teacher, graph)
            values = {
                "enthalpy": float(made.enthalpy[0]),
                "forces": made.forces.numpy(),
                "polarization": made.polarization[0].numpy(),
            }
        points.append(FieldPoint(name=name, field=field, **values))
    return label.model_copy(update={"field_points": tuple(points)})


def test_field_points_teach_strong_fields(make_network, make_frame, fresh, make_labelled):
    """At a field where the response is not linear, a model trained with field points beats one without, in the same
    number of steps."""
    teacher = stiff(make_network(seed=11, **TINY), 20.0)
    labels = [make_labelled(make_frame(seed, cubic=False), teacher) for seed in range(6)]
    items = [with_points(label, point_fields(STRONG), teacher) for label in labels]
    judges = [make_labelled(labels[5].frame, teacher, field=field) for field in STRONG * np.eye(3)]
    settings = TrainingSettings(epochs=25, batch_size=1, tolerances=FIRST_DERIVATIVES)
    without, with_them = (
        errors_of(train(fresh(items), items[:5], [], settings.model_copy(update={"field_points": share})).model, judges)
        for share in (0.0, 0.5)
    )
    assert with_them["polarization"] < 0.5 * without["polarization"]
    assert with_them["forces"] < 0.9 * without["forces"]


def test_replay_keeps_what_was_learned(make_network, make_frame, make_labelled, fresh):
    """Fine-tuning on compressed frames alone forgets the old validation frame, with replay it stays known; a warm
    restart on old and new frames together, as in the loop, forgets nothing. The new frames are learned."""
    teacher = stiff(make_network(seed=11, **TINY), 20.0)

    def labelled(seed, scale):
        frame = make_frame(seed, cubic=False)
        scaled = Frame(species=frame.species, positions=frame.positions * scale, cell=frame.cell * scale)
        return make_labelled(scaled, teacher)

    old, new = [labelled(seed, 1.0) for seed in range(5)], [labelled(10 + seed, 0.9) for seed in range(4)]
    settings = TrainingSettings(
        epochs=30, batch_size=1, optimizer="adam", learning_rate=1e-2, tolerances=FIRST_DERIVATIVES
    )
    before = train(fresh(old[:4]), old[:4], old[4:], settings)

    def tuned(epochs, training, replay=()):
        model = fresh(old[:4])
        model.load_state_dict(before.model.state_dict())
        gentle = settings.model_copy(update={"epochs": epochs, "learning_rate": 3e-3})
        return train(model, training, [], gentle, replay=replay).model

    unknown = errors_of(before.model, new[3:])["forces"]
    # As many steps each.
    alone, replayed, restarted = tuned(28, new[:3]), tuned(14, new[:3], old[:4]), tuned(12, [*old[:4], *new[:3]])
    forgotten, kept, together = (errors_of(model, old[4:])["forces"] for model in (alone, replayed, restarted))
    figures = (before.validation["forces"], forgotten, kept, together)
    assert forgotten > 1.5 * before.validation["forces"], figures
    assert kept < 0.5 * forgotten, figures
    assert kept < 1.5 * before.validation["forces"], figures
    assert together < 1.1 * before.validation["forces"], figures
    learned = [errors_of(model, new[3:])["forces"] for model in (replayed, restarted)]
    assert max(learned) < 0.9 * unknown, (learned, unknown)


def test_early_stop_returns_the_best_weights(frames, fresh):
    """With a learning rate that spoils the weights the run ends early, and its model is that of the best validation."""
    settings = TrainingSettings(
        epochs=60, batch_size=1, learning_rate=0.3, ema_decay=0.5, validate_every=1, early_stop=3, warmup=0.5
    )
    result = train(fresh(), frames[:5], frames[5:], settings)
    assert len(result.curve) < 60
    judged = [sum((row.validation[n] / getattr(Tolerances(), n)) ** 2 for n in row.validation) for row in result.curve]
    best = result.curve[int(np.argmin(judged))]
    assert best.epoch == len(result.curve) - 3
    assert result.validation == pytest.approx(best.validation)


def test_a_loss_that_explodes_stops_with_advice(frames, fresh):
    model = fresh()
    with torch.no_grad():
        model.energy_scale.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="learning rate"):
        train(model, frames, [], TrainingSettings(epochs=1))


@pytest.mark.slow
def test_two_devices_take_the_steps_of_one(frames, fresh):
    """Two processes (gloo) share the frames of a step; labels are missing, and the last step has a single frame."""
    response = frames[1].response.model_copy(update={"born_effective_charges": None, "polarizability": None})
    items = [frames[0], frames[1].model_copy(update={"response": response}), *frames[2:]]
    settings = TrainingSettings(epochs=3, batch_size=2, optimizer="adam", validate_every=1, accelerator="cpu")
    one, two = (
        train(fresh(), items[:5], items[5:], settings.model_copy(update={"devices": n}), seed=3) for n in (1, 2)
    )
    for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)
    assert [row.loss for row in one.curve] == pytest.approx([row.loss for row in two.curve])
    assert one.curve[-1].validation == pytest.approx(two.curve[-1].validation)
