"""ABINIT in the conformance suite: AlAs off its sites, two atoms, 6 Ha, 2x2x2, Goedecker's pseudopotentials."""

import re
from pathlib import Path

import numpy as np
from ase.build import bulk
from engine_case import PATIENCE, Case
from fieldloop.dft_inputs.abinit import AbinitCode, AbinitEngine, AbinitSettings
from fieldloop.dft_inputs.records import Frame

FILES = str(Path(__file__).parents[1] / "data" / "pseudopotentials")
HARTREE_FIELD = 51.42206747632590
"""V/A, CODATA."""


def make_case(folder: Path) -> Case:
    frame = Frame.from_atoms(bulk("AlAs", "zincblende", a=5.65))
    positions = frame.positions.copy()
    positions[0] += (0.12, -0.05, 0.03)
    return Case(
        engine=AbinitEngine(AbinitSettings.from_protocol("fast"), AbinitCode(pseudo_dir=FILES, lease_timeout=PATIENCE)),
        frame=frame.model_copy(update={"positions": positions}),
        metal=Frame.from_atoms(bulk("Al", "hcp", a=2.86, c=4.67)),
        cation=0,
        library="pseudo_dir",
        written_field=written_field,
        outputs=("abinit.abo", "abinit.log", "abinit_GSR.nc.gz"),
        matters={"ecut": 7.0, "kpoints": (2, 2, 3), "tolvrs": 1e-9, "ixc": 2},
        neutral={"protocol": "another name", "diemac": 12.0, "nstep": 77},
        hasty={"nstep": 2},
        cut='"$@" > whole.txt; head -n 150 whole.txt',
    )


def written_field(folder: Path) -> np.ndarray:
    found = re.search(r"^efield (\S+) (\S+) (\S+)$", (folder / "abinit.abi").read_text(), re.MULTILINE)
    return np.array(found.groups() if found else (0, 0, 0), dtype=float) * HARTREE_FIELD
