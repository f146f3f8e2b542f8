"""The report of one training: errors, parity, residuals by species, loss terms, learning curve, speed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from ...dft_inputs.files import write_atomically
from ...dft_inputs.records import LABELS, LabelledFrame
from ...model.committee import predict
from ..progress import clock
from ..records import TrainedModel
from . import figures
from .parity import MOST_FRAMES, Pair, Parity, parity_series
from .style import CYCLE, QUANTITIES, logarithmic, panels, significant, styled, to_svg

if TYPE_CHECKING:
    from ...model.network import EnthalpyNetwork
    from ..train_files import PreparedTraining

FILE = "report.html"
_BY_SPECIES = ("forces", "born_effective_charges")


@dataclass(frozen=True)
class ResidualRow:
    """Errors of one label, of all atoms or of one species; text for people."""

    name: str
    unit: str
    species: str
    training: str
    validation: str
    mean: str
    worst: str


def write_training_report(prepared: PreparedTraining, record: TrainedModel, model: EnthalpyNetwork) -> Path:
    """Write the report into the folder of the training, and return its path."""
    sets = {"training": prepared.training, "validation": prepared.validation}
    pairs = {group: _predicted(model, _spread(frames)) for group, frames in sets.items()}
    series = tuple(s for group, items in pairs.items() for s in parity_series(group, items))
    speeds = [row.steps_per_second for row in record.curve if row.steps_per_second]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("training.html").render(
        title=prepared.request.out.absolute().name,
        prepared=prepared,
        record=record,
        settings=prepared.request.section.training,
        cards=[
            (QUANTITIES[name].name, *QUANTITIES[name].error(record.validation[name]).split(" ", 1))
            for name in LABELS
            if name in record.validation
        ],
        parity=to_svg(figures.parity_figure(Parity(series)), "parity"),
        learning=to_svg(figures.learning_figure([record]), "learning"),
        terms=to_svg(terms_figure(record), "terms"),
        rows=residual_rows(pairs),
        weights=sum(p.numel() for p in model.parameters()),
        speed=f"{median(speeds):.3g}" if speeds else "–",
        duration=clock(record.seconds),
    )
    path = prepared.request.out / FILE
    write_atomically(path, page)
    return path


def terms_figure(record: TrainedModel) -> Figure:
    """What each label adds to the loss, and the learning rate, against epochs."""
    with styled():
        figure, axes = panels(["Terms of the loss", "Learning rate"], columns=2)
        for number, name in enumerate(name for name in LABELS if any(name in row.terms for row in record.curve)):
            rows = [row for row in record.curve if name in row.terms]
            values = [row.terms[name] for row in rows]
            axes[0].plot([row.epoch for row in rows], values, c=CYCLE[number % len(CYCLE)], label=QUANTITIES[name].name)
        rates = [(row.epoch, rate) for row in record.curve if (rate := row.learning_rate) is not None]
        axes[1].plot([epoch for epoch, _ in rates], [rate for _, rate in rates], c=CYCLE[0])
        for ax in axes:
            ax.set_xlabel("epoch")
            logarithmic(ax, "y")
        axes[0].set_ylabel("squared errors in tolerances")
        axes[0].legend(loc="upper right")
    return figure


def residual_rows(pairs: dict[str, list[Pair]]) -> tuple[ResidualRow, ...]:
    """Errors by label and species."""
    rows = []
    symbols = sorted({symbol for label, _ in pairs["training"] for symbol in label.frame.species})
    for name in LABELS:
        for symbol in ["", *(symbols if name in _BY_SPECIES else ())]:
            errors = {group: _errors(items, name, symbol) for group, items in pairs.items()}
            judged = errors["validation"] if len(errors["validation"]) else errors["training"]
            if not len(judged):
                continue
            quantity = QUANTITIES[name]
            shown = {group: _rms(values) * quantity.error_scale for group, values in errors.items()}
            rows.append(
                ResidualRow(
                    name=quantity.name if not symbol else "",
                    unit=quantity.error_unit,
                    species=symbol or "all",
                    training=_number(shown["training"]),
                    validation=_number(shown["validation"]),
                    mean=_number(float(np.abs(judged).mean()) * quantity.error_scale),
                    worst=_number(float(np.abs(judged).max()) * quantity.error_scale),
                )
            )
    return tuple(rows)


def _errors(pairs: Iterable[Pair], name: str, symbol: str) -> np.ndarray:
    """Errors of all components of a label, of the atoms of one species where one is named."""
    found = []
    for label, prediction in pairs:
        for series in parity_series("", [(label, prediction)]):
            if series.label == name:
                error = (series.predicted - series.computed).reshape(len(label.frame) if name in _BY_SPECIES else 1, -1)
                chosen = [s == symbol for s in label.frame.species] if symbol else slice(None)
                found.append(error[chosen].ravel())
    return np.concatenate(found) if found else np.empty(0)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2))) if len(values) else float("nan")


def _number(value: float) -> str:
    return significant(value) if np.isfinite(value) else "–"


def _spread(frames: Sequence[LabelledFrame]) -> list[LabelledFrame]:
    """All frames, or evenly spaced ones where there are very many."""
    if len(frames) <= MOST_FRAMES:
        return list(frames)
    return [frames[i] for i in np.linspace(0, len(frames) - 1, MOST_FRAMES).round().astype(int)]


def _predicted(model: EnthalpyNetwork, frames: Sequence[LabelledFrame]) -> list[Pair]:
    if not frames:
        return []
    fields = np.array([label.response.field for label in frames])
    predictions = predict([model], [label.frame for label in frames], fields)
    return [(label, prediction.mean()) for label, prediction in zip(frames, predictions, strict=True)]
