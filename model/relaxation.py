"""Relaxation of positions and cell in a field that is held, by ASE's optimizers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE, LBFGS

from ..dft_inputs.records import Frame
from .interface import EnthalpyModel
from .interfaces.ase import EnthalpyCalculator

_OPTIMIZERS = {"fire": FIRE, "lbfgs": LBFGS}


@dataclass(frozen=True)
class Relaxation:
    """Where a relaxation ended.

    Attributes:
        frame: the geometry.
        field: at the end, V/A, (3,); at fixed voltage it followed the cell.
        enthalpy: U(R, h, E), eV.
        polarization: cell dipole, e A, (3,).
        largest_force: eV/A.
        largest_stress: component of the stress at what is held, pressure included, eV/A^3; None in a fixed cell.
        steps: of the optimizer.
        converged: whether forces and stress are below their bounds.
    """

    frame: Frame
    field: np.ndarray
    enthalpy: float
    polarization: np.ndarray
    largest_force: float
    largest_stress: float | None
    steps: int
    converged: bool


def relax(
    model: EnthalpyModel,
    frame: Frame,
    field: tuple[float, float, float] = (0.0, 0.0, 0.0),
    *,
    relax_cell: bool = False,
    fixed: Literal["field", "voltage"] = "voltage",
    pressure: float = 0.0,
    fmax: float = 1e-3,
    smax: float = 1e-4,
    steps: int = 1000,
    optimizer: Literal["fire", "lbfgs"] = "fire",
) -> Relaxation:
    """Positions, and on request the cell, at rest in a field.

    The cell does not turn: at a fixed Cartesian field the symmetric part of the stress vanishes, the torque stays.

    Args:
        model: the electric enthalpy.
        frame: where to start.
        field: V/A.
        relax_cell: also the cell.
        fixed: where the cell is relaxed, the ``voltage`` that the field has across the cell at the start, or the
            ``field``, whose stress depends on the branch of P.
        pressure: on the cell, eV/A^3.
        fmax: bound of the force on any atom, eV/A.
        smax: bound of every component of the stress, eV/A^3.
        steps: of the optimizer at most.
        optimizer: ``fire``, robust, or ``lbfgs``, quick near the minimum.

    Raises:
        ValueError: a cell to relax that is not periodic in all directions, or a pressure on one that is not relaxed.
    """
    if relax_cell and not all(frame.pbc):
        raise ValueError("only a cell that is periodic in all three directions can be relaxed")
    if pressure and not relax_cell:
        raise ValueError("a pressure acts on a cell that is relaxed: set relax_cell, or leave the pressure out")
    atoms = frame.to_atoms()
    voltages = None if fixed == "field" else frame.cell @ np.array(field)
    atoms.calc = calculator = EnthalpyCalculator(model, field if voltages is None else None, voltages)

    # The filter's forces on the cell are V sigma / N, with the volume at the end: half leaves room for its change.
    bound = min(fmax, 0.5 * smax * frame.volume / len(frame)) if relax_cell else fmax
    moving = FrechetCellFilter(atoms, scalar_pressure=pressure) if relax_cell else atoms
    search = _OPTIMIZERS[optimizer](moving, logfile=None)  # pyright: ignore[reportArgumentType]
    search.run(fmax=bound, steps=steps)
    force = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
    excess = np.abs(atoms.get_stress(voigt=False) + pressure * np.eye(3)).max() if relax_cell else None
    return Relaxation(
        frame=Frame.from_atoms(atoms),
        field=calculator.field_of(atoms),
        enthalpy=float(atoms.get_potential_energy()),
        polarization=np.array(calculator.get_property("polarization", atoms)),
        largest_force=force,
        largest_stress=None if excess is None else float(excess),
        steps=search.nsteps,
        converged=force < fmax and (excess is None or bool(excess < smax)),
    )
