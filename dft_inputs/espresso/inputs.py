"""pw.x input of a field point and of the gap run (written by ASE), and the name of a label."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase.io.espresso import write_espresso_in

from ..identity import inputs_hash, label_name
from ..pseudopotentials import Pseudopotential
from ..records import Frame
from ..stencil import Stencil
from ..units import RYDBERG_FIELD_IN_V_PER_ANGSTROM
from .phases import field_kpoints
from .settings import PwSettings

CODE = "pw.x"
PREFIX = "pwscf"
SCRATCH = "scratch"
PSEUDO = "../pseudo"
SMALLEST_FIELD = 1e-6
"""pw.x ignores field components below this, Ry a.u."""
EMPTY_BANDS = 2
"""In the zero-field run; they cost 15 % of its time."""
_DAVIDSON = {"diago_david_ndim": 4}
"""pw.x's own 2 saves memory, but takes more SCF iterations."""
GAP_THRESHOLD = 1e-9
"""Tightest SCF threshold of the gap run, Ry."""


def zero_input(
    frame: Frame, settings: PwSettings, pseudopotentials: Mapping[str, Pseudopotential], comment: str
) -> str:
    """Input of the zero-field SCF that the field points start from.

    It is a plain SCF on the k-points that a run in a field takes, without ``lelfield``, which would cost a third more;
    the Berry phases come from its wavefunctions (``phases.string_phases``). Two empty bands give the gap.

    Args:
        frame: the geometry.
        settings: level of theory.
        pseudopotentials: by element.
        comment: first line; it ties the run to its label.
    """
    kpoints = field_kpoints(settings.mesh)
    occupied = occupied_bands(frame, pseudopotentials)
    control = {"tprnfor": True, "tstress": _has_stress(settings, pseudopotentials)}
    system = {"occupations": "fixed", "nosym": True, "noinv": True, "nbnd": occupied + EMPTY_BANDS}
    weighted = np.column_stack([kpoints, np.full(len(kpoints), 1 / len(kpoints))])
    return _text(frame, settings, pseudopotentials, control, system, dict(_DAVIDSON), comment, weighted)


def plain_input(
    frame: Frame, settings: PwSettings, pseudopotentials: Mapping[str, Pseudopotential], comment: str
) -> str:
    """Input of a plain SCF on the mesh of the settings with the symmetry of the frame, for ph.x to go on from."""
    control = {"tprnfor": True, "tstress": _has_stress(settings, pseudopotentials)}
    return _text(frame, settings, pseudopotentials, control, {"occupations": "fixed"}, dict(_DAVIDSON), comment)


def _has_stress(settings: PwSettings, pseudopotentials: Mapping[str, Pseudopotential]) -> bool:
    """pw.x 6.7 gets the stress of Goedecker files wrong but for its trace, so such labels go without."""
    return settings.stress and not any(p.path.suffix.lower() == ".gth" for p in pseudopotentials.values())


def occupied_bands(frame: Frame, pseudopotentials: Mapping[str, Pseudopotential]) -> int:
    """Bands that two electrons each fill, rounded down."""
    return math.floor(sum(pseudopotentials[symbol].z_valence for symbol in frame.species) / 2 + 1e-6)


def field_input(
    frame: Frame,
    settings: PwSettings,
    pseudopotentials: Mapping[str, Pseudopotential],
    field: np.ndarray,
    *,
    extrapolated: bool = False,
    comment: str,
) -> str:
    """Input of one SCF in a homogeneous field, from the files of the zero-field run.

    It prints its dipole relative to the Berry phases of that run, so that no k-string can hop to another branch.

    Args:
        frame: the geometry.
        settings: level of theory.
        pseudopotentials: by element.
        field: V/A, (3,).
        extrapolated: the wavefunctions it starts from are extrapolated, so they are close to the solution.
        comment: first line; it ties the run to its label.

    Raises:
        ValueError: a field component too small for pw.x.
    """
    in_rydberg = np.asarray(field) / RYDBERG_FIELD_IN_V_PER_ANGSTROM
    if ((in_rydberg != 0) & (np.abs(in_rydberg) < SMALLEST_FIELD)).any():
        smallest = SMALLEST_FIELD * RYDBERG_FIELD_IN_V_PER_ANGSTROM
        raise ValueError(f"pw.x ignores field components below {smallest:.2e} V/A, got {list(map(float, field))}")
    control = {"lelfield": True, "nberrycyc": settings.nberrycyc, "tprnfor": True, "tstress": False}
    electrons: dict[str, Any] = {
        **_DAVIDSON,
        "startingwfc": "file",
        "startingpot": "file",
        "diago_thr_init": max(1e-13, settings.conv_thr / 100) if extrapolated else 1e-8,
        "efield_phase": "read",
    }
    electrons |= {f"efield_cart({axis + 1})": float(value) for axis, value in enumerate(in_rydberg)}
    system = {"occupations": "fixed", "nosym": True}
    return _text(frame, settings, pseudopotentials, control, system, electrons, comment)


def gap_input(
    frame: Frame, settings: PwSettings, pseudopotentials: Mapping[str, Pseudopotential], bands: int, comment: str
) -> str:
    """Input of a zero-field SCF with empty bands.

    A little smearing lets a metal converge too, so that it is told by its bands and not by a failure; it leaves
    insulators as they are. Bands need no threshold as tight as that of labels, which a metal may never reach.
    """
    settings = settings.model_copy(update={"conv_thr": max(settings.conv_thr, GAP_THRESHOLD)})
    control = {"tprnfor": False, "tstress": False}
    system = {"occupations": "smearing", "smearing": "gaussian", "degauss": 0.002, "nbnd": bands}
    return _text(frame, settings, pseudopotentials, control, system, {}, comment)


def label_id(
    frame: Frame, settings: PwSettings, pseudopotentials: Mapping[str, Pseudopotential], stencil: Stencil
) -> str:
    """Name of a label: hash of the geometry and all that determines its numbers; no paths, no parallelism."""
    return label_name(frame, inputs_hash(CODE, settings, pseudopotentials, stencil))


def _starting_magnetization(frame: Frame, settings: PwSettings) -> list[float]:
    """Of each atom; ASE makes a species of its own for each value."""
    counts: Counter[str] = Counter()
    moments = []
    for symbol in frame.species:
        values = np.atleast_1d(settings.starting_magnetization.get(symbol, 0.0))
        moments.append(float(values[counts[symbol] % len(values)]))
        counts[symbol] += 1
    return moments


def _text(
    frame: Frame,
    settings: PwSettings,
    pseudopotentials: Mapping[str, Pseudopotential],
    control: dict,
    system: dict,
    electrons: dict,
    comment: str,
    kpoints: Sequence[int] | np.ndarray | None = None,
) -> str:
    system = {"ecutwfc": settings.ecutwfc, **system}
    if settings.ecutrho is not None:
        system["ecutrho"] = settings.ecutrho
    if settings.input_dft is not None:
        system["input_dft"] = settings.input_dft
    paths = {"calculation": "scf", "prefix": PREFIX, "outdir": f"./{SCRATCH}", "pseudo_dir": PSEUDO}
    scf = {name: getattr(settings, name) for name in ("conv_thr", "mixing_beta", "electron_maxstep")}
    atoms = frame.to_atoms()
    if settings.nspin == 2:
        system |= {"nspin": 2, "tot_magnetization": settings.tot_magnetization}
        atoms.set_initial_magnetic_moments(_starting_magnetization(frame, settings))
    buffer = io.StringIO()
    write_espresso_in(
        buffer,
        atoms,
        input_data={"control": {**paths, **control}, "system": system, "electrons": {**scf, **electrons}},
        pseudopotentials={element: p.path.name for element, p in pseudopotentials.items()},
        kpts=settings.mesh if kpoints is None else kpoints,
    )
    return f"! {comment}\n{buffer.getvalue()}"
