"""Molecular dynamics in a field: what a step costs, beside nequip-allegro compiled.

    python benchmarks/dynamics.py [--json FILE] [--quick] [--device cpu|cuda] [--threads N] [--environment DIR]

Rattled quartz; 64 scalars, 32 tensors, l_max 2, two layers, r_max 5 A, 8 Bessel functions, float32, random weights.

* One thousand atoms: enthalpy, forces and P with the field off and on, compiled, with stress, with Z* and alpha, and
  the energy and forces of nequip-allegro compiled by AOTInductor, evaluated in turn, so that a slow moment of the
  machine hits all; ratios are medians of the ratios within a round. A step of ours takes its neighbours from a list
  with a skin of 0.5 A at new positions; the peer has them given.
* From ten thousand atoms up (on a GPU to ten million): time and memory per atom, each size in a process of its own.

What a run conserves is measured by ``dynamics_drift.py``, forces against pw.x by ``field_forces.py``.

nequip-allegro is installed into an environment of its own (``--environment``), compiled once for a number of threads
and kept there. ``--quick``: fewer rounds, ten thousand atoms, ours not compiled, the peer where it has been before.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.spacegroup import crystal
from fieldloop.dft_inputs.records import Frame
from fieldloop.model.blocks import plan_blocks, responses_in_blocks
from fieldloop.model.compiled import CompiledModel
from fieldloop.model.dynamics.neighbours import SkinNeighbours
from fieldloop.model.network import EnthalpyNetwork
from fieldloop.model.settings import NetworkConfig
from training_speed import REQUIREMENTS, Worker, peer_python

HERE = Path(__file__).parent
SETTINGS = {"species": ["Si", "O"], "cutoff": 5.0, "l_max": 2, "layers": 2, "scalars": 64, "tensors": 32, "radial": 8}
CHARGES = {"Si": 4, "O": -2}
SKIN = 0.5
FIELD = 0.1
"""V/A: 10 MV/cm."""
THOUSAND = (4, 4, 7)
LARGE = {
    "cpu": ((10, 10, 11), (13, 13, 13), (16, 16, 17), (21, 21, 20)),
    "cuda": ((4, 4, 7), (10, 10, 11), (48, 48, 48), (104, 104, 103)),
}
"""Supercells of about 10, 20, 40 and 80 thousand atoms; on a GPU of 1 and 10 thousand, 1 and 10 million."""
KINDS: dict[str, dict[str, bool]] = {"E F P": {}, "E F P, field on": {}, "with stress": {"stress": True}}
KINDS |= {"with Z* and alpha": {"born": True}}
COMPILED = "E F P, compiled"


def quartz(repeat: tuple[int, int, int], rattle: float = 0.05) -> Frame:
    """A rattled supercell of alpha-quartz."""
    sites = [(0.4697, 0, 1 / 3), (0.4133, 0.2672, 0.2145)]
    atoms = crystal(["Si", "O"], sites, spacegroup=152, cellpar=[4.9137, 4.9137, 5.4047, 90, 90, 120]) * repeat
    atoms.positions += rattle * np.random.default_rng(0).normal(size=atoms.positions.shape)
    return Frame.from_atoms(atoms)


class System:
    """A frame whose atoms move a little from step to step, and the network of the comparison."""

    def __init__(self, repeat: tuple[int, int, int], device: str) -> None:
        self.model = EnthalpyNetwork(
            NetworkConfig(**SETTINGS, reference_charges=CHARGES, neighbours=44.0, dtype="float32")
        ).to(device)
        self.compiled = CompiledModel(self.model)
        self.device, self.frame = device, quartz(repeat)
        self.positions = torch.tensor(np.array(self.frame.positions), device=device)
        self.generator = torch.Generator(device=device).manual_seed(0)
        wall, cpu = time.perf_counter(), time.process_time()
        self.neighbours = SkinNeighbours(self.model, [self.frame], SKIN, self.positions)
        self.list_seconds = time.perf_counter() - wall, time.process_time() - cpu

    def step(self, kind: str) -> tuple[float, float]:
        """Wall and processor seconds of one evaluation at new positions."""
        field = torch.zeros((1, 3), dtype=torch.float64, device=self.device)
        if kind == "E F P, field on":
            field[0, 2] = FIELD
        noise = torch.randn(
            self.positions.shape, generator=self.generator, device=self.device, dtype=self.positions.dtype
        )
        wall, cpu = time.perf_counter(), time.process_time()
        graph = self.neighbours.graph(self.positions + 0.01 * noise, field)
        model, wanted = (self.compiled, {}) if kind == COMPILED else (self.model, KINDS[kind])
        responses_in_blocks(model, graph, **wanted)
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - wall, time.process_time() - cpu

    def about(self) -> dict[str, Any]:
        """Its size, and how it is divided."""
        graph = self.neighbours.graph(self.positions, torch.zeros((1, 3), dtype=torch.float64, device=self.device))
        return {
            "atoms": graph.n_atoms,
            "neighbours": float(graph.mask.sum() / graph.n_atoms),
            "blocks": str(plan_blocks(self.model, graph)),
            "list_seconds": self.list_seconds,
        }


def thousand_atoms(arguments: argparse.Namespace) -> dict[str, Any]:
    """All kinds of steps and the peer's, in turn."""
    system = System(THOUSAND, arguments.device)
    kinds = [*KINDS] if arguments.quick else [*KINDS, COMPILED]
    times: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as directory:
        peer = _peer(system.frame, arguments, Path(directory))
        for kind in {"E F P", *kinds[len(KINDS) :]}:
            system.step(kind)
        if peer:
            peer.step(counts=False)
        for _ in range(2 if arguments.quick else arguments.repeats):
            for kind in kinds:
                times[kind].append(system.step(kind))
            if peer:
                peer.step()
        if peer:
            peer.finish()
            times[peer.name] = list(zip(peer.wall, peer.cpu, strict=True))
    return {**system.about(), "steps": {kind: _summary(rows, times["E F P"]) for kind, rows in times.items()}}


def _summary(rows: list[tuple[float, float]], base: list[tuple[float, float]]) -> dict[str, float]:
    """Medians, and the median ratio to E + F + P of the same round."""
    (wall, cpu), (base_wall, base_cpu) = zip(*rows, strict=True), zip(*base, strict=True)
    return {
        "seconds": statistics.median(wall),
        "cpu_seconds": statistics.median(cpu),
        "times_wall": statistics.median(a / b for a, b in zip(wall, base_wall, strict=True)),
        "times_cpu": statistics.median(a / b for a, b in zip(cpu, base_cpu, strict=True)),
    }


def _peer(frame: Frame, arguments: argparse.Namespace, directory: Path) -> Worker | None:
    """nequip-allegro; none in a quick run that would have to compile it."""
    settings = {**SETTINGS, "threads": arguments.threads, "device": arguments.device}
    key = hashlib.sha256(json.dumps([settings, REQUIREMENTS], sort_keys=True).encode()).hexdigest()[:12]
    settings["compiled"] = str((arguments.environment / f"allegro-{key}.nequip.pt2").resolve())
    if arguments.quick and not Path(settings["compiled"]).exists():
        print("nequip-allegro left out: a run without --quick compiles it", flush=True)
        return None
    settings["structure"] = str(directory / "structure.xyz")
    atoms = frame.to_atoms()
    atoms.calc = None
    atoms.write(settings["structure"], format="extxyz")
    command = [str(peer_python(arguments.environment)), str(HERE / "nequip_allegro_step.py"), json.dumps(settings)]
    return Worker("nequip-allegro compiled, E F", command, {"OMP_NUM_THREADS": str(arguments.threads)})


def scaling(arguments: argparse.Namespace, keep: Callable[[str, Any], None]) -> None:
    """One process for each size."""
    rows: list[dict[str, Any]] = []
    for repeat in LARGE[arguments.device][: 1 if arguments.quick else None]:
        settings = {"repeat": repeat, "device": arguments.device, "threads": arguments.threads}
        command = [sys.executable, str(Path(__file__).resolve()), "--size", json.dumps(settings)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(_size_line(rows[-1]), flush=True)
        keep("scaling", rows)


def measure_size(settings: dict[str, Any]) -> dict[str, Any]:
    """The process of one size: time and memory per atom of E + F + P."""
    torch.set_num_threads(settings["threads"])
    device = settings["device"]
    System((3, 3, 3), device).step("E F P")
    before = _memory(device)
    system = System(tuple(settings["repeat"]), device)
    atoms = len(system.frame)
    rows = [system.step("E F P") for _ in range(max(1, 20_000 // atoms) if device == "cpu" else 5)]
    wall, cpu = (statistics.median(times) for times in zip(*rows, strict=True))
    return {
        **system.about(),
        "microseconds_per_atom": 1e6 * wall / atoms,
        "cpu_microseconds_per_atom": 1e6 * cpu / atoms,
        "list_cpu_microseconds_per_atom": 1e6 * system.list_seconds[1] / atoms,
        "bytes_per_atom": (_memory(device) - before) / atoms,
    }


def _memory(device: str) -> int:
    """Peak so far, bytes."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def show_thousand(found: dict[str, Any]) -> None:
    """The table of one thousand atoms."""
    print(f"{found['blocks']}; {found['neighbours']:.1f} neighbours")
    for kind, row in found["steps"].items():
        print(
            f"  {kind:30s} {1e3 * row['seconds']:8.1f} ms, {1e3 * row['cpu_seconds']:8.1f} ms of CPU; "
            f"{row['times_wall']:.2f} times E F P ({row['times_cpu']:.2f} in CPU time)"
        )
    print(f"  {'new neighbour list':30s} {1e3 * found['list_seconds'][0]:8.1f} ms", flush=True)


def _size_line(row: dict[str, Any]) -> str:
    return (
        f"{row['blocks']}: {row['microseconds_per_atom']:.1f} us an atom "
        f"({row['cpu_microseconds_per_atom']:.1f} of CPU; new list {row['list_cpu_microseconds_per_atom']:.1f}), "
        f"{row['bytes_per_atom'] / 1024:.1f} KiB an atom"
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and smaller systems")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--environment", type=Path, default=Path.home() / ".cache" / "fieldloop" / "allegro-pol")
    parser.add_argument("--size", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.size:
        print(json.dumps(measure_size(json.loads(arguments.size))))
        return
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device here: leave out --device cuda")
    torch.set_num_threads(arguments.threads)
    machine = {"processor": platform.processor() or platform.machine(), "threads": arguments.threads}
    if arguments.device == "cuda":
        machine["processor"] = torch.cuda.get_device_name()
    report: dict[str, Any] = {"machine": machine, "settings": SETTINGS, "peer": REQUIREMENTS}

    def keep(name: str, value: Any) -> None:
        """Nothing that was measured is lost when a later part is stopped."""
        report[name] = value
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(report, indent=1) + "\n")

    keep("thousand", thousand_atoms(arguments))
    show_thousand(report["thousand"])
    scaling(arguments, keep)


if __name__ == "__main__":
    main()
