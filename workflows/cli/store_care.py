"""Verbs that care for a store: ``data check``, ``data migrate``, ``data backup`` and ``data compact``."""

# ruff: noqa: PLC0415  (imports inside the commands keep `fieldloop --help` fast)

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from .data import Where
from .errors import FAILED, in_one_line

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@in_one_line
def check(where: Where = None, json: Json = False) -> None:
    """Read everything in a store: documents, hashes, the files that they name. Nothing is changed.

    A loop may be running. Exit code 1 where something is lost or wrong; notices and orphans may well be as they are.

    \b
    Example:
      fieldloop data check campaign.yaml
    """
    from ..store_check import check as check_store

    found = check_store(_store(where))
    if json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        for fault in found.faults:
            typer.echo(f"{fault.severity}: {fault.where}: {fault.what}")
        for orphan in found.orphans:
            typer.echo(f"orphan: {orphan}: no document names it, a run may be at work there or was killed")
        kinds = ", ".join(f"{count} {kind}" for kind, count in found.records.items())
        typer.echo(f"{found.documents} documents ({kinds}): {'whole' if found.passed else 'NOT whole'}")
        if found.outdated:
            typer.echo(f"{found.outdated} records of an earlier schema, readable: `fieldloop data migrate` renews them")
    if not found.passed:
        raise typer.Exit(FAILED)


@in_one_line
def migrate(where: Where = None, json: Json = False) -> None:
    """Bring the records of a store to the present schema, after a copy of it. Refused while a loop is running.

    \b
    Example:
      fieldloop data migrate campaign.yaml
    """
    from ..migrations import migrate as migrate_store

    done = migrate_store(_store(where))
    if json:
        typer.echo(done.model_dump_json(indent=2))
    elif done.upgraded:
        kinds = ", ".join(f"{count} {kind}" for kind, count in done.upgraded.items())
        typer.echo(f"{kinds} brought to schema {done.schema_version}; the store as it was: {done.backup}")
    else:
        typer.echo(f"nothing to do: all {done.documents} records have schema {done.schema_version}")


@in_one_line
def backup(
    where: Where = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The new folder.  [default: beside the campaign, with the date]"),
    ] = None,
    largest: Annotated[
        str, typer.Option(help="Larger files are left out and listed, but for the weights of models.")
    ] = "20 MB",
    json: Json = False,
) -> None:
    """Copy a store and the files beside it to a new folder, which is a campaign directory of its own.

    A loop may be running. Wavefunctions and densities of the DFT codes are left out.

    \b
    Example:
      fieldloop data backup campaign.yaml --out /archive/tio2-2026-11
    """
    from ...dft_inputs.quantities import parse_quantity
    from ..config import ConfigError
    from ..store_care import MANIFEST_FILE
    from ..store_care import backup as backup_store

    try:
        limit = parse_quantity(largest, "size")
    except ValueError as error:
        raise ConfigError(f"--largest: {error}") from None
    store = _store(where)
    root = store.parent.absolute()
    folder = out or root.with_name(f"{root.name}-backup-{datetime.now():%Y%m%d-%H%M%S}")
    campaign_file = [where] if where is not None and where.is_file() and where.suffix in (".yaml", ".yml") else []
    made = backup_store(store, folder, limit, campaign_file)
    if json:
        typer.echo(made.model_dump_json(indent=2))
        return
    typer.echo(f"{made.documents} documents and {len(made.files)} files in {folder}")
    if made.left_out:
        size = sum(made.left_out.values()) / 1e6
        typer.echo(f"{len(made.left_out)} files of {size:.0f} MB left out, listed in {MANIFEST_FILE}: see --largest")


@in_one_line
def compact(where: Where = None, json: Json = False) -> None:
    """Shrink a store: drop labels that later ones supersede, where that is safe, and give back free space.

    Refused while a loop is running.

    \b
    Example:
      fieldloop data compact campaign.yaml
    """
    from ..store_care import compact as compact_store

    done = compact_store(_store(where))
    if json:
        typer.echo(done.model_dump_json(indent=2))
        return
    stay = f", {done.kept} must stay" if done.kept else ""
    sizes = f"{done.bytes_before / 1e6:.1f} MB before, {done.bytes_after / 1e6:.1f} MB now"
    typer.echo(f"{len(done.dropped)} superseded labels dropped{stay}; {sizes}")


def _store(where: Path | None) -> Path:
    from ..campaign import locate_store

    return locate_store(where)
