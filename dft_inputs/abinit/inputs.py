"""ABINIT input of a field point, and the hash that names a label."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers

from ..identity import inputs_hash, label_name
from ..pseudopotentials import Pseudopotential
from ..records import Frame
from ..stencil import Stencil
from ..units import BOHR_IN_ANGSTROM, HARTREE_FIELD_IN_V_PER_ANGSTROM
from .settings import AbinitSettings

CODE = "abinit"
PREFIX = "abinit"
WAVEFUNCTIONS = f"{PREFIX}_WFK"
PSEUDO = "../pseudo"
EMPTY_BANDS = 2
"""In the zero-field run; they give the gap."""
_PER_LINE = 20
"""ABINIT refuses lines of more than 264 columns."""


def field_input(
    frame: Frame,
    settings: AbinitSettings,
    pseudopotentials: Mapping[str, Pseudopotential],
    field: np.ndarray,
    *,
    start: str | None = None,
    keep: bool = False,
    comment: str,
) -> str:
    """Input of one SCF in a homogeneous field, or of one without whose Berry phases are wanted too.

    Neither folds k-points or uses symmetry: all runs of a label are on one mesh. No absolute path is written, so the
    input can be run by hand, too.

    Args:
        frame: the geometry.
        settings: level of theory, with its mesh.
        pseudopotentials: by element.
        field: V/A, (3,).
        start: file of the wavefunctions to start from, relative to the run; from scratch, with empty bands, where None.
        keep: write the wavefunctions, for others to start from; else only where the SCF did not converge.
        comment: first line; it ties the run to its label.
    """
    occupied = occupied_bands(frame, pseudopotentials)
    species = sorted(set(frame.species))
    lines = [
        f"# {comment}",
        *_field_lines(field),
        f"nband {occupied if start else occupied + EMPTY_BANDS}",
        f"prtwf {1 if keep else -1}",
        *([f'getwfk_filepath "{start}"'] if start else []),
        f"ecut {settings.ecut!r}",
        *([f"ixc {settings.ixc}"] if settings.ixc is not None else []),
        f"ngkpt {' '.join(map(str, settings.mesh))}",
        "nshiftk 1 shiftk 0 0 0",
        "kptopt 3 nsym 1 chkprim 0 chksymbreak 0 occopt 1",
        f"tolvrs {settings.tolvrs!r} nstep {settings.nstep} diemac {settings.diemac!r}",
        f"optstress {int(settings.stress)}",
        "acell 3*1.0",
        *_rows("rprim", right_handed(frame.cell) / BOHR_IN_ANGSTROM),
        f"natom {len(frame)}",
        f"ntypat {len(species)}",
        f"znucl {' '.join(str(atomic_numbers[symbol]) for symbol in species)}",
        *_wrapped("typat", [species.index(symbol) + 1 for symbol in frame.species]),
        *_rows("xcart", frame.positions / BOHR_IN_ANGSTROM),
        f'pp_dirpath "{PSEUDO}"',
        f'pseudos "{", ".join(link_name(pseudopotentials[symbol]) for symbol in species)}"',
        f'output_file "{PREFIX}.abo"',
        f'outdata_prefix "{PREFIX}"',
        "prtden 0 prteig 0",
    ]
    return "\n".join(lines) + "\n"


def right_handed(cell: np.ndarray) -> np.ndarray:
    """The lattice vectors as rows, all turned round where they are left-handed, which ABINIT refuses, (3, 3)."""
    return cell if np.linalg.det(cell) > 0 else -cell


def restarted(text: str, start: str, changes: Mapping[str, str]) -> str:
    """The input of another attempt at a run: from given wavefunctions, with other ways to the same convergence.

    Args:
        text: from ``field_input``.
        start: file of the wavefunctions.
        changes: values of variables that steer the SCF.
    """
    kept = [line for line in text.splitlines() if not line.startswith("getwfk_filepath")]
    words = [_changed(line, changes) for line in kept]
    return "\n".join([words[0], f'getwfk_filepath "{start}"', *words[1:]]) + "\n"


def occupied_bands(frame: Frame, pseudopotentials: Mapping[str, Pseudopotential]) -> int:
    """Bands that two electrons each fill, rounded down."""
    return math.floor(sum(pseudopotentials[symbol].z_valence for symbol in frame.species) / 2 + 1e-6)


def link_name(pseudopotential: Pseudopotential) -> str:
    """What a pseudopotential file is called in the directory of a label, free of characters that ABINIT trips over."""
    return f"{pseudopotential.element}{pseudopotential.path.suffix.lower()}"


def link_pseudopotentials(directory: Path, pseudopotentials: Iterable[Pseudopotential]) -> None:
    """Links under ``directory/pseudo``: inputs then hold no absolute path."""
    folder = directory / Path(PSEUDO).name
    folder.mkdir(parents=True, exist_ok=True)
    for pseudopotential in pseudopotentials:
        link, target = folder / link_name(pseudopotential), pseudopotential.path.resolve()
        if link.is_symlink() and link.readlink() == target:
            continue  # another run may be reading it
        link.unlink(missing_ok=True)
        link.symlink_to(target)


def label_id(
    frame: Frame, settings: AbinitSettings, pseudopotentials: Mapping[str, Pseudopotential], stencil: Stencil
) -> str:
    """Name of a label: hash of the geometry and all that determines its numbers; no paths, no parallelism."""
    return label_name(frame, inputs_hash(CODE, settings, pseudopotentials, stencil))


def _field_lines(field: np.ndarray) -> list[str]:
    if not np.any(field):
        return ["berryopt -1", "rfdir 1 1 1"]
    in_hartree = np.asarray(field) / HARTREE_FIELD_IN_V_PER_ANGSTROM
    return ["berryopt 4", "efield " + " ".join(repr(float(component)) for component in in_hartree)]


def _rows(name: str, vectors: np.ndarray) -> list[str]:
    return [name, *(" ".join(f"{component:.15e}" for component in vector) for vector in vectors)]


def _wrapped(name: str, numbers: list[int]) -> list[str]:
    starts = range(0, len(numbers), _PER_LINE)
    return [name, *(" ".join(map(str, numbers[start : start + _PER_LINE])) for start in starts)]


def _changed(line: str, changes: Mapping[str, str]) -> str:
    words = line.split(" ")
    for name, value in changes.items():
        if name in words[:-1]:
            words[words.index(name) + 1] = value
    return " ".join(words)
