"""Verbs on the data: ``data query`` and ``data export``."""

# ruff: noqa: PLC0415  (imports inside the commands keep `fieldloop --help` fast)

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .errors import complain, in_one_line

app = typer.Typer(help="Look at the labelled frames, and take them out.", no_args_is_help=True)

Where = Annotated[
    Path | None,
    typer.Argument(
        metavar="[FILE.yaml|STORE]",
        help="Campaign file, campaign directory or store; where not given, the only campaign below this directory.",
        show_default=False,
    ),
]


class Status(StrEnum):
    """What became of a label."""

    done = "done"
    failed = "failed"
    passed = "passed"
    flagged = "flagged"


_CONDITIONS: dict[Status, dict] = {
    Status.done: {"status": "done"},
    Status.failed: {"status": "failed"},
    Status.passed: {"status": "done", "passed": True},
    Status.flagged: {"status": "done", "passed": False},
}


@app.command()
@in_one_line
def query(
    where: Where = None,
    has: Annotated[
        list[str] | None,
        typer.Option(help="A label that must be present, e.g. born_effective_charges; may be repeated."),
    ] = None,
    formula: Annotated[str | None, typer.Option(help="Formula of the whole cell, e.g. Al4As4.")] = None,
    element: Annotated[list[str] | None, typer.Option(help="An element that must occur; may be repeated.")] = None,
    generation: Annotated[int | None, typer.Option(help="The generation that the frame was proposed for.")] = None,
    origin: Annotated[
        str | None, typer.Option(help="Where the frame came from, e.g. parent, dynamics, import.")
    ] = None,
    status: Annotated[
        Status | None, typer.Option(help="Done ones have either passed all checks or are flagged.")
    ] = None,
    count: Annotated[bool, typer.Option("--count", help="Print the number of frames only.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the records as JSON, one a line.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write the finished ones among them to this extended XYZ file.")
    ] = None,
) -> None:
    """Find labelled frames; all conditions given must hold.

    \b
    Examples:
      fieldloop data query --has born_effective_charges --count
      fieldloop data query campaign.yaml --generation 1 --status flagged
      fieldloop data query run/fieldloop.sqlite --origin dynamics --out dynamics.extxyz
    """
    from ..campaign import locate_store, read_store
    from ..queries import count_labels, label_query, query_labels
    from .tables import label_table, new_console

    wanted = label_query(
        has=has or (),
        formula=formula,
        elements=element or (),
        generation=generation,
        origin=origin,
        **(_CONDITIONS[status] if status else {}),
    )
    store = read_store(locate_store(where))
    if out is not None:
        _export(list(query_labels(store, wanted)), out, "fieldloop")
    if count:
        typer.echo(count_labels(store, wanted))
    elif json:
        for label in query_labels(store, wanted):
            typer.echo(label.model_dump_json())
    elif out is None:
        labels = sorted(query_labels(store, wanted), key=lambda label: (label.proposal.generation, label.label_id))
        new_console().print(label_table(labels))
        typer.echo(f"{len(labels)} labelled frames")


@app.command()
@in_one_line
def export(
    out: Annotated[Path, typer.Option("--out", "-o", help="The extended XYZ file.", show_default=False)],
    where: Where = None,
    convention: Annotated[
        str, typer.Option(help="Whose names, units and branches: fieldloop, allegro-pol.")
    ] = "fieldloop",
    flagged: Annotated[bool, typer.Option("--flagged", help="Also frames that failed a check.")] = False,
) -> None:
    """Write labelled frames to an extended XYZ file, in the convention of a project.

    \b
    Example:
      fieldloop data export campaign.yaml --out train.extxyz --convention allegro-pol
    """
    from ...dft_inputs.conventions import get_convention
    from ..campaign import locate_store, read_store
    from ..queries import query_labels

    get_convention(convention)
    labels = list(query_labels(read_store(locate_store(where))))
    _export([label for label in labels if flagged or label.quality.passed], out, convention)


def _export(labels: list, out: Path, convention: str) -> None:
    """Write the finished ones among these labels."""
    from ...dft_inputs.conventions import write_extxyz
    from ..config import ConfigError

    done = [label for label in labels if label.status == "done"]
    if out.is_dir():
        raise ConfigError(f"cannot write {out}: it is a folder, name a file")
    if not out.parent.is_dir():
        raise ConfigError(f"cannot write {out}: there is no folder {out.parent}")
    written = write_extxyz(out, done, convention)
    left_out = f"; {len(labels) - len(done)} failed ones left out" if len(done) < len(labels) else ""
    complain(f"{written} frames written to {out}{left_out}")
