"""The enthalpy of a model expanded about zero field: what is done where a field is no input of the network.

    first order:   U1 = U(R, 0) - E . P(R, 0)
    quadratic:     U2 = U1 - 1/2 E . alpha(R, 0) . E

Both are exact derivatives of the model that they are made of, and enthalpies of their own: F, P and stress follow, and
energy is conserved. First order has the force F(0) + Z*(0).E that public engines add to a network; the quadratic form
has the force 1/2 E.(dalpha/dR).E as well.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .graph import Graph
from .interface import EnthalpyModel


class _Expansion(EnthalpyModel):
    """An enthalpy model about zero field, up to a power of the field.

    Args:
        model: the full enthalpy.
    """

    order: int

    def __init__(self, model: EnthalpyModel) -> None:
        super().__init__()
        self.model = model
        self.species, self.cutoff = model.species, model.cutoff
        self.config: Any = getattr(model, "config", None)

    def forward(self, graph: Graph) -> Tensor:
        """Electric enthalpy of each structure, eV, (B,)."""
        wanted = torch.is_grad_enabled()
        with torch.enable_grad():
            origin = torch.zeros_like(graph.field).requires_grad_()
            term = self.model(graph.replace(field=origin))
            enthalpy = term
            for power in range(1, self.order + 1):
                if not term.requires_grad:  # the model ends at a lower power
                    break
                # E . d/dE, once for each power of the field: no tensor is built.
                (slope,) = torch.autograd.grad(term.sum(), origin, create_graph=True, materialize_grads=True)
                term = (slope * graph.field).sum(-1) / power
                enthalpy = enthalpy + term
        return enthalpy if wanted else enthalpy.detach()


class FirstOrderExpansion(_Expansion):
    """U(R, 0) - E.P(R, 0): the force in the field is Z*(0).E, P is that of zero field, alpha is zero."""

    order = 1


class QuadraticExpansion(_Expansion):
    """U(R, 0) - E.P(R, 0) - 1/2 E.alpha(R, 0).E: P is linear in the field, Z* too, alpha does not depend on it."""

    order = 2
