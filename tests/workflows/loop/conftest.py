"""A campaign small enough for a test: primitive AlAs, real pw.x behind a launcher that keeps a log."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from ase.build import bulk
from ase.io import write

LAUNCHER = """#!/bin/bash
echo "{{\\"event\\": \\"start\\", \\"pid\\": $$, \\"where\\": \\"$PWD\\", \\"time\\": $(date +%s.%N)}}" >> {log}
"$@"
status=$?
echo "{{\\"event\\": \\"end\\", \\"pid\\": $$, \\"where\\": \\"$PWD\\", \\"time\\": $(date +%s.%N)}}" >> {log}
exit $status
"""


@dataclass(frozen=True)
class SmallCampaign:
    """Its YAML, its directory and the log of its SCFs."""

    file: Path
    root: Path
    log: Path

    def scf_events(self) -> list[dict]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []


def settings(launcher: Path) -> dict:
    return {
        "name": "small",
        "structure": "AlAs.vasp",
        "reference_charges": {"Al": 3, "As": -3},
        "codes": {"pw": {"launcher": str(launcher)}},
        "label": {"protocol": "fast", "field_step": "0.36 MV/cm"},
        "seeds": {"count": 5, "rattle": [0.03], "strain": 0.0},
        "committee": {
            "members": 2,
            "network": {"cutoff": 4.2, "scalars": 8, "tensors": 4, "l_max": 1},
            "training": {"epochs": 8, "checkpoint_every": 2, "tolerances": {"stress": None}},
            "retraining_epochs": 4,
        },
        "exploration": {
            "temperatures": ["100 K"],
            "fields": [[0, 0, 0], [0, 0, "1 MV/cm"]],
            "duration": "30 fs",
            "candidate_every": "5 fs",
            "stop_ratio": 1000,
        },
        "selection": {"count": 2, "minimum": 2, "bounds": {"forces": 0.05, "born_effective_charges": 0.05}},
        "stop": {"forces": 1e-6, "max_generations": 2},
    }


@pytest.fixture
def make_campaign(tmp_path):
    def make(name: str, **changes) -> SmallCampaign:
        folder = tmp_path / name
        folder.mkdir()
        atoms = bulk("AlAs", "zincblende", a=5.65)
        atoms.rattle(0.03, seed=3)  # without it forces, and spreads of forces, vanish by symmetry
        write(folder / "AlAs.vasp", atoms, direct=True)
        launcher, log = folder / "launch.sh", folder / "scf.log"
        launcher.write_text(LAUNCHER.format(log=log))
        launcher.chmod(0o755)
        (folder / "loop.yaml").write_text(yaml.safe_dump({**settings(launcher), **changes}))
        return SmallCampaign(folder / "loop.yaml", folder / "run", log)

    return make
