"""The options of commands that take labelled frames by a query: the words of ``workflows.query.Query``."""

# ruff: noqa: PLC0415  (imports inside the commands keep `fieldloop --help` fast)

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer


class Status(StrEnum):
    """What became of a label."""

    done = "done"
    failed = "failed"
    passed = "passed"
    flagged = "flagged"


_CONDITIONS: dict[Status, dict] = {
    Status.done: {"status": "done"},
    Status.failed: {"status": "failed"},
    Status.passed: {"passed": True},
    Status.flagged: {"passed": False},
}

Word = str | None
Words = list[str] | None

_OPTIONS: dict[str, Any] = {
    "formula": Annotated[Word, typer.Option(help="Formula of the whole cell, e.g. Al4As4.")],
    "elements": Annotated[Words, typer.Option("--elements", "--element", help="That must occur: Si,O.")],
    "field": Annotated[
        Word, typer.Option(help="Strength of the field at which the labels hold: '>0.01 V/A', '0.5..2 MV/cm'.")
    ],
    "met_field": Annotated[Word, typer.Option(help="Strength of the field of the dynamics that met the frame.")],
    "labels": Annotated[
        Words, typer.Option("--labels", "--has", help="That must be present: forces,born_effective_charges.")
    ],
    "status": Annotated[Status | None, typer.Option(help="Done ones have either passed all checks or are flagged.")],
    "passed": Annotated[bool | None, typer.Option("--passed/--flagged", help="Short for --status.")],
    "flags": Annotated[Words, typer.Option("--flags", "--flag", help="Checks that failed: enthalpy_law.")],
    "generation": Annotated[Word, typer.Option(help="That the frame was proposed for: 3, '>=2', 1..4.")],
    "uncertainty": Annotated[
        Words, typer.Option(help="Of the model that proposed the frame: 'forces > 0.05 eV/A'; may be repeated.")
    ],
    "code": Annotated[Word, typer.Option(help="Code of the labels: pw.x, abinit, vasp.")],
    "protocol": Annotated[Word, typer.Option(help="Level of theory: fast, standard, paper.")],
    "origin": Annotated[Word, typer.Option(help="Where the frame came from, e.g. parent, dynamics, import.")],
    "model": Annotated[Word, typer.Option(help="model_id of the model that proposed the frame.")],
    "parent": Annotated[Word, typer.Option(help="frame_id of the frame that it was made from.")],
}


def with_query(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a query, which it receives as its argument ``wanted``.

    Args:
        command: takes ``wanted``, a ``Query``, beside arguments and options of its own.
    """
    # Without the argument of the query, whose class only type checkers import, the annotations can be evaluated.
    command.__annotations__.pop("wanted", None)
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "wanted"]
    conditions = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in _OPTIONS.items()
    ]

    @functools.wraps(command)
    def command_with_query(**arguments: Any) -> None:
        words = {name: arguments.pop(name) for name in _OPTIONS}
        command(wanted=_parse(words), **arguments)

    shown = [own[0], *conditions, *own[1:]] if own else conditions
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in shown]
    command_with_query.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command_with_query.__annotations__ = {p.name: p.annotation for p in parameters}
    return command_with_query


def _parse(words: dict[str, Any]) -> Any:
    from ..query import Query, QueryError

    status, passed = words.pop("status"), words["passed"]
    said = _CONDITIONS[status] if status else {}
    if passed is not None and said.get("passed", passed) != passed:
        raise QueryError(f"--status {status} and --{'passed' if passed else 'flagged'} exclude one another")
    return Query.parse(words | said)
