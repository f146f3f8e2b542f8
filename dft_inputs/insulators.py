"""Is it an insulator, and how strong a field does its mesh stand? From the gap of one zero-field SCF; any DFT code."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .meshes import Mesh
from .units import MV_PER_CM_IN_V_PER_ANGSTROM, RYDBERG_FIELD_IN_V_PER_ANGSTROM

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
        reason: one line for people.
    """

    gap: float
    metallic: bool
    reason: str


def judged(gap: float) -> BandGap:
    """Whether a crystal of this gap, in eV, can be labelled."""
    metallic = gap < SMALLEST_GAP
    kind = "metallic: fields need an insulator" if metallic else "insulator"
    return BandGap(gap, metallic, f"{kind}; gap {gap:.3f} eV on this mesh")


def half_filled(electrons: float) -> BandGap | None:
    """The verdict on a cell whose number of electrons is odd, which needs no run; None for an even one."""
    if abs(electrons - 2 * round(electrons / 2)) < 2e-6:
        return None
    reason = f"metallic: {electrons:g} electrons leave a band half filled; fields need an insulator"
    return BandGap(0.0, True, reason)


def gap_of_bands(eigenvalues: np.ndarray, occupied: int, nspin: int = 1) -> float:
    """Lowest empty minus highest occupied level, eV, from eigenvalues with an empty band or more.

    Args:
        eigenvalues: eV, (k-points, bands), spin channels side by side.
        occupied: bands of each spin channel.
        nspin: 1 or 2 channels.
    """
    ordered = np.sort(eigenvalues.reshape(len(eigenvalues) * nspin, -1), axis=1)
    return float(ordered[:, occupied].min() - ordered[:, occupied - 1].max())


def critical_field(gap: float, cell: np.ndarray, kpoints: Mesh) -> np.ndarray:
    """Field along each lattice vector at which e |E.a_i| N_i reaches the gap, V/A, (3,).

    Beyond it the enthalpy of the finite mesh has no minimum (Souza, Iniguez, Vanderbilt, PRL 89, 117602 (2002)).
    """
    return gap / (np.linalg.norm(cell, axis=1) * np.array(kpoints))


def critical_fraction(field: np.ndarray, gap: float, cell: np.ndarray, kpoints: Mesh) -> float:
    """Largest e |E.a_i| N_i / E_gap over the lattice vectors; infinite for a metal in a field."""
    drop = np.abs(np.asarray(cell) @ np.asarray(field)) * np.array(kpoints)
    if not drop.any():
        return 0.0
    return float(drop.max() / gap) if gap > 0 else math.inf


def strong_field(field: np.ndarray, gap: float, cell: np.ndarray, kpoints: Mesh) -> str | None:
    """Why an SCF cannot converge in this field: it passes the critical one. None below it.

    Args:
        field: V/A, (3,).
        gap: eV.
        cell: lattice vectors as rows, A.
        kpoints: mesh.
    """
    fraction = critical_fraction(field, gap, cell, kpoints)
    if fraction < 1:
        return None
    return f"the field is {fraction:.2f} times the critical one (gap {gap:.2f} eV on this mesh), lower the field step"


def step_from_gap(gap: float, cell: np.ndarray, kpoints: Mesh) -> float:
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
