"""A moment of a batch of replicas: all that the next step depends on."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from torch import Tensor

PER_ATOM = ("positions", "velocities", "forces")


@dataclass(frozen=True)
class State:
    """A moment of a batch of B replicas with N atoms in all. All tensors are float64.

    Attributes:
        step: steps done.
        positions: unwrapped, A, (N, 3).
        velocities: A/fs, (N, 3); in a cell that moves without its motion.
        forces: -dU/dR at fixed E, eV/A, (N, 3).
        cell: lattice vectors as rows, A, (B, 3, 3).
        rate: velocity gradient of the cell, symmetric, 1/fs, (B, 3, 3); zero in a fixed cell.
        stress: at what is held, eV/A^3, (B, 3, 3); zero in a fixed cell.
        control: what is held, as its protocol gives it, V/A, (B, 3): see ``electrics``.
        field: V/A, (B, 3).
        enthalpy: U(R, h, E), eV, (B,).
        polarization: cell dipole, e A, (B, 3).
        work: integral of the conjugate of ``control`` over it since the start (trapezoid), eV, (B,); at fixed field
            the integral of P.dE.
        heat: energy taken up from a stochastic bath since the start, eV, (B,).
        chain: positions (no unit) and velocities (1/fs) of a Nose-Hoover chain for each body, atoms and a cell that
            moves, (B, bodies, 2, M); M is zero without one.
        origin: P at the start without a field, e A, (B, 3), where the displacement is held.
        field_change: of the last step, V/A, (B, 3), where the field is solved for.
        polarizability: estimate of alpha that serves to solve for the field, e^2 A^2/eV, (B, 3, 3).
    """

    step: int
    positions: Tensor
    velocities: Tensor
    forces: Tensor
    cell: Tensor
    rate: Tensor
    stress: Tensor
    control: Tensor
    field: Tensor
    enthalpy: Tensor
    polarization: Tensor
    work: Tensor
    heat: Tensor
    chain: Tensor
    origin: Tensor
    field_change: Tensor
    polarizability: Tensor

    @property
    def volume(self) -> Tensor:
        """Cell volumes, A^3, (B,)."""
        return cell_volume(self.cell)

    def keep(self, atoms: Tensor, replicas: Tensor) -> State:
        """The state of some of the replicas.

        Args:
            atoms: True for the atoms to keep, (N,).
            replicas: indices of the replicas to keep.
        """
        return replace(
            self,
            **{name: getattr(self, name)[atoms if name in PER_ATOM else replicas] for name in tensor_names()},
        )


def tensor_names() -> list[str]:
    """Names of the tensors of a state."""
    return [field.name for field in fields(State) if field.name != "step"]


def cell_volume(cell: Tensor) -> Tensor:
    """Volumes of cells (B, 3, 3), A^3, (B,)."""
    return (cell[:, 0] * cell[:, 1].cross(cell[:, 2], dim=-1)).sum(-1).abs()
