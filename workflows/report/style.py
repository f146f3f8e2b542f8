"""How the report looks: units for people, colours, and figures as SVG that follow the page's light or dark theme."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import StringIO

import matplotlib.style
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ...dft_inputs.units import KBAR_IN_EV_PER_CUBIC_ANGSTROM

_WIDTH, _LEFT, _RIGHT, _BELOW, _ABOVE = 11.0, 0.72, 0.12, 0.62, 0.34
"""Of a figure and around each panel, inches."""

_GPA = 0.1 / KBAR_IN_EV_PER_CUBIC_ANGSTROM


@dataclass(frozen=True)
class Quantity:
    """A label as people read it.

    Attributes:
        name: of panels; ``symbol`` in tables.
        unit: of values, ``scale`` times the project's unit.
        error_unit: of errors, ``error_scale`` times the project's unit.
    """

    name: str
    symbol: str
    unit: str
    error_unit: str
    scale: float = 1.0
    error_scale: float = 1.0

    def error(self, value: float) -> str:
        """An error or uncertainty in the project's unit, as text with its unit."""
        return f"{significant(value * self.error_scale)} {self.error_unit}"


QUANTITIES = {
    "enthalpy": Quantity("Enthalpy", "H", "eV/atom", "meV/atom", error_scale=1e3),
    "forces": Quantity("Forces", "F", "eV/Å", "meV/Å", error_scale=1e3),
    "stress": Quantity("Stress", "σ", "GPa", "GPa", scale=_GPA, error_scale=_GPA),
    "polarization": Quantity("Polarization", "P", "e Å", "e Å"),
    "born_effective_charges": Quantity("Born charges", "Z*", "e", "e"),
    "polarizability": Quantity("Polarizability", "α", "e²Å²/eV", "e²Å²/eV"),
}
"""By label, in the order of ``records.LABELS``."""

# Okabe and Ito's palette, which the colour-blind can tell apart (Wong, Nat. Methods 8, 441 (2011)).
SKY, GREEN, VERMILLION, BLUE, ORANGE, PURPLE = "#56b4e9", "#009e73", "#d55e00", "#0072b2", "#e69f00", "#cc79a7"
GREY = "#8a9099"
CYCLE = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, GREY)

INK, FAINT = "#123456", "#654321"
"""Stand for the page's text and line colours; ``to_svg`` replaces them by its variables."""

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fieldloop",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "savefig.dpi": 160,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.alpha": 0.35,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.4,
}


def significant(value: float) -> str:
    """Three significant digits, without an exponent where that is readable."""
    value = float(f"{value:.2e}") if abs(value) < 100 else value
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        digits = 2 - int(np.floor(np.log10(abs(value)))) if value else 0
        return f"{value:.{max(digits, 0)}f}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def styled() -> AbstractContextManager[None]:
    """The style of the figures, whatever the user's own matplotlib settings are."""
    return matplotlib.style.context(["default", _STYLE])


def panels(names: Sequence[str], columns: int = 3, height: float = 3.3) -> tuple[Figure, list[Axes]]:
    """A figure with one titled panel for each name; margins are fixed, which draws much faster than a layout engine.

    Args:
        names: titles.
        columns: panels in a row at most.
        height: of a row, inches.
    """
    columns = min(columns, max(len(names), 2))
    rows = -(-len(names) // columns)
    width = _WIDTH / columns
    figure = Figure(figsize=(_WIDTH, height * rows))
    axes = []
    for number, name in enumerate(names):
        row, column = divmod(number, columns)
        corner = (column * width + _LEFT) / _WIDTH, ((rows - 1 - row) * height + _BELOW) / (rows * height)
        size = (width - _LEFT - _RIGHT) / _WIDTH, (height - _BELOW - _ABOVE) / (rows * height)
        axes.append(figure.add_axes((*corner, *size)))
        axes[-1].set_title(name, loc="left")
    return figure, axes


def logarithmic(ax: Axes, axes: str) -> None:
    """Make axes of a finished panel (``x``, ``y`` or ``xy``) logarithmic, with plain numbers on them."""
    for name in axes:
        ax.set(**{f"{name}scale": "log"})
        axis = getattr(ax, f"{name}axis")
        low, high = axis.get_view_interval()
        decades = np.log10(high / low)
        subs = (1.0,) if decades > 2 else (1.0, 2.0, 5.0) if decades > 0.7 else tuple(np.arange(1.0, 10.0))
        axis.set_major_locator(LogLocator(subs=subs, numticks=6 if decades > 2 else 12))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def note(ax: Axes, text: str, corner: str = "upper left") -> None:
    """A few words in a corner of a panel."""
    vertical, horizontal = corner.split()
    x, y = (0.03 if horizontal == "left" else 0.97), (0.97 if vertical == "upper" else 0.03)
    va = "top" if vertical == "upper" else "bottom"
    ax.text(x, y, text, transform=ax.transAxes, va=va, ha=horizontal, fontsize=8, linespacing=1.4)


def to_svg(figure: Figure, name: str) -> Markup:
    """A figure as an inline SVG element, the same text for the same figure.

    Args:
        figure: the figure.
        name: prefix of the ids inside, unique within the page.
    """
    buffer = StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with styled():
        figure.savefig(buffer, format="svg", metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{name}-", svg)
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', rf'<svg \1 role="img" aria-label="{name}">', svg, count=1)
    # Text, lines and ticks take the colours of the page; data keep theirs.
    return Markup(svg.replace(INK, "var(--ink)").replace(FAINT, "var(--line)"))  # noqa: S704  (our own figure)
