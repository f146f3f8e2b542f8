"""Who knows more after an hour: the enthalpy network and allegro-pol, trained from nothing on the same frames.

    python benchmarks/training_race.py --data FOLDER --allegro-pol CHECKOUT [--hours 1] [--json FILE] [--quick]

SiO2, every fifth frame judges; 64 scalars, 32 tensors, l_max 2, two layers, r_max 5 A, float32, one frame a step. The
two are trained one after the other, each with all threads for the same wall time: ours by ``accuracy.py``, allegro-pol
by its tutorial's loss, optimizer and moving average (``allegro_pol_train.py``). ``--quick`` shows that both
run, on a few frames for seconds: its figures compare nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from training_speed import SETTINGS, peer_python

HERE = Path(__file__).parent
QUICK = HERE.parent / "tests" / "data" / "allegro_pol" / "SiO2_eight.xyz"
NAMES = {
    "energy": "total_energy",
    "forces": "forces",
    "stress": "stress",
    "polarization": "polarization",
    "born_effective_charges": "born_effective_charges",
    "polarizability": "polarizability",
}


def ours(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Errors of our network on the frames that judge."""
    result = work / "ours.json"
    budget = ["--quick"] if arguments.quick else ["--data", str(arguments.data), "--hours", str(arguments.hours)]
    command = [sys.executable, str(HERE / "accuracy.py"), "--set", "SiO2", *budget, "--json", str(result)]
    for name in ("cutoff", "l_max", "layers", "scalars", "tensors", "radial"):
        command += ["--change", f"network.{name}={SETTINGS[name]}"]
    subprocess.run([*command, "--threads", str(arguments.threads), "--work", str(work / "run")], check=True)
    found = json.loads(result.read_text())["SiO2"]
    return {
        "seconds": found["seconds"],
        "epochs": found["epochs"],
        "errors": {name: found[name]["rmse"] for name in NAMES},
    }


def theirs(arguments: argparse.Namespace) -> dict[str, Any]:
    """Errors of allegro-pol on the same frames."""
    file = QUICK if arguments.quick else find(arguments.data, "SiO2.xyz")
    settings = {
        **SETTINGS,
        "file": str(file),
        "every": 5,
        "frames": 2 if arguments.quick else 0,
        "threads": arguments.threads,
        "seconds": 20 if arguments.quick else 3600 * arguments.hours,
    }
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(arguments.threads),
        "PYTHONPATH": str(arguments.allegro_pol.resolve()),
    }
    command = [str(peer_python(arguments.environment)), str(HERE / "allegro_pol_train.py"), json.dumps(settings)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return {"steps": found["steps"], "errors": {name: found["errors"][key] for name, key in NAMES.items()}}


def find(folder: Path, name: str) -> Path:
    """A data file in a folder or just below it."""
    for path in (folder / name, *sorted(folder.glob(f"*/{name}"))):
        if path.is_file():
            return path
    sys.exit(f"training_race.py: there is no {name} in {folder}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of SiO2.xyz")
    parser.add_argument("--allegro-pol", type=Path, required=True, help="checkout of github.com/mir-group/allegro-pol")
    parser.add_argument("--environment", type=Path, default=Path.home() / ".cache" / "fieldloop" / "allegro-pol")
    parser.add_argument("--hours", type=float, default=1.0, help="wall time of each")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if arguments.data is None and not arguments.quick:
        parser.error("name the folder of the data with --data, or use --quick")
    with tempfile.TemporaryDirectory() as work:
        report = {"fieldloop": ours(arguments, Path(work)), "allegro-pol": theirs(arguments)}
    print(
        f"{'':24s}{'fieldloop':>12s}{'allegro-pol':>13s}   RMSE on the frames that judge, in eV, A, e (energy: eV/atom)"
    )
    for name in NAMES:
        mine, peer = (report[side]["errors"][name] for side in ("fieldloop", "allegro-pol"))
        print(f"{name:24s}{mine:12.4g}{peer:13.4g}   {peer / mine:.1f} times larger")
    if arguments.json is not None:
        report["settings"] = {**SETTINGS, "hours": arguments.hours, "threads": arguments.threads}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
