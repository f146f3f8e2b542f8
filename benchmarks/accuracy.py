"""How accurate the network is on public DFT data: trained from nothing, judged on frames it was never trained on.

    python benchmarks/accuracy.py --data FOLDER [--set SiO2] [--hours 2] [--threads 2] [--json FILE]
    python benchmarks/accuracy.py --data FOLDER --set SiO2 --evaluate MODEL
    python benchmarks/accuracy.py --data FOLDER --set SiO2 --references [--frames 32]
    python benchmarks/accuracy.py --quick

FOLDER holds ``SiO2.xyz`` and ``BaTiO3.xyz`` (github.com/mir-group/allegro-pol) and the water set of
github.com/zhangylch/FIREANN (``train.txt``, ``validation.txt``), there or in a folder below it. Every fifth frame
(indices 4, 9, 14, ...) judges and is never trained on; water has frames of its own for that. Settings stand in
``accuracy/<set>.yaml``.

The budget is wall time: a few steps are timed, and the epochs that fit become the schedule, which then stays. The same
command goes on with a run that was interrupted. Water is trained twice: with all its labels, taken at fields up to
0.59 V/A, and with those below 0.1 V/A alone. ``--references`` judges what least squares give before any training.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

_HERE = Path(__file__).parent
_MOST_HOURS = 1e4
"""Beyond, an extrapolation says nothing."""
_QUICK = _HERE.parent / "tests" / "data" / "allegro_pol" / "SiO2_eight.xyz"


@dataclass(frozen=True)
class DataSet:
    """A set of labelled frames.

    Attributes:
        name: of the set; ``settings`` is the name of its YAML.
        file: name of the data file; ``judges``, of the file of validation frames where there is one.
        convention: of the labels.
        field: which fields are trained on, in the words of a query.
        targets: largest RMSE wanted, in the project's units (energy: eV/atom).
        share: of the hours.
    """

    name: str
    settings: str
    file: str
    convention: str
    targets: dict[str, float]
    judges: str | None = None
    field: str | None = None
    share: float = 1.0


SETS = {
    "SiO2": DataSet(
        "SiO2",
        "SiO2",
        "SiO2.xyz",
        "allegro-pol",
        {
            "energy": 1e-3,
            "forces": 0.030,
            "stress": 5e-3,
            "polarization": 0.010,
            "born_effective_charges": 0.0070,
            "polarizability": 0.0150,
        },
    ),
    "BaTiO3": DataSet(
        "BaTiO3",
        "BaTiO3",
        "BaTiO3.xyz",
        "allegro-pol",
        {"forces": 0.0311, "polarization": 0.060, "born_effective_charges": 0.055, "polarizability": 0.0230},
    ),
    "water": DataSet("water", "water", "train.txt", "fireann", {}, "validation.txt", share=0.5),
    "water_weak_fields": DataSet(
        "water_weak_fields", "water", "train.txt", "fireann", {}, "validation.txt", "<0.1 V/A", 0.5
    ),
}
_GROUPS = {"water": ("water", "water_weak_fields")}


def main() -> int:
    arguments = parse()
    threads = arguments.threads
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)
    if arguments.quick:
        results = {"SiO2": quick(arguments.work)}
    else:
        names = [name for chosen in arguments.sets for name in _GROUPS.get(chosen, (chosen,))]
        results = {name: one(SETS[name], arguments) for name in names}
    if arguments.json is not None:
        merge(arguments.json, results)
    for name, result in results.items():
        show(name, result)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the data files")
    parser.add_argument("--set", dest="sets", action="append", choices=["SiO2", "BaTiO3", "water"])
    parser.add_argument("--hours", type=float, default=2.0, help="wall time for each set")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="results; other sets that it holds are kept, cards go beside it")
    parser.add_argument("--work", type=Path, default=Path("accuracy_runs"), help="folder of checkpoints and models")
    parser.add_argument("--evaluate", type=Path, metavar="MODEL", help="judge this model only")
    parser.add_argument("--change", action="append", default=[], metavar="KEY=VALUE", help="of the settings")
    parser.add_argument("--references", action="store_true", help="judge a network before its training")
    parser.add_argument("--frames", type=int, help="of the training set, for --references; all where not given")
    parser.add_argument("--quick", action="store_true", help="eight frames, under a minute")
    arguments = parser.parse_args()
    arguments.sets = arguments.sets or ["SiO2", "BaTiO3"]
    if arguments.data is None and not arguments.quick:
        parser.error("name the folder of the data with --data, or use --quick")
    if arguments.evaluate is not None and len(arguments.sets) > 1:
        parser.error("--evaluate needs one --set")
    return arguments


def quick(work: Path) -> dict:
    """A small network on eight frames: shows that everything runs, not how well."""
    from fieldloop.workflows.train_files import Source, TrainRequest, read_section

    changes = ["network.scalars=16", "network.tensors=4", "network.l_max=1", "network.cutoff=4.0", "training.epochs=20"]
    section = read_section(_HERE / "accuracy" / "SiO2.yaml", changes)
    return trained(
        replace(SETS["SiO2"], targets={}), TrainRequest(Source(_QUICK, "allegro-pol"), work / "quick", section)
    )


def one(data: DataSet, arguments: argparse.Namespace) -> dict:
    """Train within the budget, or judge the model that is given."""
    from fieldloop.workflows.query import Query
    from fieldloop.workflows.train_files import Source, TrainRequest, read_section

    query = Query.parse({"field": data.field})
    source = Source(find(arguments.data, data.file), data.convention, query=query)
    judges = "every 5" if data.judges is None else str(find(arguments.data, data.judges))
    settings = _HERE / "accuracy" / f"{data.settings}.yaml"
    out = arguments.work / data.name
    request = TrainRequest(source, out, read_section(settings, arguments.change), judges)
    if arguments.evaluate is not None:
        return evaluated(request, arguments.evaluate)
    if arguments.references:
        return references(request, arguments.frames)
    epochs = schedule(request, arguments.hours * 3600 * data.share)
    section = read_section(settings, [*arguments.change, f"training.epochs={epochs}"])
    result = trained(data, TrainRequest(source, out, section, judges))
    if arguments.json is not None:
        keep_model(data, out, arguments.json.parent, result)
    return result


def find(folder: Path, name: str) -> Path:
    """A data file in a folder or just below it."""
    for path in (folder / name, *sorted(folder.glob(f"*/{name}"))):
        if path.is_file():
            return path
    sys.exit(f"accuracy.py: there is no {name} in {folder}")


def schedule(request, seconds: float) -> int:
    """Epochs that fit into the budget; decided once, so that a resumed run keeps its schedule."""
    from fieldloop.model.training import initial_network, train
    from fieldloop.workflows.train_files import prepare_training

    kept = request.out / "epochs.json"
    if kept.is_file():
        return json.loads(kept.read_text())["epochs"]
    prepared = prepare_training(request)
    frames = prepared.training[:8]
    settings = request.section.training.model_copy(update={"epochs": 3, "validate_every": 3})
    rows: list = []
    train(initial_network(prepared.network, frames, 0), frames, [], settings, progress=rows.append)
    step = 1 / statistics.median(row.steps_per_second for row in rows)
    steps = -(-len(prepared.training) // settings.batch_size)
    # A validation costs its frames about a third of a step each.
    validation = step * len(prepared.validation) / 3 / request.section.training.validate_every
    epochs = max(2, int(0.97 * seconds / (steps * step + validation)))
    request.out.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps({"epochs": epochs, "seconds_per_step": step}))
    print(f"{request.out.name}: {step:.3f} s a step, {epochs} epochs of {steps} steps", flush=True)
    return epochs


def trained(data: DataSet, request) -> dict:
    """Train, and say how well."""
    from fieldloop.model.files import load_model
    from fieldloop.workflows.cli.training_progress import TrainingProgress
    from fieldloop.workflows.train_files import prepare_training, run_training

    prepared = prepare_training(request)
    progress = TrainingProgress(request.section.training.epochs, request.out)
    began = time.perf_counter()
    try:
        record = run_training(prepared, progress)
    finally:
        progress.close()
    model = load_model(request.out / "model")
    errors = judge(model, prepared.validation)
    curve = [
        {"epoch": row.epoch, "seconds": round(row.seconds, 1), **renamed(row.validation)}
        for row in record.curve
        if row.validation
    ]
    targets = {
        name: {"wanted": bound, "reached": errors[name]["rmse"] <= bound} for name, bound in data.targets.items()
    }
    return {
        **errors,
        "targets": targets,
        "training": judge(model, prepared.training),
        "frames": {"training": len(prepared.training), "validation": len(prepared.validation)},
        "model_id": record.model_id,
        "seconds": round(record.seconds, 1),
        "seconds_of_this_run": round(time.perf_counter() - began, 1),
        "epochs": record.curve[-1].epoch,
        "learning_curve": curve,
        "machine": f"{platform.machine()}, {os.environ['OMP_NUM_THREADS']} threads",
        "settings": json.loads(request.section.model_dump_json()),
        "extrapolated_hours": extrapolated(curve, data.targets),
    }


def evaluated(request, directory: Path) -> dict:
    """Errors of a model on the frames that judge."""
    from fieldloop.model.files import load_model
    from fieldloop.workflows.train_files import prepare_training

    prepared = prepare_training(request)
    return judge(load_model(directory), prepared.validation)


def references(request, count: int | None) -> dict:
    """Errors of a fresh network, which is what least squares made of it, and the time that took."""
    from fieldloop.model.training import initial_network
    from fieldloop.workflows.train_files import prepare_training

    prepared = prepare_training(request)
    frames = prepared.training[:: max(1, len(prepared.training) // (count or len(prepared.training)))][:count]
    began = time.perf_counter()
    model = initial_network(prepared.network, frames, request.section.seed, request.section.training.tolerances.used())
    seconds = time.perf_counter() - began
    return {**judge(model, prepared.validation), "frames": len(frames), "seconds": round(seconds, 1)}


def judge(model, frames: Sequence) -> dict:
    """RMSE, MAE and largest error of each label over all components, in eV, A, e (energy: eV/atom)."""
    import torch
    from fieldloop.model.data import make_batch
    from fieldloop.model.losses import residuals
    from fieldloop.model.responses import compute_responses

    errors: dict[str, list] = {}
    remaining = iter(frames)
    while part := list(islice(remaining, 4)):
        batch = make_batch(part, model)
        predicted = compute_responses(model, batch.graph, stress=True, born=True)
        for name, item in residuals(predicted, batch).items():
            errors.setdefault(name, []).append(item.error.double().flatten())
    pooled = {name: torch.cat(parts) for name, parts in errors.items()}
    found = {
        name: {"rmse": float(e.square().mean().sqrt()), "mae": float(e.abs().mean()), "max": float(e.abs().max())}
        for name, e in pooled.items()
    }
    return renamed(found)


def renamed(by_label: dict) -> dict:
    """With the enthalpy called energy."""
    return {"energy" if name == "enthalpy" else name: value for name, value in by_label.items()}


def extrapolated(curve: Sequence[dict], targets: dict[str, float]) -> dict[str, float]:
    """Hours at which each target that was not reached would be, were its error to go on falling as a power of time.

    Fitted over the second half of the curve; nothing where the error hardly falls.
    """
    import numpy as np

    hours = {}
    half = curve[len(curve) // 2 :]
    for name, bound in targets.items():
        points = [(row["seconds"], row[name]) for row in half if name in row]
        if len(points) < 3 or points[-1][1] <= bound:
            continue
        times, errors = np.log(np.array(points)).T
        slope, offset = np.polyfit(times, errors, 1)
        needed = np.exp((np.log(bound) - offset) / slope) / 3600 if slope < -0.02 else np.inf
        if needed < _MOST_HOURS:
            hours[name] = round(float(needed), 1)
    return hours


def keep_model(data: DataSet, run: Path, folder: Path, result: dict) -> None:
    """The model and its card beside the results."""
    target = folder / "models" / data.name
    target.mkdir(parents=True, exist_ok=True)
    for file in (run / "model").iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    (folder / f"model_{data.name}.md").write_text(card(data, result))


def card(data: DataSet, result: dict) -> str:
    """The model's card."""
    settings = result["settings"]
    rows = [
        f"| {name} | {error['rmse']:.4g} | {error['mae']:.4g} | {error['max']:.4g} | {wanted(result, name)} |"
        for name, error in result.items()
        if isinstance(error, dict) and "rmse" in error
    ]
    return "\n".join(
        [
            f"# Model card: {data.name}",
            "",
            f"Model `{result['model_id']}` in `models/{data.name}`, trained from nothing on "
            f"{result['frames']['training']} frames of `{data.file}` (convention {data.convention}) in "
            f"{result['seconds'] / 3600:.2f} h ({result['machine']}, {result['epochs']} epochs); judged on "
            f"{result['frames']['validation']} frames that it was never trained on.",
            "",
            "Errors over all components, in eV, A, e (energy: eV/atom):",
            "",
            "| label | RMSE | MAE | largest | target |",
            "|---|---|---|---|---|",
            *rows,
            "",
            *[
                f"Not reached: {name}; the learning curve would meet it {after(result, name)}."
                for name, target in result["targets"].items()
                if not target["reached"]
            ],
            "",
            "Settings:",
            "",
            "```json",
            json.dumps(settings, indent=1),
            "```",
            "",
            "Made for the temperatures and fields of its training set; elsewhere its errors are unknown.",
            "",
        ]
    )


def after(result: dict, name: str) -> str:
    """When a target would be reached."""
    hours = result["extrapolated_hours"].get(name)
    return "in no time that it lets one tell" if hours is None else f"after about {hours:g} h"


def wanted(result: dict, name: str) -> str:
    """A target and whether it was reached."""
    target = result["targets"].get(name)
    return "–" if target is None else f"{target['wanted']:g}: {'reached' if target['reached'] else 'not reached'}"


def merge(path: Path, results: dict) -> None:
    """Write results, keeping those of other sets."""
    before = json.loads(path.read_text()) if path.is_file() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**before, **results}, indent=1) + "\n")


def show(name: str, result: dict) -> None:
    for label, error in result.items():
        if isinstance(error, dict) and "rmse" in error:
            target = wanted(result, label) if "targets" in result else "–"
            print(f"{name:18} {label:24} RMSE {error['rmse']:.4g}  MAE {error['mae']:.4g}  target {target}")


if __name__ == "__main__":
    sys.exit(main())
