"""What it took to converge a point: one entry for each run of the code in its directory, kept beside the output."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from .files import write_atomically

FILE = "attempts.json"


class Attempt(BaseModel):
    """One run of a DFT code at a field point.

    Attributes:
        remedy: name of the remedy tried, empty for the input as asked for.
        changes: keys of the input that differ from it.
        failure: why it stopped, one line; empty for the run that is going on or succeeded.
        resumable: it stopped with density and wavefunctions written.
        iterations: of its SCF.
        seconds: wall time.
        ranks: processes, each of which keeps wavefunctions of its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    remedy: str = ""
    changes: dict[str, str | float] = {}
    failure: str = ""
    resumable: bool = False
    iterations: int = 0
    seconds: float = 0.0
    ranks: int = 1


_LIST = TypeAdapter(tuple[Attempt, ...])


def read_attempts(directory: Path) -> tuple[Attempt, ...]:
    """The runs so far; none where nothing went wrong, or where the file is broken."""
    try:
        return _LIST.validate_json((directory / FILE).read_bytes())
    except (OSError, ValidationError):
        return ()


def write_attempts(directory: Path, attempts: tuple[Attempt, ...]) -> None:
    """Keep the runs so far."""
    write_atomically(directory / FILE, _LIST.dump_json(attempts, indent=1))


def repair_lines(directory: Path, name: str) -> tuple[str, ...]:
    """What was done at a point, for people: one line, or none where the first run did it.

    Args:
        directory: of the finished point.
        name: of the point.
    """
    attempts = read_attempts(directory)
    failed = [(attempt, following) for attempt, following in pairwise(attempts) if attempt.failure]
    done = [f"{attempt.failure}, then {_words(following)}" for attempt, following in failed if not attempt.resumable]
    if stops := sum(attempt.resumable for attempt, _ in failed):
        done.append(f"resumed {stops} time{'s' * (stops > 1)} after its time limit")
    return (f"{name}: {'; '.join(done)}",) if done else ()


def _words(attempt: Attempt) -> str:
    keys = ", ".join(f"{key} {value}" for key, value in attempt.changes.items() if not key.startswith("starting"))
    return f"{attempt.remedy} ({keys})" if keys else attempt.remedy
