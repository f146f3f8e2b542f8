"""Where in a crystal P sits: dipoles of atoms and of units, for maps of polarization.

A strictly local enthalpy is U = sum_i u_i(environment of i, E) - E . sum_i q_i r_i with reference charges q_i, so

    P = sum_i p_i + sum_i q_i r_i,      p_i = -du_i/dE.

The p_i are exact shares of P: they do not depend on the origin, and follow at any field from the same derivative as P.
How the enthalpy is divided among atoms is the network's own choice, so a single p_i is no observable; only sums are.
The charges carry the formal part, which depends on the origin and on the image of each atom. It has a meaning for
neutral groups: the dipole of a unit is the sum of w_i (p_i + q_i (r_i - R)), the same for every origin R.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from vesin import NeighborList

from ..dft_inputs.records import Frame
from .blocks import plan_blocks
from .dynamics import ReplicaTrajectory
from .graph import Graph, build_graph
from .interface import LocalModel


def atomic_dipoles(model: LocalModel, graph: Graph) -> Tensor:
    """p_i = -du_i/dE of each atom at the field of its structure, e A, (N, 3); reference charges are left out."""
    atoms = torch.arange(graph.n_atoms, device=graph.mask.device)
    return torch.cat([_of_block(model, graph, part) for part in atoms.split(plan_blocks(model, graph).block)])


def _of_block(model: LocalModel, graph: Graph, atoms: Tensor) -> Tensor:
    with torch.enable_grad():
        environments = graph.environments_of(atoms, graph.mask.shape[1], model.dtype)
        fields = environments.field.detach().requires_grad_()
        enthalpy = model.local_enthalpy(replace(environments, field=fields))
        (slope,) = torch.autograd.grad(enthalpy.sum(), fields, materialize_grads=True)
    return -slope


@dataclass(frozen=True)
class Units:
    """Groups of atoms about centres, e.g. the five-atom cells of a perovskite about its B atoms.

    Attributes:
        centres: index of the central atom of each unit, (M,).
        atoms: atoms of each unit, the centre first, (M, K).
        shifts: lattice translation of each atom in units of the cell vectors, (M, K, 3).
        weights: share of each atom, (M, K).
    """

    centres: np.ndarray
    atoms: np.ndarray
    shifts: np.ndarray
    weights: np.ndarray


def units_about(frame: Frame, centre: str, shells: Mapping[str, int]) -> Units:
    """Units of a centre and the nearest atoms of other species, in shares with which units fill the crystal.

    Args:
        frame: best the ideal crystal; the units hold for every frame of a run that starts from it.
        centre: species of the central atoms.
        shells: number of nearest atoms of each other species; BaTiO3: centre Ti, shells {"O": 6, "Ba": 8}.

    Raises:
        ValueError: species that are not there or left out, or atoms that are not in as many units as their like.
    """
    species = np.array(frame.species)
    centres = np.flatnonzero(species == centre)
    if not len(centres) or set(shells) != set(frame.species) - {centre}:
        raise ValueError(f"units of {frame.formula} need a centre and a shell of every other species")
    reach = (max(shells.values()) * frame.volume / len(centres)) ** (1 / 3) + 2.0
    finder = NeighborList(cutoff=reach, full_list=True, sorted=True)
    i, j, shift, d = finder.compute(
        points=frame.positions, box=frame.cell, periodic=np.array(frame.pbc), quantities="ijSd"
    )
    j, shift = np.asarray(j, dtype=np.int64), np.asarray(shift)
    atoms: list[np.ndarray] = [centres[:, None]]
    shifts: list[np.ndarray] = [np.zeros((len(centres), 1, 3))]
    weights: list[np.ndarray] = [np.ones((len(centres), 1))]
    for symbol, count in shells.items():
        chosen = np.array(
            [_nearest(np.flatnonzero((i == c) & (species[j] == symbol)), d, count, symbol) for c in centres]
        )
        appearances = np.bincount(j[chosen].ravel(), minlength=len(frame))[species == symbol]
        if np.ptp(appearances):
            raise ValueError(
                f"the {count} nearest {symbol} of each {centre} do not share the {symbol} evenly: another number"
            )
        atoms.append(j[chosen])
        shifts.append(shift[chosen])
        weights.append(np.full(chosen.shape, 1.0 / appearances[0]))
    return Units(centres, *(np.concatenate(parts, axis=1) for parts in (atoms, shifts, weights)))


def unit_dipoles(frame: Frame, units: Units, atomic: np.ndarray, charges: np.ndarray) -> np.ndarray:
    """Dipole of each unit, e A, (M, 3): w_i (p_i + q_i (r_i - R)) summed about its centre R.

    Units that fill the crystal add up to the cell dipole, modulo a quantum. Divided by the volume of a unit it is a
    local polarization.

    Args:
        frame: with unwrapped positions, as a run gives them.
        units: of the crystal.
        atomic: from ``atomic_dipoles``, e A, (N, 3).
        charges: reference charge of each atom, e, (N,).
    """
    positions = frame.positions[units.atoms] + units.shifts @ frame.cell
    from_centre = positions - frame.positions[units.centres][:, None]
    shares = atomic[units.atoms] + charges[units.atoms][..., None] * from_centre
    return np.einsum("mk,mkx->mx", units.weights, shares)


def dipoles_of(model: LocalModel, frame: Frame, field: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Dipole p_i, e A, (N, 3), and reference charge, e, (N,), of each atom of a frame in a field (zero if None).

    Args:
        model: strictly local.
        frame: the geometry.
        field: V/A, (3,).
    """
    graph = build_graph([frame], model.species, model.cutoff, field, model.dtype).to(model.device)
    charges = model.charges[graph.species]
    return atomic_dipoles(model, graph).cpu().double().numpy(), charges.detach().cpu().double().numpy()


def dipoles_along(model: LocalModel, replica: ReplicaTrajectory, units: Units, every: int = 1) -> np.ndarray:
    """Dipole of each unit along a trajectory, each frame in the field it was in, e A, (T, M, 3).

    Args:
        model: the model of the run, or another with its species.
        replica: of a run.
        units: about the frame that it started from, or the ideal crystal with its atoms in the same order.
        every: take every n-th saved frame.
    """
    rows = []
    for place in range(0, len(replica), every):
        frame = replica.frame(place)
        rows.append(unit_dipoles(frame, units, *dipoles_of(model, frame, replica.field[place])))
    return np.array(rows).reshape(-1, len(units.centres), 3)


def _nearest(rows: np.ndarray, distances: np.ndarray, count: int, symbol: str) -> np.ndarray:
    if len(rows) < count:
        raise ValueError(f"fewer than {count} {symbol} near a centre")
    return rows[np.argsort(distances[rows], kind="stable")[:count]]
