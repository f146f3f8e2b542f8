"""Verbs that move data: ``data import``, ``data export`` and ``data card``."""

# ruff: noqa: PLC0415  (imports inside the commands keep `fieldloop --help` fast)

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .errors import BAD_INPUT, complain, in_one_line
from .query_options import with_query

if TYPE_CHECKING:
    from ...dft_inputs.records import LabelledFrame
    from ..data_import import ImportReport
    from ..query import Query

Where = Annotated[
    Path | None,
    typer.Argument(
        metavar="[FILE.yaml|STORE]",
        help="Campaign file, campaign directory or store; where not given, the only campaign below this directory.",
        show_default=False,
    ),
]
FormatOption = Annotated[
    str | None,
    typer.Option("--format", help="extxyz, ase-db, aselmdb, deepmd, parquet, fireann; from the name if not given."),
]


@in_one_line
def import_labels(
    source: Annotated[Path, typer.Argument(help="A file, or a folder of runs.", show_default=False)],
    convention: Annotated[
        str,
        typer.Option(
            help="Whose names, units and signs: fieldloop, allegro-pol, mace-field, fireann, sevennet-polar, deepmd; "
            "pw.x or vasp for outputs of the code.",
            show_default=False,
        ),
    ],
    store: Annotated[
        Path | None, typer.Option(help="The store that takes the labels; where not given, they are verified only.")
    ] = None,
    file_format: FormatOption = None,
    despite_faults: Annotated[
        bool, typer.Option("--despite-faults", help="Store labels that physics contradicts, flagged.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Take in labels made elsewhere: read by a named convention, verified by physics.

    A report of what was refused and why is printed, and written beside the store. Where physics contradicts the
    convention nothing is stored.

    \b
    Examples:
      fieldloop data import SiO2.xyz --convention allegro-pol --store data.sqlite
      fieldloop data import runs/ --convention pw.x
    """
    from ...dft_inputs.files import write_atomically
    from ...dft_inputs.formats import read_labels
    from ..data_import import import_labels as run
    from ..data_import import open_import_store, survey

    if store is None:
        report = survey(source, convention, file_format)
    else:
        read_labels(source, convention, file_format)  # refuses what is no source before a store is made
        opened = open_import_store(store)
        try:
            report = run(source, convention, opened, file_format, despite_faults=despite_faults)
        finally:
            opened.close()
        beside = store.with_name(f"{store.name}.import-{source.name}.json")
        write_atomically(beside, report.model_dump_json(indent=1) + "\n")
        complain(f"report written to {beside}")
    if json:
        typer.echo(report.model_dump_json())
    else:
        _show(report)
    if report.faults and not report.stored:
        complain(f"not imported: {'; '.join(report.faults)}. Name another convention, or see --despite-faults")
        raise typer.Exit(BAD_INPUT)
    if not report.frames:
        complain(f"nothing could be read from {source}")
        raise typer.Exit(BAD_INPUT)


def _show(report: ImportReport) -> None:
    """The report as tables."""
    from rich.markup import escape
    from rich.table import Table

    from .tables import new_console

    console = new_console()
    colours = {"ok": "green", "wrong": "red", "cannot tell": "yellow"}
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("check", "verdict", "fault", "evidence"):
        table.add_column(column)
    for verdict in report.verdicts:
        outcome = f"[{colours[verdict.outcome]}]{verdict.outcome}[/]"
        table.add_row(verdict.check, outcome, escape(verdict.fault), escape(verdict.detail))
    if report.verdicts:
        console.print(table)
    if report.refused:
        refusals = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        refusals.add_column("refused")
        refusals.add_column("why")
        for refusal in report.refused[:20]:
            refusals.add_row(escape(refusal.where), escape(refusal.reason))
        console.print(refusals)
        if len(report.refused) > 20:
            typer.echo(f"and {len(report.refused) - 20} more")
    counts = ", ".join(f"{name} {count}" for name, count in report.labels.items())
    typer.echo(f"{report.frames} frames read ({counts}), {len(report.refused)} refused, {report.stored} stored")
    if report.ignored:
        typer.echo(f"not read, as {report.convention} has no word for it: {'; '.join(report.ignored)}")
    if report.flagged:
        flagged = ", ".join(f"{name} {count}" for name, count in report.flagged.items())
        typer.echo(f"flagged, so not trained on: {flagged}")


@in_one_line
@with_query
def export(
    wanted: Query,
    where: Where = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The file or folder to write.")] = None,
    convention: Annotated[
        str, typer.Option(help="Whose names, units and branches: fieldloop, allegro-pol, mace-field, deepmd, ...")
    ] = "fieldloop",
    file_format: FormatOption = None,
    mixed: Annotated[bool, typer.Option("--mixed", help="Also labels of several levels of theory.")] = False,
) -> None:
    """Write labelled frames to a file, in the convention of a project and the format of a tool.

    Frames that passed their checks, or those that --status or --flagged name; all other conditions must hold too.

    \b
    Examples:
      fieldloop data export campaign.yaml --out train.extxyz --convention allegro-pol
      fieldloop data export data.sqlite --out train --convention deepmd --format deepmd --elements Si,O
    """
    from ...dft_inputs.consistency import MixedLabelsError, in_one_level
    from ...dft_inputs.conventions import get_convention
    from ...dft_inputs.formats import guess_format, write_labels
    from ..campaign import locate_store, read_store
    from ..config import ConfigError
    from ..queries import find

    if out is None:
        raise ConfigError("name the file or folder to write with --out")
    chosen = get_convention(convention)
    file_format = file_format or guess_format(out, convention)
    if out.is_dir() and file_format != "deepmd":
        raise ConfigError(f"cannot write {out}: it is a folder, name a file")
    if not out.parent.is_dir():
        raise ConfigError(f"cannot write {out}: there is no folder {out.parent}")
    failed, flagged, dropped = 0, 0, set[str]()
    flagged_too = wanted.status is not None or wanted.passed is not None

    def finished() -> Iterator[LabelledFrame]:
        nonlocal failed, flagged
        for label in find(read_store(locate_store(where)), wanted):
            if label.status != "done":
                failed += 1
            elif label.quality.passed or flagged_too:
                dropped.update(set(label.response.labels) - set(chosen.words_for(label)))
                yield label
            else:
                flagged += 1

    try:
        written = write_labels(out, finished() if mixed else in_one_level(finished()), convention, file_format)
    except MixedLabelsError as error:
        raise ConfigError(
            f"{error.difference}: choose with --code, --protocol or --formula, or give --mixed"
        ) from error
    left_out = f"; {failed} failed ones left out" if failed else ""
    left_out += f"; {flagged} flagged ones left out (--status done takes them)" if flagged else ""
    complain(f"{written} frames written to {out}{left_out}")
    if dropped:
        complain(f"{convention!r} has no word for {', '.join(sorted(dropped))}: left out")


@in_one_line
def card(
    where: Where = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The Markdown file; the JSON is written beside it.")] = Path(
        "DATA_CARD.md"
    ),
    name: Annotated[str | None, typer.Option(help="Of the data set; that of the store if not given.")] = None,
    licence: Annotated[list[str] | None, typer.Option(help="Licence of the labels; may be repeated.")] = None,
    validation: Annotated[float, typer.Option(min=0, max=0.5, help="Share of frames for validation.")] = 0.1,
) -> None:
    """Describe a data set: counts, ranges, quality, licences, hashes, and splits that keep trajectories whole.

    \b
    Example:
      fieldloop data card campaign.yaml --out DATA_CARD.md --licence "CC BY 4.0"
    """
    from ...dft_inputs.files import write_atomically
    from ..campaign import locate_store, read_store
    from ..config import ConfigError
    from ..data_card import make_card, to_markdown
    from ..queries import query_labels

    if out.suffix != ".md" or not out.parent.is_dir():
        raise ConfigError(f"cannot write {out}: name a .md file in a folder that is there")
    store = locate_store(where)
    described = make_card(
        name or (store.parent.name or store.stem), query_labels(read_store(store)), licence or (), validation
    )
    write_atomically(out, to_markdown(described))
    write_atomically(out.with_suffix(".json"), described.model_dump_json(indent=1) + "\n")
    complain(f"{out} and {out.with_suffix('.json').name} written")


@in_one_line
def stats(where: Where = None) -> None:
    """Show what a store holds: formulas, labels, ranges, quality.

    \b
    Example:
      fieldloop data stats data.sqlite
    """
    from rich.markdown import Markdown

    from ..campaign import locate_store, read_store
    from ..data_card import make_card, to_markdown
    from ..queries import query_labels
    from .tables import new_console

    store = locate_store(where)
    described = make_card(store.parent.name or store.stem, query_labels(read_store(store)))
    new_console().print(Markdown(to_markdown(described)))
