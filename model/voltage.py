"""Fixed voltage: the field follows the cell, so that a strain does other work than at a fixed field."""

from __future__ import annotations

from torch import Tensor


def fixed_voltage_stress(stress: Tensor, field: Tensor, polarization: Tensor, volume: Tensor) -> Tensor:
    """Stress at fixed voltages E.a_i from the one at fixed Cartesian E.

    A strain takes a_i to (1 + e) a_i and, with E.a_i fixed, E to (1 + e)^-T E. From U(R, h, E) with dU/dE = -P follows
    (1/V) dU/de = sigma_E + E P^T / V; its antisymmetric part cancels the torque of the field on the cell.

    Args:
        stress: symmetric, at fixed Cartesian field, eV/A^3, (B, 3, 3).
        field: V/A, (B, 3).
        polarization: cell dipole, e A, (B, 3).
        volume: A^3, (B,).

    Returns:
        eV/A^3, (B, 3, 3), symmetric.
    """
    outer = field[:, :, None] * polarization[:, None, :]
    return stress + (outer + outer.transpose(1, 2)) / (2 * volume[:, None, None])
