"""The verb ``train``: a network from labelled frames, outside of a campaign."""

# ruff: noqa: PLC0415  (imports inside the commands keep `fieldloop --help` fast)

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .errors import in_one_line
from .query_options import with_query

if TYPE_CHECKING:
    from ..query import Query
    from ..train_files import PreparedTraining, TrainRequest, TrainSection

_GENTLE = 0.3
"""Of the learning rate of a fresh network: at the full one, a trained network forgets before it learns."""

Data = Annotated[
    Path,
    typer.Argument(
        metavar="DATA", help="A store, a campaign's file or folder, or a file of labels.", show_default=False
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of model, learning curve and report.")]
Settings = Annotated[
    Path | None,
    typer.Option(
        "--settings",
        "-s",
        metavar="FILE.yaml",
        help="Sections network, reference_charges, training; a campaign file does too.",
        show_default=False,
    ),
]
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="Change of a setting: training.epochs=100; may be repeated.")
]
Convention = Annotated[
    str | None,
    typer.Option(help="Of a file of labels: fieldloop, allegro-pol, mace-field, fireann, ...", show_default=False),
]
Validation = Annotated[str, typer.Option(help="Frames that judge: 'every N', another file, or ids with commas.")]
Start = Annotated[
    Path | None, typer.Option(metavar="MODEL", help="Folder of a model to go on from.", show_default=False)
]
Replay = Annotated[
    Path | None,
    typer.Option(
        help="Frames of an earlier training set to mix in, so that they are not forgotten. "
        "[default: those that MODEL was trained on]",
        show_default=False,
    ),
]
Verify = Annotated[bool, typer.Option("--verify/--no-verify", help="Refuse labels that physics contradicts.")]


@in_one_line
@with_query
def train(
    wanted: Query,
    data: Data,
    out: Out = Path("trained"),
    settings: Settings = None,
    change: Changes = None,
    convention: Convention = None,
    validation: Validation = "every 5",
    start: Start = None,
    replay: Replay = None,
    verify: Verify = True,
) -> None:
    """Train a network on labelled frames. The same command goes on with a training that was interrupted.

    \b
    Examples:
      fieldloop train campaign.yaml --out trained
      fieldloop train SiO2.xyz --convention allegro-pol --settings quartz.yaml
      fieldloop train new.extxyz --convention fieldloop --start trained/model
    """
    from ..train_files import Source, TrainRequest

    request = TrainRequest(
        source=Source(data, convention, wanted),
        out=out,
        section=_section(data, settings, change or [], fresh=start is None),
        validation=validation,
        start=start,
        replay=None if replay is None else Source(replay, convention),
        verified=verify,
    )
    _run(request)


def _run(request: TrainRequest) -> None:
    """Train, and say how it went."""
    from ..progress import clock
    from ..report.training import FILE
    from ..train_files import prepare_training, run_training
    from .tables import new_console
    from .training_progress import TrainingProgress, error_table

    prepared = prepare_training(request)
    console = new_console()
    console.print(_counts(prepared), markup=False, soft_wrap=True)
    if request.start is None and prepared.network.reference == "many_body":
        console.print("many-body functions by least squares first: seconds, or minutes for large cells")
    progress = TrainingProgress(request.section.training.epochs, request.out)
    try:
        record = run_training(prepared, progress)
    finally:
        progress.close()
    console.print(error_table(record.training, record.validation))
    model = f"model {record.model_id} in {request.out / record.directory}, {clock(record.seconds)}"
    console.print(model, f"report: {request.out / FILE}", sep="\n", markup=False, soft_wrap=True)


def _counts(prepared: PreparedTraining) -> str:
    parts = [f"{len(prepared.training)} frames to train on", f"{len(prepared.validation)} to validate"]
    if prepared.replay:
        parts.append(f"{len(prepared.replay)} replayed")
    if prepared.request.start is not None:
        parts.append(f"learning rate {prepared.request.section.training.learning_rate:g}")
    if prepared.left_out:
        parts.append(f"{prepared.left_out} failed or flagged ones left out")
    return ", ".join(parts)


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
