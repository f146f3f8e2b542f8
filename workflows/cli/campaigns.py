"""Running a campaign from the command line: check, run, report, and say what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jobflow.core.flow import Flow
from jobflow.core.job import Job
from jobflow.core.store import JobStore
from rich.console import Console
from rich.text import Text

from ...dft_inputs.codes import kind_of
from ...dft_inputs.records import Frame, LabelledFrame, Proposal
from ..campaign import (
    REPORT_FILE,
    PreparedLoop,
    bind_store,
    check_label_inputs,
    open_store,
    prepare_loop,
    read_frames,
    read_parent,
)
from ..config import CampaignConfig, ProjectConfig, load_config
from ..dfpt import DFPT, FINITE_FIELD, DfptLabelMaker, dfpt_maker
from ..executors import FlowResult, JobEvent, run_flow
from ..labelling import CampaignError, LabelMaker
from ..loop import label_maker
from ..progress import FlowProgress, clock, label_fraction, training_fraction
from ..queries import read_campaign
from ..records import GenerationRecord, SelectionRecord
from ..status import campaign_status
from .errors import FAILED, INTERRUPTED, complain
from .sampling import sampling_progress
from .tables import cost_line, generation_table, new_console

_REFUSALS = ("CampaignError", "ProgramNotFoundError", "PseudopotentialError")
"""What the check of a crystal may raise where the input, not fieldloop, is at fault."""


def run_campaign(file: Path, *, retry_failed: bool = False, quiet: bool = False) -> int:
    """Run the loop of a campaign file to its end, and return the exit code.

    Raises:
        ConfigError, ProgramNotFoundError, PseudopotentialError, SeedError, StoreError, RootInUse: before any DFT.
        CampaignError: after one SCF on the parent crystal, a metal or too strong a field.
    """
    config = load_config(file)
    with sampling_progress(quiet) as progress:
        prepared = prepare_loop(config, progress)
    store = open_store(config, bind=False)
    console = new_console()
    if not quiet:
        text = f"campaign {config.name}: {prepared.parent.formula} in {config.directory}"
        console.print(text, markup=False, soft_wrap=True)
    watcher = LoopWatcher(console, prepared, store, quiet=quiet)
    try:
        with watcher.progress:
            result = run_checked(config, store, [prepared.check], prepared.flow, watcher, retry_failed=retry_failed)
    except (KeyboardInterrupt, SystemExit) as error:
        return interrupted(error, f"fieldloop loop {file}")
    reported = _conclude(console, config, store)
    return verdict(result, reported)


def run_checked(
    config: ProjectConfig,
    store: JobStore,
    checks: Sequence[Job],
    flow: Flow,
    events: Callable[[JobEvent], None],
    *,
    retry_failed: bool,
) -> FlowResult:
    """Run the checks of the crystals, then the flow; between the two the store is tied to the campaign, if it is one.

    Raises:
        CampaignError: a check said no, so nothing was labelled.
        RootInUse: the campaign is being run already.
    """
    settings: dict[str, Any] = {"root": config.directory, "workers": config.workers, "events": events}
    checked = run_flow(list(checks), store=store, **settings)
    for failure in checked.failed.values():
        kind, _, reason = failure.reason.partition(": ")
        if kind in _REFUSALS:
            raise CampaignError(reason)
    if not checked.ok:
        return checked
    if isinstance(config, CampaignConfig):
        bind_store(store, config)
    return run_flow(flow, store=store, retry=_is_failed_label if retry_failed else None, **settings)


class LoopWatcher:
    """Listens to the loop: tells the progress what to expect, and prints each generation as it ends."""

    def __init__(self, console: Console, prepared: PreparedLoop, store: JobStore, *, quiet: bool):
        self.store = store
        self.criterion = prepared.config.stop
        self.trainings = prepared.maker.train.jobs
        training = prepared.maker.train
        self.progress = label_progress(
            console,
            prepared.config,
            store,
            quiet,
            prepared.maker.label,
            {"training": training_fraction(training.training.epochs, training.retraining_epochs)},
        )
        self.progress.expect("parent", 1)
        self.progress.expect("labels", len(prepared.first_frames))

    def __call__(self, event: JobEvent) -> None:
        """Pass an event on."""
        self.progress(event)
        if event.kind not in ("finished", "found"):
            return
        if event.name == "plan":
            self.progress.expect("training", self.trainings)
            self.progress.expect("exploration", 1)
            self.progress.expect("selection", 1)
        elif str(event.metadata.get("directory", "")).startswith("selection/"):
            selection = SelectionRecord.model_validate(_output(self.store, event))
            self.progress.expect("labels", len(selection.chosen))
        elif event.name == "judge":
            record = GenerationRecord.model_validate(_output(self.store, event))
            if record.decision.stop and record.pairs:
                self.progress.expect("training", self.trainings)
            self.progress.print(generation_table(record, self.criterion), Text(record.decision.reason))


def label_file(
    structure: Path, file: Path, *, source: str = FINITE_FIELD, retry_failed: bool = False, quiet: bool = False
) -> int:
    """Label all frames of a structure file with the settings of a campaign, and return the exit code.

    Raises:
        ConfigError, ProgramNotFoundError, PseudopotentialError, StoreError, RootInUse: before any DFT.
        CampaignError: after one SCF for each composition, a metal or too strong a field.
    """
    config = load_config(file)
    frames = read_frames(structure)
    parent = read_parent(config)
    maker = label_maker(config).for_parent(parent)
    check_label_inputs(maker, [parent, *frames])
    labeller = dfpt_maker(maker) if source == DFPT else None
    maker = maker.with_step(parent, config.directory)
    store = open_store(config, bind=False)
    checks, flow, labels = _label_flow(frames, maker, structure, labeller)
    console = new_console()
    progress = label_progress(console, config, store, quiet, maker)
    progress.expect("parent", len(checks))
    progress.expect("labels", len(labels))
    try:
        with progress:
            result = run_checked(config, store, checks, flow, progress, retry_failed=retry_failed)
    except (KeyboardInterrupt, SystemExit) as error:
        return interrupted(error, f"fieldloop label {structure} --config {file} --source {source}")
    campaign = read_campaign(store, config.directory)
    _summarize(console, [label for label in campaign.labels if label.label_id in labels])
    return verdict(result, reported=True)


def _label_flow(
    frames: Sequence[Frame], maker: LabelMaker, structure: Path, dfpt: DfptLabelMaker | None = None
) -> tuple[list[Job], Flow, list[str]]:
    """A check for each composition, the flow with these checks, and the ``label_id`` of each distinct frame."""
    labeller = dfpt or maker
    first = {frame.formula: frame for frame in reversed(frames)}
    checks = {formula: maker.make_check(frame) for formula, frame in first.items()}
    labels = {}
    for index, frame in enumerate(frames):
        proposal = Proposal(origin="import", reason=f"frame {index} of {structure.name}")
        identity = labeller.label_id(frame)
        if identity not in labels:
            labels[identity] = labeller.make(frame, proposal, gap=checks[frame.formula].output.gap)
    flow = Flow([*checks.values(), *labels.values()], name=f"label {structure.name}")
    return [maker.make_check(frame) for frame in first.values()], flow, list(labels)


def write_campaign_report(config: CampaignConfig, store: JobStore, path: Path) -> Path:
    """Write the report of what a store holds, and return its path."""
    from ..report import write_report  # noqa: PLC0415  (matplotlib and torch take seconds)

    return write_report(read_campaign(store, config.directory), path, criterion=config.stop, title=config.name)


def label_progress(
    console: Console,
    config: ProjectConfig,
    store: JobStore,
    quiet: bool,
    maker: LabelMaker,
    fractions: dict | None = None,
) -> FlowProgress:
    """What shows the progress of checks and labels."""
    done_file = kind_of(maker.settings).engine.done_file
    return FlowProgress(
        console,
        config.directory,
        workers=config.workers,
        fractions={"labels": label_fraction(len(maker.stencil.points()), done_file), **(fractions or {})},
        trouble=lambda event: _label_failure(store, event),
        quiet=quiet,
    )


def _output(store: JobStore, event: JobEvent) -> dict:
    document = store.query_one({"uuid": event.uuid, "index": event.index}, ["output"])
    return document["output"] if document else {}


def _label_failure(store: JobStore, event: JobEvent) -> str | None:
    """Why a label has failed, though its job has not: DFT could not make it."""
    if not str(event.metadata.get("directory", "")).startswith("labels/"):
        return None
    fields = ["output.status", "output.failure"]
    document = store.query_one({"uuid": event.uuid, "index": event.index}, fields)
    output = document["output"] if document else {}
    return output.get("failure") if output.get("status") == "failed" else None


def _is_failed_label(document: dict) -> bool:
    output = document.get("output")
    labels = ("LabelledFrame", "LabelPart")
    return isinstance(output, dict) and output.get("@class") in labels and output.get("status") == "failed"


def _conclude(console: Console, config: CampaignConfig, store: JobStore) -> bool:
    """Print the cost and write the report; False where that failed, as nothing else may be lost by it."""
    status = campaign_status(read_campaign(store, config.directory))
    console.print(cost_line(status), markup=False, soft_wrap=True)
    if status.failures:
        console.print(
            f"{len(status.failures)} frames have no label; try them again with --retry-failed",
            markup=False,
            soft_wrap=True,
        )
    try:
        path = write_campaign_report(config, store, config.directory / REPORT_FILE)
    except Exception as error:
        complain(f"the report could not be written: {type(error).__name__}: {error}; see fieldloop report")
        return False
    console.print(f"report: {path}", markup=False, soft_wrap=True)
    return True


def interrupted(error: BaseException, command: str) -> int:
    """The exit code after Ctrl-C, or after SIGTERM, which ``run_flow`` turns into ``SystemExit``."""
    complain(f"interrupted; finished work is kept, go on with: {command}")
    return error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else INTERRUPTED


def verdict(result: FlowResult, reported: bool) -> int:
    """The exit code, after a line for each job that failed."""
    for failure in result.failed.values():
        trace = f" (traceback in {failure.traceback_file})" if failure.traceback_file else ""
        complain(f"{failure.name} failed: {failure.reason}{trace}")
    return 0 if result.ok and reported else FAILED


def _summarize(console: Console, labels: Sequence[LabelledFrame]) -> None:
    failed = [label for label in labels if label.status == "failed"]
    flagged = [label for label in labels if label.status == "done" and not label.quality.passed]
    seconds = sum(label.provenance.seconds for label in labels)
    counts = f"{len(labels) - len(failed)} done, {len(failed)} failed, {len(flagged)} flagged"
    console.print(f"{len(labels)} frames: {counts}; {clock(seconds)} of DFT", markup=False, soft_wrap=True)
    for label in failed:
        console.print(f"{label.label_id} failed: {label.failure}", markup=False, soft_wrap=True)
