"""Figures of what was run: polarization along the dynamics, quality of the labels, cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ...dft_inputs.records import LabelledFrame
from ...dft_inputs.units import E_PER_SQUARE_ANGSTROM_IN_MICROCOULOMB_PER_SQUARE_CM
from ...model.dynamics.trajectory import ReplicaTrajectory
from .style import BLUE, CYCLE, GREEN, GREY, ORANGE, SKY, VERMILLION, logarithmic, note, panels, styled
from .tables import GenerationCost, vector

MOST_RUNS = 24
_MOST_POINTS = 1000


def polarization_figure(runs: Sequence[ReplicaTrajectory], temperatures: Sequence[float]) -> Figure:
    """P(t) along the field and the kinetic temperature of replicas; those at equal conditions share a colour.

    Args:
        runs: at most ``MOST_RUNS`` are drawn; those in no field are projected on the strongest field of the others.
        temperatures: of their thermostats, K.
    """
    fallback = _strongest_direction(runs)
    colours: dict[str, str] = {}
    with styled():
        figure, (left, right) = panels(["Polarization along the field", "Temperature"], height=3.4)
        for run, temperature in zip(runs[:MOST_RUNS], temperatures, strict=False):
            if len(run) == 0:
                continue
            condition = f"{temperature:.0f} K, E = {vector(run.field[0])} V/Å"
            legend = None if condition in colours else condition
            colour = colours.setdefault(condition, CYCLE[len(colours) % len(CYCLE)])
            every = slice(None, None, max(1, len(run) // _MOST_POINTS))
            time = run.time[every] / 1000
            left.plot(time, along_field(run, fallback)[every], c=colour, lw=1.1, label=legend)
            right.plot(time, run.temperature()[every], c=colour, lw=1.1)
        left.set_ylabel("P(t) − P(0)  (µC/cm²)")
        right.set_ylabel("kinetic temperature (K)")
        for ax in (left, right):
            ax.set_xlabel("time (ps)")
        if colours:
            left.legend(loc="best", fontsize=7.5)
    return figure


def along_field(run: ReplicaTrajectory, fallback: np.ndarray) -> np.ndarray:
    """(P(t) - P(0)).E / (|E| V) in uC/cm^2, (T,), with the first field; along ``fallback`` where that is zero."""
    strength = np.linalg.norm(run.field[0])
    direction = run.field[0] / strength if strength > 0 else fallback
    moved = (run.polarization - run.polarization[0]) @ direction
    return moved / run.start.volume * E_PER_SQUARE_ANGSTROM_IN_MICROCOULOMB_PER_SQUARE_CM


def _strongest_direction(runs: Sequence[ReplicaTrajectory]) -> np.ndarray:
    fields = [run.field[0] for run in runs if len(run)]
    strongest = max(fields, key=lambda field: float(np.linalg.norm(field)), default=np.zeros(3))
    strength = np.linalg.norm(strongest)
    return strongest / strength if strength > 0 else np.array([0.0, 0.0, 1.0])


def quality_figure(labels: Sequence[LabelledFrame]) -> Figure:
    """Histograms of the checks of all finished labels, flagged ones apart."""
    checks = {
        "Enthalpy law": ("enthalpy_law_error", "|H(+E) + H(−E) − 2H(0) + αE²| / αE²", True),
        "Critical field": ("critical_field_fraction", "largest e|E·a|N / gap", False),
        "SCF accuracy": ("scf_accuracy", "remaining energy error (eV)", True),
    }
    with styled():
        figure, axes = panels(list(checks), height=2.8)
        for ax, (name, text, on_logarithm) in zip(axes, checks.values(), strict=True):
            known = [label for label in labels if label.status == "done" and getattr(label.quality, name) is not None]
            values = np.array([abs(getattr(label.quality, name)) for label in known])
            flagged = np.array([not label.quality.passed for label in known], dtype=bool)
            _histogram(ax, values, flagged, on_logarithm)
            ax.set_xlabel(text)
            ax.set_ylabel("frames")
        if axes[1].has_data():
            axes[1].set_xlim(left=0)
            axes[1].xaxis.set_major_locator(MaxNLocator(5))
        if axes[0].has_data():
            axes[0].legend(loc="upper right")
    return figure


def _histogram(ax: Axes, values: np.ndarray, flagged: np.ndarray, on_logarithm: bool) -> None:
    if not len(values):
        note(ax, "not known for any frame")
        return
    if on_logarithm:
        values = np.maximum(values, 1e-16)
        low, high = np.floor(np.log10(values.min())), np.ceil(np.log10(values.max()))
        edges = np.logspace(low, max(high, low + 1), int(4 * max(high - low, 1)) + 1)
    else:
        edges = np.linspace(0, 1.1 * values.max() or 1.0, 16)
    parts = [values[~flagged], values[flagged]]
    ax.hist(parts, edges.tolist(), stacked=True, color=[BLUE, VERMILLION], label=["passed", "flagged"])
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    if on_logarithm:
        logarithmic(ax, "x")


def cost_figure(costs: Sequence[GenerationCost]) -> Figure:
    """Wall time by generation and kind of work, and the number of SCFs."""
    generations = [cost.generation for cost in costs]
    longest = max((cost.seconds for cost in costs), default=0.0)
    unit, scale = ("h", 3600.0) if longest > 2 * 3600 else ("min", 60.0)
    kinds = {
        "DFT": (BLUE, [cost.dft_seconds for cost in costs]),
        "training": (ORANGE, [cost.training_seconds for cost in costs]),
        "exploration": (GREEN, [cost.exploration_seconds for cost in costs]),
    }
    with styled():
        figure, (left, right) = panels(["Time of all jobs", "SCF calculations"], height=2.8)
        bottom = np.zeros(len(costs))
        for name, (colour, seconds) in kinds.items():
            heights = np.array(seconds) / scale
            left.bar(generations, heights, bottom=bottom, color=colour, width=0.6, label=name)
            bottom = bottom + heights
        left.set_ylabel(f"time ({unit})")
        left.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.1)
        right.bar(generations, [cost.scf_count for cost in costs], color=SKY, width=0.6, edgecolor=GREY, linewidth=0.4)
        right.set_ylabel("SCFs")
        for ax in (left, right):
            ax.set_xlabel("generation of the frames")
            ax.set_xticks(generations)
            ax.grid(visible=False, axis="x")
    return figure
