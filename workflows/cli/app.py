"""The ``fieldloop`` command: its verbs, gathered."""

from __future__ import annotations

from typing import Annotated

import typer

from ...version import __version__
from . import convergence, data, ipi, lammps, looking, md, running, sampling, store_care, training

_HELP = """From a crystal to a machine-learned potential in electric fields, on real DFT.

A campaign is one YAML file. Start it, interrupt it, start it again: finished work is found, never repeated.

\b
  fieldloop doctor campaign.yaml   is this machine ready?
  fieldloop loop campaign.yaml     label, train, explore, choose, repeat
  fieldloop train campaign.yaml    a network from its labels, or from any file
  fieldloop md MODEL -x FILE       molecular dynamics in any field
  fieldloop ipi MODEL -x FILE      the model as a driver of i-PI
  fieldloop lammps run in.file     a LAMMPS script, driven by a model
  fieldloop sample campaign.yaml   its first frames, to look at
  fieldloop converge FOLDER        which DFT settings a wanted accuracy needs
  fieldloop status campaign.yaml   where it stands
  fieldloop data query --has born_effective_charges --count
"""

app = typer.Typer(
    help=_HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(running.loop)
app.command()(running.label)
app.command()(training.train)
app.command()(md.md)
app.command()(ipi.ipi)
app.command()(sampling.sample)
app.command()(convergence.converge)
app.command()(looking.status)
app.command()(looking.report)
app.command()(looking.doctor)
data.app.command()(store_care.check)
data.app.command()(store_care.migrate)
data.app.command()(store_care.backup)
data.app.command()(store_care.compact)
app.add_typer(data.app, name="data")
app.add_typer(lammps.app, name="lammps")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fieldloop {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the command itself."""
