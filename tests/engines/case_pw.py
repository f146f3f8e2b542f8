"""pw.x in the conformance suite: AlAs off its sites, two atoms, 12 Ry, 2x2x2."""

import re
from pathlib import Path

import numpy as np
from ase.build import bulk
from engine_case import PATIENCE, Case
from fieldloop.dft_inputs.espresso.code import PwCode
from fieldloop.dft_inputs.espresso.engine import PwEngine
from fieldloop.dft_inputs.espresso.settings import PwSettings
from fieldloop.dft_inputs.records import Frame

HARTREE_FIELD = 51.42206747632590
"""V/A, CODATA; pw.x takes Rydberg atomic units, in which the charge is sqrt(2)."""


def make_case(folder: Path) -> Case:
    frame = Frame.from_atoms(bulk("AlAs", "zincblende", a=5.65))
    positions = frame.positions.copy()
    positions[0] += (0.12, -0.05, 0.03)
    return Case(
        engine=PwEngine(PwSettings.from_protocol("fast"), PwCode(lease_timeout=PATIENCE)),
        frame=frame.model_copy(update={"positions": positions}),
        metal=Frame.from_atoms(bulk("Mg", "fcc", a=4.5)),
        cation=0,
        library="pseudo_dir",
        written_field=written_field,
        outputs=("pw.out", "pw.xml"),
        matters={"ecutwfc": 13.0, "kpoints": (2, 2, 3), "conv_thr": 1e-9, "input_dft": "PBE"},
        neutral={"protocol": "another name", "mixing_beta": 0.3, "electron_maxstep": 77},
        hasty={"electron_maxstep": 2},
        cut='"$@" > whole.txt; head -n 150 whole.txt',
    )


def written_field(folder: Path) -> np.ndarray:
    text = (folder / "pw.in").read_text()
    found = dict(re.findall(r"efield_cart\((\d)\)\s*=\s*([-+\d.eE]+)", text))
    return np.array([float(found.get(str(i), 0.0)) for i in (1, 2, 3)]) * HARTREE_FIELD / np.sqrt(2)
