"""What one geometry of a VASP run says, in the conventions of the project."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import EngineError
from ..records import Frame
from ..units import KBAR_IN_EV_PER_CUBIC_ANGSTROM


class VaspOutputError(EngineError):
    """An output of VASP is missing, incomplete, not converged or not of one piece; names file and cause."""


@dataclass(frozen=True)
class VaspOutput:
    """One geometry of a run.

    Attributes:
        frame: the geometry in VASP's order of atoms, wrapped into the cell as VASP does.
        field: V/A, (3,), the physical sign.
        enthalpy: as printed, eV; it holds -E.(``electronic_dipole`` + ``ionic_dipole``).
        forces: eV/A, (N, 3). VASP takes the net force out.
        valences: electrons by element.
        titles: TITEL of the POTCAR by element.
        stress: eV/A^3, ASE sign, (3, 3); None in a field, where it is not known what VASP's holds fixed.
        electronic_dipole: of the electrons, e A, (3,): minus p[elc]. None without LCALCPOL.
        ionic_dipole: minus p[ion], e A, (3,). It is no sum of valence times position: VASP leaves out ions close to
            the border of the cell, so P is not made of it.
        born_effective_charges: e, (N, 3, 3), index [atom, field, displacement].
        dielectric_tensor: ion-clamped, (3, 3).
        kpoints: mesh; None where it was not automatic.
        nspin: 1 or 2.
        scf_accuracy: last change of the energy, eV.
        iterations: of the SCF.
        seconds, cpu_seconds: of the whole run, wall time and that of one rank.
        version: of VASP.
        step: which geometry of the run, from 1.
        steps: geometries of the run.
        gap: eV, zero or less for a metal; None where vasprun.xml or empty bands are missing.
    """

    frame: Frame
    field: np.ndarray
    enthalpy: float
    forces: np.ndarray
    valences: dict[str, float]
    titles: dict[str, str]
    stress: np.ndarray | None = None
    electronic_dipole: np.ndarray | None = None
    ionic_dipole: np.ndarray | None = None
    born_effective_charges: np.ndarray | None = None
    dielectric_tensor: np.ndarray | None = None
    kpoints: tuple[int, int, int] | None = None
    nspin: int = 1
    scf_accuracy: float = 0.0
    iterations: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    version: str = ""
    step: int = 1
    steps: int = 1
    gap: float | None = None

    @property
    def even_valences(self) -> bool:
        """All valences are even integers: moving an ion by a lattice vector moves an even charge."""
        return bool(self.valences) and all(v == round(v) and round(v) % 2 == 0 for v in self.valences.values())


@dataclass(frozen=True)
class RunSteps:
    """The geometries that a file holds.

    Attributes:
        outputs: of each whole geometry.
        unconverged: which of them, from 1, have an SCF that did not converge.
        fault: why there is nothing after them, in words; None where the run ended.
    """

    outputs: tuple[VaspOutput, ...]
    unconverged: frozenset[int] = frozenset()
    fault: str | None = None


def stress_of(printed: np.ndarray | None, applied: np.ndarray) -> np.ndarray | None:
    """The stress from the force on the cell that VASP prints, kB, (3, 3), which is minus it."""
    return None if printed is None or np.any(applied) else -printed * KBAR_IN_EV_PER_CUBIC_ANGSTROM
