"""The verb ``lammps``: LAMMPS scripts, driven by a model."""

# ruff: noqa: PLC0415  (imports inside the commands keep `fieldloop --help` fast)

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .errors import complain, in_one_line, refuse_place

app = typer.Typer(help="LAMMPS scripts, driven by a model.", no_args_is_help=True)

Script = Annotated[Path, typer.Argument(metavar="IN.FILE", help="A LAMMPS script.", show_default=False)]
Model = Annotated[Path, typer.Option("--model", "-m", help="Folder of a model or of a training.", show_default=False)]
Field = Annotated[
    str | None,
    typer.Option("--field", "-f", metavar="'X Y Z UNIT'", help="A static field: '0 0 1 MV/cm'.", show_default=False),
]
Settings = Annotated[
    Path | None,
    typer.Option(
        "--settings",
        "-s",
        metavar="FILE.yaml",
        help="Keys field (static or in time), hold, species, start_cell, skin, compile.",
        show_default=False,
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change of a setting: hold=field; may be repeated.", show_default=False),
]
Species = Annotated[
    str | None,
    typer.Option(metavar="Al,As", help="Symbols of the atom types, where no labelmap names them.", show_default=False),
]
Variables = Annotated[
    list[str] | None,
    typer.Option("--var", metavar="NAME=VALUE", help="A variable of the script; may be repeated.", show_default=False),
]
Log = Annotated[Path, typer.Option(help="Log of LAMMPS.")]
BeyondRange = Annotated[
    bool, typer.Option("--beyond-range", help="Run also in fields that the labels of the model do not reach.")
]
Trained = Annotated[
    Path, typer.Argument(metavar="MODEL", help="Folder of a model or of a training.", show_default=False)
]
Output = Annotated[Path, typer.Option("--output", "-o", help="The file; not .pt.")]
ByEfield = Annotated[
    bool, typer.Option("--charges-by-efield", help="The script has the 'fix efield' for the model's reference charges.")
]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the derivatives at the start of a run.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results only, not what LAMMPS says.")]


@app.callback()
def group() -> None:
    """LAMMPS scripts, driven by a model."""


@app.command()
@in_one_line
def run(
    script: Script,
    model: Model,
    field: Field = None,
    settings: Settings = None,
    change: Changes = None,
    species: Species = None,
    variable: Variables = None,
    log: Log = Path("log.lammps"),
    beyond_range: BeyondRange = False,
    quiet: Quiet = False,
) -> None:
    """Run a LAMMPS script whose line 'fix field all external pf/callback 1 1' stands for the model.

    The script sees the enthalpy as f_field (part of pe), P as f_field[1..3], e A, and the field as f_field[4..6], V/A.

    \b
    Examples:
      fieldloop lammps run in.infrared --model trained
      fieldloop lammps run in.nvt --model trained --field "0 0 1 MV/cm" --species Al,As
      fieldloop lammps run in.hysteresis --model trained --settings hysteresis.yaml --var steps=20000
    """
    from ...dft_inputs.units import MV_PER_CM_IN_V_PER_ANGSTROM
    from ..config import ConfigError
    from ..lammps_files import LammpsRequest, prepare_lammps, read_lammps_section, run_lammps

    refuse_place(log)
    changes = [*(change or []), *([] if species is None else [f"species=[{species}]"])]
    variables = []
    for given in variable or []:
        name, separator, value = given.partition("=")
        if not separator or not name or not value:
            raise ConfigError(f"--var {given}: write e.g. steps=20000")
        variables.append((name, *value.split()))
    section = read_lammps_section(settings, changes, field)
    prepared = prepare_lammps(LammpsRequest(script, model, section, log, tuple(variables), not quiet, beyond_range))
    if prepared.warning:
        complain(f"warning: {prepared.warning}")
    last = run_lammps(prepared)
    if last is None:
        complain(f"warning: {script} made no step: it has no run or minimize behind the fix")
        return
    numbers = " ".join(f"{x:.4f}" for x in last.polarization)
    strength = " ".join(f"{x / MV_PER_CM_IN_V_PER_ANGSTROM:.3g}" for x in last.field)
    typer.echo(
        f"model {prepared.model_id}, step {last.step} at {last.time / 1000:g} ps: "
        f"U = {last.enthalpy:.6f} eV, P = {numbers} e A, E = {strength} MV/cm; log in {log}"
    )


@app.command()
@in_one_line
def export(
    model: Trained,
    output: Output = Path("model.mliap"),
    field: Field = None,
    species: Species = None,
    charges_by_efield: ByEfield = False,
    compile_it: Compile = False,
    beyond_range: BeyondRange = False,
) -> None:
    """Write a model for 'pair_style mliap unified' of a LAMMPS built with ML-IAP and PYTHON, and the lines it needs.

    LAMMPS divides the system among its MPI ranks; the field is static. P and E(t) are with 'fieldloop lammps run'.

    \b
    Examples:
      fieldloop lammps export trained -o alas.mliap
      fieldloop lammps export trained -o alas.mliap --field "0 0 1 MV/cm" --species Al,As --charges-by-efield
    """
    from ..lammps_export import ExportRequest, export_model

    refuse_place(output)
    symbols = None if species is None else [symbol.strip() for symbol in species.split(",")]
    done = export_model(ExportRequest(model, output, field, symbols, charges_by_efield, compile_it, beyond_range))
    if done.warning:
        complain(f"warning: {done.warning}")
    typer.echo(f"{done.path} holds model {done.model_id}; in the script:")
    typer.echo("\n".join(done.lines))
