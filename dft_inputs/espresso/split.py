"""A label in parts, each a job of its own: zero field first, then the points along each axis, in one directory."""

from __future__ import annotations

from pathlib import Path

from ..records import Frame
from ..stencil import AXES, ZERO, Stencil
from .code import PwCode
from .failures import PwRunError
from .labels import check_zero_field, failure_words, prepare_job, with_symmetry
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
    try:
        if part == ZERO or not has_scratch(job.folder(ZERO)):
            # Zero field is made, or made again, under the lease of the whole, as all axes start from it.
            with lease(job.directory, code.lease_timeout, code.program) as descriptor:
                _run(job, part, descriptor)
            return None
        folders = [job.folder(name) for name in stencil.points() if name[-1] == part]
        with lease(job.directory, code.lease_timeout, code.program, part=part, among=folders) as descriptor:
            _run(job, part, descriptor)
    except (PwRunError, PwOutputError, OSError) as error:
        return failure_words(error)
    return None


def _run(job: StencilJob, part: str, descriptor: int) -> None:
    """The points of a part that symmetry does not give, after a look at zero field."""
    for _, output in run_stencil(job, descriptor, only=(job.first,)):
        check_zero_field(job, output)
    if part != ZERO:
        job = with_symmetry(job, descriptor)
    names = (ORIGIN, ZERO) if part == ZERO else [name for name in job.fields if name[-1] == part]
    for _ in run_stencil(job, descriptor, only=names):
        pass
