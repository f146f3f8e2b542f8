"""Forces and P at half the critical field: the full model, its quadratic form and Z*(0).E against pw.x.

    python benchmarks/field_forces.py [--work DIR] [--model DIR] [--out docs/results/field_forces]

Five rattled cells of AlAs (8 atoms, 12 Ry, 2x2x2: the ``fast`` protocol) are computed by pw.x in a field of half their
own critical field, along random directions. Two questions, two tables:

* DFT alone: are derivatives at zero field enough? F(0) + Z*(0).E, and the same with 1/2 E.(dalpha/dR).E from second
  differences of the forces in weak fields, against the forces at the strong field. No network takes part.
* The network: trained on other rattled frames, each labelled at zero field and about one strong field; then the full
  model, its quadratic expansion and its first-order one, against the same forces and P. ``--model`` judges a network
  that is there already instead, e.g. one trained at zero field alone.

Labels are kept below DIR, and the training goes on from its checkpoint: the same command resumes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from ase.build import bulk
from fieldloop.active_learning.sampling.rattle import rattle
from fieldloop.dft_inputs.engine import ORIGIN
from fieldloop.dft_inputs.espresso import PwCode, PwEngine, PwSettings
from fieldloop.dft_inputs.labelling import label_frame, run_fields
from fieldloop.dft_inputs.polarization import fold, quantum_lattice
from fieldloop.dft_inputs.program import lease
from fieldloop.dft_inputs.records import FieldPoint, Frame, LabelledFrame
from fieldloop.dft_inputs.stencil import ZERO, Stencil
from fieldloop.model.expansions import FirstOrderExpansion, QuadraticExpansion
from fieldloop.model.files import load_model, save_model
from fieldloop.model.graph import build_graph
from fieldloop.model.interface import EnthalpyModel
from fieldloop.model.label_range import label_range
from fieldloop.model.network import EnthalpyNetwork
from fieldloop.model.responses import compute_responses
from fieldloop.model.settings import EpochRecord, NetworkConfig, Tolerances, TrainingSettings
from fieldloop.model.training import initial_network, train

LATTICE = 5.6139
AMPLITUDES = (0.04, 0.07, 0.10)
"""A, standard deviations of the displacements, in turn."""
TEST_AMPLITUDE = 0.07
JUDGED, VALIDATED = 5, 1
STRONG = 0.4999
"""Of the critical field of a frame, the strongest that may be a label's; half of it less rounding."""
WEAK = 0.4
"""Of the strong field, for second differences."""
NETWORK = NetworkConfig(
    species=("Al", "As"),
    reference_charges={"Al": 3, "As": -3},
    reference="many_body",
    cutoff=5.0,
    scalars=32,
    tensors=16,
    field_scale=0.05,
)
TRAINING = TrainingSettings(
    batch_size=2,
    learning_rate=5e-3,
    tolerances=Tolerances(
        enthalpy=5e-4,
        forces=5e-3,
        stress=None,
        polarization=5e-3,
        born_effective_charges=5e-3,
        polarizability=2e-2,
    ),
    validate_every=20,
    accelerator="cpu",
)


@dataclass(frozen=True)
class Judge:
    """A frame that pw.x computed in a strong field.

    Attributes:
        label: at zero field.
        strong: in the strong field; ``plus`` and ``minus`` at ``WEAK`` of it.
    """

    label: LabelledFrame
    strong: FieldPoint
    plus: FieldPoint
    minus: FieldPoint


@dataclass(frozen=True)
class Row:
    """Errors against pw.x in the strong field, RMS over components and frames.

    Attributes:
        form: what is judged.
        forces: of F(E), meV/A.
        field_forces: of F(E) - F(0), meV/A, what the field does.
        beyond_first_order: of F(E) - F(0) - Z*(0).E, each with its own Z*, meV/A.
        polarization: of P(E) - P(0), e A.
    """

    form: str
    forces: float | None
    field_forces: float
    beyond_first_order: float
    polarization: float


@dataclass(frozen=True)
class Added:
    """What a strong field adds at one frame: forces, those beyond first order, eV/A, (N, 3), and dipole, e A, (3,)."""

    forces: np.ndarray
    beyond_first_order: np.ndarray
    dipole: np.ndarray


def engine() -> PwEngine:
    """The level of theory."""
    files = {"Al": "Al.pz-vbc.UPF", "As": "As.pz-bhs.UPF"}
    return PwEngine(PwSettings.from_protocol("fast"), PwCode(pseudopotentials=files))


def rattled(amplitude: float, seed: int) -> Frame:
    """Eight atoms, each displaced at random."""
    crystal = Frame.from_atoms(bulk("AlAs", "zincblende", a=LATTICE, cubic=True))
    moves = rattle(np.random.default_rng(seed), len(crystal), amplitude)
    return crystal.model_copy(update={"positions": crystal.positions + moves})


def strong_field(label: LabelledFrame, fraction: float, seed: int) -> np.ndarray:
    """A field of random direction at a fraction of the frame's own critical field, V/A, (3,)."""
    direction = np.random.default_rng((seed, 1)).normal(size=3)
    weakest = label.quality.critical_field_fraction
    assert weakest, label.failure
    critical = max(np.abs(point.field).max() for point in label.field_points) / weakest
    return fraction * critical * direction / np.abs(direction).max()


def labelled(frame: Frame, directory: Path, base: Sequence[float] = (0.0, 0.0, 0.0)) -> LabelledFrame:
    """A label of order 2 about a field."""
    label = label_frame(engine(), frame, Stencil(base=tuple(map(float, base))), directory)
    print(f"  {directory.name}: {label.status} {label.failure or ', '.join(label.quality.flags)}", flush=True)
    return label


def point_at(frame: Frame, field: np.ndarray, directory: Path) -> FieldPoint:
    """One SCF in a field."""
    code = engine()
    job = code.prepare(frame, Stencil(base=tuple(map(float, field))), directory)
    with lease(directory, code.code) as descriptor:
        return dict(run_fields(job, descriptor, only=(ORIGIN, ZERO)))[ZERO].point


def judges(work: Path) -> list[Judge]:
    """The frames of the comparison, by pw.x."""
    found = []
    for index in range(JUDGED):
        frame, home = rattled(TEST_AMPLITUDE, 1000 + index), work / f"judge_{index}"
        label = labelled(frame, home / "zero_field")
        field = strong_field(label, STRONG, 1000 + index)
        points = {name: point_at(frame, scale * field, home / name) for name, scale in _FIELDS.items()}
        found.append(Judge(label=label, **points))
    return found


_FIELDS = {"strong": 1.0, "plus": WEAK, "minus": -WEAK}


def training_labels(work: Path, count: int) -> tuple[list[LabelledFrame], list[LabelledFrame]]:
    """Labels to train on and to validate: two a frame."""
    parts: tuple[list[LabelledFrame], list[LabelledFrame]] = ([], [])
    for index in range(count + VALIDATED):
        frame, home = rattled(AMPLITUDES[index % 3], index), work / f"train_{index:02}"
        rest = labelled(frame, home / "zero_field")
        fraction = np.random.default_rng((index, 2)).uniform(0.25, STRONG)
        strong = labelled(frame, home / "strong_field", strong_field(rest, fraction, index))
        parts[index >= count].extend(label for label in (rest, strong) if label.trainable)
    return parts


def network(training: list[LabelledFrame], validation: list[LabelledFrame], work: Path, epochs: int) -> EnthalpyNetwork:
    """The trained network; found where it was trained before."""
    name = f"model_{len(training)}_{epochs}"
    if (work / name).is_dir():
        return load_model(work / name)

    def report(row: EpochRecord) -> None:
        if row.validation:
            print(f"  epoch {row.epoch}: {row.validation}, {row.seconds:.0f} s", flush=True)

    model = initial_network(NETWORK, training, seed=0)
    settings = TRAINING.model_copy(update={"epochs": epochs})
    result = train(model, training, validation, settings, checkpoint=work / f"{name}.pt", progress=report)
    save_model(result.model, work / name, label_range([*training, *validation]))
    return result.model


def dft_rows(found: Sequence[Judge]) -> list[Row]:
    """Expansions made of pw.x's own derivatives at zero field."""
    forms = {"Z*(0).E": 1, "Z*(0).E + 1/2 E.(dalpha/dR).E": 2}
    return [_row(form, [_expanded(judge, order) for judge in found], found) for form, order in forms.items()]


def _expanded(judge: Judge, order: int) -> Added:
    """To first or second order of the enthalpy in the field."""
    response = judge.label.response
    first = _first_order(judge)
    if order == 1:
        return Added(first, np.zeros_like(first), np.zeros(3))
    second = 0.5 * (judge.plus.forces + judge.minus.forces - 2 * response.forces) / WEAK**2
    return Added(first + second, second, response.polarizability @ judge.strong.field)


def _first_order(judge: Judge) -> np.ndarray:
    return np.einsum("iab,a->ib", judge.label.response.born_effective_charges, judge.strong.field)


def network_rows(model: EnthalpyModel, found: Sequence[Judge]) -> list[Row]:
    """The network and its expansions."""
    forms = {
        "full model": model,
        "quadratic form": QuadraticExpansion(model),
        "Z*(0).E": FirstOrderExpansion(model),
    }
    at_zero_field = [_in_fields(model, judge)[0][0] for judge in found]
    first_order = [np.diff(_in_fields(forms["Z*(0).E"], judge)[0], axis=0)[0] for judge in found]
    rows = []
    for form, enthalpy in forms.items():
        added = []
        for judge, first in zip(found, first_order, strict=True):
            forces, dipoles = _in_fields(enthalpy, judge)
            push = forces[1] - forces[0]
            added.append(Added(push, push - first, dipoles[1] - dipoles[0]))
        rows.append(_row(form, added, found, at_zero_field))
    return rows


def _in_fields(model: EnthalpyModel, judge: Judge) -> tuple[np.ndarray, np.ndarray]:
    """Forces (2, N, 3) and P (2, 3) at zero and at the strong field."""
    frame = judge.label.frame
    fields = np.stack([np.zeros(3), judge.strong.field])
    out = compute_responses(model, build_graph([frame, frame], model.species, model.cutoff, fields, model.dtype))
    return out.forces.view(2, len(frame), 3).numpy(), out.polarization.numpy()


def _row(
    form: str, added: Sequence[Added], found: Sequence[Judge], at_zero_field: Sequence[np.ndarray] | None = None
) -> Row:
    true = [_added(judge) for judge in found]
    pairs = list(zip(added, true, strict=True))
    forces = None
    if at_zero_field is not None:
        errors = [
            rest + one.forces - judge.strong.forces
            for rest, one, judge in zip(at_zero_field, added, found, strict=True)
        ]
        forces = 1000 * _rms(errors)
    return Row(
        form,
        forces,
        1000 * _rms([one.forces - other.forces for one, other in pairs]),
        1000 * _rms([one.beyond_first_order - other.beyond_first_order for one, other in pairs]),
        _rms([one.dipole - other.dipole for one, other in pairs]),
    )


def _added(judge: Judge) -> Added:
    """By pw.x."""
    response, frame = judge.label.response, judge.label.frame
    dipole = fold(judge.strong.polarization - response.polarization, quantum_lattice(frame.cell))
    forces = judge.strong.forces - response.forces
    return Added(forces, forces - _first_order(judge), dipole)


def _rms(arrays: Sequence[np.ndarray]) -> float:
    return float(np.sqrt(np.mean(np.square(np.concatenate([array.ravel() for array in arrays])))))


def scale_rows(found: Sequence[Judge]) -> Row:
    """What is predicted: its size in pw.x."""
    added = [_added(judge) for judge in found]
    return Row(
        "size of it in pw.x",
        1000 * _rms([judge.strong.forces for judge in found]),
        1000 * _rms([one.forces for one in added]),
        1000 * _rms([one.beyond_first_order for one in added]),
        _rms([one.dipole for one in added]),
    )


def markdown(rows: dict[str, list[Row]], fields: Sequence[float]) -> str:
    """Both tables."""
    strengths = ", ".join(f"{100 * field:.1f}" for field in fields)
    lines = [
        "# Forces and P at half the critical field, against pw.x",
        "",
        f"Five rattled cells of AlAs ({TEST_AMPLITUDE} A, 8 atoms, 12 Ry, 2x2x2) in fields of {strengths} MV/cm, "
        "half the critical field of each. Errors of each form, RMS over components and frames. "
        "By `python benchmarks/field_forces.py`.",
    ]
    for title, part in rows.items():
        lines += [
            "",
            f"## {title}",
            "",
            "| | F(E), meV/A | F(E) - F(0), meV/A | F(E) - F(0) - Z*(0).E, meV/A | P(E) - P(0), e A |",
            "|---|---|---|---|---|",
        ]
        for row in part:
            forces = "" if row.forces is None else f"{row.forces:.2f}"
            figures = f"{row.field_forces:.3f} | {row.beyond_first_order:.3f} | {row.polarization:.5f}"
            lines.append(f"| {row.form} | {forces} | {figures} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Label, train, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "field_forces", help="labels, model")
    parser.add_argument("--model", type=Path, help="a model to judge instead of training one")
    parser.add_argument("--frames", type=int, default=12, help="to train on, two labels each")
    parser.add_argument("--epochs", type=int, default=300, help="of the training")
    parser.add_argument("--out", type=Path, help="where to write FILE.json and FILE.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = judges(arguments.work)
    rows = {"DFT alone": [scale_rows(found), *dft_rows(found)]}
    fields = [float(np.linalg.norm(judge.strong.field)) for judge in found]
    print(markdown(rows, fields), flush=True)
    if arguments.model:
        rows[f"Network {arguments.model.name}"] = network_rows(load_model(arguments.model), found)
    else:
        training, validation = training_labels(arguments.work, arguments.frames)
        model = network(training, validation, arguments.work, arguments.epochs)
        rows[f"Network trained on {arguments.frames} other frames"] = network_rows(model, found)
    text = markdown(rows, fields)
    print(text)
    if arguments.out:
        figures = {"fields_v_per_a": fields, **{title: [asdict(row) for row in part] for title, part in rows.items()}}
        arguments.out.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n")
        arguments.out.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
