"""Verbs on the data: ``data query`` and ``data export``."""

# ruff: noqa: PLC0415  (imports inside the commands keep `fieldloop --help` fast)

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from .errors import complain, in_one_line

if TYPE_CHECKING:
    from ...dft_inputs.records import LabelledFrame

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
    Status.passed: {"passed": True},
    Status.flagged: {"passed": False},
}


class Format(StrEnum):
    """How found frames are shown."""

    table = "table"
    json = "json"
    frames = "frames"


Words = list[str] | None
Formula = Annotated[str | None, typer.Option(help="Formula of the whole cell, e.g. Al4As4.")]
Elements = Annotated[Words, typer.Option("--elements", "--element", help="That must occur: Si,O.")]
Field = Annotated[
    str | None, typer.Option(help="Strength of the field at which the labels hold: '>0.01 V/A', '0.5..2 MV/cm'.")
]
MetField = Annotated[str | None, typer.Option(help="Strength of the field of the dynamics that met the frame.")]
Labels = Annotated[Words, typer.Option("--labels", "--has", help="That must be present: forces,polarization.")]
OfStatus = Annotated[Status | None, typer.Option(help="Done ones have either passed all checks or are flagged.")]
Passed = Annotated[bool | None, typer.Option("--passed/--flagged", help="Short for --status.")]
Flags = Annotated[Words, typer.Option("--flags", "--flag", help="Checks that failed: enthalpy_law.")]
Generation = Annotated[str | None, typer.Option(help="That the frame was proposed for: 3, '>=2', 1..4.")]
Uncertainty = Annotated[
    Words, typer.Option(help="Of the model that proposed the frame: 'forces > 0.05 eV/A'; may be repeated.")
]
Code = Annotated[str | None, typer.Option(help="Code of the labels: pw.x.")]
Protocol = Annotated[str | None, typer.Option(help="Level of theory: fast, standard, paper.")]
Origin = Annotated[str | None, typer.Option(help="Where the frame came from, e.g. parent, dynamics, import.")]
OfModel = Annotated[str | None, typer.Option(help="model_id of the model that proposed the frame.")]
OfParent = Annotated[str | None, typer.Option(help="frame_id of the frame that it was made from.")]


@app.command()
@in_one_line
def query(
    where: Where = None,
    formula: Formula = None,
    elements: Elements = None,
    field: Field = None,
    met_field: MetField = None,
    labels: Labels = None,
    status: OfStatus = None,
    passed: Passed = None,
    flags: Flags = None,
    generation: Generation = None,
    uncertainty: Uncertainty = None,
    code: Code = None,
    protocol: Protocol = None,
    origin: Origin = None,
    model: OfModel = None,
    parent: OfParent = None,
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
    from ..queries import Query, QueryError, count_labels, find

    words = {
        "formula": formula,
        "elements": elements,
        "field": field,
        "met_field": met_field,
        "labels": labels,
        "passed": passed,
        "flags": flags,
        "generation": generation,
        "uncertainty": uncertainty,
        "code": code,
        "protocol": protocol,
        "origin": origin,
        "model": model,
        "parent": parent,
    }
    said = _CONDITIONS[status] if status else {}
    if passed is not None and said.get("passed", passed) != passed:
        raise QueryError(f"--status {status} and --{'passed' if passed else 'flagged'} exclude one another")
    wanted = Query.parse(words | said)
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
