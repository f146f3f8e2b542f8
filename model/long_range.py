"""The Coulomb interaction beyond the cutoff: that of fixed, screened charges, smeared out, by a sum over wave vectors.

In an insulator atoms that move interact over any distance as the dipoles Z* u in a medium of eps_inf (Gonze and Lee,
Phys. Rev. B 55, 10355 (1997)), which no strictly local model can learn. To leading order, isotropic and harmonic, these
are charges q = Z*/sqrt(eps_inf):

    U_long = (2 pi k_e / V) sum_(k != 0) exp(-w^2 k^2)/k^2 |sum_i q_i exp(i k . r_i)|^2

the energy of Gaussian charges of deviation w; what differs from point charges, and from the truth, is short-ranged and
left to the network. Without k = 0 the macroscopic field is the one that is applied: nothing here depends on it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..dft_inputs.records import LabelledFrame
from .graph import Graph

_COULOMB = 14.399645
"""e^2/(4 pi eps0) in eV A."""
_WIDTHS = 5.0
"""Widths in a cutoff: erfc(5/2) = 4e-4 of the interaction of a pair at the cutoff is left to the network."""
_SMALLEST = 4.0
"""Wave vectors are taken up to this over the width: exp(-16) = 1e-7."""


def screened_energy(graph: Graph, charges: Tensor, cutoff: float) -> Tensor:
    """U_long of each structure, eV, (B,), in the type of the graph's positions.

    Time grows like the square of the number of atoms: for some thousand of them. A cell that is not neutral gets a
    background that makes it so.

    Args:
        graph: periodic structures.
        charges: of each atom, e, (N,).
        cutoff: of the model beside it, A.
    """
    counts = torch.bincount(graph.structure, minlength=graph.n_structures).tolist()
    order = graph.structure.argsort(stable=True)
    parts = zip(graph.positions[order].split(counts), charges[order].split(counts), graph.cell, strict=True)
    return torch.stack([_of_one(*part, cutoff / _WIDTHS) for part in parts])


def _of_one(positions: Tensor, charges: Tensor, cell: Tensor, width: float) -> Tensor:
    dtype, (positions, charges, cell) = positions.dtype, (x.double() for x in (positions, charges, cell))
    inverse = torch.linalg.inv(cell)
    # exp(i k . r) is a product over the axes of the cell. Of k and -k one is enough.
    reach = np.floor(_SMALLEST / width * np.linalg.norm(cell.detach().cpu().numpy(), axis=1) / (2 * np.pi)).astype(int)
    lowest = (0, -reach[1], -reach[2])
    orders = [torch.arange(low, high + 1, device=cell.device).to(cell) for low, high in zip(lowest, reach, strict=True)]
    fractional = positions @ inverse
    waves = [torch.exp(2j * math.pi * fractional[:, axis, None] * order) for axis, order in enumerate(orders)]
    planes = ((charges[:, None] * waves[0])[:, :, None] * waves[1][:, None]).flatten(1)
    structure_factor = (planes.T @ waves[2]).flatten()
    indices = torch.cartesian_prod(*orders)
    squares = (2 * math.pi * indices @ inverse.T).square().sum(1)
    counted = torch.where(indices[:, 0] > 0, 2.0, 1.0).to(cell)
    used = (squares > 0) & (squares <= (_SMALLEST / width) ** 2)
    kernel = torch.exp(-(width**2) * squares[used]) / squares[used] * counted[used]
    energy = (kernel * (structure_factor.real[used].square() + structure_factor.imag[used].square())).sum()
    return (2 * math.pi * _COULOMB / torch.linalg.det(cell).abs() * energy).to(dtype)


def measured_charges(frames: Sequence[LabelledFrame], species: Sequence[str]) -> dict[str, float]:
    """Z*/sqrt(eps_inf) of each species, e: means over the frames, and from there the closest that leave all neutral.

    Args:
        frames: labelled; those with Z* and alpha at zero field count.
        species: all of them.

    Raises:
        ValueError: no label of Z* and alpha for a species, labels of no insulator, compositions that no charges leave
            neutral, or frames that are not periodic.
    """
    if any(not all(item.frame.pbc) for item in frames):
        raise ValueError("network.long_range is for crystals: some frames are not periodic in three directions")
    charges: dict[str, list[float]] = {symbol: [] for symbol in species}
    permittivities = []
    for item in frames:
        born, alpha = item.response.born_effective_charges, item.response.polarizability
        if born is None or alpha is None or item.response.field.any():
            continue
        permittivities.append(1 + 4 * np.pi * _COULOMB * np.trace(alpha) / 3 / item.frame.volume)
        for symbol, tensor in zip(item.frame.species, born, strict=True):
            charges[symbol].append(np.trace(tensor) / 3)
    missing = [symbol for symbol, found in charges.items() if not found]
    if missing:
        raise ValueError(
            f"network.long_range needs labels of Z* and alpha, and there are none of {', '.join(missing)}: "
            "label them, or leave it out"
        )
    permittivity = float(np.mean(permittivities))
    if permittivity < 1:
        raise ValueError(f"labels of alpha give eps_inf = {permittivity:.2f}, below 1: check their sign and unit")
    means = np.array([np.mean(charges[symbol]) for symbol in species])
    shares = np.array([[item.frame.species.count(symbol) / len(item.frame) for symbol in species] for item in frames])
    neutral = means - np.linalg.pinv(shares, rcond=1e-6) @ (shares @ means)
    if np.abs(neutral).max() < 0.5 * np.abs(means).max():
        raise ValueError("network.long_range needs compositions that fixed charges leave neutral: leave it out")
    return dict(zip(species, (neutral / permittivity**0.5).tolist(), strict=True))
