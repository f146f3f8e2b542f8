"""Figures of what the networks know: parity, honest errors, uncertainty against error, learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ...active_learning.criteria import StopCriterion
from ...active_learning.labels import BOUNDED
from ...active_learning.uncertainty.calibration import Pair
from ..records import GenerationRecord, HonestPair, TrainedModel
from .calibration import uncertainty_points
from .parity import GROUPS, Parity, ParitySeries
from .style import BLUE, CYCLE, FAINT, GREEN, GREY, QUANTITIES, SKY, VERMILLION, logarithmic, panels, styled

_GROUP_LOOK = {"training": (SKY, "o", 9), "validation": (GREEN, "s", 13), "honest": (VERMILLION, "^", 17)}
_MOST_VECTOR_POINTS = 400


def parity_figure(parity: Parity) -> Figure:
    """Predicted against computed, a panel for each label; needs at least one series."""
    labels = [name for name in QUANTITIES if parity.of_label(name)]
    with styled():
        figure, axes = panels([QUANTITIES[name].name for name in labels], height=3.7)
        for ax, name in zip(axes, labels, strict=True):
            _parity_panel(ax, name, parity.of_label(name))
    return figure


def _parity_panel(ax: Axes, name: str, series: Sequence[ParitySeries]) -> None:
    quantity = QUANTITIES[name]
    # The enthalpy's zero means nothing: the mean of what DFT gave is as good as any.
    origin = np.concatenate([s.computed for s in series]).mean() if name == "enthalpy" else 0.0
    lines = []
    for group in sorted(series, key=lambda s: GROUPS.index(s.group)):
        colour, marker, size = _GROUP_LOOK[group.group]
        x, y = (quantity.scale * (values - origin) for values in (group.computed, group.predicted))
        ax.scatter(
            x, y, s=size, c=colour, marker=marker, alpha=0.75, linewidths=0, rasterized=len(x) > _MOST_VECTOR_POINTS
        )
        lines.append((colour, marker, f"{group.group}: RMSE {quantity.error(group.rmse)}"))
    _make_square(ax)
    for row, (colour, marker, text) in enumerate(lines):
        y = 0.97 - 0.065 * row
        ax.plot([0.035], [y - 0.02], marker=marker, ms=4, c=colour, transform=ax.transAxes, clip_on=False)
        ax.text(0.07, y, text, transform=ax.transAxes, va="top", fontsize=8)
    shifted = " − mean" if name == "enthalpy" else ""
    ax.set_xlabel(f"DFT{shifted} ({quantity.unit})")
    ax.set_ylabel(f"network{shifted} ({quantity.unit})")


def _make_square(ax: Axes) -> None:
    """Equal axes over the same range with the diagonal, and head room for the legend."""
    low = min(ax.get_xlim()[0], ax.get_ylim()[0])
    high = max(ax.get_xlim()[1], ax.get_ylim()[1])
    ax.plot([low, high], [low, high], c=FAINT, lw=1, zorder=0)
    ax.set_xlim(low, high)
    ax.set_ylim(low, high)
    ax.set_aspect("equal", adjustable="box")
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.yaxis.set_major_locator(MaxNLocator(5))


def generations_figure(generations: Sequence[GenerationRecord], criterion: StopCriterion | None = None) -> Figure:
    """Honest error of each label and the flagged share by generation, with the bounds of the criterion."""
    labels = [
        name
        for name in ("enthalpy", *BOUNDED)
        if any(g.score.errors is not None and getattr(g.score.errors, name) is not None for g in generations)
    ]
    bounds = {} if criterion is None else criterion.bounds
    with styled():
        figure, axes = panels([*(QUANTITIES[name].name for name in labels), "Flagged share"], height=2.7)
        for ax, name in zip(axes, labels, strict=False):
            quantity = QUANTITIES[name]
            errors = [np.nan if g.score.errors is None else getattr(g.score.errors, name) for g in generations]
            _by_generation(ax, generations, np.array(errors, dtype=float) * quantity.error_scale)
            _draw_bound(ax, bounds.get(name, np.nan) * quantity.error_scale)
            ax.set_ylabel(f"honest RMSE ({quantity.error_unit})")
        _by_generation(axes[-1], generations, np.array([100 * g.score.flagged_share for g in generations]))
        _draw_bound(axes[-1], np.nan if criterion is None else 100 * criterion.max_flagged_share)
        axes[-1].set_ylabel("of explored frames (%)")
    return figure


def _by_generation(ax: Axes, generations: Sequence[GenerationRecord], values: np.ndarray) -> None:
    number = [g.generation for g in generations]
    ax.plot(number, values, "-", c=VERMILLION, marker="o", ms=5)
    many = len(generations) > 8
    ax.set_xticks(number[:: max(1, len(number) // 6)])
    if not many:
        ax.set_xticklabels([f"{g.generation}\n{g.score.frames} frames" for g in generations])
    ax.set_xlabel("generation")
    ax.margins(x=0.15)
    ax.set_ylim(0, 1.15 * np.nanmax(values, initial=0.0) or 1.0)


def _draw_bound(ax: Axes, bound: float) -> None:
    if np.isfinite(bound):
        ax.axhline(bound, c=BLUE, ls="--", lw=1.2)
        ax.set_ylim(top=max(ax.get_ylim()[1], 1.2 * bound))
        x = ax.get_xlim()[0]
        ax.annotate("bound", (x, bound), (3, 3), textcoords="offset points", color=BLUE, fontsize=8)


def uncertainty_figure(pairs: Sequence[HonestPair]) -> Figure:
    """Error against uncertainty before DFT, raw and calibrated, a panel for each label; needs a pair of a label."""
    points = {name: points for name in BOUNDED if (points := uncertainty_points(pairs, name))}
    with styled():
        figure, axes = panels([QUANTITIES[name].name for name in points], columns=4, height=2.95)
        for ax, (name, sides) in zip(axes, points.items(), strict=True):
            _uncertainty_panel(ax, name, sides)
        if axes:
            axes[0].legend(
                loc="lower right", bbox_to_anchor=(1, 1), ncols=2, handletextpad=0, columnspacing=0.8, borderaxespad=0.1
            )
    return figure


def _uncertainty_panel(ax: Axes, name: str, sides: Mapping[str, Sequence[Pair]]) -> None:
    quantity = QUANTITIES[name]
    everything = [value for pairs in sides.values() for p in pairs for value in (p.spread, p.error) if value > 0]
    low, high = (min(everything) / 2, max(everything) * 2) if everything else (0.1, 10.0)
    ends = np.array([low, high]) * quantity.error_scale
    ax.plot(ends, ends, c=FAINT, lw=1, zorder=0)
    looks = {"raw": {"facecolors": "none", "edgecolors": GREY}, "calibrated": {"c": BLUE, "alpha": 0.85}}
    for side, pairs in sides.items():
        x = np.clip([p.spread for p in pairs], low, high) * quantity.error_scale
        y = np.clip([p.error for p in pairs], low, high) * quantity.error_scale
        ax.scatter(x, y, s=20, label=side, **looks[side])
    ax.set(xlim=ends, ylim=ends)
    ax.set_box_aspect(1)
    logarithmic(ax, "xy")
    ax.set_xlabel(f"uncertainty ({quantity.error_unit})")
    ax.set_ylabel(f"honest error ({quantity.error_unit})")


def learning_figure(models: Sequence[TrainedModel]) -> Figure:
    """Loss and validation errors against epochs, generations one behind the other; needs at least one model."""
    labels = [name for name in QUANTITIES if any(name in row.validation for m in models for row in m.curve)]
    generations = sorted({model.generation for model in models})
    with styled():
        figure, axes = panels(["Training loss", *(QUANTITIES[name].name for name in labels)], height=2.7)
        for ax in axes:
            ax.set_xlabel("epoch, generations in sequence")
        axes[0].set_ylabel("loss")
        for ax, name in zip(axes[1:], labels, strict=True):
            ax.set_ylabel(f"validation RMSE ({QUANTITIES[name].error_unit})")
        start = 0
        for number, generation in enumerate(generations):
            members = [model for model in models if model.generation == generation]
            _draw_curves(axes, labels, members, start, CYCLE[number % len(CYCLE)])
            start += max((row.epoch for model in members for row in model.curve), default=0)
        for ax in axes:
            logarithmic(ax, "y")
        if len(generations) <= len(CYCLE):
            axes[0].legend(loc="upper right")
    return figure


def _draw_curves(
    axes: Sequence[Axes], labels: Sequence[str], members: Sequence[TrainedModel], start: int, colour: str
) -> None:
    for model in members:
        legend = f"generation {model.generation}" if model is members[0] else None
        epochs = [start + row.epoch for row in model.curve]
        axes[0].plot(epochs, [row.loss for row in model.curve], c=colour, lw=1.0, alpha=0.8, label=legend)
        for ax, name in zip(axes[1:], labels, strict=True):
            scale = QUANTITIES[name].error_scale
            rows = [row for row in model.curve if name in row.validation]
            x, y = [start + row.epoch for row in rows], [scale * row.validation[name] for row in rows]
            ax.plot(x, y, c=colour, lw=1.0, alpha=0.8, marker=".", ms=3)
