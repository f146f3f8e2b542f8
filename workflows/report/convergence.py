"""Results of a convergence study for people: figure, one HTML page, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from ...dft_inputs.files import write_atomically
from ..convergence.config import CUTOFFS, THRESHOLDS, Parameter, Value, value_text
from ..convergence.judge import describe
from ..convergence.records import UNITS, ConvergenceRow, ConvergenceStudy, Responses, Series
from .style import BLUE, FAINT, GREEN, GREY, INK, ORANGE, VERMILLION, panels, styled, to_svg

STEM = "convergence"
"""Of all files that a study writes."""

HEADINGS = {
    "kpoints": "k-mesh",
    **{name: f"Cutoff ({unit})" for name, unit in CUTOFFS.items()},
    "field_step": "Field step (MV/cm)",
    **{name: f"SCF threshold ({unit or name})" for name, unit in THRESHOLDS.items()},
}
COLUMNS = ("value", "Z* (e)", "ΔZ* (e)", "ε∞", "Δε∞ (%)", "SCFs", "iterations", "CPU (s)", "cost", "")
"""Of the tables. Cost is CPU time over that of the base; the last column has remarks."""

_ALIKE = 2e-3
"""Directions whose eps_inf differ by less than this part of it are drawn as one."""

_MOST_LETTERS = 22
"""In the ticks of a panel; more are written small."""

_PAPER = {INK: "#1c2026", FAINT: "#8a9099"}
"""Colours of a picture that stands by itself."""


@dataclass(frozen=True)
class TableRow:
    """A row as text, and whether it is the recommended one."""

    cells: tuple[str, ...]
    recommended: bool


def write_convergence_report(study: ConvergenceStudy, folder: Path) -> list[Path]:
    """Write ``convergence.json``, ``.csv``, ``.md``, ``.png`` and ``.html``, each replaced atomically.

    Returns:
        Their paths, the page last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    contents: dict[str, str | bytes] = {
        ".json": study.model_dump_json(indent=1),
        ".csv": to_csv(study),
        ".md": to_markdown(study, f"{STEM}.png"),
        ".png": to_png(study),
        ".html": to_html(study),
    }
    for suffix, content in contents.items():
        write_atomically(folder / f"{STEM}{suffix}", content)
    return [folder / f"{STEM}{suffix}" for suffix in contents]


def table_rows(series: Series) -> list[TableRow]:
    """The table of a series, a row for each of ``COLUMNS``."""
    return [
        TableRow(_cells(series, index, row), recommended=index == series.recommended)
        for index, row in enumerate(series.rows)
    ]


def _cells(series: Series, index: int, row: ConvergenceRow) -> tuple[str, ...]:
    value = value_text(series.parameter, row.setting.value(series.parameter))
    remarks = [
        *(["base"] if row.base else []),
        *(["reference"] if index == series.reference else []),
        *(["recommended"] if index == series.recommended else []),
        *row.flags,
    ]
    if row.responses is None or row.deviation is None:
        return (value, *["–"] * 8, "no label")
    charges = ", ".join(f"{symbol} {charge:+.4f}" for symbol, charge in row.responses.charges.items())
    return (
        value,
        charges,
        f"{row.deviation.born_effective_charges:.4f}",
        f"{row.responses.mean_dielectric:.4f}",
        f"{100 * row.deviation.dielectric:.3f}",
        str(row.scf_count),
        str(row.scf_iterations),
        f"{row.cpu_seconds:.1f}",
        "–" if row.relative_cost is None else f"{row.relative_cost:.2f}",
        ", ".join(remarks),
    )


def summary(study: ConvergenceStudy) -> list[str]:
    """The recommendation in plain lines, caveats last."""
    setting, recommendation = study.recommendation.setting, study.recommendation
    texts = [f"{one.parameter} {value_text(one.parameter, setting.value(one.parameter))}" for one in study.series]
    cost = "" if recommendation.cost is None else f"; about {recommendation.cost:.2g} times the cost of the base"
    verdict = "" if recommendation.converged else ", which was NOT shown to be converged"
    return [f"recommended{verdict}: {', '.join(texts)}{cost}", *recommendation.notes]


def wanted(study: ConvergenceStudy) -> str:
    """The tolerances for people."""
    bounds = study.tolerances
    texts = [
        None if bounds.born_effective_charges is None else f"{bounds.born_effective_charges:g} e in Z*",
        None if bounds.dielectric is None else f"{100 * bounds.dielectric:g} % in eps_inf",
        None if bounds.forces is None else f"{1e3 * bounds.forces:g} meV/A in forces",
    ]
    return ", ".join(text for text in texts if text)


def to_csv(study: ConvergenceStudy) -> str:
    """One line for each label of each series, in the project's units."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    elements = sorted(set(study.species))
    writer.writerow(
        ["parameter", *(_column(name) for name in study.base.parameters), "label_id"]
        + [f"born_effective_charge_{element}_e" for element in elements]
        + [f"dielectric_{axes}" for axes in ("xx", "yy", "zz")]
        + ["deviation_born_effective_charges_e", "deviation_dielectric", "deviation_forces_eV_per_A"]
        + ["scf_count", "scf_iterations", "cpu_seconds", "relative_cost", "flags", "failure"]
    )
    for series in study.series:
        for row in series.rows:
            setting, got, apart = row.setting, row.responses, row.deviation
            numbers: list[float | str] = [""] * (len(elements) + 6)
            if got is not None and apart is not None:
                numbers = [got.charges[element] for element in elements]
                numbers += [*map(float, got.dielectric.diagonal())]
                numbers += [apart.born_effective_charges, apart.dielectric, apart.forces]
            values = [setting.value(name) for name in study.base.parameters]
            texts = ["x".join(map(str, value)) if isinstance(value, tuple) else value for value in values]
            writer.writerow(
                [
                    *(series.parameter, *texts, row.label_id),
                    *numbers,
                    *(row.scf_count, row.scf_iterations, row.cpu_seconds, row.relative_cost),
                    *(" ".join(row.flags), row.failure or ""),
                ]
            )
    return buffer.getvalue()


def _column(parameter: Parameter) -> str:
    unit = UNITS[parameter].replace("/", "_per_")
    return f"{parameter}_{unit}" if unit else parameter


def to_markdown(study: ConvergenceStudy, picture: str) -> str:
    """Tables and recommendation; ``picture`` is the path of the figure beside the text."""
    lines = [
        f"# Convergence of {study.formula}",
        "",
        f"Wanted: {wanted(study)}; each of {len(study.series)} parameters may take {study.share:.0%} of it. "
        f"Gap {study.gap:.2f} eV, critical field of the base mesh {study.critical_field.min() * 100:.3g} MV/cm.",
        f"Base: {_base_text(study)}. Z* is a third of the trace, mean over the atoms of an element; deviations are the "
        "largest of any component from the reference of the series; cost is CPU time over that of the base.",
        "",
        f"![Z*, dielectric constant, errors and cost]({picture})",
    ]
    for series in study.series:
        lines += ["", f"## {HEADINGS[series.parameter]}", "", f"| {' | '.join(COLUMNS)} |"]
        lines += ["|---" + "|--:" * (len(COLUMNS) - 2) + "|---|"]
        for row in table_rows(series):
            cells = [f"**{cell}**" if row.recommended and cell else cell for cell in row.cells]
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", *(f"- {note}" for note in series.notes)]
    first, *notes = summary(study)
    lines += ["", "## Recommendation", "", f"{first[0].upper()}{first[1:]}.", "", *(f"- {note}" for note in notes)]
    lines += ["", "```yaml", study.recommendation.yaml.rstrip(), "```", ""]
    return "\n".join(lines)


def to_html(study: ConvergenceStudy) -> str:
    """One page that needs nothing from outside."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("convergence.html").render(
        study=study,
        base=_base_text(study),
        wanted=wanted(study),
        summary=summary(study),
        headings=HEADINGS,
        columns=COLUMNS,
        tables={series.parameter: table_rows(series) for series in study.series},
        last={s.parameter: describe(s.last_change, study.tolerances) for s in study.series if s.last_change},
        figure=to_svg(convergence_figure(study), STEM),
    )


def _base_text(study: ConvergenceStudy) -> str:
    return ", ".join(f"{name} {value_text(name, study.base.value(name))}" for name in study.base.parameters)


def to_png(study: ConvergenceStudy) -> bytes:
    """The figure as a picture on white."""
    paper = {key: _PAPER[value] for key, value in _page_colours().items()}
    buffer = BytesIO()
    figure = convergence_figure(study, paper)
    figure.savefig(buffer, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _page_colours() -> dict[Any, str]:
    """Settings of the style that hold one of the page's colours."""
    with styled():
        return {key: value for key, value in mpl.rcParams.items() if isinstance(value, str) and value in _PAPER}


def convergence_figure(study: ConvergenceStudy, colours: dict[Any, str] | None = None) -> Figure:
    """Z* of the cation, eps_inf, deviations over tolerances, and cost: a row each, a column for each parameter.

    Args:
        study: what to draw.
        colours: matplotlib settings that take the place of the page's.
    """
    with ExitStack() as stack:
        stack.enter_context(styled())
        stack.enter_context(mpl.rc_context(colours))
        columns = len(study.series)
        figure, axes = panels([""] * (4 * columns), columns=columns, height=2.1)
        for number, series in enumerate(study.series):
            column = axes[number::columns]
            _draw(study, series, column)
            column[0].set_title(HEADINGS[series.parameter], loc="left")
        for row, text in enumerate(("Z*", "ε∞", "deviation / tolerance", "CPU time (s)")):
            axes[row * columns].set_ylabel(text)
    return figure


def _draw(study: ConvergenceStudy, series: Series, axes: Sequence[Axes]) -> None:
    """The column of one parameter."""
    known = [(index, row, row.responses) for index, row in enumerate(series.rows) if row.responses is not None]
    places = np.array([index for index, _, _ in known])
    charge, constant, error, cost = axes
    if known:
        cation = max(known[-1][2].charges, key=lambda symbol: known[-1][2].charges[symbol])
        charge.plot(places, [got.charges[cation] for _, _, got in known], "o-", color=BLUE, ms=4, label=cation)
        _diagonal(constant, places, [got for _, _, got in known])
        _bands(charge, constant, study, series, cation)
        _deviations(error, study, series)
        cost.plot(places, [row.cpu_seconds for _, row, _ in known], "o-", color=ORANGE, ms=4)
        cost.set_ylim(0, 1.08 * cost.get_ylim()[1])
        if series is study.series[0]:
            for ax in (charge, constant, error):
                if ax.get_legend_handles_labels()[0]:
                    ax.legend(loc="best")
    ticks = [_tick(series.parameter, row.setting.value(series.parameter)) for row in series.rows]
    for ax in axes:
        ax.set_xlim(-0.4, len(ticks) - 0.6)
        ax.set_xticks(range(len(ticks)), ticks, fontsize=9 if sum(map(len, ticks)) < _MOST_LETTERS else 7)
        if series.recommended is not None:
            ax.axvline(series.recommended, color=GREEN, lw=6, alpha=0.18, zorder=0)


def _diagonal(ax: Axes, places: np.ndarray, all_responses: Sequence[Responses]) -> None:
    """Diagonal of eps_inf, one line for directions that are alike."""
    values = np.array([got.dielectric.diagonal() for got in all_responses])
    if np.ptp(values, axis=1).max() < _ALIKE * values.mean():
        ax.plot(places, values.mean(axis=1), "o-", color=BLUE, ms=4, label="mean")
        return
    for line, text, colour, marker in zip(values.T, ("xx", "yy", "zz"), (BLUE, VERMILLION, GREEN), "osv", strict=True):
        ax.plot(places, line, marker=marker, ls="-", color=colour, ms=4, label=text)


def _bands(charge: Axes, constant: Axes, study: ConvergenceStudy, series: Series, cation: str) -> None:
    """The tolerances about the reference, which are always within the picture, so that noise is seen as such."""
    reference = series.rows[series.reference or 0].responses
    bounds = study.tolerances
    if reference is None:
        return
    mean = reference.mean_dielectric
    places = [
        (charge, reference.charges[cation], bounds.born_effective_charges),
        (constant, mean, None if bounds.dielectric is None else bounds.dielectric * mean),
    ]
    for ax, value, bound in places:
        ax.ticklabel_format(axis="y", useOffset=False)
        if bound is not None:
            ax.axhspan(value - bound, value + bound, color=GREY, alpha=0.15, zorder=0, lw=0)
            low, high = ax.get_ylim()
            ax.set_ylim(min(low, value - 1.5 * bound), max(high, value + 1.5 * bound))


def _deviations(ax: Axes, study: ConvergenceStudy, series: Series) -> None:
    """Deviations from the reference over their tolerances, and the share that is left to the parameter."""
    looks = {
        "born_effective_charges": ("Z*", BLUE, "o"),
        "dielectric": ("ε∞", VERMILLION, "s"),
        "forces": ("forces", ORANGE, "v"),
    }
    for name, bound in study.tolerances.model_dump(exclude_none=True).items():
        text, colour, marker = looks[name]
        points = [
            (index, getattr(row.deviation, name) / bound)
            for index, row in enumerate(series.rows)
            if row.deviation is not None and index != series.reference
        ]
        if points:
            places, values = zip(*points, strict=True)
            ax.plot(places, np.maximum(values, 1e-6), marker=marker, ls="-", color=colour, ms=4, label=text)
    ax.set_yscale("log")
    ax.axhline(study.share, color=GREY, ls="--", lw=1)
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, study.share / 30), max(high, 3 * study.share))
    ax.yaxis.set_minor_formatter(NullFormatter())


def _tick(parameter: Parameter, value: Value) -> str:
    if isinstance(value, Sequence):
        return str(value[0]) if len(set(value)) == 1 else "×".join(map(str, value))
    if parameter == "field_step":
        return f"{100 * value:.3g}"
    return f"{value:g}".replace("e-0", "e-")
