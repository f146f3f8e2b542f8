"""The verb ``ipi``: a model as a driver of i-PI."""

# ruff: noqa: PLC0415  (imports inside the commands keep `fieldloop --help` fast)

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .errors import in_one_line

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a model.", show_default=False)]
Structure = Annotated[
    Path,
    typer.Option("--structure", "-x", help="What i-PI starts from, in any format that ASE reads.", show_default=False),
]
Field = Annotated[str, typer.Option(metavar="E", help="Static field, such as '[0, 0, 1 MV/cm]'; numbers are in V/A.")]
Socket = Annotated[
    str | None, typer.Option(metavar="NAME", help="Unix socket: <address> of i-PI's input.", show_default=False)
]
Host = Annotated[str, typer.Option(help="Machine that i-PI runs on.")]
Port = Annotated[int, typer.Option(help="<port> of i-PI's input.")]
Born = Annotated[bool, typer.Option("--born", help="Send Born effective charges as well.")]
BeyondRange = Annotated[
    bool, typer.Option("--beyond-range", help="Also in fields that the labels of the model do not reach.")
]
Wait = Annotated[float, typer.Option(help="Seconds to wait for i-PI to appear.")]


@in_one_line
def ipi(
    model: Model,
    structure: Structure,
    field: Field = "[0, 0, 0]",
    socket: Socket = None,
    host: Host = "localhost",
    port: Port = 31415,
    born: Born = False,
    beyond_range: BeyondRange = False,
    wait: Wait = 10.0,
) -> None:
    """Evaluate a model for i-PI, in a static field, until i-PI ends.

    \b
    Examples:
      fieldloop ipi trained -x start.xyz --socket driver --field "[0, 0, 1 MV/cm]"
      fieldloop ipi trained -x start.xyz --host node12 --port 31415 --born
    """
    import yaml

    from ...active_learning.sampling.structures import read_structures
    from ...model.files import ModelFileError
    from ...model.interfaces.ase import load_calculator
    from ...model.interfaces.ipi import IpiServer, run_driver
    from ..config import ConfigError

    atoms = read_structures(structure, "-1:")[0].to_atoms()
    server = IpiServer(socket, host, port)
    try:
        calculator = load_calculator(model, field=yaml.safe_load(field), beyond_range=beyond_range)
        count = run_driver(calculator, atoms, server, born=born, wait=wait)
    except yaml.YAMLError as error:
        raise ConfigError(f"--field {field}: write e.g. --field '[0, 0, 1 MV/cm]'") from error
    except (ModelFileError, ValueError, ConnectionError) as error:
        raise ConfigError(str(error)) from error
    typer.echo(f"{count} evaluations for i-PI at {server}")
