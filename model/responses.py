"""Exact responses: every label is a derivative of one enthalpy, at any field.

    F = -dU/dR,  P = -dU/dE,  sigma = (1/V) dU/d(strain),  Z*[i,a,b] = dP_a/dr_ib,  alpha[a,b] = dP_a/dE_b

F, P and stress come from one backward pass; Z* and alpha from three more through it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .graph import Graph
from .interface import EnthalpyModel


@dataclass(frozen=True)
class Responses:
    """Responses of a batch; a quantity that was not asked for is None.

    Attributes:
        enthalpy: eV, (B,).
        forces: eV/A, (N, 3).
        polarization: cell dipole, e A, (B, 3).
        stress: symmetric, at fixed Cartesian field (improper), eV/A^3, (B, 3, 3).
        born_effective_charges: e, (N, 3, 3), index [atom, field a, displacement b]; (N, D, 3) along D directions.
        polarizability: e^2 A^2/eV, (B, 3, 3) or (B, D, 3).
    """

    enthalpy: Tensor
    forces: Tensor
    polarization: Tensor
    stress: Tensor | None = None
    born_effective_charges: Tensor | None = None
    polarizability: Tensor | None = None


def compute_responses(
    model: EnthalpyModel,
    graph: Graph,
    *,
    stress: bool = False,
    born: bool = False,
    directions: Tensor | None = None,
    create_graph: bool = False,
) -> Responses:
    """Enthalpy, forces and polarization of a batch, and on request stress, Z* and alpha.

    Args:
        model: the enthalpy.
        graph: the batch.
        stress: also the stress.
        born: also Born effective charges and polarizability.
        directions: unit vectors along which P is differentiated for them, (D, 3); x, y and z where not given.
        create_graph: keep the graph, so that the responses can be differentiated again (training).
    """
    positions = graph.positions.detach().requires_grad_()
    field = graph.field.detach().requires_grad_()
    strain = graph.cell.new_zeros(graph.cell.shape).requires_grad_(stress)
    batch = graph.replace(positions=positions, field=field)
    inputs = [positions, field]
    if stress:
        batch = strained(batch, strain)
        inputs.append(strain)
    keep = create_graph or born
    with torch.enable_grad():
        enthalpy = model(batch)
        gradients = torch.autograd.grad(enthalpy.sum(), inputs, create_graph=keep, materialize_grads=True)
        forces, polarization = -gradients[0], -gradients[1]
        born_effective_charges = polarizability = None
        if born:
            axes = torch.eye(3).to(polarization) if directions is None else directions.to(polarization)
            rows = [
                torch.autograd.grad(
                    (polarization @ axis).sum(),
                    (positions, field),
                    create_graph=create_graph,
                    retain_graph=True,
                    materialize_grads=True,
                )
                for axis in axes
            ]
            born_effective_charges = torch.stack([row[0] for row in rows], dim=1)
            polarizability = torch.stack([row[1] for row in rows], dim=1)
    sigma = None
    if stress:
        raw = gradients[2] / graph.volume()[:, None, None]
        sigma = (raw + raw.transpose(1, 2)) / 2
    out = Responses(enthalpy, forces, polarization, sigma, born_effective_charges, polarizability)
    return out if create_graph else _detached(out)


def strain_derivative(model: EnthalpyModel, graph: Graph) -> Tensor:
    """Raw derivative dU/d(strain) for a general, not symmetrized strain r -> (1 + strain) r, eV, (B, 3, 3).

    Rotating the structure alone is not a symmetry in a field: the antisymmetric part is the field torque,
    D - D^T = P E^T - E P^T with [a, b] the derivative by strain_ab (from U(QR, QE) = U(R, E)).
    """
    strain = graph.cell.new_zeros(graph.cell.shape).requires_grad_()
    with torch.enable_grad():
        enthalpy = model(strained(graph, strain))
        return torch.autograd.grad(enthalpy.sum(), strain)[0].detach()


def strained(graph: Graph, strain: Tensor) -> Graph:
    """The batch after r -> (1 + strain) r, with a strain (B, 3, 3)."""
    positions = graph.positions + torch.einsum("nab,nb->na", strain[graph.structure], graph.positions)
    cell = graph.cell + torch.einsum("sab,scb->sca", strain, graph.cell)
    return graph.replace(positions=positions, cell=cell)


def _detached(responses: Responses) -> Responses:
    values = (getattr(responses, name) for name in Responses.__dataclass_fields__)
    return Responses(*(None if value is None else value.detach() for value in values))  # type: ignore[arg-type]
