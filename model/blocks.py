"""Responses of systems of any size: exact, in blocks of centre atoms, whose memory does not grow with the system.

A local model needs of a block its neighbour vectors alone. With u_i the enthalpy of centre i, v_ij = r_j - r_i
and q_i the reference charges,

    F_j = sum_i (du_j/dv_ji - du_i/dv_ij) + q_j E,  P = -sum_i du_i/dE + sum_i q_i r_i,
    V sigma = sum_ij du_i/dv_ij v_ij^T - sum_i q_i E r_i^T (symmetrized),

and Z* and alpha are one more derivative of the same. A long-range part, which has no field, is evaluated at once. Sums
run in float64, in the order of the blocks, so they do not depend on the number of threads.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from .derivatives import Derivatives
from .graph import Environments, Graph
from .interface import EnthalpyModel, LocalModel
from .responses import Responses, compute_responses, strained

_CPU_EDGES = 48 * 48
"""Of a block on a CPU: its arrays stay in the caches, its operations are long beside their overhead."""

_SHARE = 0.5
"""Of a GPU's free memory that a block takes by the estimate of ``LocalModel.floats_per_edge``."""

_BORN = 5
"""Times the memory that Z* and alpha need."""

_KEPT = 1 << 30
"""Bytes: memory that glibc keeps when it is freed, and arrays that it takes from there."""


@dataclass(frozen=True)
class BlockPlan:
    """How a system is divided.

    Attributes:
        n_atoms: of the batch.
        block: atoms of a block.
        threads: blocks at work at a time.
    """

    n_atoms: int
    block: int
    threads: int

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return -(-self.n_atoms // self.block)

    def __str__(self) -> str:
        if self.n_blocks == 1:
            return f"{self.n_atoms:,} atoms at once"
        return f"{self.n_atoms:,} atoms in {self.n_blocks:,} blocks of {self.block:,}, {self.threads} at a time"


def plan_blocks(
    model: EnthalpyModel, graph: Graph | Environments, *, born: bool = False, block: int | None = None
) -> BlockPlan:
    """Blocks that fit the caches of a CPU or the free memory of a GPU; one block for a model that is not local.

    Args:
        model: the enthalpy.
        graph: the batch.
        born: for Born effective charges and polarizability as well.
        block: atoms of a block, to choose it yourself.

    Raises:
        ValueError: a block of less than one atom.
    """
    if block is not None and block < 1:
        raise ValueError(f"a block has one atom or more, not {block}")
    n_atoms = graph.mask.shape[0]
    if not isinstance(model, LocalModel):
        return BlockPlan(n_atoms, max(n_atoms, 1), 1)
    if block is None:
        edges = min(_edges(model, device, born) for device in model.devices)
        share = -(-n_atoms // len(model.devices))
        block = model.block_size(max(min(edges // graph.mask.shape[1], share), 1))
    return BlockPlan(n_atoms, block, min(model.workers, -(-n_atoms // block)))


def responses_in_blocks(
    model: EnthalpyModel,
    graph: Graph,
    *,
    stress: bool = False,
    born: bool = False,
    block: int | None = None,
    directions: Tensor | None = None,
    create_graph: bool = False,
) -> Responses:
    """What ``compute_responses`` gives, for a system of any size and for a compiled model.

    A system of one block, or a model that is not local, is given to ``compute_responses``, to the bit. Otherwise, and
    from a model in programs, the responses are float64.

    Args:
        model: the enthalpy.
        graph: the batch.
        stress: also the stress.
        born: also Born effective charges and polarizability.
        block: atoms of a block; by default as many as fit the caches of a CPU or the free memory of a GPU.
        directions: of the field, as of ``compute_responses``.
        create_graph: as of ``compute_responses``.

    Raises:
        ValueError: a block of less than one atom.
    """
    plan = plan_blocks(model, graph, born=born, block=block)
    if not isinstance(model, LocalModel) or (plan.n_blocks == 1 and not model.in_programs):
        return compute_responses(
            model, graph, stress=stress, born=born, directions=directions, create_graph=create_graph
        )
    if born and directions is None:
        directions = torch.eye(3, device=graph.positions.device)
    sums = _Sums(model, graph, stress, directions if born else None)

    def environments_of(some: _Block) -> Environments:
        return graph.environments_of(some.atoms, some.width, model.dtype)

    blocks = _blocks(graph.mask, plan.block)
    along = None if not born or directions is None else directions.to(graph.positions.device, model.dtype)
    for some, part in _evaluated(model, blocks, environments_of, plan.threads, along, create_graph):
        sums.add(some, part)
    return sums.responses()


def derivatives_in_blocks(model: LocalModel, environments: Environments, *, block: int | None = None) -> Derivatives:
    """Derivatives of the enthalpies of any number of atoms, without the reference charges.

    Args:
        model: strictly local.
        environments: of n atoms, in any floating type, each in a field of its own.
        block: as of ``responses_in_blocks``.

    Returns:
        float64, whatever the type of the model; zero by neighbours that are masked.

    Raises:
        ValueError: a block of less than one atom.
    """
    plan = plan_blocks(model, environments, block=block)
    vectors = environments.vectors.double()
    zeros = torch.zeros_like(vectors)
    out = Derivatives(vectors, zeros.new_zeros(len(zeros)), zeros, torch.zeros_like(environments.field.double()))

    def environments_of(some: _Block) -> Environments:
        return replace(
            environments,
            vectors=environments.vectors[some.atoms, : some.width].to(model.dtype),
            mask=environments.mask[some.atoms, : some.width],
            species=environments.species[some.atoms],
            neighbour_species=environments.neighbour_species[some.atoms, : some.width],
            field=environments.field[environments.structure[some.atoms]].to(model.dtype),
            structure=torch.arange(len(some.atoms), device=some.atoms.device),
        )

    blocks = _blocks(environments.mask, plan.block)
    for some, part in _evaluated(model, blocks, environments_of, plan.threads):
        out.enthalpy[some.atoms] = part.enthalpy.double()
        out.by_vectors[some.atoms, : some.width] = part.by_vectors.double()
        out.by_field[some.atoms] = part.by_field.double()
    return out


def _edges(model: LocalModel, device: torch.device, born: bool) -> int:
    """Edges whose evaluation fits the caches of a CPU, or the free memory of a GPU with what PyTorch has set aside."""
    if device.type == "cpu":
        return _CPU_EDGES
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(_SHARE * free / (model.floats_per_edge * model.dtype.itemsize * (_BORN if born else 1)))


@dataclass(frozen=True)
class _Block:
    """Some atoms, and how many columns their neighbours take."""

    atoms: Tensor
    width: int


def _blocks(mask: Tensor, size: int) -> list[_Block]:
    """Atoms with as many neighbours together: padding would cost as much as neighbours do."""
    columns = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    widths, atoms = (mask * columns).amax(1).sort(stable=True)
    largest = widths[size - 1 :: size].tolist() + widths[-1:].tolist()
    return [_Block(part, max(width, 1)) for part, width in zip(atoms.split(size), largest, strict=False)]


def _evaluated(
    model: LocalModel,
    blocks: list[_Block],
    environments_of: Callable[[_Block], Environments],
    threads: int,
    along: Tensor | None = None,
    create_graph: bool = False,
) -> Iterator[tuple[_Block, Derivatives]]:
    """Each block and its derivatives, in order."""

    def one(block: _Block) -> Derivatives:
        return model.derivatives(environments_of(block), along, create_graph=create_graph)

    _keep_freed_memory()
    if threads == 1:
        yield from ((block, one(block)) for block in blocks)
        return
    with _one_thread_each(), ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for block in blocks:
            if model.is_new(len(block.atoms), block.width, along, create_graph):
                pool.submit(model.prepare, environments_of(block), along, create_graph).result()
        yield from zip(blocks, pool.map(one, blocks), strict=True)


@cache
def _keep_freed_memory() -> None:
    """Let a block reuse the memory of the one before: fresh pages cost a tenth of the time of Z* and alpha on a CPU."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(library, "mallopt"):  # glibc
        for option in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
            library.mallopt(option, _KEPT)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Operations on one thread: the blocks are what runs side by side."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Sums:
    """Responses as they add up, float64."""

    def __init__(self, model: LocalModel, graph: Graph, stress: bool, directions: Tensor | None) -> None:
        self.graph = graph
        charges = model.charges.double()[graph.species]
        field = graph.field.double()[graph.structure]
        positions = graph.positions.double()
        self.polarization = graph.sum_structures(charges[:, None] * positions)
        self.enthalpy = -(graph.field.double() * self.polarization).sum(-1)
        self.forces = charges[:, None] * field
        self.virial = self.born = self.alpha = None
        if stress:
            self.virial = -graph.sum_structures(charges[:, None, None] * field[:, :, None] * positions[:, None])
        if not model.strictly_local:
            self._add_long_range(model)
        if directions is not None:
            self.born = charges[:, None, None] * directions.to(positions)
            self.alpha = positions.new_zeros((graph.n_structures, *directions.shape))

    def _add_long_range(self, model: LocalModel) -> None:
        """Enthalpy, forces and virial of the part that has no blocks."""
        graph = self.graph
        positions = graph.positions.detach().double().requires_grad_()
        strain = graph.cell.new_zeros(graph.cell.shape, dtype=torch.float64).requires_grad_()
        with torch.enable_grad():
            enthalpy = model.long_range(strained(graph.replace(positions=positions, cell=graph.cell.double()), strain))
            by_positions, by_strain = torch.autograd.grad(enthalpy.sum(), (positions, strain))
        self.enthalpy = self.enthalpy + enthalpy.detach()
        self.forces = self.forces - by_positions
        if self.virial is not None:
            self.virial = self.virial + by_strain

    def add(self, block: _Block, part: Derivatives) -> None:
        """Add a block."""
        graph, atoms = self.graph, block.atoms
        structure, neighbours = graph.structure[atoms], graph.neighbours[atoms, : block.width].flatten()
        by_vectors = part.by_vectors.double()
        self.enthalpy.index_add_(0, structure, part.enthalpy.double())
        self.polarization.index_add_(0, structure, -part.by_field.double())
        self.forces.index_add_(0, atoms, by_vectors.sum(1))
        self.forces.index_add_(0, neighbours, -by_vectors.flatten(0, 1))
        if self.virial is not None:
            self.virial.index_add_(0, structure, by_vectors.transpose(1, 2) @ part.vectors.double())
        if part.mixed is not None and part.by_field_twice is not None:
            assert self.born is not None  # noqa: S101
            assert self.alpha is not None  # noqa: S101
            mixed = part.mixed.double().transpose(1, 2)
            self.born.index_add_(0, atoms, mixed.sum(1))
            self.born.index_add_(0, neighbours, -mixed.flatten(0, 1))
            self.alpha.index_add_(0, structure, -part.by_field_twice.double())

    def responses(self) -> Responses:
        """The totals."""
        stress = None
        if self.virial is not None:
            raw = self.virial / self.graph.volume().double()[:, None, None]
            stress = (raw + raw.transpose(1, 2)) / 2
        return Responses(self.enthalpy, self.forces, self.polarization, stress, self.born, self.alpha)
