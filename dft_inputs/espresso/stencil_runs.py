"""The pw.x runs of one label: which start from which, what is on disk already, and what can go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..pseudopotentials import Pseudopotential
from ..records import Frame
from ..stencil import ZERO, Stencil
from .code import PwCode
from .inputs import field_input
from .outputs import PwOutput
from .run import drop_scratch, has_scratch, link_pseudopotentials, run_point, stored_point
from .settings import PwSettings

ORIGIN = "origin"
"""The E = 0 run that precedes a stencil about a finite field: string phases are well defined there."""


@dataclass(frozen=True)
class StencilJob:
    """One frame to label, with all that its runs need."""

    frame: Frame
    settings: PwSettings
    stencil: Stencil
    code: PwCode
    pseudopotentials: dict[str, Pseudopotential]
    directory: Path
    label_id: str

    @property
    def fields(self) -> dict[str, np.ndarray]:
        """Field of each run by name, in the order of running."""
        biased = any(self.stencil.base)
        return {ORIGIN: np.zeros(3), **self.stencil.points()} if biased else self.stencil.points()

    def folder(self, name: str) -> Path:
        """Directory of a run."""
        return self.directory / (name if name[0] not in "+-" else f"field{name}")

    def text(self, name: str) -> str:
        """Input of a run."""
        return field_input(
            self.frame,
            self.settings,
            self.pseudopotentials,
            self.fields[name],
            restart=name != next(iter(self.fields)),
            comment=f"label {self.label_id}, point {name}",
        )


def run_stencil(job: StencilJob, texts: Mapping[str, str], descriptor: int) -> Iterator[tuple[str, PwOutput]]:
    """Yield each finished run in order, running only what is not on disk; large files go when all is done."""
    names = list(job.fields)
    parents = {name: names[max(0, min(i - 1, names.index(ZERO)))] for i, name in enumerate(names)}
    stored = {name: stored_point(job.folder(name), texts[name]) for name in names}
    link_pseudopotentials(job.directory, job.pseudopotentials)
    for name in names:
        output, parent = stored[name], parents[name]
        if output is None and name != parent and not has_scratch(job.folder(parent)):
            # Its scratch files are gone: run the chain again, as later points are relative to the phases it writes.
            stored = dict.fromkeys(names)
            break
    for name in names:
        output, parent = stored[name], parents[name]
        if output is None:
            start = None if name == parent else job.folder(parent)
            output = run_point(
                job.folder(name), texts[name], job.code, name=name, lease_descriptor=descriptor, start_from=start
            )
            if name in parents.values():
                stored = dict.fromkeys(names)
            else:
                drop_scratch(job.folder(name))
        yield name, output
    for name in names:
        drop_scratch(job.folder(name))
