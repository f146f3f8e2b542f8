"""One training step of the enthalpy network beside one of allegro-pol: same frame, labels, hyperparameters, machine.

    python benchmarks/training_speed.py --allegro-pol CHECKOUT [--json FILE] [--quick] [--repeats N] [--threads N]

A step is forward, all responses (E, F, stress, P, Z*, alpha), loss, gradient by the weights and Adam, on one SiO2
frame of 72 atoms in float32: 64 scalars, 32 tensors, l_max 2, two layers, r_max 5 A, 8 Bessel functions. Each model
lives in a process of its own; the steps are taken in turn, so that a slow moment of the machine hits all, and the ratio
is the median of the ratios of neighbouring steps. Memory is the peak of the process, and what a step adds to what was
there before it.

allegro-pol is in no package index: give a checkout of github.com/mir-group/allegro-pol. Its pinned dependencies are
installed into an environment of their own (``--environment``). It runs as its tutorial has it, but for l_max; with two
layers it prunes the tensors of the other parity, so that its irreps are ours. Without a checkout our step is measured
alone. Our step is also taken as training takes it by default, with Z* and alpha along one direction of the field, and
so with compiled derivatives. ``--quick``: one step of the peer, without a warm-up, and ours as the peer's alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FRAME = HERE.parent / "tests" / "data" / "allegro_pol" / "SiO2_300K.xyz"
REQUIREMENTS = ("torch==2.13.0", "nequip==0.19.1", "nequip-allegro==0.8.3")
SETTINGS = {"species": ["Si", "O"], "cutoff": 5.0, "l_max": 2, "layers": 2, "scalars": 64, "tensors": 32, "radial": 8}
MIB = 2**20


class Worker:
    """A process that takes one training step whenever it is asked to."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str] | None = None) -> None:
        self.name = name
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
        )
        self.about = self._answer()

    def step(self, counts: bool = True) -> None:
        """One step."""
        self._pipe("stdin").write("step\n")
        self._pipe("stdin").flush()
        wall, cpu = self._answer()
        if counts:
            self.wall.append(wall)
            self.cpu.append(cpu)

    def finish(self) -> dict[str, Any]:
        """End the process; its figures."""
        self._pipe("stdin").close()
        peak = self._answer()
        self.process.wait()
        return {
            "edges": self.about["edges"],
            "parameters": self.about["parameters"],
            "steps": len(self.wall),
            "seconds": statistics.median(self.wall),
            "cpu_seconds": statistics.median(self.cpu),
            "peak_MiB": peak / MIB,
            "step_MiB": (peak - self.about["resident"]) / MIB,
            "step_KiB_per_edge": (peak - self.about["resident"]) / 1024 / self.about["edges"],
        }

    def _pipe(self, name: str) -> Any:
        return getattr(self.process, name)

    def _answer(self) -> Any:
        for line in self._pipe("stdout"):
            try:
                return json.loads(line)
            except json.JSONDecodeError:
                continue  # what libraries print
        raise SystemExit(f"{self.name} ended with status {self.process.wait()}: its error is above")


def serve(settings: dict[str, Any]) -> None:
    """Our side: the worker's process."""
    import torch
    from fieldloop.dft_inputs.formats import read_extxyz
    from fieldloop.model.blocks import responses_in_blocks
    from fieldloop.model.compiled import CompiledModel
    from fieldloop.model.data import make_batch
    from fieldloop.model.losses import loss_sums, residuals
    from fieldloop.model.settings import NetworkConfig, TrainingSettings
    from fieldloop.model.stack import NetworkStack, repeat_batch
    from fieldloop.model.training import initial_network

    torch.set_num_threads(settings["threads"])
    labelled = next(iter(read_extxyz(settings["frame"], "allegro-pol")))
    architecture = {name: settings[name] for name in SETTINGS}
    charges = {"Si": 4, "O": -2}
    config = NetworkConfig(**architecture, reference_charges=charges, dtype="float32")
    networks = [initial_network(config, [labelled], seed) for seed in range(settings["members"])]
    batch = make_batch([labelled], networks[0])
    model = NetworkStack(networks)
    evaluated = CompiledModel(networks[0]) if settings["compiled"] else model
    copies = repeat_batch(batch, len(networks))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    axes = torch.eye(3)[: settings["directions"]] if settings["directions"] < 3 else None

    def value() -> torch.Tensor:
        graph, wanted = copies.graph, {"stress": True, "born": True, "directions": axes, "create_graph": True}
        predicted = responses_in_blocks(evaluated, graph, block=graph.n_atoms, **wanted)
        errors = residuals(predicted, copies, axes)
        sums, counts = loss_sums([errors], TrainingSettings(), len(networks))
        return torch.stack([value / counts[name] for name, value in sums.items()]).sum()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        value().backward()
        optimizer.step()

    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    parameters = sum(p.numel() for p in model.parameters())
    _say({"edges": int(batch.graph.mask.sum()), "parameters": parameters, "resident": resident})
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        _say([time.perf_counter() - wall, time.process_time() - cpu])
    _say(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def _say(answer: Any) -> None:
    print(json.dumps(answer), flush=True)


def peer_python(environment: Path) -> Path:
    """The Python of the peer's environment, made where there is none."""
    python = environment / "bin" / "python"
    done = environment / ".installed"
    if not done.exists():
        print(f"installing {', '.join(REQUIREMENTS)} into {environment}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        for requirement in REQUIREMENTS:
            subprocess.run([python, "-m", "pip", "install", "-q", requirement], check=True)
        done.touch()
    return python


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All workers, step by step in turn."""
    settings = {**SETTINGS, "frame": str(arguments.frame), "threads": arguments.threads}
    settings |= {"members": 1, "directions": 3, "compiled": False}
    mine, *others = workers = _workers(arguments, settings)
    for worker in (mine,) if arguments.quick else workers:
        worker.step(counts=False)
    for _ in range(1 if arguments.quick else arguments.repeats):
        for worker in workers:
            # Ours is short: three steps beside each of the others'.
            for _ in range(3 if worker is mine else 1):
                worker.step()
    results = {worker.name: worker.finish() for worker in workers}
    for other in others:
        row = results[other.name]
        for key, theirs, own in (("times_wall", other.wall, mine.wall), ("times_cpu", other.cpu, mine.cpu)):
            beside = [statistics.median(own[3 * i : 3 * i + 3]) for i in range(len(theirs))]
            row[key] = statistics.median(a / b for a, b in zip(theirs, beside, strict=True))
        row["times_memory"] = row["step_MiB"] / results[mine.name]["step_MiB"]
    machine = {"processor": platform.processor() or platform.machine(), "threads": arguments.threads}
    return {"machine": machine, "settings": SETTINGS, "peer": REQUIREMENTS, "steps": results}


def _workers(arguments: argparse.Namespace, settings: dict[str, Any]) -> list[Worker]:
    """Ours first, then a committee of ours and our step as it is by default, then the peer."""
    threads = {"OMP_NUM_THREADS": str(arguments.threads)}
    script = str(Path(__file__).resolve())
    workers = [Worker("fieldloop", [sys.executable, script, "--worker", json.dumps(settings)], threads)]
    if not arguments.quick:
        committee = json.dumps({**settings, "members": 4})
        workers.append(Worker("fieldloop, 4 members at once", [sys.executable, script, "--worker", committee], threads))
        one = {**settings, "directions": 1}
        for name, more in (("one direction", {}), ("one direction, compiled", {"compiled": True})):
            command = [sys.executable, script, "--worker", json.dumps(one | more)]
            workers.append(Worker(f"fieldloop, {name}", command, threads))
    if arguments.allegro_pol is None:
        return workers
    python = str(peer_python(arguments.environment))
    paths = threads | {"PYTHONPATH": str(arguments.allegro_pol.resolve())}
    command = [python, str(HERE / "allegro_pol_step.py"), json.dumps(settings)]
    return [*workers, Worker("allegro-pol", command, paths)]


def show(report: dict[str, Any]) -> None:
    """The table."""
    keys = ("seconds", "cpu_seconds", "peak_MiB", "step_MiB", "times_wall", "times_cpu", "times_memory")
    print(f"{'':30s}" + "".join(f"{key:>13s}" for key in keys))
    for name, row in report["steps"].items():
        print(f"{name:30s}" + "".join(f"{row[key]:13.2f}" if key in row else f"{'':13s}" for key in keys))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--allegro-pol", type=Path, help="checkout of github.com/mir-group/allegro-pol")
    parser.add_argument("--environment", type=Path, default=Path.home() / ".cache" / "fieldloop" / "allegro-pol")
    parser.add_argument("--frame", type=Path, default=FRAME, help="extended XYZ of SiO2 in the keys of allegro-pol")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one step of each, no warm-up of the peer")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        serve(json.loads(arguments.worker))
        return
    if arguments.allegro_pol is not None and not (arguments.allegro_pol / "allegro_pol").is_dir():
        parser.error(f"{arguments.allegro_pol} is no checkout of allegro-pol: it has no folder allegro_pol")
    report = measure(arguments)
    show(report)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
