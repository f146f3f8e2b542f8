"""What a running training shows, and the learning curve it leaves."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ...dft_inputs.files import write_atomically
from ...dft_inputs.records import LABELS
from ...model.settings import EpochRecord
from ..progress import clock

CURVE = "curve.csv"
_UNITS = {
    "enthalpy": ("U", 1e3, "meV/atom"),
    "forces": ("F", 1e3, "meV/A"),
    "stress": ("stress", 1e3, "meV/A^3"),
    "polarization": ("P", 1.0, "e A"),
    "born_effective_charges": ("Z*", 1.0, "e"),
    "polarizability": ("alpha", 1.0, "e^2 A^2/eV"),
}
"""Symbol, factor and unit of the error of each label, for people."""

_EVERY = 20.0
"""Seconds between lines where the output is no terminal."""


class TrainingProgress:
    """Called after every epoch: one line with what is left, and a row in the curve.

    It pickles, as it is called in another process where several devices train.

    Args:
        epochs: how many there will be.
        folder: of the curve.
    """

    def __init__(self, epochs: int, folder: Path) -> None:
        self.epochs, self.folder = epochs, folder
        self._status: Any = None
        self._began: tuple[float, int] | None = None
        self._said = 0.0
        self._last: dict[str, float] = {}

    def __call__(self, row: EpochRecord) -> None:
        """Take note of an epoch."""
        append_row(self.folder / CURVE, row)
        self._last = row.validation or self._last
        now = time.monotonic()
        if self._began is None:
            self._began = (now - row.seconds / row.epoch, row.epoch - 1)
        self._show(self._line(row, now), now, last=row.epoch == self.epochs)

    def close(self) -> None:
        """End the live line."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _line(self, row: EpochRecord, now: float) -> str:
        began, before = self._began or (now, 0)
        left = (now - began) / max(row.epoch - before, 1) * (self.epochs - row.epoch)
        speed = f", {row.steps_per_second:.3g} steps/s" if row.steps_per_second else ""
        errors = f"; {errors_line(self._last)}" if self._last else ""
        return f"epoch {row.epoch}/{self.epochs}, loss {row.loss:.3g}{errors}{speed}, about {clock(left)} left"

    def _show(self, line: str, now: float, last: bool) -> None:
        console = Console(stderr=True, highlight=False)
        if console.is_terminal:
            if self._status is None:
                self._status = console.status(line)
                self._status.start()
            self._status.update(line)
        elif last or now - self._said > _EVERY:
            self._said = now
            console.print(line, markup=False, soft_wrap=True)


def append_row(path: Path, row: EpochRecord) -> None:
    """Add an epoch to a learning curve; later rows, of a run that was killed after its checkpoint, are dropped."""
    rows: list[list[str]] = []
    if path.is_file():
        with path.open(newline="") as file:
            rows = [old for old in csv.reader(file) if old and old[0].isdigit() and int(old[0]) < row.epoch]
    header = ["epoch", "seconds", "loss", "learning_rate", "steps_per_second"]
    header += [f"loss_{name}" for name in LABELS] + [f"rmse_{name}" for name in LABELS]
    plain = [row.epoch, f"{row.seconds:.3f}", row.loss, row.learning_rate, row.steps_per_second]
    values = [*plain, *(row.terms.get(name, "") for name in LABELS), *(row.validation.get(name, "") for name in LABELS)]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows, values])
    write_atomically(path, text.getvalue())


def errors_line(errors: Mapping[str, float]) -> str:
    """Errors by label in one line."""
    return ", ".join(f"{symbol} {errors[n] * f:.3g} {unit}" for n, (symbol, f, unit) in _UNITS.items() if n in errors)


def error_table(training: Mapping[str, float], validation: Mapping[str, float]) -> Table:
    """RMSE by label on both sets."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("RMSE")
    table.add_column("training", justify="right")
    table.add_column("validation", justify="right")
    table.add_column("unit")
    for name, (_, factor, unit) in _UNITS.items():
        if name in training or name in validation:
            shown = [f"{errors[name] * factor:.4g}" if name in errors else "-" for errors in (training, validation)]
            table.add_row(name.replace("_", " "), *shown, unit)
    return table
