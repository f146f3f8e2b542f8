"""i-PI driver: path integrals and other dynamics of i-PI on an enthalpy model in a static field.

The protocol and the socket are ASE's (``ase.calculators.socketio``). i-PI tells its drivers no time, so the field is
static here; i-PI's own ``eda`` dynamics take Z* from the extras for fields that depend on time, to first order.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import all_changes
from ase.calculators.socketio import IPIProtocol, SocketClient, actualunixsocketname

from .ase import EnthalpyCalculator

_TURNED = 1e-3
"""Largest element of R - 1 for a cell that i-PI has not turned by R."""


@dataclass(frozen=True)
class IpiServer:
    """Where i-PI listens.

    Attributes:
        socket: name of a Unix socket, ``<address>`` in i-PI's input; none for an internet socket.
        host: of an internet socket.
        port: of it.
    """

    socket: str | None = None
    host: str = "localhost"
    port: int = 31415

    def __str__(self) -> str:
        return actualunixsocketname(self.socket) if self.socket else f"{self.host}:{self.port}"


def run_driver(
    calculator: EnthalpyCalculator,
    atoms: Atoms,
    server: IpiServer,
    *,
    born: bool = False,
    wait: float = 10.0,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Evaluate what i-PI sends until it ends.

    Energy, forces and virial go to i-PI, with these extras as JSON: ``field`` (V/A), ``polarization`` (e A), ``dipole``
    (the same in e bohr, the name and unit of i-PI) and, with ``born``, ``BEC`` (e, (3N, 3): rows are displacements,
    columns components of P, as i-PI wants it) and ``polarizability`` (e^2 A^2/eV).

    Args:
        calculator: the model in its field.
        atoms: species, in the order of i-PI's atoms, and cell, in its orientation; positions near those of the start.
        server: where i-PI listens.
        born: send Born effective charges as well, three more derivatives in every evaluation.
        wait: for the server to appear, s.
        progress: called with the number of evaluations after each.

    Returns:
        Number of evaluations.

    Raises:
        ConnectionError: no server.
        ValueError: input that the calculator refuses, a field that depends on time, another number of atoms, a cell
            that i-PI turned against the field, or atoms that it wrapped into the cell in a field.
    """
    if callable(calculator.field):
        raise ValueError("i-PI tells no time, so its driver takes a static field: use run_dynamics, ASE or TorchSim")
    atoms = atoms.copy()
    calculator.calculate(atoms, ["energy"], all_changes)
    client = _Client(server, wait, calculator, atoms, born)
    count = 0
    for _ in client.irun(atoms, use_stress=bool(all(atoms.pbc))):
        count += 1
        if progress is not None:
            progress(count)
    return count


class _Protocol(IPIProtocol):
    """With extras, and checks of what comes."""

    def __init__(self, socket: Any, atoms: Atoms, in_field: bool) -> None:
        super().__init__(socket)
        self.extras = ""
        self._start, self._positions, self._in_field = atoms.copy(), atoms.positions.copy(), in_field

    def recvposdata(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cell, its inverse and positions, A."""
        cell, inverse, positions = super().recvposdata()
        if len(positions) != len(self._start):
            raise ValueError(
                f"i-PI sends {len(positions)} atoms, the structure has {len(self._start)}: give i-PI's own"
            )
        if self._in_field and all(self._start.pbc):
            self._require_orientation(cell)
            jumps = np.linalg.solve(cell.T, (positions - self._positions).T)
            if np.abs(jumps).max() > 0.5:
                raise ValueError(
                    "an atom jumped by a lattice vector, and the enthalpy in a field with it: leave pbc='False' in "
                    "i-PI's ffsocket, and give the structure that i-PI starts from"
                )
        self._positions = positions.copy()
        return cell, inverse, positions

    def sendforce(self, energy: float, forces: np.ndarray, virial: np.ndarray, morebytes: Any = None) -> None:
        """With the extras."""
        super().sendforce(energy, forces, virial, np.frombuffer(self.extras.encode("ascii"), dtype=np.byte))

    def _require_orientation(self, cell: np.ndarray) -> None:
        left, _, right = np.linalg.svd(np.linalg.solve(self._start.cell.array, cell))
        if np.abs(left @ right - np.eye(3)).max() > _TURNED:
            raise ValueError(
                "i-PI's cell is turned against that of the structure, and the field would be too: orient the structure "
                "with a along x and b in the xy plane, as i-PI does, and the field with it"
            )


class _Client(SocketClient):
    """One evaluation for all that is sent."""

    protocol: _Protocol

    def __init__(
        self, server: IpiServer, wait: float, calculator: EnthalpyCalculator, atoms: Atoms, born: bool
    ) -> None:
        deadline = time.monotonic() + wait
        while True:
            try:
                super().__init__(host=server.host, port=server.port, unixsocket=server.socket)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise ConnectionError(f"no i-PI server at {server}: start i-PI first") from error
                time.sleep(0.1)
        self._calculator, self._born = calculator, born
        in_field = bool(calculator.field_of(atoms).any())
        self.protocol = _Protocol(self.protocol.socket, atoms, in_field or born)

    def calculate(self, atoms: Atoms, use_stress: bool) -> tuple[float, np.ndarray, np.ndarray]:
        """Energy, eV, forces, eV/A, and virial, eV."""
        calculator = self._calculator
        asked = ["energy", "forces", *(["stress"] if use_stress else [])]
        calculator.calculate(atoms, asked + (["born_effective_charges"] if self._born else []), all_changes)
        results = calculator.results
        self.protocol.extras = _extras(calculator.field_of(atoms), results)
        virial = np.zeros((3, 3))
        if use_stress:
            virial = -atoms.get_volume() * results["stress"][[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
        return results["energy"], results["forces"], virial


def _extras(field: np.ndarray, results: dict[str, Any]) -> str:
    """In JSON."""
    polarization = results["polarization"]
    extras = {
        "field": field.tolist(),
        "polarization": polarization.tolist(),
        "dipole": (polarization / units.Bohr).tolist(),
    }
    if "born_effective_charges" in results:
        extras["BEC"] = results["born_effective_charges"].transpose(0, 2, 1).reshape(-1, 3).tolist()
        extras["polarizability"] = results["polarizability"].tolist()
    return json.dumps(extras)
