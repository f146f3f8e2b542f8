"""The same label by pw.x and by ABINIT: pseudopotentials, functional, cutoff, mesh and frame alike.

    python benchmarks/engines.py [--json FILE] [--quick]

Each code makes the label behind the one engine protocol, with a threshold of its own at which Z* no longer moves by
more than 1e-4 e. Checked within a code: Z* from forces in a field against Z* from P of displaced atoms, the enthalpy
law, the slope of the enthalpy against P. Compared between the codes: what the label says.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from ase.build import bulk
from fieldloop.dft_inputs.abinit import AbinitCode, AbinitEngine, AbinitSettings
from fieldloop.dft_inputs.engine import Engine
from fieldloop.dft_inputs.espresso import PwCode, PwEngine, PwSettings
from fieldloop.dft_inputs.labelling import label_frame, run_fields
from fieldloop.dft_inputs.meshes import Mesh
from fieldloop.dft_inputs.polarization import fold, quantum_lattice
from fieldloop.dft_inputs.program import lease
from fieldloop.dft_inputs.records import FieldPoint, Frame, LabelledFrame
from fieldloop.dft_inputs.stencil import ZERO, Stencil
from fieldloop.dft_inputs.units import VACUUM_PERMITTIVITY

FILES = str(Path(__file__).parents[1] / "tests" / "data" / "pseudopotentials")
PERDEW_ZUNGER = 2
"""What pw.x takes for Goedecker's LDA files; ABINIT's own for them is a fit by Teter."""
DISPLACEMENT = 0.005
"""A, for dP/du."""


@dataclass(frozen=True)
class Case:
    """A frame, a cutoff in Ha and a mesh."""

    name: str
    frame: Frame
    ecut: float
    mesh: Mesh

    def engines(self) -> dict[str, Engine]:
        """Both codes at one level of theory."""
        pw = PwSettings(ecutwfc=2 * self.ecut, kpoints=self.mesh, conv_thr=1e-13, mixing_beta=0.5, stress=False)
        abinit = AbinitSettings(ecut=self.ecut, kpoints=self.mesh, tolvrs=1e-14, ixc=PERDEW_ZUNGER, stress=False)
        return {
            "pw.x": PwEngine(pw, PwCode(pseudo_dir=FILES)),
            "abinit": AbinitEngine(abinit, AbinitCode(pseudo_dir=FILES)),
        }


@dataclass(frozen=True)
class OneCode:
    """What a code says of itself.

    Attributes:
        two_ways: largest |dF/dE - dP/du| of the first atom, e.
        law: relative violation of H(+E) + H(-E) - 2 H(0) = -alpha E^2.
        slope: |dH/dE + P|, e A.
        charge: mean of the diagonal of Z* of the first atom, e.
        permittivity: mean of the diagonal.
        cpu_seconds, iterations: of the whole label, on one core.
    """

    two_ways: float
    law: float
    slope: float
    charge: float
    permittivity: float
    cpu_seconds: float
    iterations: int


@dataclass(frozen=True)
class Comparison:
    """Largest differences between the codes: Z* in e and relative, forces in meV/A, P in e A, alpha, energy in meV."""

    born_effective_charges: float
    born_effective_charges_relative: float
    forces: float
    polarization: float
    polarizability_relative: float
    energy: float


def cases(quick: bool) -> list[Case]:
    """Displaced primitive AlAs; also at a higher cutoff and on denser meshes, and eight rattled atoms."""
    primitive = bulk("AlAs", "zincblende", a=5.65)
    primitive.positions[0] += (0.12, -0.05, 0.03)
    displaced = Frame.from_atoms(primitive)
    if quick:
        return [Case("AlAs, 2 atoms, displaced", displaced, 8.0, (2, 2, 2))]
    eight = bulk("AlAs", "zincblende", a=5.65, cubic=True)
    eight.rattle(0.05, seed=1)
    return [
        Case("AlAs, 2 atoms, displaced", displaced, 8.0, (2, 2, 2)),
        Case("AlAs, 2 atoms, displaced", displaced, 15.0, (2, 2, 2)),
        Case("AlAs, 2 atoms, displaced", displaced, 15.0, (4, 4, 4)),
        Case("AlAs, 8 atoms, rattled", Frame.from_atoms(eight), 8.0, (2, 2, 2)),
        Case("AlAs, 2 atoms, displaced", displaced, 8.0, (6, 6, 6)),
    ]


def zero_point(engine: Engine, frame: Frame, directory: Path) -> FieldPoint:
    """The run at zero field alone."""
    job = engine.prepare(frame, Stencil(), directory)
    with lease(directory, engine.code) as descriptor:
        return dict(run_fields(job, descriptor, only=(ZERO,)))[ZERO].point


def charges_from_displacements(engine: Engine, frame: Frame, directory: Path) -> np.ndarray:
    """Z* of the first atom as dP/du, index [field, displacement], e, (3, 3)."""
    columns = []
    for axis in range(3):
        dipoles = []
        for sign in (1, -1):
            positions = frame.positions.copy()
            positions[0, axis] += sign * DISPLACEMENT
            moved = frame.model_copy(update={"positions": positions})
            dipoles.append(zero_point(engine, moved, directory / f"{axis}{sign}").polarization)
        columns.append(fold(dipoles[0] - dipoles[1], quantum_lattice(frame.cell)) / (2 * DISPLACEMENT))
    return np.array(columns).T


def judge(engine: Engine, label: LabelledFrame, directory: Path) -> OneCode:
    """One code against itself."""
    assert label.status == "done", label.failure
    response, quality = label.response, label.quality
    charges, alpha = response.born_effective_charges, response.polarizability
    assert charges is not None and alpha is not None
    return OneCode(
        two_ways=float(np.abs(charges[0] - charges_from_displacements(engine, label.frame, directory)).max()),
        law=quality.enthalpy_law_error or 0.0,
        slope=quality.enthalpy_slope_error or 0.0,
        charge=float(np.trace(charges[0]) / 3),
        permittivity=float(1 + np.trace(alpha) / 3 / (VACUUM_PERMITTIVITY * label.frame.volume)),
        cpu_seconds=label.provenance.cpu_seconds,
        iterations=label.provenance.scf_iterations,
    )


def compare(one: LabelledFrame, other: LabelledFrame) -> Comparison:
    """The labels of two codes."""
    a, b = one.response, other.response
    dipoles = fold(a.polarization - b.polarization, quantum_lattice(one.frame.cell))
    charges = float(np.abs(a.born_effective_charges - b.born_effective_charges).max())
    return Comparison(
        born_effective_charges=charges,
        born_effective_charges_relative=charges / float(np.abs(a.born_effective_charges).max()),
        forces=1000 * float(np.abs(a.forces - b.forces).max()),
        polarization=float(np.abs(dipoles).max()),
        polarizability_relative=float(
            np.abs(a.polarizability - b.polarizability).max() / np.abs(a.polarizability).max()
        ),
        energy=1000 * abs(a.enthalpy - b.enthalpy),
    )


def measure(case: Case, root: Path) -> dict:
    """All figures of a case."""
    labels, codes = {}, {}
    for name, engine in case.engines().items():
        labels[name] = label_frame(engine, case.frame, Stencil(), root / name / "label")
        codes[name] = asdict(judge(engine, labels[name], root / name))
    pw, abinit = labels.values()
    return {
        "case": case.name,
        "ecut_ha": case.ecut,
        "mesh": list(case.mesh),
        "codes": codes,
        "difference": asdict(compare(pw, abinit)),
    }


def show(row: dict) -> None:
    """A case in a few lines."""
    print(f"{row['case']}, {row['ecut_ha']:g} Ha, {'x'.join(map(str, row['mesh']))}")
    for name, one in row["codes"].items():
        print(
            f"  {name:7} Z* {one['charge']:.5f} e, eps_inf {one['permittivity']:.5f}; dF/dE - dP/du "
            f"{one['two_ways']:.1e} e, law {one['law']:.1e}, slope {one['slope']:.1e} e A; "
            f"{one['cpu_seconds']:.1f} s of CPU, {one['iterations']} iterations"
        )
    gap = row["difference"]
    print(
        f"  between Z* {gap['born_effective_charges']:.1e} e ({gap['born_effective_charges_relative']:.3%}), forces "
        f"{gap['forces']:.1e} meV/A, P {gap['polarization']:.1e} e A, alpha {gap['polarizability_relative']:.4%}, "
        f"energy {gap['energy']:.1e} meV",
        flush=True,
    )


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--quick", action="store_true", help="the smallest case alone")
    arguments = parser.parse_args()
    rows = []
    for case in cases(arguments.quick):
        with tempfile.TemporaryDirectory() as root:
            rows.append(measure(case, Path(root)))
        show(rows[-1])
        if arguments.json:
            arguments.json.write_text(
                json.dumps({"machine": platform.processor() or platform.machine(), "rows": rows}, indent=1)
            )


if __name__ == "__main__":
    main()
