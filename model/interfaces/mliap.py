"""A strictly local enthalpy as a pair style of LAMMPS: ``pair_style mliap unified`` (packages ML-IAP and PYTHON).

LAMMPS hands over the pairs of its own atoms with their neighbours, and takes back an energy for each atom and a force
for each pair, from which it makes forces, virials and what ghost atoms owe to their owners. With u_i the enthalpy of
atom i and v_ij = r_j - r_i, the force of a pair is du_i/dv_ij: it acts on i, and its reverse on j. Its neighbours are
all that an atom's enthalpy needs, so domains, several MPI ranks and periodic images are LAMMPS' affair alone.

What pairs cannot carry are the reference charges q_i in a field, -E . sum_i q_i r_i with unwrapped positions. LAMMPS
has just this term, force, energy and virial, as its ``fix efield`` for atoms of the charges q_i.

A file for LAMMPS is a pickle, as LAMMPS reads no other. Ours names one function, ``read_mliap``, and gives it the
bytes of the two files of a model, which it checks as ``load_model`` does: weights are never unpickled.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from ...dft_inputs.files import write_atomically
from ...dft_inputs.records import Frame
from ..blocks import derivatives_in_blocks
from ..compiled import CompiledModel
from ..dynamics.batch import sees_the_field
from ..files import model_bytes, read_model
from ..graph import Environments
from ..interface import EnthalpyModel, LocalModel
from .lammps_wheel import LammpsError

_BY_TORCH = (".pt", ".pth")
"""Endings of files that LAMMPS gives to ``torch.load``, which takes no objects unless it is told to."""


class PairData(Protocol):
    """What LAMMPS hands over in each step: its own arrays, NumPy's on a CPU and CuPy's where KOKKOS works on a GPU.

    Attributes:
        ntotal: atoms of this rank, ghosts included.
        nlistatoms: atoms of which the enthalpy is wanted, n.
        natomneigh: those and the ghosts that have neighbours here.
        iatoms: index of each of the n, (natomneigh,).
        ielems: its element, an index into ``element_types``, (natomneigh,).
        npairs: pairs of the n with what is nearer than the cutoff, m.
        pair_i: index of the first atom, (m,).
        jelems: element of the second, (m,).
        rij: vector from the first to the second, A, (m, 3).
        energy: what this rank adds to the energy, eV; write only.
    """

    ntotal: int
    nlistatoms: int
    natomneigh: int
    npairs: int
    iatoms: Any
    ielems: Any
    pair_i: Any
    jelems: Any
    rij: Any
    energy: float

    def update_pair_forces(self, fij: Any) -> None:
        """Add a force to the first atom of each pair and its reverse to the second, eV/A, (m, 3), float64."""


class PairEnthalpy:
    """What ``pair_style mliap unified`` calls; the names of its members are LAMMPS'.

    LAMMPS looks at its members alone: it needs no base class of LAMMPS, and LAMMPS is not needed to make one.

    Args:
        model: strictly local; a ``CompiledModel`` too. It moves to the device of LAMMPS' arrays.
        field: static, V/A, (3,), along the axes of LAMMPS.
        charges_by_efield: the script has a ``fix efield`` of the same field for atoms with the model's reference
            charges; needed in a field where the model has any.

    Attributes:
        element_types: what ``pair_coeff * *`` may name.
        cutoff: A.
        rcutfac: half of it, as LAMMPS multiplies it by the sum of two radii of 1.
        ndescriptors, nparams: LAMMPS sizes arrays by them that nothing is written to.
        interface: LAMMPS' side.

    Raises:
        LammpsError: a model that is not strictly local, or a field that cannot be honoured.
    """

    def __init__(
        self, model: EnthalpyModel, field: Sequence[float] = (0.0, 0.0, 0.0), *, charges_by_efield: bool = False
    ) -> None:
        self._model = _checked(model, field, charges_by_efield)
        self._field = torch.tensor([float(x) for x in field], dtype=torch.float64)
        self.element_types = list(model.species)
        self.cutoff = float(model.cutoff)
        self.rcutfac = self.cutoff / 2
        self.ndescriptors = 1
        self.nparams = 1
        self.interface: Any = None

    def compute_descriptors(self, data: PairData) -> None:
        """Nothing: the model has its own."""

    def compute_gradients(self, data: PairData) -> None:
        """Nothing: ``compute_forces`` does all."""

    def compute_forces(self, data: PairData) -> None:
        """Energies of the atoms and forces of the pairs.

        Raises:
            LammpsError: a pair style that asks for the neighbours of ghosts.
        """
        if data.natomneigh != data.nlistatoms:
            raise LammpsError("ghosts need no neighbours of their own: write 'pair_style mliap unified FILE 0'")
        if data.nlistatoms == 0:
            data.energy = 0.0
            return
        pairs = _Pairs.of(data)
        if self._model.device != pairs.device:
            self._model.to(pairs.device)
        _wait_for(pairs.device)  # what LAMMPS has still to write
        found = derivatives_in_blocks(self._model, pairs.environments(self._field))
        forces = pairs.of_each(found.by_vectors)
        _give_energies(data, found.enthalpy)
        data.energy = float(found.enthalpy.sum())
        _wait_for(pairs.device)  # LAMMPS adds the forces in a stream of its own
        if data.npairs:
            data.update_pair_forces(_array(forces))


class MliapSettings(BaseModel):
    """What an exported model is told.

    Attributes:
        field: V/A.
        charges_by_efield: as of ``PairEnthalpy``.
        compile: compile the derivatives, which takes a minute or more at the start.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    field: tuple[float, float, float] = (0.0, 0.0, 0.0)
    charges_by_efield: bool = False
    compile: bool = False


def write_mliap(directory: Path, path: Path, settings: MliapSettings) -> None:
    """Write a model for ``pair_style mliap unified PATH 0``.

    Args:
        directory: of a model.
        path: of the file; not ``.pt``, which LAMMPS of some ages reads by a ``torch.load`` that refuses it.
        settings: what goes with it.

    Raises:
        LammpsError: such a name, or a field that cannot be honoured.
        ModelFileError: no readable model.
    """
    if path.suffix in _BY_TORCH:
        raise LammpsError(f"{path.name}: LAMMPS gives {path.suffix} to torch.load; name it {path.stem}.mliap")
    exported = (settings.model_dump_json(), *model_bytes(directory))
    read_mliap(*exported)
    write_atomically(path, pickle.dumps(_Exported(*exported), protocol=4))


def read_mliap(settings: str, config: bytes, weights: bytes) -> PairEnthalpy:
    """What a file of ``write_mliap`` names: LAMMPS calls it, with the bytes that lie in the file.

    Args:
        settings: ``MliapSettings`` as JSON.
        config, weights: the two files of a model.

    Raises:
        ModelFileError: files that do not belong together.
        LammpsError: a field that cannot be honoured.
    """
    told = MliapSettings.model_validate_json(settings)
    network = read_model(config, weights, place="the exported model")
    model = CompiledModel(network) if told.compile else network
    return PairEnthalpy(model, told.field, charges_by_efield=told.charges_by_efield)


def efield_lines(model: LocalModel, species: Sequence[str], field: Sequence[float]) -> list[str]:
    """Lines of a script, of ``atom_style charge``, by which the field acts on the reference charges.

    Args:
        model: the enthalpy.
        species: of each atom type.
        field: V/A, (3,).
    """
    if not any(field) or not bool(model.charges.any()):
        return []
    charges = dict(zip(model.species, model.charges.tolist(), strict=True))
    return [
        *(f"set type {kind} charge {_spelled(charges[symbol])}" for kind, symbol in enumerate(species, start=1)),
        f"fix efield all efield {' '.join(map(_spelled, field))}",
        "fix_modify efield energy yes virial yes",
    ]


class _Exported:
    """Pickles as a call of ``read_mliap``."""

    def __init__(self, *arguments: str | bytes) -> None:
        self._arguments = arguments

    def __reduce__(self) -> tuple[Callable[..., PairEnthalpy], tuple[str | bytes, ...]]:
        return read_mliap, self._arguments


class _Pairs:
    """The pairs of n atoms, as rows of neighbours: ``row`` and ``column`` say where each is, (m,)."""

    def __init__(self, species: Tensor, row: Tensor, others: Tensor, vectors: Tensor) -> None:
        self.device = species.device
        self._species, self._others, self._vectors = species, others, vectors
        counts = torch.bincount(row, minlength=len(species))
        order = row.argsort(stable=True)
        before = counts.cumsum(0) - counts
        column = torch.empty_like(row)
        column[order] = torch.arange(len(row), device=row.device) - before[row[order]]
        self._row, self._column = row, column
        self._width = max(int(counts.max()), 1)

    @classmethod
    def of(cls, data: PairData) -> _Pairs:
        """From LAMMPS' arrays, which are not copied where they lie on a GPU."""
        species = _tensor(data.ielems).long()
        if not data.npairs:  # its arrays of pairs may not be there
            none = species.new_zeros(0)
            return cls(species, none, none, torch.zeros((0, 3), dtype=torch.float64, device=species.device))
        listed = _tensor(data.iatoms).long()
        place = listed.new_zeros(data.ntotal)
        place[listed] = torch.arange(len(listed), device=listed.device)
        row = place[_tensor(data.pair_i).long()]
        return cls(species, row, _tensor(data.jelems).long(), _tensor(data.rij))

    def environments(self, field: Tensor) -> Environments:
        """What the model sees, all atoms in one field, (3,)."""
        n, shape = len(self._species), (len(self._species), self._width)
        vectors = self._vectors.new_tensor([1.0, 0.0, 0.0]).expand(*shape, 3).clone()
        vectors[self._row, self._column] = self._vectors
        mask = torch.zeros(shape, dtype=torch.bool, device=self.device)
        mask[self._row, self._column] = True
        others = torch.zeros(shape, dtype=torch.long, device=self.device)
        others[self._row, self._column] = self._others
        return Environments(
            vectors=vectors,
            mask=mask,
            species=self._species,
            neighbour_species=others,
            field=field.to(self.device).expand(n, 3),
            structure=torch.arange(n, device=self.device),
        )

    def of_each(self, padded: Tensor) -> Tensor:
        """What belongs to each pair of an array (n, K, ...), (m, ...), in the order of LAMMPS."""
        return padded[self._row, self._column]


def _checked(model: EnthalpyModel, field: Sequence[float], charges_by_efield: bool) -> LocalModel:
    """The model, where it and the field can be a pair style.

    Raises:
        LammpsError: as of ``PairEnthalpy``.
    """
    if not isinstance(model, LocalModel) or not model.strictly_local:
        raise LammpsError("pair_style mliap takes strictly local models: run this one by 'fieldloop lammps run'")
    if len(field) != 3 or not np.isfinite(field).all():
        raise LammpsError(f"the field must be three finite numbers in V/A, not {field}")
    if not any(field):
        return model
    atom = Frame(species=model.species[:1], positions=np.zeros((1, 3)), cell=np.eye(3), pbc=(False, False, False))
    if not sees_the_field(model, atom):
        raise LammpsError("the model has no field as input: train one that has, or export it without a field")
    if bool(model.charges.any()) and not charges_by_efield:
        raise LammpsError(
            "the model has reference charges, on which the field acts by LAMMPS' 'fix efield': put it into the script, "
            "and say that it is there (--charges-by-efield, charges_by_efield=True)"
        )
    return model


def _spelled(number: float) -> str:
    """All its digits, and no more."""
    return np.format_float_positional(number, trim="-")


def _tensor(array: Any) -> Tensor:
    """An array of LAMMPS where it lies."""
    return torch.from_dlpack(array)


def _array(tensor: Tensor) -> Any:
    """As LAMMPS takes it: NumPy's on a CPU, the tensor itself on a GPU, of which it asks the address."""
    tensor = tensor.contiguous()
    return tensor.numpy() if tensor.device.type == "cpu" else tensor


def _give_energies(data: Any, energies: Tensor) -> None:
    """The atoms' energies: KOKKOS hands out its array, else it may be written alone."""
    if hasattr(data, "eatoms"):
        _tensor(data.eatoms).copy_(energies)
    else:
        data.eatoms = _array(energies)


def _wait_for(device: torch.device) -> None:
    """Let a GPU finish: LAMMPS and PyTorch may use other streams of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
