"""Verbs on the data: ``data query`` and ``data export``."""

# ruff: noqa: PLC0415  (imports inside the commands keep `fieldloop --help` fast)

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from . import data_files
from .errors import complain, in_one_line
from .query_options import with_query

if TYPE_CHECKING:
    from ...dft_inputs.records import LabelledFrame
    from ..query import Query

app = typer.Typer(help="Look at the labelled frames, bring others in, and take them out.", no_args_is_help=True)
app.command("import")(data_files.import_labels)
app.command()(data_files.export)
app.command()(data_files.card)
app.command()(data_files.stats)

Where = Annotated[
    Path | None,
    typer.Argument(
        metavar="[FILE.yaml|STORE]",
        help="Campaign file, campaign directory or store; where not given, the only campaign below this directory.",
        show_default=False,
    ),
]


class Format(StrEnum):
    """How found frames are shown."""

    table = "table"
    json = "json"
    frames = "frames"


@app.command()
@in_one_line
@with_query
def query(
    wanted: Query,
    where: Where = None,
    count: Annotated[bool, typer.Option("--count", help="Print the number of frames only.")] = False,
    form: Annotated[
        Format, typer.Option("--format", help="A table, records as JSON (one a line), or extended XYZ.")
    ] = Format.table,
    json: Annotated[bool, typer.Option("--json", help="Short for --format json.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write the finished ones among them to this extended XYZ file.")
    ] = None,
) -> None:
    """Find labelled frames; all conditions given must hold. In Python: find(store, Query(...)), with the same words.

    \b
    Examples:
      fieldloop data query --labels born_effective_charges --count
      fieldloop data query campaign.yaml --generation ">=1" --flagged
      fieldloop data query RUN --elements Si,O --field ">0.01 V/A" --passed --format json
      fieldloop data query run/fieldloop.sqlite --origin dynamics --out dynamics.extxyz
    """
    from ..campaign import locate_store, read_store
    from ..queries import count_labels, find

    store = read_store(locate_store(where))
    if count:
        typer.echo(count_labels(store, wanted))
    if out is not None:
        _export(list(find(store, wanted)), out, "fieldloop")
    if not count and out is None:
        _show(find(store, wanted), Format.json if json else form)


def _show(found: Iterable[LabelledFrame], form: Format) -> None:
    """Print what was found."""
    from .tables import label_table, new_console

    if form == Format.json:
        for label in found:
            typer.echo(label.model_dump_json())
        return
    labels = sorted(found, key=lambda label: (label.proposal.generation, label.label_id))
    if form == Format.frames:
        with TemporaryDirectory() as folder:
            file = Path(folder) / "frames.extxyz"
            _export(labels, file, "fieldloop", "standard output")
            typer.echo(file.read_text(), nl=False)
        return
    new_console().print(label_table(labels))
    typer.echo(f"{len(labels)} labelled frames")


@app.command()
@in_one_line
def lineage(
    where: Annotated[
        Path, typer.Argument(metavar="FILE.yaml|STORE", help="Campaign file, campaign directory or store.")
    ],
    identity: Annotated[str, typer.Argument(metavar="ID", help="A frame_id, label_id or model_id, or how it begins.")],
    depth: Annotated[int, typer.Option(min=1, help="Steps away from it that the tree shows.")] = 4,
    json: Annotated[bool, typer.Option("--json", help="Print all ancestors and descendants as JSON.")] = False,
) -> None:
    """Say where a frame or a model comes from, and what became of it: who proposed it, what it was trained on.

    \b
    Example:
      fieldloop data lineage campaign.yaml 51475cbc
    """
    from ..campaign import locate_store, read_store
    from ..lineage import read_lineage
    from .lineage_tree import lineage_tree
    from .tables import new_console

    found = read_lineage(read_store(locate_store(where))).of(identity)
    if json:
        typer.echo(found.model_dump_json())
    else:
        new_console().print(lineage_tree(found, depth), soft_wrap=True)


def _export(labels: list[LabelledFrame], out: Path, convention: str, called: str = "") -> None:
    """Write the finished ones among these labels; the file may be called otherwise in what is said about it."""
    from ...dft_inputs.formats import write_extxyz
    from ..config import ConfigError

    done = [label for label in labels if label.status == "done"]
    if out.is_dir():
        raise ConfigError(f"cannot write {out}: it is a folder, name a file")
    if not out.parent.is_dir():
        raise ConfigError(f"cannot write {out}: there is no folder {out.parent}")
    written = write_extxyz(out, done, convention)
    left_out = f"; {len(labels) - len(done)} failed ones left out" if len(done) < len(labels) else ""
    complain(f"{written} frames written to {called or out}{left_out}")
