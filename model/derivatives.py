"""Derivatives of a strictly local enthalpy by what an atom sees: its neighbour vectors and its field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .graph import Environments


@dataclass(frozen=True)
class Derivatives:
    """Of the enthalpies u of n atoms, by their neighbour vectors v and their fields E.

    Attributes:
        vectors: v, A, (n, K, 3).
        enthalpy: u, eV, (n,).
        by_vectors: du/dv, (n, K, 3).
        by_field: du/dE, (n, 3).
        mixed: d2u/dE dv along D directions of the field, (n, D, K, 3).
        by_field_twice: d2u/dE2 along the same, (n, D, 3).
    """

    vectors: Tensor
    enthalpy: Tensor
    by_vectors: Tensor
    by_field: Tensor
    mixed: Tensor | None = None
    by_field_twice: Tensor | None = None


def differentiate(
    enthalpy_of: Callable[[Environments], Tensor],
    environments: Environments,
    directions: Tensor | None = None,
    *,
    create_graph: bool = False,
) -> Derivatives:
    """Derivatives by backward passes.

    Args:
        enthalpy_of: enthalpy of each atom of environments, eV, (n,).
        environments: of n atoms, each in a field of its own.
        directions: unit vectors of the field along which the second derivatives are taken, (D, 3); none where None.
        create_graph: keep the graph, so that all of it can be differentiated again (training).
    """
    vectors = environments.vectors.detach().requires_grad_()
    field = environments.field.detach().requires_grad_()
    leaves = (vectors, field)
    again = directions is not None
    with torch.enable_grad():
        enthalpy = enthalpy_of(replace(environments, vectors=vectors, field=field))
        first = torch.autograd.grad(enthalpy.sum(), leaves, create_graph=create_graph or again, materialize_grads=True)
        rows = [
            torch.autograd.grad(
                (first[1] @ direction).sum(),
                leaves,
                create_graph=create_graph,
                retain_graph=True,
                materialize_grads=True,
            )
            for direction in (directions if directions is not None else ())
        ]
    found = [enthalpy, *first]
    if again:
        found += [torch.stack([row[0] for row in rows], dim=1), torch.stack([row[1] for row in rows], dim=1)]
    return Derivatives(vectors.detach(), *(found if create_graph else [one.detach() for one in found]))
