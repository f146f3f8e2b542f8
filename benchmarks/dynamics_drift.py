"""How well every ensemble keeps what it conserves: without a field, at 10 MV/cm and in a field that changes.

    python benchmarks/dynamics_drift.py                       # the network of the tests, about ten minutes on one core
    python benchmarks/dynamics_drift.py --model FOLDER --structure FILE --timestep 1 --steps 1000
    python benchmarks/dynamics_drift.py --quick --json drift.json

The three replicas of a run start from the same velocities and draw the same random numbers. The drift is the slope of
the conserved quantity per atom, the excursion its largest difference within the run; both are to be no larger in a
field than without.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from ase.build import bulk
from ase.io import read
from fieldloop.dft_inputs.records import Frame
from fieldloop.model.dynamics import DynamicsSettings, SinusoidalField, StaticField, run_dynamics
from fieldloop.model.files import load_model

MODEL = Path(__file__).parents[1] / "tests" / "data" / "models" / "alas"
STRONG = 0.1
FIELDS = (
    StaticField(),
    StaticField((0.0, 0.0, STRONG)),
    SinusoidalField(amplitude=(0.0, 0.0, STRONG), period=250.0),
)
NAMES = ("none", "10 MV/cm", "E(t)")
NPT = {"ensemble": "npt", "cell": "flexible"}
CASES = {
    "NVE": {"ensemble": "nve"},
    "NVE, fixed D": {"ensemble": "nve", "fixed": "displacement"},
    "Langevin": {"ensemble": "langevin"},
    "CSVR": {"ensemble": "csvr"},
    "Nose-Hoover chain": {"ensemble": "nose-hoover"},
    "NPH, fixed E": {"ensemble": "nph", "cell": "flexible", "fixed": "field"},
    "NPH, fixed voltage": {"ensemble": "nph", "cell": "flexible", "fixed": "voltage"},
    "NPT, CSVR, fixed E": {**NPT, "thermostat": "csvr", "fixed": "field"},
    "NPT, Nose-Hoover, fixed voltage": {**NPT, "thermostat": "nose-hoover", "fixed": "voltage"},
}


def measure(model, frame: Frame, case: dict, options: argparse.Namespace) -> dict:
    """Drift, meV/atom/ps, and excursion, meV/atom, in each field."""
    fields = FIELDS
    settings = DynamicsSettings(
        **case,
        timestep=options.timestep,
        steps=options.steps,
        temperatures=options.temperature,
        fields=fields,
        seed=(1, 1, 1),
        save_every=options.steps,
    )
    began = time.process_time()
    trajectory = run_dynamics(model, [frame] * 3, settings).trajectory
    seconds = time.process_time() - began
    rows = []
    for replica, name in enumerate(NAMES):
        series = trajectory.series(replica)
        per_atom = 1000 * series.conserved / len(frame)
        rows.append(
            {
                "field": name,
                "drift": float(np.polyfit(series.time / 1000, per_atom, 1)[0]),
                "excursion": float(np.ptp(per_atom)),
                "kinetic_excursion": float(1000 * np.ptp(series.kinetic) / len(frame)),
                "temperature": float(series.temperature[len(series) // 2 :].mean()),
                "largest_field": float(np.linalg.norm(series.field, axis=1).max()),
            }
        )
    return {"fields": rows, "ms_per_step": 1000 * seconds / options.steps}


def table(results: dict) -> str:
    lines = [
        "| ensemble | drift, meV/atom/ps: none / 10 MV/cm / E(t) | excursion, meV/atom | of the kinetic energy |",
        "|---|---|---|---|",
    ]
    for name, result in results.items():
        columns = [
            " / ".join(f"{row[key]:.3g}" for row in result["fields"])
            for key in ("drift", "excursion", "kinetic_excursion")
        ]
        lines.append(f"| {name} | {' | '.join(columns)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--structure", help="any format of ASE; the conventional cell of AlAs by default")
    parser.add_argument("--timestep", type=float, default=1.0, help="fs")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--temperature", type=float, default=300.0, help="K")
    parser.add_argument("--quick", action="store_true", help="50 steps")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.steps = min(options.steps, 50)
    torch.set_num_threads(1)
    model = load_model(options.model)
    if options.structure:
        frame = Frame.from_atoms(read(options.structure))
    else:
        frame = Frame.from_atoms(bulk("AlAs", "zincblende", a=5.6139, cubic=True))
    results = {}
    for name, case in CASES.items():
        results[name] = measure(model, frame, case, options)
        print(table({name: results[name]}).splitlines()[-1], f"{results[name]['ms_per_step']:.0f} ms/step", flush=True)
        if options.json:
            options.json.write_text(json.dumps({"steps": options.steps, "results": results}, indent=1))
    print(f"\n{len(frame)} atoms, {options.steps} steps of {options.timestep:g} fs at {options.temperature:g} K\n")
    print(table(results))


if __name__ == "__main__":
    main()
