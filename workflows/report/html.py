"""Assembling the report: figures and tables into one HTML file that needs nothing from outside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from ...active_learning.criteria import StopCriterion
from ...dft_inputs.files import write_atomically
from ...model.dynamics.trajectory import read_trajectory
from ..paths import located
from ..queries import Campaign
from ..records import Exploration
from . import figures, figures_runs, tables
from .calibration import calibration_rows
from .parity import collect_parity
from .style import QUANTITIES, to_svg

_SHOWN_EXPLORATIONS = 4


@dataclass(frozen=True)
class Runs:
    """P(t) of the replicas of one exploration, or why there is none."""

    generation: int
    svg: Markup | None
    note: str


def write_report(
    campaign: Campaign, path: Path, *, criterion: StopCriterion | None = None, title: str = "fieldloop campaign"
) -> Path:
    """Write the report of a campaign, finished or not.

    The same records give the same file, byte for byte. Sections without data say so.

    Args:
        campaign: from ``read_campaign``.
        path: of the HTML file; replaced atomically.
        criterion: its bounds are drawn beside the honest errors.
        title: of the page, e.g. the campaign's name.

    Returns:
        The path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, render(campaign, criterion, title))
    return path


def render(campaign: Campaign, criterion: StopCriterion | None, title: str) -> str:
    """The page as text."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    done = [label for label in campaign.labels if label.status == "done"]
    pairs = [pair for generation in campaign.generations for pair in generation.pairs]
    costs = tables.generation_costs(campaign)
    parity = collect_parity(campaign)
    return environment.get_template("report.html").render(
        title=title,
        headline=tables.headline(campaign, criterion),
        campaign=campaign,
        quantities=QUANTITIES,
        parity=_svg("parity", bool(parity.series), lambda: figures.parity_figure(parity)),
        parity_notes=parity.notes,
        honest=_svg(
            "honest",
            bool(campaign.generations),
            lambda: figures.generations_figure(campaign.generations, criterion),
        ),
        generation_rows=tables.generation_rows(campaign),
        error_columns=tables.error_columns(),
        uncertainty=_svg("uncertainty", bool(pairs), lambda: figures.uncertainty_figure(pairs)),
        calibration_rows=calibration_rows(campaign),
        runs=_runs(campaign),
        run_rows=tables.run_rows(campaign),
        quality=_svg("quality", bool(done), lambda: figures_runs.quality_figure(done)),
        flag_rows=tables.flag_rows(campaign),
        cost=_svg("cost", bool(costs), lambda: figures_runs.cost_figure(costs)),
        costs=costs,
        learning=_svg("learning", bool(campaign.models), lambda: figures.learning_figure(campaign.models)),
        frame_rows=tables.frame_rows(campaign),
        duration=tables.duration,
        vector=tables.vector,
    )


def _svg(name: str, known: bool, draw: Callable[[], Figure]) -> Markup | None:
    return to_svg(draw(), name) if known else None


def _runs(campaign: Campaign) -> list[Runs]:
    """The latest explorations, last one first."""
    return [_run(campaign.root, exploration) for exploration in campaign.explorations[: -_SHOWN_EXPLORATIONS - 1 : -1]]


def _run(root: Path, exploration: Exploration) -> Runs:
    generation = exploration.generation
    try:
        trajectory = read_trajectory(located(exploration.directory, root) / "trajectory")
        replicas = trajectory.replicas(range(min(trajectory.n_replicas, figures_runs.MOST_RUNS)))
    except (OSError, ValueError) as error:
        return Runs(generation, None, f"The trajectory cannot be shown: {error}.")
    temperatures = [float(t) for t in trajectory.meta.settings.temperatures_of(trajectory.n_replicas)]
    left_out = trajectory.n_replicas - len(replicas)
    text = f"{left_out} of {trajectory.n_replicas} replicas are not drawn." if left_out else ""
    svg = to_svg(figures_runs.polarization_figure(replicas, temperatures), f"run{generation}")
    return Runs(generation, svg, text)
