"""What is done when the SCF of a field point fails: a ladder of remedies, each of which changes the way to
convergence and never the converged numbers, so the label keeps its identity and the record says what was done.

The order is measured on rattled and stretched AlAs that stagnates at 1e-8 Ry: conjugate gradients from the density on
disk converge it in 20 iterations, three Berry cycles in 22, halved mixing in 54, local Thomas-Fermi mixing not at all.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..attempts import Attempt, read_attempts, write_attempts
from ..errors import EngineError, Failure
from ..records import Frame
from .code import PwCode
from .failures import scf_accuracies, stagnates, wall_seconds
from .gap import band_gap
from .inputs import PREFIX, SCRATCH
from .namelists import with_keys
from .outputs import STDOUT, PwOutput
from .phases import FILE as PHASES
from .run import INPUT, execute_point, finish_point, set_up_point
from .scratch import has_restart
from .settings import PwSettings


@dataclass(frozen=True)
class Remedy:
    """One rung of the ladder.

    Attributes:
        name: for the record.
        cures: kinds of failure it may help.
        changes: keys of the input set to other values, as pairs.
        from_disk: go on from the density and wavefunctions that the failed run left, rather than from the start.
    """

    name: str
    cures: frozenset[Failure]
    changes: tuple[tuple[str, str | float], ...] = ()
    from_disk: bool = True


_SCF = frozenset({Failure.SLOW, Failure.STAGNANT})

LADDER = (
    Remedy("more iterations", frozenset({Failure.SLOW})),
    Remedy("conjugate gradients", _SCF | {Failure.DIAGONALIZATION}, (("diagonalization", "cg"),)),
    Remedy("three Berry cycles", _SCF, (("nberrycyc", 3), ("mixing_beta", 0.3))),
    Remedy("slow mixing from the start", _SCF | {Failure.DIAGONALIZATION}, (("mixing_beta", 0.15),), from_disk=False),
)
"""Tried in this order, each once."""
_CONTINUE = {"startingwfc": "file", "startingpot": "file"}
RESUMED = "resumed"
"""Name of an attempt that goes on where a time limit stopped the one before."""


def next_remedy(kind: Failure, tried: tuple[str, ...]) -> Remedy | None:
    """The next rung for this kind of failure above those tried, or None at the top.

    Args:
        kind: of the last failure.
        tried: names of the remedies so far.
    """
    highest = max((rung for rung, remedy in enumerate(LADDER) if remedy.name in tried), default=-1)
    return next((remedy for remedy in LADDER[highest + 1 :] if kind in remedy.cures), None)


def run_with_remedies(
    directory: Path,
    text: str,
    code: PwCode,
    *,
    name: str,
    lease_descriptor: int,
    start_from: Path | None = None,
    prepare: Callable[[Path], None] | None = None,
    hopeless: Callable[[], str | None] | None = None,
) -> PwOutput:
    """Run a field point to convergence, with remedies where the plain run fails.

    A run that stopped at its time limit is resumed from its density and wavefunctions by the same call.

    Args:
        directory: of this point alone.
        text: pw.x input of the point.
        code: how to run pw.x.
        name: of the point, for messages.
        lease_descriptor: from ``lease``.
        start_from: directory of a finished point whose scratch files this one starts from.
        prepare: called with ``directory`` when these files are there, to change them before the run.
        hopeless: asked once, after an SCF failed: why no remedy can help (a closed gap), or None.

    Raises:
        EngineError: no remedy helped, or the failure has none; ``kind`` tells.
        OSError: the disk is full or not writable.
    """
    point = _Point(directory, text, code, name, lease_descriptor, start_from, prepare)
    attempts = point.begin()
    while True:
        try:
            return point.run(attempts)
        except EngineError as error:
            attempts = point.record_failure(attempts, error)
            tried = tuple(attempt.remedy for attempt in attempts)
            remedy = next_remedy(error.kind, tried)
            if remedy is None:
                raise _exhausted(error, tried) from error
            if hopeless is not None and not _remedies(tried) and (reason := hopeless()):
                raise EngineError(f"{error}: {reason}", error.kind) from error
            attempts = point.apply(remedy, attempts, error.kind)


def closed_gap(frame: Frame, settings: PwSettings, code: PwCode, directory: Path) -> str | None:
    """Why no SCF with fixed occupations can converge: the gap has closed. None where it is open, or not to be had.

    Args:
        frame: the geometry.
        settings: level of theory.
        code: how to run pw.x.
        directory: of the label; the gap run goes into a folder of its own there.
    """
    try:
        gap = band_gap(frame, settings, code, directory / "diagnosis")
    except EngineError:
        return None
    return f"gap closed ({gap.gap:.2f} eV), fields need an insulator" if gap.metallic else None


def _remedies(tried: tuple[str, ...]) -> list[str]:
    """The rungs among what was tried, as a resumed run is none."""
    return [remedy.name for remedy in LADDER if remedy.name in tried]


def _exhausted(error: EngineError, tried: tuple[str, ...]) -> EngineError:
    remedies = _remedies(tried)
    if not remedies or error.kind not in _SCF | {Failure.DIAGONALIZATION}:
        return error
    return EngineError(f"{error}, nor with {', '.join(remedies)}", error.kind)


@dataclass(frozen=True)
class _Point:
    """A field point on its way to convergence; the arguments of ``run_with_remedies``."""

    directory: Path
    text: str
    code: PwCode
    name: str
    lease_descriptor: int
    start_from: Path | None
    prepare: Callable[[Path], None] | None

    def begin(self) -> tuple[Attempt, ...]:
        """Go on where an earlier call stopped at its time limit, or set the point up."""
        attempts = read_attempts(self.directory)
        if attempts and self._resumable(attempts[-1]):
            last = attempts[-1]
            changes = {**last.changes, **_CONTINUE}
            return (*attempts, Attempt(remedy=last.remedy or RESUMED, changes=changes, ranks=self.code.ranks))
        self._set_up()
        return (Attempt(ranks=self.code.ranks),)

    def run(self, attempts: tuple[Attempt, ...]) -> PwOutput:
        """One attempt."""
        *earlier, current = attempts
        if earlier:
            write_attempts(self.directory, attempts)
        execute_point(
            self.directory,
            with_keys(self.text, current.changes),
            self.code,
            name=self.name,
            lease_descriptor=self.lease_descriptor,
            watch=stagnates,
        )
        return finish_point(self.directory, name=self.name)

    def record_failure(self, attempts: tuple[Attempt, ...], error: EngineError) -> tuple[Attempt, ...]:
        """Keep what the attempt came to, and its output for people."""
        output = self.directory / STDOUT
        text = output.read_text(errors="replace") if output.exists() else ""
        failed = attempts[-1].model_copy(
            update={
                "failure": str(error),
                "resumable": error.kind is Failure.TIME_LIMIT and has_restart(self.directory, self.code.ranks),
                "iterations": len(scf_accuracies(text)),
                "seconds": wall_seconds(text),
            }
        )
        attempts = (*attempts[:-1], failed)
        with suppress(OSError):  # on a full disk the failure itself is what people must hear of
            write_attempts(self.directory, attempts)
            shutil.copyfile(output, self.directory / f"pw.{len(attempts)}.out")
        return attempts

    def apply(self, remedy: Remedy, attempts: tuple[Attempt, ...], kind: Failure) -> tuple[Attempt, ...]:
        """The attempts with one more, and the directory ready for it."""
        changes = dict(remedy.changes)
        if remedy.from_disk and kind in _SCF and has_restart(self.directory, self.code.ranks):
            changes |= _CONTINUE
        else:
            self._set_up(keep=tuple(self.directory.glob("pw.*.out")))
        return (*attempts, Attempt(remedy=remedy.name, changes=changes, ranks=self.code.ranks))

    def _set_up(self, keep: tuple[Path, ...] = ()) -> None:
        kept = {path.name: path.read_bytes() for path in keep}
        set_up_point(
            self.directory, self.text, self.code, name=self.name, start_from=self.start_from, prepare=self.prepare
        )
        for name, content in kept.items():
            (self.directory / name).write_bytes(content)

    def _resumable(self, last: Attempt) -> bool:
        """It stopped cleanly, at this very input, and its phases are still those of the point it started from."""
        if not (last.resumable and last.ranks == self.code.ranks and has_restart(self.directory, self.code.ranks)):
            return False
        if (self.directory / INPUT).read_text() != self.text:
            return False
        return self.start_from is None or _phases(self.directory) == _phases(self.start_from)


def _phases(directory: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((directory / SCRATCH).glob(f"{PREFIX}.{PHASES}*"))]
