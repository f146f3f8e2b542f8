"""VASP in the conformance suite: a program that stands for it, see ``vasp/vasp_std.py``, on the crystal it knows."""

import os
import re
import sys
from pathlib import Path

import numpy as np
from engine_case import PATIENCE, Case, Tolerances
from fieldloop.dft_inputs.stencil import Stencil
from fieldloop.dft_inputs.vasp.code import VaspCode
from fieldloop.dft_inputs.vasp.engine import VaspEngine
from fieldloop.dft_inputs.vasp.settings import VaspSettings

DOUBLE = Path(__file__).parent / "vasp"
sys.path.insert(0, str(DOUBLE))

import synthetic_vasp  # noqa: E402


def vasp_program(folder: Path) -> VaspCode:
    """The double as an executable of the name of VASP, with POTCAR files of its own."""
    program, python = folder / "vasp_std", folder / f"python{os.getpid()}"
    # The first line of a script can name no path with blanks, as that of the interpreter may be.
    python.unlink(missing_ok=True)
    python.symlink_to(sys.executable)
    paths = [str(DOUBLE), str(Path(np.__file__).parents[1])]
    text = f"import sys\nsys.path[:0] = {paths}\nimport vasp_std\nvasp_std.main()\n"
    _install(program, f"#!{python}\n{text}")
    for symbol in synthetic_vasp.VALENCES:
        (folder / "potcars" / symbol).mkdir(parents=True, exist_ok=True)
        _install(folder / "potcars" / symbol / "POTCAR", synthetic_vasp.potcar_text(symbol))
    return VaspCode(command=str(program), potcar_dir=str(folder / "potcars"), lease_timeout=PATIENCE)


def _install(path: Path, text: str) -> None:
    """At once, as another worker of the test run may be using it."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_text(text)
    part.chmod(0o755)
    part.replace(path)


def make_case(folder: Path) -> Case:
    crystal = synthetic_vasp.Crystal()
    settings = VaspSettings(protocol="test", kpoints=synthetic_vasp.MESH)
    return Case(
        engine=VaspEngine(settings, vasp_program(folder)),
        frame=crystal.frame,
        metal=synthetic_vasp.moved(crystal, 1, 2, 0.8).frame,
        cation=1,
        library="potcar_dir",
        written_field=written_field,
        outputs=("OUTCAR", "vasprun.xml"),
        matters={
            "encut": 600.0,
            "kpoints": (3, 2, 4),
            "ediff": 1e-6,
            "sigma": 0.02,
            "gga": "PS",
            "incar": {"ISPIN": 2},
        },
        neutral={"protocol": "another name", "nelm": 77, "incar": {"KPAR": 4, "AMIX": 0.2}},
        hasty={"nelm": 1},
        cut='"$@"; head -n 30 OUTCAR > half; mv half OUTCAR',
        stencil=Stencil(step=0.01),
        # OUTCAR prints dipoles with five decimals.
        tolerances=Tolerances(alpha=2e-3),
    )


def written_field(folder: Path) -> np.ndarray:
    """EFIELD_PEAD is what pushes an electron, eV/A."""
    found = re.search(r"EFIELD_PEAD\s*=\s*(.*)", (folder / "INCAR").read_text())
    return -np.array(found[1].split(), dtype=float) if found else np.zeros(3)
