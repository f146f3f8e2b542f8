"""The verb ``converge``: which mesh, cutoff, field step and threshold a wanted accuracy needs."""

# ruff: noqa: PLC0415  (imports inside the command keep `fieldloop --help` fast)

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from .errors import complain, in_one_line, refuse_place
from .running import Quiet, RetryFailed

if TYPE_CHECKING:
    from jobflow.core.store import JobStore
    from rich.console import Console

    from ..convergence.flow import PreparedStudy
    from ..convergence.records import ConvergenceStudy


@in_one_line
def converge(
    path: Annotated[
        Path, typer.Argument(help="File of a study, or a folder that holds a converge.yaml.", show_default=False)
    ],
    write: Annotated[
        Path | None,
        typer.Option(
            "--write",
            "-w",
            metavar="FILE.yaml",
            help="Write the recommended protocol to this file.",
            show_default=False,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the study as JSON, no tables.")] = False,
    retry_failed: RetryFailed = False,
    quiet: Quiet = False,
) -> None:
    """Vary mesh, cutoff, field step and SCF threshold on one crystal, and recommend a protocol.

    Tables, plots and the numbers go to the directory of the study. The same command resumes after any interruption, and
    runs only what is new where values were added.

    \b
    Exit code: 0 finished, 1 labels failed, 2 bad input, 130 interrupted.

    \b
    Examples:
      fieldloop converge examples/alas
      fieldloop converge examples/quartz/converge.yaml --write protocol.yaml
    """
    raise typer.Exit(_run_study(path, write, json=json, retry_failed=retry_failed, quiet=quiet or json))


def _run_study(path: Path, write: Path | None, *, json: bool, retry_failed: bool, quiet: bool) -> int:
    from ..convergence.config import load_convergence
    from ..convergence.flow import prepare_study
    from .campaigns import interrupted, label_progress, run_checked, verdict
    from .tables import new_console

    if write is not None:
        refuse_place(write)
    study = prepare_study(load_convergence(path))
    store = _open_store(study)
    console = new_console()
    labels = study.maker.label_ids(study.frame)
    if not quiet:
        text = f"study {study.config.name}: {len(labels)} labels of {study.frame.formula} in {study.config.directory}"
        console.print(text, markup=False, soft_wrap=True)
    progress = label_progress(console, study.config, store, quiet, study.maker.label)
    progress.expect("parent", len(study.checks))
    progress.expect("labels", len(labels))
    try:
        with progress:
            result = run_checked(study.config, store, study.checks, study.flow, progress, retry_failed=retry_failed)
    except (KeyboardInterrupt, SystemExit) as error:
        return interrupted(error, f"fieldloop converge {path}")
    document = store.query_one({"uuid": study.study_uuid}, ["output"]) if result.ok else None
    complete = document is not None and _conclude(console, study, document["output"], write, json=json)
    return verdict(result, reported=complete)


def _open_store(study: PreparedStudy) -> JobStore:
    """The store of the study, which mixes levels of theory on purpose and so is never that of a campaign."""
    from jobflow.core.store import JobStore

    from ..campaign import STORE_FILE
    from ..store import SQLiteStore

    documents = SQLiteStore(study.config.directory / STORE_FILE)
    store = JobStore(documents)
    store.connect()
    documents.bind_project({"name": study.config.name, "purpose": "convergence study"})
    return store


def _conclude(
    console: Console, prepared: PreparedStudy, output: dict[str, Any], write: Path | None, *, json: bool
) -> bool:
    """Print the tables and the recommendation, and write all files; False where a label is missing."""
    from ...dft_inputs.files import write_atomically
    from ..config import ConfigError
    from ..convergence.records import ConvergenceStudy
    from ..report.convergence import write_convergence_report

    study = cast("ConvergenceStudy", ConvergenceStudy.model_validate(output))
    page = write_convergence_report(study, prepared.config.directory)[-1]
    if write is not None:
        try:
            write_atomically(write, study.recommendation.yaml)
        except OSError as error:
            raise ConfigError(f"cannot write {write}: {error.strerror}; the protocol is in {page} too") from error
    if json:
        typer.echo(study.model_dump_json(indent=1))
    else:
        _print_tables(console, study)
        for name, file in (("protocol", write), ("report", page)):
            if file is not None:
                console.print(f"{name}: {file}", markup=False, soft_wrap=True)
    failed = sum(row.failure is not None for series in study.series for row in series.rows)
    if failed:
        complain(f"{failed} rows have no label; try them again with --retry-failed")
    return not failed


def _print_tables(console: Console, study: ConvergenceStudy) -> None:
    from rich.markup import escape
    from rich.table import Table

    from ..report.convergence import COLUMNS, HEADINGS, summary, table_rows, wanted

    for series in study.series:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        table.title, table.title_justify = f"\n{HEADINGS[series.parameter]}", "left"
        for number, name in enumerate(COLUMNS):
            table.add_column(name, justify="right" if 0 < number < len(COLUMNS) - 1 else "left", no_wrap=True)
        for row in table_rows(series):
            table.add_row(*(escape(cell) for cell in row.cells), style="green" if row.recommended else None)
        console.print(table)
        for note in series.notes:
            console.print(f"  {note}", markup=False, soft_wrap=True)
    share = f"each of {len(study.series)} parameters may take {study.share:.0%} of it"
    console.print(f"\nwanted: {wanted(study)}; {share}", markup=False, soft_wrap=True)
    first, *notes = summary(study)
    console.print(first, style="bold green" if study.recommendation.converged else "bold yellow", soft_wrap=True)
    for note in notes:
        console.print(f"  {note}", markup=False, soft_wrap=True)
    console.print(f"\n{study.recommendation.yaml}", markup=False, soft_wrap=True)
