"""The verb ``sample``: first frames to look at before they are labelled."""

# ruff: noqa: PLC0415  (imports inside the commands keep `fieldloop --help` fast)

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from .errors import in_one_line, refuse_place


@in_one_line
def sample(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.yaml", help="A campaign file; its keys structure and seeds are enough.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The extended XYZ file of the frames.")] = Path(
        "frames.extxyz"
    ),
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print results only, no progress.")] = False,
) -> None:
    """Make the first frames of a campaign and write them, each with where it comes from; no DFT.

    A campaign started afterwards finds these frames made.

    \b
    Example:
      fieldloop sample campaign.yaml --out frames.extxyz
    """
    from ..campaign import read_parent
    from ..config import ConfigError, SamplingConfig, load_project
    from ..frame_files import write_frames
    from ..seeding import first_frames
    from .tables import new_console

    config = load_project(file, SamplingConfig)
    parent = read_parent(config)
    refuse_place(out)
    with sampling_progress(quiet) as progress:
        frames = first_frames(parent, config.seeds, config.directory, progress)
    try:
        write_frames(frames, out)
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror}") from error
    console = new_console()
    counts: dict[str, int] = {}
    for _, proposal in frames:
        counts[proposal.origin] = counts.get(proposal.origin, 0) + 1
    listed = ", ".join(f"{count} {origin}" for origin, count in counts.items())
    console.print(f"{len(frames)} frames in {out}: {listed}", markup=False, soft_wrap=True)


@contextmanager
def sampling_progress(quiet: bool) -> Iterator[Callable[[float], None]]:
    """A bar that appears once frames take time to make, and goes when they are made."""
    from rich.progress import Progress

    from .tables import new_console

    console = new_console()
    with Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("first frames", total=1.0, visible=False)
        yield lambda done: bar.update(task, completed=done, visible=done < 1)
