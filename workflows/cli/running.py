"""Verbs that run DFT: ``loop`` and ``label``."""

# ruff: noqa: PLC0415  (imports inside the commands keep `fieldloop --help` fast)

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .errors import in_one_line

CampaignFile = Annotated[Path, typer.Argument(metavar="FILE.yaml", help="The campaign file.", show_default=False)]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Run DFT again for frames whose label failed.")]


class LabelSource(StrEnum):
    """Where Z* and the polarizability come from."""

    FINITE_FIELD = "finite-field"
    DFPT = "dfpt"


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results only, no progress.")]


@in_one_line
def loop(file: CampaignFile, retry_failed: RetryFailed = False, quiet: Quiet = False) -> None:
    """Run a campaign: label, train, explore, choose, judge, until its criterion holds; then write the report.

    Everything that can be checked is checked before DFT starts. The same command resumes after any interruption.

    \b
    Exit code: 0 finished, 1 jobs failed, 2 bad input, 130 interrupted.

    \b
    Examples:
      fieldloop loop examples/alas/loop.yaml
      fieldloop loop campaign.yaml --retry-failed
    """
    from .campaigns import run_campaign

    raise typer.Exit(run_campaign(file, retry_failed=retry_failed, quiet=quiet))


@in_one_line
def label(
    structure: Annotated[
        Path, typer.Argument(help="Frames to label, in any format that ASE reads.", show_default=False)
    ],
    config: Annotated[
        Path,
        typer.Option(
            "--config",
            "-c",
            metavar="FILE.yaml",
            help="Campaign whose level of theory and store are used.",
            show_default=False,
        ),
    ],
    source: Annotated[
        LabelSource,
        typer.Option("--source", help="Finite fields, or DFPT (pw.x and ph.x: no polarization)."),
    ] = LabelSource.FINITE_FIELD,
    retry_failed: RetryFailed = False,
    quiet: Quiet = False,
) -> None:
    """Label the frames of a file by DFT, into the store of a campaign. Labels already there are found.

    \b
    Examples:
      fieldloop label frames.extxyz --config campaign.yaml
      fieldloop label frames.extxyz --config campaign.yaml --source dfpt
    """
    from .campaigns import label_file

    raise typer.Exit(label_file(structure, config, source=source.value, retry_failed=retry_failed, quiet=quiet))
