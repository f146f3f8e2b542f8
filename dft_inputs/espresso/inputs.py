"""pw.x input of a field point and of the gap run (written by ASE), and the hash that names a label."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from ase.io.espresso import write_espresso_in

from ..pseudopotentials import Pseudopotential
from ..records import Frame
from ..stencil import Stencil
from ..units import RYDBERG_FIELD_IN_V_PER_ANGSTROM
from .settings import PwSettings

PREFIX = "pwscf"
SCRATCH = "scratch"
PSEUDO = "../pseudo"
SMALLEST_FIELD = 1e-6
"""pw.x ignores field components below this, Ry a.u."""
GAP_THRESHOLD = 1e-9
"""Tightest SCF threshold of the gap run, Ry."""


def field_input(
    frame: Frame,
    settings: PwSettings,
    pseudopotentials: Mapping[str, Pseudopotential],
    field: np.ndarray,
    *,
    restart: bool,
    comment: str,
) -> str:
    """Input of one SCF in a homogeneous field.

    The first run of a stencil writes the Berry phase of each k-string; the others start from its wavefunctions and
    print their dipole relative to those phases, so that no string can hop to another branch.

    Args:
        frame: the geometry.
        settings: level of theory.
        pseudopotentials: by element.
        field: V/A, (3,).
        restart: start from the files of the first run, and read its phases.
        comment: first line; it ties the run to its label.

    Raises:
        ValueError: a field component too small for pw.x.
    """
    in_rydberg = np.asarray(field) / RYDBERG_FIELD_IN_V_PER_ANGSTROM
    if ((in_rydberg != 0) & (np.abs(in_rydberg) < SMALLEST_FIELD)).any():
        smallest = SMALLEST_FIELD * RYDBERG_FIELD_IN_V_PER_ANGSTROM
        raise ValueError(f"pw.x ignores field components below {smallest:.2e} V/A, got {list(map(float, field))}")
    with_stress = settings.stress and not restart and not in_rydberg.any()
    control = {"lelfield": True, "nberrycyc": settings.nberrycyc, "tprnfor": True, "tstress": with_stress}
    electrons: dict[str, Any] = {"efield_phase": "read" if restart else "write"}
    electrons |= {"startingwfc": "file", "startingpot": "file"} if restart else {"startingwfc": "random"}
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
    return _hash({"frame": frame.frame_id, "inputs": inputs_hash(settings, pseudopotentials, stencil)})[:16]


def inputs_hash(settings: PwSettings, pseudopotentials: Mapping[str, Pseudopotential], stencil: Stencil | None) -> str:
    """Hash of the level of theory: resolved inputs, pseudopotentials by content, base field and stencil."""
    return _hash(
        {
            "code": "pw.x",
            "settings": settings.identity(),
            "pseudopotentials": {element: p.sha256 for element, p in sorted(pseudopotentials.items())},
            "fields": {n: [float(v) for v in f] for n, f in stencil.points().items()} if stencil else None,
        }
    )


def _hash(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _text(
    frame: Frame,
    settings: PwSettings,
    pseudopotentials: Mapping[str, Pseudopotential],
    control: dict,
    system: dict,
    electrons: dict,
    comment: str,
) -> str:
    system = {"ecutwfc": settings.ecutwfc, **system}
    if settings.ecutrho is not None:
        system["ecutrho"] = settings.ecutrho
    if settings.input_dft is not None:
        system["input_dft"] = settings.input_dft
    paths = {"calculation": "scf", "prefix": PREFIX, "outdir": f"./{SCRATCH}", "pseudo_dir": PSEUDO}
    scf = {name: getattr(settings, name) for name in ("conv_thr", "mixing_beta", "electron_maxstep")}
    buffer = io.StringIO()
    write_espresso_in(
        buffer,
        frame.to_atoms(),
        input_data={"control": {**paths, **control}, "system": system, "electrons": {**scf, **electrons}},
        pseudopotentials={element: p.path.name for element, p in pseudopotentials.items()},
        kpts=settings.kpoints,
    )
    return f"! {comment}\n{buffer.getvalue()}"
