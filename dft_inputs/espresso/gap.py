"""Is it an insulator, and how strong a field does its mesh stand? One zero-field SCF with empty bands tells."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..records import Frame
from ..units import MV_PER_CM_IN_V_PER_ANGSTROM, RYDBERG_FIELD_IN_V_PER_ANGSTROM
from .code import PwCode
from .inputs import gap_input, inputs_hash
from .run import PwRunError, drop_scratch, ended_point, lease, link_pseudopotentials, run_point
from .settings import PwSettings

SMALLEST_GAP = 0.05
"""eV; below it a crystal counts as a metal, as no field of the stencil would leave it insulating."""

STEP_FRACTION = 0.05
"""Step of a stencil over the smallest critical field."""
STEP_RANGE = (0.1 * MV_PER_CM_IN_V_PER_ANGSTROM, 2.0 * MV_PER_CM_IN_V_PER_ANGSTROM)
"""V/A; below, SCF noise rules Z*, above, the next orders of the response."""


@dataclass(frozen=True)
class BandGap:
    """The gap on the k-points of the label.

    Attributes:
        gap: lowest empty minus highest occupied level in eV, negative where bands overlap.
        metallic: True below ``SMALLEST_GAP``, and for an odd number of electrons.
        n_occupied: occupied bands.
        reason: one line for people.
    """

    gap: float
    metallic: bool
    n_occupied: int
    reason: str


def band_gap(frame: Frame, settings: PwSettings, code: PwCode, directory: Path | str) -> BandGap:
    """Band gap from one SCF with empty bands, without ``lelfield``; resumed where it is already on disk.

    An odd number of electrons needs no run: without spin polarization a band is then half filled.

    Raises:
        PwNotFoundError, PseudopotentialError: nothing was run.
        PwRunError: pw.x failed.
        DirectoryBusyError: another process works in this directory.
    """
    code.argv()
    pseudopotentials = code.find_pseudopotentials(frame.species)
    electrons = sum(pseudopotentials[symbol].z_valence for symbol in frame.species)
    occupied = math.floor(electrons / 2 + 1e-6)
    if abs(electrons / 2 - occupied) > 1e-6:
        reason = f"metallic: {electrons:g} electrons leave a band half filled; fields need an insulator"
        return BandGap(0.0, True, occupied, reason)
    directory = Path(directory)
    comment = f"gap {inputs_hash(settings, pseudopotentials, None)[:16]} of {frame.frame_id}"
    text = gap_input(frame, settings, pseudopotentials, occupied + max(4, occupied // 5), comment)
    with lease(directory, code.lease_timeout, code.program) as descriptor:
        link_pseudopotentials(directory, pseudopotentials)
        folder = directory / "gap"
        output = ended_point(folder, text, code) or run_point(
            folder, text, code, name="the gap run", lease_descriptor=descriptor
        )
        drop_scratch(folder)
    if output.eigenvalues.shape[1] <= occupied * output.nspin:
        raise PwRunError("the gap run has no empty bands")
    return judge_gap(output.eigenvalues, occupied, output.nspin)


def critical_field(gap: float, cell: np.ndarray, kpoints: tuple[int, int, int]) -> np.ndarray:
    """Field along each lattice vector at which e |E.a_i| N_i reaches the gap, V/A, (3,).

    Beyond it the enthalpy of the finite mesh has no minimum (Souza, Iniguez, Vanderbilt, PRL 89, 117602 (2002)).
    """
    return gap / (np.linalg.norm(cell, axis=1) * np.array(kpoints))


def step_from_gap(gap: float, cell: np.ndarray, kpoints: tuple[int, int, int]) -> float:
    """Field step of the stencil, V/A: ``STEP_FRACTION`` of the smallest critical field, within ``STEP_RANGE``.

    Rounded to two significant digits in Ry a.u., so that gaps that differ in their last digits give one step.

    Measured on eight rattled atoms of AlAs (``fast`` protocol; this frame's critical field is 6.5 MV/cm): steps of
    0.1, 0.36, 1 and 2 MV/cm, or 1.5, 5.5, 15 and 31 % of it, give Z* of order 4 and of order 2 that differ by 7, 1.5,
    0.3 and 0.5e-4 e, where the SCF alone explains 8, 2.5, 1.2 and 0.6e-4 e; alpha differs by 1e-4 and 4e-4 e^2 A^2/eV
    at the last two, as the square of the step. So at 5 % SCF noise rules over truncation, and frames whose gap closes
    in dynamics, or of stronger nonlinearity, have room.

    Raises:
        ValueError: no gap.
    """
    if gap <= 0:
        raise ValueError("a field step follows from a band gap, and there is none: give field_step")
    smallest, largest = STEP_RANGE
    step = np.clip(STEP_FRACTION * critical_field(gap, cell, kpoints).min(), smallest, largest)
    return float(f"{step / RYDBERG_FIELD_IN_V_PER_ANGSTROM:.1e}") * RYDBERG_FIELD_IN_V_PER_ANGSTROM


def critical_fraction(field: np.ndarray, gap: float, cell: np.ndarray, kpoints: tuple[int, int, int]) -> float:
    """Largest e |E.a_i| N_i / E_gap over the lattice vectors; infinite for a metal in a field."""
    drop = np.abs(np.asarray(cell) @ np.asarray(field)) * np.array(kpoints)
    if not drop.any():
        return 0.0
    return float(drop.max() / gap) if gap > 0 else math.inf


def judge_gap(eigenvalues: np.ndarray, occupied: int, nspin: int = 1) -> BandGap:
    """Gap from eigenvalues, with an empty band or more.

    Args:
        eigenvalues: eV, (k-points, bands), spin channels side by side.
        occupied: bands of each spin channel.
        nspin: 1 or 2 channels.
    """
    ordered = np.sort(eigenvalues.reshape(len(eigenvalues) * nspin, -1), axis=1)
    gap = float(ordered[:, occupied].min() - ordered[:, occupied - 1].max())
    metallic = gap < SMALLEST_GAP
    kind = "metallic: fields need an insulator" if metallic else "insulator"
    return BandGap(gap, metallic, occupied, f"{kind}; gap {gap:.3f} eV on this mesh")
