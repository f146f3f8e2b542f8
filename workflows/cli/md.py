"""The verb ``md``: molecular dynamics of a model in a field, outside of a campaign."""

# ruff: noqa: PLC0415  (imports inside the commands keep `fieldloop --help` fast)

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .errors import in_one_line, refuse_place

if TYPE_CHECKING:
    from rich.table import Table

    from ...active_learning.uncertainty.watch import UncertaintyWatch
    from ...model.dynamics import DynamicsResult, Progress
    from ..md_files import PreparedRun

_EVERY = 20.0
"""Seconds between lines where the output is no terminal."""

Models = Annotated[
    list[Path],
    typer.Argument(
        metavar="MODEL...", help="Folder of a model or of a training; the first drives, all judge.", show_default=False
    ),
]
Structure = Annotated[
    Path, typer.Option("--structure", "-x", help="The crystal, in any format that ASE reads.", show_default=False)
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of trajectory, uncertain frames and settings.")]
Settings = Annotated[
    Path | None,
    typer.Option(
        "--settings",
        "-s",
        metavar="FILE.yaml",
        help="Sections dynamics and uncertainty; keys replicas, supercell, expansion.",
        show_default=False,
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change of a setting: dynamics.steps=1000; may be repeated.", show_default=False),
]
BeyondRange = Annotated[
    bool, typer.Option("--beyond-range", help="Run also in fields that the labels of the model do not reach.")
]
Export = Annotated[
    Path | None,
    typer.Option(metavar="FILE.extxyz", help="Write the trajectory as extended XYZ in the end.", show_default=False),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results only, no progress.")]


@in_one_line
def md(
    models: Models,
    structure: Structure,
    out: Out = Path("md"),
    settings: Settings = None,
    change: Changes = None,
    beyond_range: BeyondRange = False,
    export: Export = None,
    quiet: Quiet = False,
) -> None:
    """Run molecular dynamics in any field. The same command goes on with a run that was interrupted.

    More steps extend a finished run. With two models or more, bounds in the section uncertainty flag frames for DFT
    and stop replicas.

    \b
    Examples:
      fieldloop md trained -x quartz.vasp --set dynamics.steps=10000 --set "dynamics.fields=[[0, 0, 1 MV/cm]]"
      fieldloop md trained -x quartz.vasp -s md.yaml --set "supercell=[4, 4, 4]" --export quartz.extxyz
      fieldloop md one two three -x quartz.vasp -s md.yaml --set uncertainty.stop.forces=0.5
    """
    from ..md_files import MdRequest, prepare_md, read_md_section

    if export is not None:
        refuse_place(export)
    section = read_md_section(settings, change or [])
    _run(prepare_md(MdRequest(tuple(models), structure, out, section, beyond_range)), export, quiet)


def _run(prepared: PreparedRun, export: Path | None, quiet: bool) -> None:
    """Run and say how it went."""
    from ..frame_files import write_trajectory
    from ..md_files import run_md
    from ..progress import clock
    from .errors import complain
    from .tables import new_console

    for line in prepared.warnings:
        complain(f"warning: {line}")
    console = new_console()
    console.print(_what(prepared), markup=False, soft_wrap=True)
    progress = None if quiet else RunProgress()
    try:
        result, watch = run_md(prepared, progress)
    finally:
        if progress is not None:
            progress.close()
    console.print(summary_table(result))
    lines = [f"trajectory in {prepared.request.out}, {result.steps} steps in {clock(result.seconds)}"]
    lines += _said_of_uncertainty(prepared, watch)
    if export is not None:
        lines.append(f"{write_trajectory(result.trajectory, export)} frames in {export}")
    console.print(*lines, sep="\n", markup=False, soft_wrap=True)


def _what(prepared: PreparedRun) -> str:
    section, frame = prepared.request.section, prepared.frames[0]
    parts = [
        f"{frame.formula}, {len(frame)} atoms" + (f" x {len(prepared.frames)}" if len(prepared.frames) > 1 else ""),
        f"model {prepared.model_id}"
        + ("" if section.expansion == "full" else f", {section.expansion}")
        + (", compiled" if section.compile else ""),
        f"{section.dynamics.ensemble}, {section.dynamics.steps} steps of {section.dynamics.timestep:g} fs",
        "on " + (", ".join(section.devices) or prepared.model.device.type),
    ]
    return "; ".join(parts)


def _said_of_uncertainty(prepared: PreparedRun, watch: UncertaintyWatch | None) -> list[str]:
    from ...active_learning.labels import UNITS
    from ..md_files import UNCERTAIN_FRAMES

    if watch is None:
        return []
    largest = ", ".join(f"{name} {value:.3g} {UNITS[name]}" for name, value in watch.largest.items())
    lines = [f"largest uncertainty: {largest}"] if largest else []
    if watch.flagged:
        lines.append(f"{len(watch.flagged)} uncertain frames in {prepared.request.out / UNCERTAIN_FRAMES}")
    return lines


def summary_table(result: DynamicsResult) -> Table:
    """One row for each replica; means over the whole run."""
    from rich.table import Table

    from ...dft_inputs.units import MV_PER_CM_IN_V_PER_ANGSTROM

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("replica", "E, MV/cm", "T, K", "U, eV/atom", "P, e A", "drift, meV/atom", "ended"):
        table.add_column(name, justify="left" if name == "ended" else "right")
    for outcome in result.outcomes:
        series = result.trajectory.series(outcome.replica)
        if not len(series):
            continue
        atoms = len(outcome.frame)
        field = series.field[-1] / MV_PER_CM_IN_V_PER_ANGSTROM
        ended = f"{outcome.status} at {outcome.time:g} fs" + (f": {outcome.reason}" if outcome.reason else "")
        table.add_row(
            str(outcome.replica),
            " ".join(f"{x:.3g}" for x in field),
            f"{series.temperature.mean():.1f}",
            f"{series.enthalpy.mean() / atoms:.5f}",
            " ".join(f"{x:.4f}" for x in series.polarization.mean(axis=0)),
            f"{1000 * drift(series) / atoms:.3g}",
            ended,
        )
    return table


def drift(series: Any) -> float:
    """What the conserved quantity gains over a run by its linear trend, eV."""
    import numpy as np

    if len(series) < 2:
        return 0.0
    return float(np.polyfit(series.time - series.time[0], series.conserved, 1)[0] * (series.time[-1] - series.time[0]))


class RunProgress:
    """Called along the way: one live line, or a line now and then where the output is no terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._status: Any = None
        self._said = 0.0
        self._told = False

    def __call__(self, progress: Progress) -> None:
        """Take note."""
        line = (
            f"step {progress.step}/{progress.steps}, {progress.active} replicas, {progress.ns_per_day:.3g} ns/day, "
            f"{progress.atom_steps_per_second:.3g} atom-steps/s"
        )
        now = time.monotonic()
        if not self._told:
            self._told = True
            self._console.print(progress.blocks, markup=False, soft_wrap=True)
        if self._console.is_terminal:
            if self._status is None:
                self._status = self._console.status(line)
                self._status.start()
            self._status.update(line)
        elif progress.step == progress.steps or now - self._said > _EVERY:
            self._said = now
            self._console.print(line, markup=False, soft_wrap=True)

    def close(self) -> None:
        """End the live line."""
        if self._status is not None:
            self._status.stop()
            self._status = None
