"""Piezoelectric tensors as mixed derivatives of one enthalpy, d2U/dE d(strain), at zero field.

With the cell dipole P, the volume V and a homogeneous strain r -> (1 + eta) r:

    improper   e_abc = d(P_a/V) / d eta_bc              = (1/V) dP_a/d eta_bc - delta_bc P_a/V
    proper     e_abc = (1/V) dP_a/d eta_bc - delta_ab P_c/V

The proper one is the current through a strained crystal: it knows neither the branch of P nor rotations (D. Vanderbilt,
J. Phys. Chem. Solids 61, 147 (2000)). Atoms that follow add (1/V) Z* K^-1 Lambda with the force constants K and the
internal strain Lambda = dF/d eta (X. Wu, D. Vanderbilt, D. R. Hamann, Phys. Rev. B 72, 035105 (2005)).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..dft_inputs.records import Frame
from ..dft_inputs.units import E_PER_SQUARE_ANGSTROM_IN_MICROCOULOMB_PER_SQUARE_CM
from .graph import build_graph
from .interface import EnthalpyModel
from .responses import strained

AT_REST = 0.02
"""eV/A; relaxed ions are defined about a frame without forces."""

_SOFT = 1e-6
"""Of the largest force constant: a mode below it is a translation or unstable."""
_VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


@dataclass(frozen=True)
class PiezoelectricTensor:
    """Piezoelectric tensors in e/A^2, (3, 3, 3), index [P a, strain b, c], symmetric in b and c.

    Attributes:
        clamped: atoms move with the cell; proper.
        clamped_improper: the same, improper; it moves with the branch of P.
        relaxed: atoms find their new places; proper. None where it was not asked for.
        relaxed_improper: the same, improper.
    """

    clamped: np.ndarray
    clamped_improper: np.ndarray
    relaxed: np.ndarray | None = None
    relaxed_improper: np.ndarray | None = None


def piezoelectric_tensor(model: EnthalpyModel, frame: Frame, *, relaxed: bool = True) -> PiezoelectricTensor:
    """Piezoelectric tensors of a crystal at zero field.

    Args:
        model: the electric enthalpy.
        frame: periodic in all directions; at rest where ``relaxed``.
        relaxed: also with relaxed ions, which takes 3 N more derivatives.

    Raises:
        ValueError: a frame that is not periodic, or with ``relaxed`` one with forces or an unstable mode.
    """
    if not all(frame.pbc):
        raise ValueError("piezoelectric tensors belong to crystals: the frame must be periodic in all directions")
    graph = build_graph([frame], model.species, model.cutoff, None, model.dtype).to(model.device)
    positions = graph.positions.requires_grad_()
    field = graph.field.requires_grad_()
    strain = torch.zeros_like(graph.cell).requires_grad_()
    with torch.enable_grad():
        enthalpy = model(strained(graph.replace(positions=positions, field=field), strain))
        slopes = torch.autograd.grad(enthalpy.sum(), (field, positions), create_graph=True, materialize_grads=True)
        dipole, forces = -slopes[0][0], -slopes[1].flatten()
        by_strain, charges = _derivatives(dipole, strain, positions)
        followed = _following(forces, strain, positions, charges) if relaxed else None
    volume, p = frame.volume, _numpy(dipole) / frame.volume
    identity = np.eye(3)
    proper = by_strain / volume - np.einsum("ab,c->abc", identity, p)
    improper = by_strain / volume - np.einsum("bc,a->abc", identity, p)
    both = [_symmetric(proper), _symmetric(improper)]
    if followed is not None:
        both += [tensor + _symmetric(followed) / volume for tensor in both]
    return PiezoelectricTensor(*both)


def voigt(tensor: np.ndarray) -> np.ndarray:
    """The matrix e_aJ in C/m^2, (3, 6), strains xx, yy, zz, yz, xz, xy, of a tensor in e/A^2, (3, 3, 3).

    Args:
        tensor: dP_a/d(strain_bc) over the volume, e/A^2, (3, 3, 3).
    """
    columns = np.stack([tensor[:, b, c] for b, c in _VOIGT], axis=1)
    return columns * E_PER_SQUARE_ANGSTROM_IN_MICROCOULOMB_PER_SQUARE_CM / 100


def _derivatives(values: torch.Tensor, strain: torch.Tensor, positions: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """d(values)/d(strain), (n, 3, 3), and d(values)/d(positions), (n, 3 N)."""
    rows = [torch.autograd.grad(v, (strain, positions), retain_graph=True, materialize_grads=True) for v in values]
    return np.stack([_numpy(row[0][0]) for row in rows]), np.stack([_numpy(row[1]).ravel() for row in rows])


def _following(forces: torch.Tensor, strain: torch.Tensor, positions: torch.Tensor, charges: np.ndarray) -> np.ndarray:
    """What atoms that follow a strain add to dP_a/d(strain_bc), e A, (3, 3, 3)."""
    largest = float(forces.detach().abs().max())
    if largest > AT_REST:
        raise ValueError(
            f"the frame is not at rest (largest force {largest:.3g} eV/A): relax it, or ask for relaxed=False"
        )
    internal_strain, constants = _derivatives(forces, strain, positions)
    values, modes = np.linalg.eigh(-(constants + constants.T) / 2)
    if values[3] < _SOFT * values[-1]:
        raise ValueError(
            "the frame is no minimum: it has an unstable or free optical mode, so nothing follows a strain"
        )
    # The three translations move no charge of a neutral cell, and no strain pushes them.
    compliance = (modes[:, 3:] / values[3:]) @ modes[:, 3:].T
    return np.einsum("ai,ij,jbc->abc", charges, compliance, internal_strain)


def _symmetric(tensor: np.ndarray) -> np.ndarray:
    return (tensor + tensor.swapaxes(1, 2)) / 2


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()
