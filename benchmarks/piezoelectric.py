"""Piezoelectric constants from Berry phases under strain (pw.x) and as derivatives of a network's enthalpy.

    python benchmarks/piezoelectric.py [--work DIR] [--frames N] [--epochs N] [--out docs/results/piezoelectric]

* AlAs (8 atoms, the ``fast`` protocol), e_14: shear strain; atoms clamped, and following by the force constant and the
  charge of a displaced sublattice.
* alpha-quartz (9 atoms, 40 Ry, 2x2x2, LDA), e_11: atoms clamped.

The networks are trained here on zero-field runs of other frames, strained and rattled at random (U, F, stress, P).
P is compared in lattice coordinates, which is what makes the constant the proper one and independent of the branch
(D. Vanderbilt, J. Phys. Chem. Solids 61, 147 (2000)). The two differ by delta_bc P_a - delta_ab P_c, which is zero for
e_14 and cancels for e_11, so here proper and improper agree on every branch.

Runs are kept below DIR: the same command resumes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ase.build import bulk
from ase.io import read
from fieldloop.active_learning.sampling.rattle import rattle
from fieldloop.dft_inputs.branches import string_counts
from fieldloop.dft_inputs.espresso import PwCode, PwEngine, PwSettings
from fieldloop.dft_inputs.labelling import run_fields
from fieldloop.dft_inputs.meshes import Mesh
from fieldloop.dft_inputs.polarization import quantum_lattice
from fieldloop.dft_inputs.program import lease
from fieldloop.dft_inputs.records import ElectricResponse, FieldPoint, Frame, LabelledFrame, Provenance
from fieldloop.dft_inputs.stencil import ZERO, Stencil
from fieldloop.dft_inputs.units import E_PER_SQUARE_ANGSTROM_IN_MICROCOULOMB_PER_SQUARE_CM
from fieldloop.model.network import EnthalpyNetwork
from fieldloop.model.piezoelectric import PiezoelectricTensor, piezoelectric_tensor, voigt
from fieldloop.model.relaxation import relax
from fieldloop.model.settings import NetworkConfig, Tolerances, TrainingSettings
from fieldloop.model.training import initial_network, train

ROOT = Path(__file__).parents[1]
COULOMB_PER_SQUARE_M = E_PER_SQUARE_ANGSTROM_IN_MICROCOULOMB_PER_SQUARE_CM / 100
STRAIN = 0.005
DISPLACEMENT = 0.02
"""A, of a sublattice."""
LARGEST_STRAIN, RATTLE = 0.015, 0.03
"""Of the frames that a network is trained on: component of the strain, and displacement in A."""
TOLERANCES = Tolerances(enthalpy=5e-4, forces=0.01, stress=1e-3, polarization=2e-3)


@dataclass(frozen=True)
class Berry:
    """pw.x at zero field.

    Attributes:
        engine: the level of theory.
        mesh: of the crystal.
        work: folder of the runs.
    """

    engine: PwEngine
    mesh: Mesh
    work: Path

    def point(self, frame: Frame, name: str) -> FieldPoint:
        """Forces and P of a frame."""
        job = self.engine.prepare(frame, Stencil(), self.work / name)
        with lease(job.directory, self.engine.code) as descriptor:
            point = dict(run_fields(job, descriptor, only=(ZERO,)))[ZERO].point
            job.drop_files(ZERO)
        print(f"  {name}: P {point.polarization}", flush=True)
        return point

    def reduced_difference(self, up: tuple[Frame, FieldPoint], down: tuple[Frame, FieldPoint]) -> np.ndarray:
        """P of one in its lattice coordinates less that of the other, closest to zero; strings may hop alone, (3,)."""
        ends = [point.polarization @ np.linalg.inv(frame.cell) for frame, point in (up, down)]
        quantum = 2 / np.array(string_counts(self.mesh))
        difference = ends[0] - ends[1]
        return difference - quantum * np.rint(difference / quantum)


def strained(frame: Frame, strain: np.ndarray) -> Frame:
    """r -> (1 + strain) r."""
    matrix = np.eye(3) + strain
    return frame.model_copy(update={"positions": frame.positions @ matrix.T, "cell": frame.cell @ matrix.T})


def clamped(berry: Berry, frame: Frame, strain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Proper (1/V) dP/d(strain) with atoms carried along, e/A^2, (3,), and dF/d(strain), eV/A, (N, 3)."""
    ends = []
    for sign, name in ((1, "strained+"), (-1, "strained-")):
        end = strained(frame, sign * STRAIN * strain)
        ends.append((end, berry.point(end, name)))
    slope = berry.reduced_difference(*ends) @ frame.cell / (2 * STRAIN * frame.volume)
    return slope, (ends[0][1].forces - ends[1][1].forces) / (2 * STRAIN)


def sublattice(berry: Berry, frame: Frame, moved: np.ndarray) -> tuple[float, float]:
    """Charge, e, and force constant, eV/A^2, of atoms that move together along x."""
    ends = []
    for sign, name in ((1, "displaced+"), (-1, "displaced-")):
        moves = np.zeros_like(frame.positions)
        moves[moved, 0] = sign * DISPLACEMENT
        end = frame.model_copy(update={"positions": frame.positions + moves})
        ends.append((end, berry.point(end, name)))
    charge = (berry.reduced_difference(*ends) @ frame.cell)[0] / (2 * DISPLACEMENT)
    constant = -(ends[0][1].forces - ends[1][1].forces)[moved, 0].sum() / (2 * DISPLACEMENT)
    return float(charge), float(constant)


def labels(berry: Berry, frame: Frame, count: int) -> list[LabelledFrame]:
    """Zero-field labels of frames that are strained and rattled at random, P on the branch of the crystal."""
    crystal = (frame, berry.point(frame, "crystal"))
    found = []
    for index in range(count):
        rng = np.random.default_rng(index)
        strain = rng.uniform(-LARGEST_STRAIN, LARGEST_STRAIN, size=(3, 3))
        end = strained(frame, (strain + strain.T) / 2)
        end = end.model_copy(update={"positions": end.positions + rattle(rng, len(end), RATTLE)})
        point = berry.point(end, f"frame_{index:02}")
        reduced = crystal[1].polarization @ np.linalg.inv(frame.cell)
        response = ElectricResponse(
            enthalpy=point.enthalpy,
            forces=point.forces,
            stress=point.stress,
            polarization=(reduced + berry.reduced_difference((end, point), crystal)) @ end.cell,
            polarization_quanta=quantum_lattice(end.cell, 2),
        )
        provenance = Provenance(code="pw.x")
        found.append(LabelledFrame(label_id=end.frame_id, frame=end, response=response, provenance=provenance))
    return found


def network(frames: Sequence[LabelledFrame], charges: dict[str, int], epochs: int) -> EnthalpyNetwork:
    """A network trained on them; every fifth judges."""
    config = NetworkConfig(species=tuple(sorted(charges)), reference_charges=charges, scalars=32, tensors=16)
    training = [label for index, label in enumerate(frames) if index % 5 < 4]
    judging = [label for index, label in enumerate(frames) if index % 5 == 4]
    settings = TrainingSettings(epochs=epochs, tolerances=TOLERANCES, validate_every=epochs, accelerator="cpu")
    result = train(initial_network(config, training, seed=0), training, judging, settings)
    print(f"  trained in {result.seconds:.0f} s, errors on {len(judging)} other frames {result.validation}", flush=True)
    return result.model


def alas(work: Path, frames: int, epochs: int) -> dict[str, float]:
    """e_14, C/m^2."""
    frame = Frame.from_atoms(bulk("AlAs", "zincblende", a=5.6139, cubic=True))
    code = PwCode(pseudopotentials={"Al": "Al.pz-vbc.UPF", "As": "As.pz-bhs.UPF"})
    berry = Berry(PwEngine(PwSettings.from_protocol("fast"), code), (2, 2, 2), work / "alas")
    shear = np.zeros((3, 3))
    shear[1, 2] = shear[2, 1] = 0.5  # so that the Voigt strain yz is one
    slope, forces = clamped(berry, frame, shear)
    arsenic = np.flatnonzero(np.array(frame.species) == "As")
    charge, constant = sublattice(berry, frame, arsenic)
    followed = charge * forces[arsenic, 0].sum() / constant / frame.volume
    figures = {
        "pw.x clamped": float(slope[0]) * COULOMB_PER_SQUARE_M,
        "pw.x relaxed": float(slope[0] + followed) * COULOMB_PER_SQUARE_M,
    }
    model = network(labels(berry, frame, frames), {"Al": 3, "As": -3}, epochs)
    return figures | _of_network(_tensor(model, frame), 0, 3)


def quartz(work: Path, frames: int, epochs: int) -> dict[str, float]:
    """e_11, C/m^2; the network's atoms follow from its own structure at rest in the cell of pw.x."""
    frame = Frame.from_atoms(read(ROOT / "examples" / "quartz" / "quartz.vasp"))  # type: ignore[arg-type]
    settings = PwSettings(ecutwfc=40, kpoints=(2, 2, 2), conv_thr=1e-11, mixing_beta=0.5, stress=frames > 0)
    code = PwCode(pseudo_dir=str(ROOT / "examples" / "quartz"))
    berry = Berry(PwEngine(settings, code), (2, 2, 2), work / "quartz")
    slope, _ = clamped(berry, frame, np.diag([1.0, 0.0, 0.0]))
    figures = {"pw.x clamped": float(slope[0]) * COULOMB_PER_SQUARE_M}
    if not frames:
        return figures
    model = network(labels(berry, frame, frames), {"O": -2, "Si": 4}, epochs)
    figures |= _of_network(piezoelectric_tensor(model, frame, relaxed=False), 0, 0)
    at_rest = _of_network(_tensor(model, relax(model, frame, optimizer="lbfgs").frame), 0, 0)
    return figures | {name: value for name, value in at_rest.items() if name == "network relaxed"}


def _tensor(model: EnthalpyNetwork, frame: Frame) -> PiezoelectricTensor:
    """With atoms that follow, where the crystal is a minimum of the network."""
    try:
        return piezoelectric_tensor(model, frame)
    except ValueError as error:
        print(f"  clamped only: {error}", flush=True)
        return piezoelectric_tensor(model, frame, relaxed=False)


def _of_network(found: PiezoelectricTensor, row: int, column: int) -> dict[str, float]:
    parts = {"clamped": found.clamped, "clamped, improper": found.clamped_improper, "relaxed": found.relaxed}
    return {f"network {how}": float(voigt(part)[row, column]) for how, part in parts.items() if part is not None}


def markdown(figures: dict[str, dict[str, float]]) -> str:
    """Both crystals."""
    lines = [
        "# Piezoelectric constants, C/m^2",
        "",
        "By `python benchmarks/piezoelectric.py`.",
        "",
        "| | |",
        "|---|---|",
    ]
    for name, part in figures.items():
        lines += [f"| {name}, {how} | {value:.4f} |" for how, value in part.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "piezoelectric", help="runs of pw.x")
    parser.add_argument("--frames", type=int, default=20, help="labels of AlAs; quartz gets as many with --quartz")
    parser.add_argument("--quartz", action="store_true", help="train a network for quartz too (45 s of pw.x a frame)")
    parser.add_argument("--epochs", type=int, default=200, help="of the networks")
    parser.add_argument("--out", type=Path, help="where to write FILE.json and FILE.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures = {"AlAs e_14": alas(arguments.work, arguments.frames, arguments.epochs)}
    print(markdown(figures), flush=True)
    frames = arguments.frames if arguments.quartz else 0
    figures["quartz e_11"] = quartz(arguments.work, frames, arguments.epochs)
    print(markdown(figures))
    if arguments.out:
        arguments.out.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n")
        arguments.out.with_suffix(".md").write_text(markdown(figures))


if __name__ == "__main__":
    main()
