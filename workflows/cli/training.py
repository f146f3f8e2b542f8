"""The verb ``train``: a network from labelled frames, outside of a campaign."""

# ruff: noqa: PLC0415  (imports inside the commands keep `fieldloop --help` fast)

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .data_files import FormatOption
from .errors import complain, in_one_line
from .query_options import with_query

_GENTLE = 0.3
"""Of the learning rate of a fresh network: at the full one, a trained network forgets before it learns."""

if TYPE_CHECKING:
    from ..query import Query
    from ..train_files import Source, TrainSection


@in_one_line
@with_query
def train(
    wanted: Query,
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA", help="A store, a campaign's file or folder, or a file of labels.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of model, learning curve and report.")] = Path(
        "trained"
    ),
    settings: Annotated[
        Path | None,
        typer.Option(
            "--settings",
            "-s",
            metavar="FILE.yaml",
            help="Sections network, reference_charges, training; a campaign file does too.",
            show_default=False,
        ),
    ] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="Change of a setting: training.epochs=100; may be repeated.")
    ] = None,
    convention: Annotated[
        str | None,
        typer.Option(help="Of a file of labels: fieldloop, allegro-pol, mace-field, fireann, ...", show_default=False),
    ] = None,
    file_format: FormatOption = None,
    validation: Annotated[
        str, typer.Option(help="Frames that judge: 'every N', another file, or ids with commas.")
    ] = "every 5",
    start: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="Folder of a model to go on from.", show_default=False)
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            help="Frames of an earlier training set to mix in, so that they are not forgotten. "
            "[default: those that MODEL was trained on]",
            show_default=False,
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Refuse labels that physics contradicts.")
    ] = True,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print results only, no progress.")] = False,
) -> None:
    """Train a network on labelled frames. The same command goes on with a training that was interrupted.

    \b
    Examples:
      fieldloop train campaign.yaml --out trained
      fieldloop train SiO2.xyz --convention allegro-pol --settings quartz.yaml --out quartz
      fieldloop train new.extxyz --convention fieldloop --start quartz/model --out tuned
    """
    from ..progress import clock
    from ..train_files import Source, TrainRequest, prepare_training, run_training
    from .tables import new_console
    from .training_progress import TrainingProgress, error_table

    section = _section(data, settings, change or [], fresh=start is None)
    source = Source(data, convention, file_format, wanted)
    request = TrainRequest(
        source=source,
        out=out,
        section=section,
        validation=validation,
        start=start,
        replay=_replay_source(replay, source),
        verified=verify,
    )
    prepared = prepare_training(request)
    console = new_console()
    if not quiet:
        left_out = f", {prepared.left_out} failed or flagged ones left out" if prepared.left_out else ""
        replayed = f", {len(prepared.replay)} replayed" if prepared.replay else ""
        counts = f"{len(prepared.training)} frames to train on, {len(prepared.validation)} to validate"
        console.print(f"{counts}{replayed}{left_out}", markup=False, soft_wrap=True)
    progress = TrainingProgress(section.training.epochs, out, quiet=quiet)
    try:
        record = run_training(prepared, progress)
    finally:
        progress.close()
    console.print(error_table(record.training, record.validation))
    console.print(
        f"model {record.model_id} in {out / record.directory}, {clock(record.seconds)}", markup=False, soft_wrap=True
    )
    complain(f"report: {out / 'report.html'}")


def _section(data: Path, settings: Path | None, changes: list[str], *, fresh: bool) -> TrainSection:
    """Settings from their own file, else from the campaign whose labels are trained on."""
    from ..train_files import read_section

    if settings is None and data.suffix in (".yaml", ".yml"):
        settings = data
    section = read_section(settings, changes)
    if fresh:
        return section
    update: dict[str, Any] = {}
    if "learning_rate" not in section.training.model_fields_set:
        rate = _GENTLE * section.training.learning_rate
        update["training"] = section.training.model_copy(update={"learning_rate": rate})
    if settings == data:
        # The model to go on from brings its network.
        update |= {"network": {}, "reference_charges": {}}
    return section.model_copy(update=update)


def _replay_source(path: Path | None, source: Source) -> Source | None:
    from ..train_files import Source

    return None if path is None else Source(path, source.convention, source.file_format)
