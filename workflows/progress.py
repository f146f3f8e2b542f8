"""What a running flow shows: one live line for each kind of job, or plain lines where the output is no terminal.

Jobs are told apart by the first part of the directory that they run in (``labels/...``, ``training/...``).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from .executors import JobEvent

STAGES = {
    "parent": "parent crystal",
    "labels": "DFT labels",
    "training": "training",
    "exploration": "exploration",
    "selection": "selection",
}
"""Kinds of jobs that are shown, by directory. All others decide in milliseconds and are only shown when they fail."""

Fraction = Callable[[JobEvent, Path], float]
"""How much of a started job is done, from 0 to 1, by what it has left in its directory."""


@dataclass
class Stage:
    """Jobs of one kind.

    Attributes:
        expected: how many there will be, as far as is known.
        finished, found, failed: how many ran, were in the store, or came to nothing.
        running: each job at work and when it started (monotonic), by uuid.
        seconds: wall times of those that ran.
    """

    expected: int = 0
    finished: int = 0
    found: int = 0
    failed: int = 0
    running: dict[str, tuple[JobEvent, float]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    @property
    def settled(self) -> int:
        """Jobs with which nothing more will happen."""
        return self.finished + self.found + self.failed

    @property
    def total(self) -> int:
        """Never less than what was seen."""
        return max(self.expected, self.settled + len(self.running))

    def progress(self, fraction: Fraction, root: Path) -> float:
        """Jobs done, parts of running ones included."""
        parts = (fraction(job, root / str(job.metadata["directory"])) for job, _ in self.running.values())
        return self.settled + sum(parts)

    def remaining_seconds(self, progress: float, workers: int) -> float | None:
        """Time to the end of what is known now; None before the first job has shown how long one takes."""
        if not self.seconds or progress >= self.total:
            return None
        return (self.total - progress) * sum(self.seconds) / len(self.seconds) / min(workers, self.total)


class FlowProgress:
    """Listens to ``run_flow``: pass the object as ``events`` and run the flow within its context."""

    def __init__(
        self,
        console: Console,
        root: Path,
        *,
        workers: int,
        fractions: Mapping[str, Fraction] | None = None,
        trouble: Callable[[JobEvent], str | None] | None = None,
        quiet: bool = False,
    ):
        """Prepare the display.

        Args:
            console: where to print.
            root: of the campaign.
            workers: how many jobs run at once.
            fractions: how to see the progress within a job, by kind.
            trouble: why a job that finished failed all the same, in one line (a label that DFT could not make).
            quiet: show nothing.
        """
        self.console = console
        self.root = root
        self.workers = workers
        self.fractions = dict(fractions or {})
        self.trouble = trouble
        self.quiet = quiet
        self.stages: dict[str, Stage] = {}
        self._settled: set[str] = set()
        self._unsaid: dict[str, dict[str, int]] = {"found finished": {}, "not run, as what they need failed": {}}
        self._lock = threading.Lock()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self.console.is_terminal and not self.quiet:
            self._live = Live(
                get_renderable=self.render, console=self.console, refresh_per_second=2, redirect_stderr=False
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tell_counts()
        if self._live is not None:
            self._live.stop()

    def expect(self, kind: str, jobs: int) -> None:
        """That many jobs of a kind are to come."""
        with self._lock:
            self.stages.setdefault(kind, Stage()).expected += jobs

    def __call__(self, event: JobEvent) -> None:
        """Take note of an event."""
        directory = str(event.metadata.get("directory", ""))
        kind = directory.partition("/")[0]
        if kind not in STAGES:
            if event.kind == "failed":
                self._say(f"[red]{event.name} failed:[/] ", event.reason)
            return
        if event.uuid in self._settled:  # a later flow with the same job
            return
        if event.kind in ("finished", "found", "failed", "not_run"):
            self._settled.add(event.uuid)
        trouble = event.reason
        if event.kind in ("finished", "found") and self.trouble is not None:
            trouble = self.trouble(event) or ""
        with self._lock:
            stage = self.stages.setdefault(kind, Stage())
            self._count(stage, event, bool(trouble))
        self._report(kind, stage, event, trouble)

    def _count(self, stage: Stage, event: JobEvent, troubled: bool) -> None:
        if event.kind == "started":
            stage.running[event.uuid] = (event, time.monotonic())
        elif event.kind == "requeued":
            stage.running.pop(event.uuid, None)
        elif event.kind != "submitted":
            stage.running.pop(event.uuid, None)
            if event.kind == "finished":
                stage.seconds.append(event.seconds)
            if event.kind in ("failed", "not_run") or troubled:
                stage.failed += 1
            elif event.kind == "found":
                stage.found += 1
            else:
                stage.finished += 1

    def _report(self, kind: str, stage: Stage, event: JobEvent, trouble: str) -> None:
        """Failures are always told; the rest only where no live lines show it."""
        title = f"{STAGES[kind]} {stage.settled}/{stage.total}"
        if event.kind == "requeued":
            self._say(f"[yellow]{event.name} is run again:[/] ", event.reason)
        elif event.kind == "not_run":
            self._remember("not run, as what they need failed", kind)
        elif event.kind == "failed" or (trouble and event.kind in ("finished", "found")):
            self._say(f"[red]{title} failed:[/] ", trouble)
        elif self._live is None and event.kind == "found":
            self._remember("found finished", kind)
        elif self._live is None and event.kind == "finished":
            self._say(f"{title} done in {clock(event.seconds)}", "")

    def print(self, *results: RenderableType) -> None:
        """Print results of the flow, also where progress is quiet."""
        self._tell_counts()
        self.console.print(*results, soft_wrap=True, sep="\n", highlight=False)

    def _say(self, markup: str, text: str) -> None:
        """Print a line; ``text`` comes from elsewhere and is never read as markup."""
        if self.quiet:
            return
        self._tell_counts()
        line = self.console.render_str(markup, highlight=False)
        self.console.print(line.append(text), soft_wrap=True, highlight=False)

    def _remember(self, outcome: str, kind: str) -> None:
        """Many jobs with the same outcome become one line."""
        self._unsaid[outcome][kind] = self._unsaid[outcome].get(kind, 0) + 1

    def _tell_counts(self) -> None:
        for outcome, counts in self._unsaid.items():
            for kind, count in counts.items():
                if not self.quiet:
                    self.console.print(f"{STAGES[kind]}: {count} {outcome}", highlight=False)
            counts.clear()

    def render(self) -> Table:
        """The live lines."""
        table = Table.grid(padding=(0, 2))
        table.add_column(min_width=14)
        table.add_column(width=30)
        for _ in range(3):
            table.add_column(no_wrap=True)
        with self._lock:
            for kind, stage in self.stages.items():
                progress = stage.progress(self.fractions.get(kind, _unknown), self.root)
                remaining = stage.remaining_seconds(progress, self.workers)
                table.add_row(
                    STAGES[kind],
                    ProgressBar(total=max(stage.total, 1), completed=progress, width=30),
                    f"{stage.finished + stage.found}/{stage.total}",
                    _counts(stage),
                    f"about {clock(remaining)} left" if remaining is not None else "",
                )
        return table


def _counts(stage: Stage) -> str:
    parts = []
    if stage.running:
        oldest = min(start for _, start in stage.running.values())
        parts.append(f"[cyan]{len(stage.running)} running[/] ({clock(time.monotonic() - oldest)})")
    if stage.failed:
        parts.append(f"[red]{stage.failed} failed[/]")
    return ", ".join(parts)


def label_fraction(points: int, done_file: str) -> Fraction:
    """Progress of labels: field points with the file that says they are done, of as many as the stencil has."""
    return lambda _, directory: min(1.0, sum(1 for _ in directory.glob(f"*/{done_file}")) / points)


def training_fraction(first: int, later: int) -> Fraction:
    """Progress of trainings by their logs: epochs of the first generation, and of later ones."""

    def fraction(job: JobEvent, directory: Path) -> float:
        epochs = first if " 0." in job.name else later
        try:
            last = (directory / "training.log").read_text().splitlines()[-1]
            return min(1.0, json.loads(last)["epoch"] / epochs)
        except (OSError, IndexError, ValueError, KeyError):  # not begun, or a line being written
            return 0.0

    return fraction


def _unknown(job: JobEvent, directory: Path) -> float:
    return 0.0


def clock(seconds: float) -> str:
    """A duration for people: ``4.2 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
