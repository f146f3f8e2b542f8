"""A label in parts, each a job of its own: zero field first, then the points along each axis, in one directory."""

from __future__ import annotations

from pathlib import Path

from ..records import Frame
from ..stencil import AXES, ZERO, Stencil
from .code import PwCode
from .failures import PwRunError
from .labels import failure_words, prepare_job
from .outputs import PwOutputError
from .run import lease
from .scratch import has_scratch
from .settings import PwSettings
from .stencil_runs import ORIGIN, StencilJob, run_stencil

PARTS = (ZERO, *AXES)
"""The axes start from zero field, and are independent of one another."""


def label_part(
    frame: Frame, settings: PwSettings, stencil: Stencil, code: PwCode, directory: Path | str, part: str
) -> str | None:
    """Run one part of a label; ``label_frame`` then finds its points and makes the label of all of them.

    Points on disk are kept, as by ``label_frame``. Parts may run at the same time in the same directory.

    Args:
        frame: the geometry.
        settings: level of theory.
        stencil: field points.
        code: how to run pw.x.
        directory: of the label.
        part: one of ``PARTS``.

    Returns:
        Why the part has failed, one line; None where it is done.

    Raises:
        As ``label_frame``.
    """
    job = prepare_job(frame, settings, stencil, code, directory)
    start = [name for name in job.fields if name in (ORIGIN, ZERO)]
    try:
        if part == ZERO:
            with lease(job.directory, code.lease_timeout, code.program) as descriptor:
                _run(job, start, descriptor)
            return None
        names = [name for name in job.fields if name not in start and name[-1] == part]
        if not has_scratch(job.folder(ZERO)):
            # Made again under the lease of the whole, as all axes start from it.
            with lease(job.directory, code.lease_timeout, code.program) as descriptor:
                _run(job, names, descriptor)
            return None
        folders = [job.folder(name) for name in names]
        with lease(job.directory, code.lease_timeout, code.program, part=part, among=folders) as descriptor:
            _run(job, names, descriptor)
    except (PwRunError, PwOutputError, OSError) as error:
        return failure_words(error)
    return None


def _run(job: StencilJob, names: list[str], descriptor: int) -> None:
    for _ in run_stencil(job, descriptor, only=names):
        pass
