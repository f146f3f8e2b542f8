"""A real campaign, run once by the command line on primitive AlAs: seconds of pw.x, every stage of the loop."""

import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import write

YAML = """\
name: tiny
structure: AlAs.vasp
directory: run
workers: 2
reference_charges: {Al: 3, As: -3}
codes: {pw: {command: COMMAND}}
label:
  protocol: fast
  pseudopotentials: {Al: Al.pz-vbc.UPF, As: As.pz-bhs.UPF}
seeds: {count: 4, rattle: [0.05], strain: 0.0}
committee:
  members: 2
  validation_every: 4
  network: {cutoff: 3.5, scalars: 8, tensors: 4, l_max: 1}
  training: {epochs: 5, batch_size: 2, optimizer: adam, learning_rate: 0.005, field_directions: 3}
exploration:
  temperatures: [50 K]
  fields: [[0, 0, 0], [0, 0, 5 MV/cm]]
  timestep: 2 fs
  duration: 60 fs
  candidate_every: 20 fs
selection:
  count: 1
  minimum: 1
  bounds: {forces: 0.05}
stop:
  forces: 0.03
  max_generations: 1
"""

# Refuses to work on the frames whose label directory is named in the file `refuse`, as a broken node would.
PW = """\
#!/bin/sh
pwd >> HERE/calls
while read -r label; do case "$PWD" in *"$label"*/field-x) echo "node is broken" >&2; exit 9;; esac; done < HERE/refuse
exec pw.x "$@"
"""


@dataclass(frozen=True)
class Place:
    """A folder with a campaign file, its crystal and a pw.x that counts how often it is started."""

    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "loop.yaml"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().split()

    def refuse(self, *labels: str) -> None:
        (self.folder / "refuse").write_text("".join(f"{label}\n" for label in labels))

    def change(self, old: str, new: str) -> None:
        text = self.file.read_text()
        assert old in text
        self.file.write_text(text.replace(old, new))

    def start(self, *arguments: object) -> subprocess.Popen:
        command = [*FIELDLOOP, *map(str, arguments)]
        return subprocess.Popen(
            command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def fieldloop(self, *arguments: object) -> subprocess.CompletedProcess:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


FIELDLOOP = [str(Path(sys.executable).with_name("fieldloop"))]


def new_place(folder: Path) -> Place:
    folder.mkdir(parents=True, exist_ok=True)
    place = Place(folder)
    write(folder / "AlAs.vasp", bulk("AlAs", "zincblende", a=5.66))
    (folder / "pw.sh").write_text(PW.replace("HERE", str(folder)))
    (folder / "pw.sh").chmod(stat.S_IRWXU)
    (folder / "calls").touch()
    place.refuse()
    place.file.write_text(YAML.replace("COMMAND", str(folder / "pw.sh")))
    return place


@pytest.fixture
def place(tmp_path) -> Place:
    """A campaign that has not begun."""
    return new_place(tmp_path / "fresh")


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory) -> tuple[Place, subprocess.CompletedProcess]:
    """A finished campaign, not to be changed, and what its run printed."""
    assert shutil.which("pw.x"), "this test runs pw.x: install it with 'apt-get install quantum-espresso'"
    place = new_place(tmp_path_factory.mktemp("campaign") / "tiny")
    return place, place.fieldloop("loop", place.file)


@pytest.fixture
def finished(finished_once, tmp_path) -> Place:
    """A copy of the finished campaign, at a place of its own."""
    original = finished_once[0]
    copy = tmp_path / "copy"
    shutil.copytree(original.folder, copy, symlinks=True)
    place = Place(copy)
    place.change(str(original.folder), str(copy))
    (copy / "pw.sh").write_text(PW.replace("HERE", str(copy)))
    (copy / "calls").write_text("")
    return place
