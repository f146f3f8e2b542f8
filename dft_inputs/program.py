"""How a DFT program is run on this machine: found, launched, one at a time in a directory, and never orphaned.

A lease (flock) on the frame's directory is inherited by the program, so it holds for as long as any lives there, even
where Python was killed. On Linux the kernel kills it when the process that started it dies. Ranks of a launcher
inherit neither and outlive it by a second or two, so their end is awaited too (those on this machine).
"""

from __future__ import annotations

import fcntl
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Self

import psutil
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, PositiveFloat, PositiveInt, model_validator

from .errors import DirectoryBusyError, EngineError, ProgramNotFoundError
from .processes import die_with_parent

LAUNCHERS = {
    "mpirun": ("mpirun", "-np", "{ranks}"),
    "mpiexec": ("mpiexec", "-n", "{ranks}"),
    # One step of the allocation on cores of its own, so that several frames share an allocation.
    "srun": ("srun", "--ntasks={ranks}", "--exact", "--kill-on-bad-exit=1"),
}
"""What the bare name of a launcher stands for."""
LEASE = ".lease"
_MARGIN = 120.0
"""Seconds before the end of a batch job at which a program begins to write its files."""
_POLL = 0.2
_WATCH = 2.0
"""Seconds between looks at a run."""


def _words(text: str) -> list[str]:
    """A command line as a shell splits it."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no command line: {error}") from error


def _command(text: str) -> str:
    if not _words(text):
        raise ValueError("name a program, e.g. pw.x")
    return text


Command = Annotated[str, AfterValidator(_command)]


class Program(BaseModel):
    """How a program is run here. None of this changes the numbers, so none of it enters a label's hash.

    Attributes:
        section: of a campaign file that holds these settings, for messages.
        advice: how to get the program, for messages.
        command: the program, e.g. ``pw.x`` or ``/opt/qe/bin/pw.x``.
        launcher: what runs it in parallel: ``mpirun``, ``mpiexec`` or ``srun``, or words of your own in which
            ``{ranks}`` stands for the number of processes, e.g. ``srun --mpi=pmix -n {ranks}``; a string is split like
            a shell line.
        ranks: processes of one run; more than one without a launcher means ``mpirun``.
        max_seconds: the program stops by itself, with its files written, once a run has taken this long, and the next
            call goes on from there; None for no limit but that of the batch job, where Slurm tells it.
        timeout: seconds after which a run that did not stop by itself is killed; None for no limit.
        environment: further environment variables.
        lease_timeout: seconds to wait for a directory in which another process is at work.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    section: ClassVar[str]
    advice: ClassVar[str]

    command: Command
    launcher: Annotated[tuple[str, ...], BeforeValidator(lambda v: _words(v) if isinstance(v, str) else v)] = ()
    ranks: PositiveInt = 1
    max_seconds: PositiveFloat | None = None
    timeout: PositiveFloat | None = None
    environment: dict[str, str] = {}
    lease_timeout: float = 20.0

    @model_validator(mode="after")
    def _ranks_go_somewhere(self) -> Self:
        if self.ranks > 1 and self.launcher and not any("{ranks}" in word for word in self.launch_words):
            raise ValueError(
                f"launcher {shlex.join(self.launcher)!r} does not say where the {self.ranks} ranks go: write "
                f"'mpirun -np {{ranks}}' or the like, or the bare name of one of {', '.join(LAUNCHERS)}"
            )
        return self

    @property
    def launch_words(self) -> tuple[str, ...]:
        """The launcher as a template in ``{ranks}``, empty for a single process."""
        if not self.launcher:
            return LAUNCHERS["mpirun"] if self.ranks > 1 else ()
        if len(self.launcher) == 1 and self.launcher[0] in LAUNCHERS:
            return LAUNCHERS[self.launcher[0]]
        return self.launcher

    @property
    def program(self) -> str:
        """Name of the executable as the system lists it; the ``.x`` file where a container's command precedes it."""
        names = [Path(word).name for word in shlex.split(self.command)]
        return next((name for name in names if name.endswith(".x")), names[0])

    def argv(self) -> list[str]:
        """The command line up to the program's own arguments.

        Raises:
            ProgramNotFoundError: the program or its launcher is missing.
        """
        launcher = [word.replace("{ranks}", str(self.ranks)) for word in self.launch_words]
        return [word for part in (launcher, shlex.split(self.command)) for word in self._found(part)]

    def seconds_left(self) -> float | None:
        """For the next run: the smaller of ``max_seconds`` and what a Slurm job has left, less time to write files."""
        limits = [self.max_seconds] if self.max_seconds else []
        end = self.environment.get("SLURM_JOB_END_TIME", os.environ.get("SLURM_JOB_END_TIME", ""))
        if end.isdigit():
            limits.append(int(end) - time.time() - _MARGIN)
        return min(limits, default=None)

    def _found(self, words: Sequence[str]) -> list[str]:
        """The words with the program at its absolute path, as it runs in another directory."""
        if not words:
            return []
        path = _outside_this_environment(self.environment.get("PATH") or os.environ.get("PATH", ""))
        program = shutil.which(words[0], path=path)
        if program is None:
            raise ProgramNotFoundError(f"{words[0]} not found: {self.advice}, or set {self.section}.command")
        return [str(Path(program).absolute()), *words[1:]]

    def process_environment(self) -> dict[str, str]:
        """One thread per rank; containers run as root; ranks of two frames must not be bound to the same cores."""
        defaults = {
            "OMP_NUM_THREADS": "1",
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "OMPI_MCA_hwloc_base_binding_policy": "none",
        }
        if not self.launch_words:
            # A single process needs neither Open MPI's daemon nor its networks, which take 0.3 s to start. Without the
            # daemon all share one session directory, and two that start at once trip over each other (1 of 120 did).
            defaults |= {"OMPI_MCA_ess_singleton_isolated": "1", "OMPI_MCA_btl": "self", "OMPI_MCA_pml": "ob1"}
            defaults["OMPI_MCA_orte_create_session_dirs"] = "0"
        return {**os.environ, **defaults, **self.environment}


def _outside_this_environment(path: str) -> str:
    """Search path with Python's own environment last: the MPI of a PyPI package is not that of the DFT code.

    With it ``mpirun -np 2 pw.x`` would start two single processes in one directory.
    """
    own = Path(sys.prefix) / "bin"
    folders = path.split(os.pathsep)
    return os.pathsep.join(sorted(folders, key=lambda folder: bool(folder) and Path(folder) == own))


@contextmanager
def lease(directory: Path, code: Program, *, part: str = "", among: Collection[Path] | None = None) -> Iterator[int]:
    """Hold the directory alone, or a part of it among others at work in other parts.

    Args:
        directory: made where it is missing.
        code: how long to wait for others to leave, and the program whose stray ranks are awaited.
        part: name of the part to hold; others may hold other parts, and nobody the whole, for as long.
        among: the folders of the part.

    Yields:
        The descriptor that children inherit.

    Raises:
        DirectoryBusyError: it was still held after ``code.lease_timeout`` seconds.
    """
    directory.mkdir(parents=True, exist_ok=True)
    files = [(directory / LEASE, fcntl.LOCK_SH if part else fcntl.LOCK_EX)]
    if part:
        files.append((directory / f"{LEASE}-{part}", fcntl.LOCK_EX))
    with ExitStack() as opened:
        locks = [(opened.enter_context(path.open("a")).fileno(), kind) for path, kind in files]
        deadline = time.monotonic() + code.lease_timeout
        while not all(_locked(*lock) for lock in locks) or any(_strays(f, code.program) for f in among or [directory]):
            if time.monotonic() > deadline:
                raise DirectoryBusyError(
                    f"another process has been labelling in {directory} for over {code.lease_timeout:g} s; "
                    "wait for it to end"
                )
            time.sleep(_POLL)
        yield locks[-1][0]


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _strays(directory: Path, program: str) -> bool:
    """A process of this name works below the directory."""
    home = directory.resolve()
    for process in psutil.process_iter(["name"]):
        with suppress(psutil.Error, OSError):
            at_work = process.info["name"] == program and process.status() != psutil.STATUS_ZOMBIE
            if at_work and Path(process.cwd()).is_relative_to(home):
                return True
    return False


def execute(
    code: Program,
    arguments: Sequence[str],
    directory: Path,
    streams: tuple[str, str],
    *,
    name: str,
    lease_descriptor: int,
    watch: Callable[[str], bool] | None = None,
    stop: Callable[[], None] | None = None,
) -> int:
    """Run a program to its end and return its exit status, negative for a signal.

    Args:
        code: the program.
        arguments: its own, e.g. ``["-in", "pw.in"]``.
        directory: where it runs.
        streams: names of the files of its standard output and standard error.
        name: of the point, for messages.
        lease_descriptor: from ``lease``.
        watch: given the standard output so far, True where it is useless to go on.
        stop: called once ``watch`` said so; asks the program to stop with its files written.

    Raises:
        ProgramNotFoundError: the program is not there.
        EngineError: it exceeded ``code.timeout`` and was killed.
    """
    with (directory / streams[0]).open("wb") as stdout, (directory / streams[1]).open("wb") as stderr:
        process = subprocess.Popen(
            [*code.argv(), *arguments],
            cwd=directory,
            env=code.process_environment(),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            pass_fds=(lease_descriptor,),
            start_new_session=True,
            preexec_fn=partial(die_with_parent, os.getpid()),  # noqa: PLW1509  (the hook makes two system calls)
        )
        deadline = time.monotonic() + (code.timeout or math.inf)
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    return process.wait(timeout=max(0.0, min(_WATCH, deadline - time.monotonic())))
                if time.monotonic() >= deadline:
                    raise EngineError(f"{code.program} exceeded its {code.timeout:g} s at {name}")
                if watch and stop and watch((directory / streams[0]).read_text(errors="replace")):
                    stop()
                    watch = None
        finally:
            # Also on KeyboardInterrupt: the whole group, as a launcher has children.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
