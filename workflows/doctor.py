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

from ..dft_inputs.espresso.code import PwCode, PwNotFoundError
from ..dft_inputs.pseudopotentials import PseudopotentialError, read_pseudopotential
from .config import CampaignConfig, ConfigError

State = Literal["ok", "warn", "fail"]

_GIB = 1024**3
_PATIENCE = 60.0
_REINSTALL = "install again: make install, or python -m pip install fieldloop"
_BANNER = re.compile(r"Program PWSCF v\.?(\S+)")


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
    code = _code(config)
    directory = config.directory if config else Path.cwd()
    workers = config.workers if config else 1
    checks: dict[str, Callable[[], Finding]] = {
        "Python": check_python,
        "packages": check_packages,
        "pw.x": lambda: check_pw(code),
        "pseudopotentials": lambda: check_pseudopotentials(code, config),
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


def _code(config: CampaignConfig | None) -> PwCode:
    if config is None:
        return PwCode()
    return config.codes.pw.code(config.label.pseudopotentials)


def check_pw(code: PwCode) -> Finding:
    """pw.x is found, starts and says its version. It is started without its launcher, which may queue."""
    try:
        code.argv()
    except PwNotFoundError as error:
        found, _, fix = str(error).partition(": ")
        return Finding("pw.x", "fail", found, fix)
    fix = f"run it by hand: {code.command} -in /dev/null"
    try:
        with tempfile.TemporaryDirectory() as folder:  # it leaves a file CRASH
            output = subprocess.run(
                [*shlex.split(code.command), "-in", os.devnull],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_PATIENCE,
                check=False,
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("pw.x", "fail", f"{code.command} does not run: {error}", fix)
    banner = _BANNER.search(output.stdout)
    if banner is None:
        return Finding("pw.x", "fail", f"{code.command} runs, but prints no banner of PWSCF", fix)
    where = shutil.which(shlex.split(code.command)[0])
    launcher = f", launched by {' '.join(code.launcher)}" if code.launcher else ""
    return Finding("pw.x", "ok", f"version {banner[1]} ({where}{launcher})")


def check_pseudopotentials(code: PwCode, config: CampaignConfig | None) -> Finding:
    """The files of the campaign's elements; without a campaign, those in the usual folder."""
    name, folder = "pseudopotentials", Path(code.pseudo_dir).expanduser()
    try:
        if config is not None:
            from .campaign import read_parent  # noqa: PLC0415  (needs the engine)

            chosen = code.find_pseudopotentials(read_parent(config).species)
            files = ", ".join(f"{element}: {p.path.name} ({p.functional})" for element, p in chosen.items())
            return Finding(name, "ok", f"{files} in {folder}")
    except (PseudopotentialError, ConfigError) as error:
        return Finding(name, "fail", str(error), "see codes.pw.pseudo_dir and label.pseudopotentials in the YAML")
    if not folder.is_dir():
        fix = "apt-get install quantum-espresso-data, or set codes.pw.pseudo_dir in the YAML"
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
        return Finding("disk", state, detail, "make room: pw.x keeps wavefunctions while it runs")
    return Finding("disk", "ok", detail)


def _existing(path: Path) -> Path:
    """The path, or its closest parent that exists."""
    return next((folder for folder in (path, *path.absolute().parents) if folder.exists()), Path("/"))


def ready(findings: Sequence[Finding]) -> bool:
    """True where nothing that is needed is missing."""
    return all(finding.state != "fail" for finding in findings)
