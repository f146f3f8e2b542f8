"""What is held while atoms and cell move: the field, the voltage, or the displacement.

Each has a potential whose derivative by the atoms at fixed control is -F(R, E), and which therefore stands beside the
kinetic energy in the conserved quantity. With U(R, h, E) the electric enthalpy, P = -dU/dE and the volume V:

- ``field``: control c = E. Potential U; conjugate -dU/dc = P; stress at fixed E.
- ``voltage``: the voltages E.a_i across the cell are held, E = h^-1 h_0 c with h_0 the cell at the start. Potential U;
  conjugate P h^-1 h_0; a strain now moves E too, dE = -strain^T E, so that V sigma_voltage = V sigma_E + sym(E P^T).
  The result is symmetric by itself, as U at given voltages does not change where cell and atoms turn, and does not
  depend on the branch of P, as sigma_E does.
- ``displacement``: with D = eps0 E + P/V, control c = (D - D_0)/eps0, where D_0 is that of the start without a field
  (absolute values of P are known modulo quanta only). Potential U + E.P + eps0 V E^2/2 (M. Stengel, N. A. Spaldin,
  D. Vanderbilt, Nat. Phys. 5, 304 (2009)); conjugate -eps0 V E. E is solved for in every step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ...dft_inputs.units import VACUUM_PERMITTIVITY
from ..responses import Responses
from ..voltage import fixed_voltage_stress
from .state import State, cell_volume

Evaluate = Callable[[Tensor, Tensor, Tensor], Responses]
"""(positions (N, 3), cell (B, 3, 3), field (B, 3)) -> responses."""

_MOST_ITERATIONS = 20


@dataclass(frozen=True)
class Electrified:
    """Responses at the field that fits what is held, all float64.

    Attributes:
        field: V/A, (B, 3).
        forces: eV/A, (N, 3).
        enthalpy: eV, (B,).
        polarization: e A, (B, 3).
        stress: at what is held, eV/A^3, (B, 3, 3); zero where it was not computed.
        polarizability: estimate, e^2 A^2/eV, (B, 3, 3).
        origin: P from which the displacement counts, e A, (B, 3).
    """

    field: Tensor
    forces: Tensor
    enthalpy: Tensor
    polarization: Tensor
    stress: Tensor
    polarizability: Tensor
    origin: Tensor


class Electrics(Protocol):
    """What is held."""

    def solve(
        self, evaluate: Evaluate, positions: Tensor, cell: Tensor, control: Tensor, before: State | None
    ) -> Electrified:
        """Field and responses at new positions.

        Args:
            evaluate: the model.
            positions: A, (N, 3).
            cell: A, (B, 3, 3).
            control: (B, 3).
            before: the state one step earlier; None at the start.
        """
        ...

    def potential(self, state: State) -> Tensor:
        """What kinetic energy is exchanged with at fixed control, eV, (B,)."""
        ...

    def conjugate(self, field: Tensor, polarization: Tensor, cell: Tensor) -> Tensor:
        """Minus the derivative of the potential by the control, (B, 3)."""
        ...


class FixedField:
    """E follows its protocol."""

    def solve(
        self, evaluate: Evaluate, positions: Tensor, cell: Tensor, control: Tensor, before: State | None
    ) -> Electrified:
        """The field is the control."""
        return _electrified(evaluate(positions, cell, control), control)

    def potential(self, state: State) -> Tensor:
        """U."""
        return state.enthalpy

    def conjugate(self, field: Tensor, polarization: Tensor, cell: Tensor) -> Tensor:
        """P."""
        return polarization


class FixedVoltage:
    """E.a_i follow the protocol: those that its field has in the cells at the start."""

    def __init__(self, start: Tensor) -> None:
        """Remember the cells at the start, A, (B, 3, 3)."""
        self._start = start

    def solve(
        self, evaluate: Evaluate, positions: Tensor, cell: Tensor, control: Tensor, before: State | None
    ) -> Electrified:
        """E = h^-1 h_0 c, and the stress at fixed voltage."""
        field = (torch.linalg.solve(cell, self._start) @ control[:, :, None])[:, :, 0]
        out = _electrified(evaluate(positions, cell, field), field)
        stress = fixed_voltage_stress(out.stress, field, out.polarization, cell_volume(cell))
        return replace(out, stress=stress)

    def potential(self, state: State) -> Tensor:
        """U."""
        return state.enthalpy

    def conjugate(self, field: Tensor, polarization: Tensor, cell: Tensor) -> Tensor:
        """P h^-1 h_0."""
        return (polarization[:, None, :] @ torch.linalg.solve(cell, self._start))[:, 0]


class FixedDisplacement:
    """(D - D_0)/eps0 = E + (P - P_0)/(eps0 V) follows the protocol; fixed cells only.

    E starts from its linear extrapolation and is improved by Newton steps until they are below the tolerance; the
    polarizability in them is that of the start, corrected by every change of P that is met (C. G. Broyden, Math. Comp.
    19, 577 (1965)). A replica whose field is not found gets an enthalpy of NaN.
    """

    def __init__(self, evaluate_polarizability: Evaluate, tolerance: float) -> None:
        """Prepare.

        Args:
            evaluate_polarizability: as ``Evaluate``, with the polarizability.
            tolerance: largest component of the last Newton step, V/A.
        """
        self._evaluate_polarizability = evaluate_polarizability
        self._tolerance = tolerance

    def solve(
        self, evaluate: Evaluate, positions: Tensor, cell: Tensor, control: Tensor, before: State | None
    ) -> Electrified:
        """Find E."""
        if before is None:
            field = torch.zeros_like(control)
            at_zero = self._evaluate_polarizability(positions, cell, field)
            if at_zero.polarizability is None:
                raise ValueError("the model gives no polarizability: hold the field instead of the displacement")
            alpha, origin = at_zero.polarizability.double(), at_zero.polarization.double()
        else:
            field, alpha, origin = before.field + before.field_change, before.polarizability, before.origin
        permittivity = VACUUM_PERMITTIVITY * cell_volume(cell)[:, None]
        identity = torch.eye(3, dtype=field.dtype, device=field.device)
        out = _electrified(evaluate(positions, cell, field), field)
        for _ in range(_MOST_ITERATIONS):
            residual = permittivity * (control - field) - (out.polarization - origin)
            change = torch.linalg.solve(alpha + permittivity[:, :, None] * identity, residual)
            unsolved = ~(change.abs().amax(-1) <= self._tolerance)
            if not bool((unsolved & change.isfinite().all(-1)).any()):
                break
            field = torch.where(unsolved[:, None], field + change, field)
            last, out = out, _electrified(evaluate(positions, cell, field), field)
            met = field - last.field, out.polarization - last.polarization
            alpha = _broyden(alpha, *met, smallest=100 * self._tolerance)
        else:
            unsolved = torch.ones_like(out.enthalpy, dtype=torch.bool)
        enthalpy = torch.where(unsolved, torch.full_like(out.enthalpy, torch.nan), out.enthalpy)
        return replace(out, field=field, enthalpy=enthalpy, polarizability=alpha, origin=origin)

    def potential(self, state: State) -> Tensor:
        """U + E.P + eps0 V E^2 / 2."""
        in_vacuum = 0.5 * VACUUM_PERMITTIVITY * state.volume * (state.field**2).sum(-1)
        return state.enthalpy + (state.field * state.polarization).sum(-1) + in_vacuum

    def conjugate(self, field: Tensor, polarization: Tensor, cell: Tensor) -> Tensor:
        """-eps0 V E."""
        return -VACUUM_PERMITTIVITY * cell_volume(cell)[:, None] * field


def _broyden(alpha: Tensor, field: Tensor, polarization: Tensor, smallest: float) -> Tensor:
    """alpha corrected so that it explains a change of P by a change of E, where that was not too small."""
    square = (field**2).sum(-1)
    error = polarization - (alpha @ field[:, :, None])[:, :, 0]
    correction = error[:, :, None] * field[:, None, :] / square.clamp(min=smallest**2)[:, None, None]
    return torch.where((square > smallest**2)[:, None, None], alpha + correction, alpha)


def _electrified(out: Responses, field: Tensor) -> Electrified:
    nothing = field.new_zeros((len(field), 3, 3))
    return Electrified(
        field=field,
        forces=out.forces.double(),
        enthalpy=out.enthalpy.double(),
        polarization=out.polarization.double(),
        stress=nothing if out.stress is None else out.stress.double(),
        polarizability=nothing,
        origin=torch.zeros_like(field),
    )
