"""Tables of the command line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ...active_learning.labels import BOUNDED, UNITS
from ..progress import clock

if TYPE_CHECKING:
    from ...active_learning.criteria import GenerationScore, StopCriterion
    from ...dft_inputs.records import LabelledFrame
    from ..doctor import Finding
    from ..records import GenerationRecord
    from ..status import CampaignStatus, GenerationStatus

_STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}
_MARKS = {"ok": "OK", "warn": "warn", "fail": "FAIL"}
_SYMBOLS = {
    "enthalpy": "U",
    "forces": "F",
    "stress": "stress",
    "polarization": "P",
    "born_effective_charges": "Z*",
    "polarizability": "alpha",
}

_WIDTH_OF_FILES = 160


def new_console() -> Console:
    """Where commands print: as wide as the terminal, and wide enough for every table where there is none."""
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDTH_OF_FILES
    return console


def _plain_table(*columns: str, right: Sequence[str] = (), gap: int = 2) -> Table:
    table = Table(box=None, padding=(0, gap, 0, 0), header_style="bold")
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", no_wrap=name != "flags")
    return table


def generation_table(record: GenerationRecord, criterion: StopCriterion) -> Table:
    """Honest errors against their bounds."""
    score = record.score
    frames = f"trained on {score.frames} frames, judged on {len(record.pairs)} new ones"
    table = _plain_table("honest error", "RMSE", "bound", "unit", right=("RMSE", "bound"))
    table.title, table.title_justify = f"\nGeneration {record.generation}: {frames}", "left"
    for name, unit in UNITS.items():
        error, bound = _error(score, name), criterion.bounds.get(name)
        if error is not None or bound is not None:
            table.add_row(name.replace("_", " "), _judged(error, bound), _number(bound), unit)
    share, most = score.flagged_share, criterion.max_flagged_share
    table.add_row("flagged share", _coloured(f"{share:.1%}", share <= most), f"{most:.1%}", "of explored frames")
    return table


def _error(score: GenerationScore, name: str) -> float | None:
    return getattr(score.errors, name) if score.errors is not None else None


def _judged(error: float | None, bound: float | None) -> str:
    text = _number(error)
    return text if bound is None else _coloured(text, error is not None and error <= bound)


def _coloured(text: str, good: bool) -> str:
    return f"[{'green' if good else 'yellow'}]{text}[/]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def status_table(status: CampaignStatus) -> Table:
    """One row for each generation."""
    counts = ("gen.", "done", "failed", "flagged", "models", "unsure")
    judged = [name for name in BOUNDED if any(_honest(g, name) is not None for g in status.generations)]
    errors = [_SYMBOLS[name] for name in judged]
    table = _plain_table(*counts, *errors, "decision", right=(*counts, *errors), gap=1)
    for generation in status.generations:
        decision = generation.decision
        verdict = (
            "" if decision is None else "converged" if decision.converged else "stop" if decision.stop else "go on"
        )
        share = generation.flagged_share
        table.add_row(
            str(generation.generation),
            str(generation.done),
            f"[red]{generation.failed}[/]" if generation.failed else "0",
            f"[yellow]{generation.flagged}[/]" if generation.flagged else "0",
            str(generation.models),
            "-" if share is None else f"{share:.1%}",
            *(_number(_honest(generation, name)) for name in judged),
            verdict,
        )
    return table


def _honest(generation: GenerationStatus, name: str) -> float | None:
    return getattr(generation.honest, name) if generation.honest is not None else None


def units_line(status: CampaignStatus) -> str:
    """What the columns of ``status_table`` are."""
    units = [f"{_SYMBOLS[name]} in {unit}" for name, unit in UNITS.items() if name in BOUNDED]
    return f"campaign in {status.directory}; honest errors of {', '.join(units)}"


def cost_line(status: CampaignStatus) -> str:
    """What the campaign has cost so far."""
    return (
        f"{status.scf_count} SCFs in {clock(status.dft_seconds)} of DFT, {clock(status.training_seconds)} of training, "
        f"{clock(status.exploration_seconds)} of exploration"
    )


def label_table(labels: Sequence[LabelledFrame]) -> Table:
    """One row for each labelled frame."""
    table = _plain_table("label_id", "formula", "gen.", "origin", "status", "labels", "flags", right=("gen.",), gap=1)
    for label in labels:
        table.add_row(
            label.label_id,
            label.frame.formula,
            str(label.proposal.generation),
            escape(label.proposal.origin),
            label.status if label.status == "done" else f"[red]{label.status}[/]",
            " ".join(_SYMBOLS[name] for name in label.response.labels),
            escape(", ".join(label.quality.flags)),
        )
    return table


def doctor_table(findings: Sequence[Finding]) -> Table:
    """One row for each check, with what to do beside each fault."""
    table = Table.grid(padding=(0, 2))
    for finding in findings:
        detail = escape(finding.detail)
        if finding.fix:
            detail += f"\n[bold]-> {escape(finding.fix)}[/]"
        table.add_row(f"[{_STYLES[finding.state]}]{_MARKS[finding.state]}[/]", finding.name, detail)
    return table
