"""The peer of ``training_race.py``: allegro-pol trained for a given time, run by the Python of its own environment.

    PYTHONPATH=<checkout of allegro-pol> python allegro_pol_train.py '<JSON>'

Model, loss, optimizer and moving average are those of its tutorial, but for l_max. It prints progress on its standard
error and the errors of the averaged weights on the frames that judge, as JSON, at the end.
"""

from __future__ import annotations

import json
import random
import sys
import time
from typing import Any

import ase.io
import torch
from allegro_pol.train import EnergyForcePolarizationLoss
from allegro_pol_step import build_model, prepared
from nequip.data import AtomicDataDict
from nequip.utils.global_state import set_global_state

COEFFICIENTS = ("total_energy", "forces", "polarization", "stress", "born_effective_charges", "polarizability")
EMA = 0.999
PROGRESS_SECONDS = 60


def main() -> None:
    """Train, judge, report."""
    settings = json.loads(sys.argv[1])
    torch.set_num_threads(settings["threads"])
    set_global_state(allow_tf32=False)
    frames = ase.io.read(settings["file"], ":")
    every = settings["every"]
    judges = [atoms for i, atoms in enumerate(frames) if i % every == every - 1]
    training = [
        prepared(atoms, settings["species"], settings["cutoff"])
        for i, atoms in enumerate(frames)
        if i % every != every - 1
    ]
    if settings["frames"]:
        training, judges = training[: settings["frames"]], judges[: settings["frames"]]
    model = build_model(settings, **statistics_of(training))
    average, steps = train(model, training, settings["seconds"])
    model.load_state_dict(average, strict=False)
    errors = judge(model, [prepared(atoms, settings["species"], settings["cutoff"]) for atoms in judges])
    print(json.dumps({"steps": steps, "errors": errors}), flush=True)


def statistics_of(training: list[dict[str, torch.Tensor]]) -> dict[str, float]:
    """What the tutorial takes from the training set."""
    atoms = sum(len(data[AtomicDataDict.POSITIONS_KEY]) for data in training)
    forces = torch.cat([data["forces"] for data in training])
    return {
        "neighbours": sum(data[AtomicDataDict.EDGE_INDEX_KEY].shape[1] for data in training) / atoms,
        "shift": float(sum(data["total_energy"].sum() for data in training)) / atoms,
        "scale": float(forces.square().mean().sqrt()),
    }


def train(
    model: torch.nn.Module, training: list[dict[str, torch.Tensor]], seconds: float
) -> tuple[dict[str, torch.Tensor], int]:
    """Steps of one frame each until the time is over; the moving average of the weights and the number of steps."""
    loss = EnergyForcePolarizationLoss(
        coeffs=dict.fromkeys(COEFFICIENTS, 1.0),
        type_names=model.type_names,
        per_atom_energy=True,
        do_stress=True,
        do_born_charge=True,
        do_polarizability=True,
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    average = {name: value.detach().clone() for name, value in model.named_parameters()}
    order = random.Random(0)
    model.train()
    began = told = time.monotonic()
    steps = 0
    while time.monotonic() - began < seconds:
        for data in order.sample(training, len(training)):
            if time.monotonic() - began >= seconds:
                break
            optimizer.zero_grad(set_to_none=True)
            value = loss(model({key: x.clone() for key, x in data.items()}), data)["weighted_sum"]
            value.backward()
            optimizer.step()
            steps += 1
            decay = min(EMA, (1 + steps) / (10 + steps))
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    average[name].lerp_(parameter, 1 - decay)
            if time.monotonic() - told > PROGRESS_SECONDS:
                told = time.monotonic()
                print(f"allegro-pol: step {steps}, loss {value.item():.3g}", file=sys.stderr, flush=True)
    return average, steps


def judge(model: torch.nn.Module, frames: list[dict[str, torch.Tensor]]) -> dict[str, float]:
    """RMSE of each label over all components; energy in eV/atom, P on the branch closest in an orthogonal cell."""
    model.eval()
    errors: dict[str, list[torch.Tensor]] = {name: [] for name in COEFFICIENTS}
    for data in frames:
        predicted: dict[str, Any] = model({key: x.clone() for key, x in data.items()})
        for name, found in errors.items():
            difference = (predicted[name].detach().double() - data[name].double()).reshape(data[name].shape)
            if name == "total_energy":
                difference = difference / len(data[AtomicDataDict.POSITIONS_KEY])
            if name == "polarization":
                quantum = torch.diagonal(data[AtomicDataDict.CELL_KEY].double().view(3, 3))
                difference = difference - quantum * (difference / quantum).round()
            found.append(difference.flatten())
    return {name: float(torch.cat(found).square().mean().sqrt()) for name, found in errors.items()}


if __name__ == "__main__":
    main()
