"""Is this machine ready? Each check says what it found, and what to do where something is wrong."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import psutil
from packaging.requirements import InvalidRequirement, Requirement

from ..dft_inputs.codes import CODES, DEFAULT_CODE
from ..dft_inputs.errors import ProgramNotFoundError
from ..dft_inputs.espresso.code import PwCode
from ..dft_inputs.program import Program
from ..dft_inputs.pseudopotentials import PseudopotentialError, read_pseudopotential
from .config import CampaignConfig, CodesSection, ConfigError

State = Literal["ok", "warn", "fail"]

_GIB = 1024**3
_PATIENCE = 60.0
_REINSTALL = "install again: make install, or python -m pip install fieldloop"
_BANNERS = {
    "pw.x": (["-in", os.devnull], re.compile(r"Program PWSCF v\.?(\S+)")),
    "abinit": (["--version"], re.compile(r"^\s*(\d+\.\d+\S*)", re.MULTILINE)),
}
"""What to ask of a program, and how it tells its version; VASP does not."""


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        name: of what was looked at.
        state: ``ok``; ``warn`` for what works, but not well; ``fail`` for what is needed and missing.
        detail: what was found.
        fix: what to do, where the state is not ``ok``.
    """

    name: str
    state: State
    detail: str
    fix: str = ""


def examine(config: CampaignConfig | None = None) -> list[Finding]:
    """Look at everything that a campaign needs.

    Args:
        config: the campaign; None for what any campaign needs.
    """
    name = config.label.code if config else DEFAULT_CODE
    directory = config.directory if config else Path.cwd()
    workers = config.workers if config else 1
    checks: dict[str, Callable[[], Finding]] = {
        "Python": check_python,
        "packages": check_packages,
        name: lambda: check_program(name, _program(config, name)),
        **{other: lambda other=other: check_program(other, _program(config, other)) for other in _others(config)},
        "pseudopotentials": lambda: check_campaign_pseudopotentials(config) if config else check_pseudopotentials(),
        "cores": lambda: check_cores(workers),
        "memory": lambda: check_memory(workers),
        "torch": check_torch,
        "store": lambda: check_file_system(directory),
        "disk": lambda: check_disk(directory),
    }
    return [_checked(name, check) for name, check in checks.items()]


def _checked(name: str, check: Callable[[], Finding]) -> Finding:
    """A check that cannot even be made, as a package is missing, is a finding too."""
    try:
        return check()
    except (ImportError, OSError) as error:
        return Finding(name, "fail", f"cannot be checked: {error}", _REINSTALL)


def check_python() -> Finding:
    """Which Python this is; one that is too old could not have come this far."""
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("Python", "ok", f"{version} ({sys.executable})")


def check_packages() -> Finding:
    """All packages that the installed fieldloop asks for, in the versions it asks for."""
    try:
        version, lines = metadata.version("fieldloop"), metadata.requires("fieldloop") or []
    except metadata.PackageNotFoundError:
        return Finding("packages", "warn", "fieldloop is not installed as a package", _REINSTALL)
    needed = [need for line in lines if (need := _requirement(line)) is not None]
    wrong = [complaint for need in needed if (complaint := _complaint(need)) is not None]
    if wrong:
        return Finding("packages", "fail", "; ".join(wrong), _REINSTALL)
    return Finding("packages", "ok", f"fieldloop {version} and the {len(needed)} packages it needs")


def _requirement(line: str) -> Requirement | None:
    """A requirement that applies here, extras aside."""
    try:
        need = Requirement(line)
    except InvalidRequirement:
        return None
    return need if need.marker is None or need.marker.evaluate({"extra": ""}) else None


def _complaint(need: Requirement) -> str | None:
    try:
        version = metadata.version(need.name)
    except metadata.PackageNotFoundError:
        return f"{need.name} is missing"
    fits = need.specifier.contains(version, prereleases=True)
    return None if fits else f"{need.name} is {version}, needed is {need.specifier}"


def _program(config: CampaignConfig | None, name: str) -> Program:
    return config.codes.program(name) if config else CodesSection().program(name)


def _others(config: CampaignConfig | None) -> list[str]:
    """Further codes that are on this machine; a campaign needs its own alone."""
    if config is not None:
        return []
    return [name for name in CODES if name != DEFAULT_CODE and shutil.which(_program(None, name).command)]


def check_program(name: str, code: Program) -> Finding:
    """The program is found, starts and says its version. It is started without its launcher, which may queue.

    Args:
        name: of the DFT code.
        code: how it is run here.
    """
    try:
        code.argv()
        command = code.model_copy(update={"launcher": (), "ranks": 1}).argv()
    except ProgramNotFoundError as error:
        found, _, fix = str(error).partition(": ")
        return Finding(name, "fail", found, fix)
    where = command[0]
    launcher = f", launched by {' '.join(code.launcher)}" if code.launcher else ""
    if name not in _BANNERS:
        return Finding(name, "ok", f"found ({where}{launcher})")
    arguments, banner = _BANNERS[name]
    fix = f"run it by hand: {shlex.join([*command, *arguments])}"
    try:
        with tempfile.TemporaryDirectory() as folder:  # pw.x leaves a file CRASH
            output = subprocess.run(
                [*command, *arguments],
                cwd=folder,
                env=code.process_environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_PATIENCE,
                check=False,
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(name, "fail", f"{code.command} does not run: {error}", fix)
    said = banner.search(output.stdout)
    if said is None:
        return Finding(name, "fail", f"{code.command} runs, but prints no banner of {name}", fix)
    return Finding(name, "ok", f"version {said[1]} ({where}{launcher})")


def check_campaign_pseudopotentials(config: CampaignConfig) -> Finding:
    """The files of the campaign's elements."""
    from .campaign import read_parent  # noqa: PLC0415  (needs the engine)
    from .loop import label_maker  # noqa: PLC0415

    name, program = "pseudopotentials", CODES[config.label.code].program
    try:
        parent = read_parent(config)
        engine = label_maker(config).engine(parent)
        hashes = engine.pseudopotentials(parent.species)
    except (PseudopotentialError, ConfigError) as error:
        keys = ("pseudo_dir", "label.pseudopotentials")
        if "potcar_dir" in program.model_fields:
            keys = ("potcar_dir", "label.settings.potcars")
        return Finding(name, "fail", str(error), f"see {program.section}.{keys[0]} and {keys[1]} in the YAML")
    if not isinstance(engine.code, PwCode):
        return Finding(name, "ok", f"found for {', '.join(hashes)}")
    found = engine.code.find_pseudopotentials(parent.species)
    files = ", ".join(f"{element}: {file.path.name} ({file.functional})" for element, file in found.items())
    return Finding(name, "ok", f"{files} in {engine.code.pseudo_dir}")


def check_pseudopotentials() -> Finding:
    """Those in the usual folder of pw.x."""
    name, folder = "pseudopotentials", Path(PwCode().pseudo_dir)
    if not folder.is_dir():
        fix = "apt-get install quantum-espresso-data, or set ESPRESSO_PSEUDO, or codes.pw.pseudo_dir in the YAML"
        return Finding(name, "warn", f"there is no folder {folder}", fix)
    return Finding(name, "ok", f"{_elements(folder)} in {folder}")


def _elements(folder: Path) -> str:
    found = set()
    for path in folder.iterdir():
        if path.suffix.lower() in (".upf", ".gth"):
            try:
                pseudopotential = read_pseudopotential(path)
            except PseudopotentialError:
                continue
            if pseudopotential.kind in ("NC", None):
                found.add(pseudopotential.element)
    return f"norm-conserving files for {', '.join(sorted(found)) or 'no element'}"


def check_cores(workers: int) -> Finding:
    """As many cores as workers."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers > cores:
        return Finding("cores", "warn", f"{cores} for {workers} workers", f"set workers: {cores} in the YAML")
    return Finding("cores", "ok", f"{cores}")


def check_memory(workers: int, needed: float = 2.0) -> Finding:
    """Some GiB for each worker."""
    memory = psutil.virtual_memory()
    detail = f"{memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB available"
    if memory.available < workers * needed * _GIB:
        return Finding("memory", "warn", detail, f"{workers} workers want {workers * needed:g} GiB: use fewer of them")
    return Finding("memory", "ok", detail)


def check_torch() -> Finding:
    """PyTorch imports; the GPU that it sees."""
    import torch  # noqa: PLC0415  (takes seconds, and may be missing)

    if torch.cuda.is_available():
        return Finding("torch", "ok", f"{torch.__version__}, GPU {torch.cuda.get_device_name()}")
    return Finding("torch", "ok", f"{torch.__version__}, no GPU: training and dynamics run on the CPU")


def check_file_system(directory: Path) -> Finding:
    """The store lies on a file system of this machine."""
    from .sqlite_file import NETWORK_FILE_SYSTEMS, file_system  # noqa: PLC0415  (needs maggma, which may be missing)

    kind = file_system(_existing(directory))
    detail = f"SQLite {sqlite3.sqlite_version} on {kind or 'an unknown file system'} ({directory})"
    if kind in NETWORK_FILE_SYSTEMS:
        fix = "works slower and from one host at a time; set directory in the YAML to a local disk"
        return Finding("store", "warn", detail, fix)
    return Finding("store", "ok", detail)


def check_disk(directory: Path, needed: float = 5.0) -> Finding:
    """Some GiB are free, and the directory can be written."""
    place = _existing(directory)
    if not os.access(place, os.W_OK):
        return Finding("disk", "fail", f"{place} cannot be written", "set directory in the YAML")
    free = shutil.disk_usage(place).free / _GIB
    detail = f"{free:.1f} GiB free in {place}"
    if free < needed:
        state: State = "fail" if free < needed / 10 else "warn"
        return Finding("disk", state, detail, "make room: DFT keeps wavefunctions while it runs")
    return Finding("disk", "ok", detail)


def _existing(path: Path) -> Path:
    """The path, or its closest parent that exists."""
    return next((folder for folder in (path, *path.absolute().parents) if folder.exists()), Path("/"))


def ready(findings: Sequence[Finding]) -> bool:
    """True where nothing that is needed is missing."""
    return all(finding.state != "fail" for finding in findings)
