"""What a fully labelled frame costs, in units of one cold plain SCF of the same frame.

    python benchmarks/label_cost.py [--json FILE] [--quick] [--repeats N]

Two rattled crystals (no symmetry left to use): AlAs, 8 atoms, 12 Ry, 2x2x2, and alpha-quartz, 9 atoms, 40 Ry, 2x2x2.

* plain: one cold SCF without a field, with pw.x's own settings of the solver;
* naive: seven cold runs in a field (zero and +-x, +-y, +-z), with the same;
* ours: ``label_frame``, with all that it writes, reads and checks.

All three at one ``conv_thr``, one process each, the plain runs spread among the others. The answer to compare with is
made apart from our label path: seven cold runs at ``conv_thr`` 1e-15 and a step of 0.36 MV/cm that share no
wavefunctions.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from ase.build import bulk
from ase.spacegroup import crystal
from fieldloop.dft_inputs.espresso import PwCode, PwEngine, PwOutput, PwSettings, band_gap
from fieldloop.dft_inputs.espresso.inputs import field_input, zero_input
from fieldloop.dft_inputs.espresso.phases import FILE as PHASES
from fieldloop.dft_inputs.espresso.run import link_pseudopotentials, run_point
from fieldloop.dft_inputs.insulators import step_from_gap
from fieldloop.dft_inputs.labelling import label_frame
from fieldloop.dft_inputs.program import lease
from fieldloop.dft_inputs.pseudopotentials import Pseudopotential
from fieldloop.dft_inputs.records import Frame
from fieldloop.dft_inputs.stencil import Stencil

RATTLE = 0.05
"""A, standard deviation."""
TIGHT = {"conv_thr": 1e-15, "nberrycyc": 2, "electron_maxstep": 200}
QUARTZ_FILES = Path(__file__).parents[1] / "tests" / "data" / "pseudopotentials"


@dataclass(frozen=True)
class System:
    """A crystal and its level of theory."""

    name: str
    crystal: Frame
    settings: PwSettings
    code: PwCode

    @property
    def frame(self) -> Frame:
        """A rattled copy."""
        atoms = self.crystal.to_atoms()
        atoms.rattle(RATTLE, seed=1)
        return Frame.from_atoms(atoms)

    @property
    def pseudopotentials(self) -> dict[str, Pseudopotential]:
        """One file for each element."""
        return self.code.find_pseudopotentials(self.crystal.species)


def systems() -> list[System]:
    """AlAs and quartz."""
    alas = Frame.from_atoms(bulk("AlAs", "zincblende", a=5.65, cubic=True))
    quartz = Frame.from_atoms(
        crystal(
            ["Si", "O"],
            [(0.4697, 0, 1 / 3), (0.4133, 0.2672, 0.2145)],
            spacegroup=152,
            cellpar=[4.9137, 4.9137, 5.4047, 90, 90, 120],
        )
    )
    files = {"Al": "Al.pz-vbc.UPF", "As": "As.pz-bhs.UPF"}
    quartz_settings = PwSettings(protocol="quartz", ecutwfc=40, kpoints=(2, 2, 2), conv_thr=1e-11, mixing_beta=0.5)
    return [
        System("alas", alas, PwSettings.from_protocol("fast", conv_thr=1e-11), PwCode(pseudopotentials=files)),
        System("quartz", quartz, quartz_settings, PwCode(pseudo_dir=str(QUARTZ_FILES))),
    ]


@dataclass(frozen=True)
class Cost:
    """Wall time in s and SCF iterations."""

    seconds: float
    iterations: int


def default_solver(text: str) -> str:
    """The input with pw.x's own settings of the diagonalization."""
    return re.sub(r"^\s+diago_\w+\s+=.*\n", "", text, flags=re.MULTILINE)


def cold(text: str) -> str:
    """A field run that starts from nothing: random wavefunctions and atomic densities."""
    for key, start in (("startingwfc", "random"), ("startingpot", "atomic")):
        text, count = re.subn(rf"({key}\s+= )'file'", rf"\1'{start}'", text)
        assert count == 1
    return default_solver(text)


class Bench:
    """Runs of one system in a scratch folder, one at a time."""

    def __init__(self, system: System, root: Path) -> None:
        self.system, self.root, self.count = system, root, 0
        link_pseudopotentials(root, system.pseudopotentials)
        gap = band_gap(system.crystal, system.settings, system.code, root / "parent").gap
        self.step = step_from_gap(gap, system.crystal.cell, system.settings.mesh)

    def run(self, text: str, prepare: Callable[[Path], None] | None = None) -> tuple[PwOutput, Cost, Path]:
        """One pw.x run."""
        self.count += 1
        directory = self.root / f"run{self.count}"
        with lease(self.root, PwCode(lease_timeout=5.0)) as descriptor:
            start = time.perf_counter()
            output = run_point(
                directory, text, self.system.code, name="run", lease_descriptor=descriptor, prepare=prepare
            )
            seconds = time.perf_counter() - start
        return output, Cost(seconds, output.iterations), directory

    def plain(self) -> tuple[Cost, float]:
        """One cold SCF without a field; also pw.x's estimate of its memory, MB."""
        text = default_solver(
            zero_input(self.system.frame, self.system.settings, self.system.pseudopotentials, "plain")
        )
        text = re.sub(r"^\s+nbnd\s+=.*\n", "", text, flags=re.MULTILINE)
        _, cost, directory = self.run(text)
        return cost, memory(directory)

    def naive(self, points: int) -> tuple[Cost, float]:
        """Cold field runs, scaled to seven."""
        fields = list(Stencil(step=self.step).points().values())[:points]
        spent = []
        directory = self.root
        for field in fields:
            text = cold(
                field_input(
                    self.system.frame, self.system.settings, self.system.pseudopotentials, field, comment="cold"
                )
            ).replace("'read'", "'none'")
            _, cost, directory = self.run(text)
            spent.append(cost)
        scale = 7 / len(spent)
        seconds, iterations = sum(c.seconds for c in spent), sum(c.iterations for c in spent)
        return Cost(seconds * scale, round(iterations * scale)), memory(directory)

    def ours(self) -> tuple[Cost, float, np.ndarray, np.ndarray]:
        """A label as the pipelines make it: cost, memory, Z* and alpha."""
        self.count += 1
        directory = self.root / f"label{self.count}"
        start = time.perf_counter()
        label = label_frame(
            PwEngine(self.system.settings, self.system.code), self.system.frame, Stencil(step=self.step), directory
        )
        seconds = time.perf_counter() - start
        charges, alpha = label.response.born_effective_charges, label.response.polarizability
        if charges is None or alpha is None or label.quality.flags:
            raise SystemExit(f"{self.system.name}: the label failed: {label.failure or label.quality.flags}")
        memories = [memory(path.parent) for path in directory.glob("*/pw.out")]
        return Cost(seconds, label.provenance.scf_iterations), max(memories), charges, alpha

    def answer(self) -> tuple[np.ndarray, np.ndarray]:
        """Z* and alpha from cold, tightly converged runs that share the Berry phases of the first alone."""
        settings = self.system.settings.model_copy(update=TIGHT)
        stencil = Stencil()
        forces, dipoles = {}, {}
        origin = None
        for name, field in stencil.points().items():
            text = cold(field_input(self.system.frame, settings, self.system.pseudopotentials, field, comment=name))
            text = text if origin else text.replace("'read'", "'write'")
            output, _, directory = self.run(text, prepare=partial(share_phases, origin) if origin else None)
            origin = origin or directory
            assert output.forces is not None
            assert output.electronic_dipole is not None
            forces[name], dipoles[name] = output.forces, output.electronic_dipole
        charges = np.stack([stencil.derivative(forces, axis) for axis in range(3)], axis=1)
        return charges, np.stack([stencil.derivative(dipoles, axis) for axis in range(3)], axis=1)


def share_phases(origin: Path, directory: Path) -> None:
    """Put the phases of a run among the files that another one starts from."""
    (directory / "scratch").mkdir(exist_ok=True)
    for axis in (1, 2, 3):
        source = origin / "scratch" / f"pwscf.{PHASES}{axis}"
        (directory / "scratch" / source.name).write_bytes(source.read_bytes())


def memory(directory: Path) -> float:
    """pw.x's estimate of its largest memory, MB."""
    found = re.search(r"Estimated max dynamical RAM per process >\s+([\d.]+) (\wB)", (directory / "pw.out").read_text())
    return float(found[1]) * {"MB": 1.0, "GB": 1024.0}[found[2]] if found else float("nan")


def measure(system: System, repeats: int, quick: bool) -> dict:
    """All figures of one system."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(system, Path(folder))
        plains, labels = [bench.plain()], []
        for _ in range(repeats):
            labels.append(bench.ours())
            plains.append(bench.plain())
        naive, naive_memory = bench.naive(2 if quick else 7)
        plains.append(bench.plain())
        charges, alpha = (labels[0][2], labels[0][3]) if quick else bench.answer()
    seconds = statistics.median(cost.seconds for cost, _ in plains)
    iterations = statistics.median(cost.iterations for cost, _ in plains)
    ours = statistics.median(cost.seconds for cost, *_ in labels)
    ours_iterations = statistics.median(cost.iterations for cost, *_ in labels)
    result = {
        "naive": naive.seconds / seconds,
        "ours": ours / seconds,
        "naive_iterations": naive.iterations / iterations,
        "ours_iterations": ours_iterations / iterations,
        "plain_seconds": seconds,
        "plain_iterations": iterations,
        "conv_thr": system.settings.conv_thr,
        "field_step_MV_per_cm": bench.step * 100,
        "memory_MB": {"plain": plains[0][1], "naive": naive_memory, "ours": labels[0][1]},
    }
    if not quick:
        result["dZ"] = float(np.abs(labels[0][2] - charges).max())
        result["dalpha_rel"] = float(np.abs(labels[0][3] - alpha).max() / (np.trace(alpha) / 3))
    return result


def main() -> None:
    """Measure, print a table and write JSON."""
    parser = argparse.ArgumentParser(description="Cost of a labelled frame over that of one cold plain SCF.")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--quick", action="store_true", help="AlAs alone, without the tight answer; under a minute")
    parser.add_argument("--repeats", type=int, default=3, help="labels of each crystal")
    arguments = parser.parse_args()
    chosen = systems()[:1] if arguments.quick else systems()
    results = {}
    for system in chosen:
        print(f"{system.name} ...", file=sys.stderr, flush=True)
        results[system.name] = measure(system, 1 if arguments.quick else arguments.repeats, arguments.quick)
    print(
        f"{'':8s}{'naive':>8s}{'ours':>8s}{'iterations:':>13s}{'naive':>7s}{'ours':>7s}{'dZ* (e)':>11s}{'dalpha':>10s}"
    )
    for name, r in results.items():
        accuracy = f"{r['dZ']:11.1e}{r['dalpha_rel']:10.1e}" if "dZ" in r else f"{'-':>11s}{'-':>10s}"
        print(
            f"{name:8s}{r['naive']:8.2f}{r['ours']:8.2f}{'':13s}{r['naive_iterations']:7.2f}{r['ours_iterations']:7.2f}"
            + accuracy
        )
    if arguments.json:
        machine = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        arguments.json.write_text(json.dumps({**results, "run": machine}, indent=1) + "\n")


if __name__ == "__main__":
    main()
