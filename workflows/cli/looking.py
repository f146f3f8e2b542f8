"""Verbs that only look: ``status``, ``report`` and ``doctor``."""

# ruff: noqa: PLC0415  (imports inside the commands keep `fieldloop --help` fast)

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .errors import FAILED, in_one_line
from .running import CampaignFile

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@in_one_line
def status(file: CampaignFile, json: Json = False) -> None:
    """Say where a campaign stands: labels, models, honest errors, decisions, cost, and whether it runs now.

    \b
    Example:
      fieldloop status campaign.yaml --json
    """
    from ..campaign import STORE_FILE, read_store
    from ..config import load_config
    from ..queries import read_campaign
    from ..status import campaign_status
    from .tables import cost_line, new_console, status_table, units_line

    directory = load_config(file).directory
    current = campaign_status(read_campaign(read_store(directory / STORE_FILE), directory))
    if json:
        typer.echo(current.model_dump_json(indent=2))
        return
    console = new_console()
    console.print(units_line(current), markup=False, soft_wrap=True)
    console.print(status_table(current))
    for failure in current.failures:
        text = f"{failure.label_id} failed: {failure.reason} ({failure.directory})"
        console.print(text, markup=False, soft_wrap=True)
    for flag, count in current.flags.items():
        console.print(f"{count} flagged: {flag}", markup=False, soft_wrap=True)
    console.print(cost_line(current), markup=False, soft_wrap=True)
    last = next((g.decision for g in reversed(current.generations) if g.decision), None)
    if last is not None:
        console.print(f"last decision: {last.reason}", markup=False, soft_wrap=True)
    running = f"running now: process {current.driver}" if current.driver else "not running now"
    console.print(running, markup=False, soft_wrap=True)


@in_one_line
def report(
    file: CampaignFile,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The HTML file.  [default: report.html in the campaign]", show_default=False),
    ] = None,
) -> None:
    """Write the report of a campaign, finished or not, as one self-contained HTML file.

    \b
    Example:
      fieldloop report campaign.yaml --out report.html
    """
    from ..campaign import REPORT_FILE, STORE_FILE, read_store
    from ..config import load_config
    from .campaigns import write_campaign_report

    config = load_config(file)
    store = read_store(config.directory / STORE_FILE)
    typer.echo(write_campaign_report(config, store, out or config.directory / REPORT_FILE))


@in_one_line
def doctor(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE.yaml]", help="Check what this campaign needs.", show_default=False),
    ] = None,
    vasp: Annotated[
        Path | None,
        typer.Option(
            "--vasp",
            metavar="FOLDER",
            help="Confirm once that VASP takes fields as assumed: writes six small runs, then judges them.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Check this machine: programs, pseudopotentials, packages, cores, memory, GPU, disk.

    What is wrong stands with what to do about it. Exit code 1 where something needed is missing.

    \b
    Examples:
      fieldloop doctor
      fieldloop doctor campaign.yaml
      fieldloop doctor --vasp vasp-check
    """
    from ..config import load_config
    from ..doctor import examine, ready
    from ..vasp_doctor import examine_vasp
    from .tables import doctor_table, new_console

    findings = examine_vasp(vasp) if vasp else examine(load_config(file) if file else None)
    new_console().print(doctor_table(findings))
    if not ready(findings):
        raise typer.Exit(FAILED)
