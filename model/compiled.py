"""A strictly local model whose derivatives are one compiled program, in training and in dynamics.

The derivatives of the atoms of a block are traced with ``make_fx``, which leaves no backward pass in them, and compiled
by ``torch.compile``; where they are differentiated once more, by the weights, that pass is compiled as well. A program
is made for each shape, so atoms and neighbours are padded to few ones; what comes in more shapes than that, and what
fails to compile, is evaluated as without it. On a GPU small blocks are replayed as CUDA graphs.
"""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from .cuda_graphs import LARGEST, GraphedProgram, Program
from .derivatives import Derivatives, differentiate
from .graph import Environments, Graph
from .interface import EnthalpyModel, LocalModel

MOST_PROGRAMS = 12
"""Shapes that are compiled, or tried; each takes from seconds to minutes."""
_COLUMNS = 8
"""Neighbours are padded to multiples of it, atoms to eight sizes in each factor of two."""

_INPUTS = ("vectors", "mask", "species", "neighbour_species", "field")


@dataclass(frozen=True)
class _Shape:
    """What a program is compiled for."""

    atoms: int
    columns: int
    directions: int
    create_graph: bool
    device: torch.device
    dtype: torch.dtype
    threads: int


class CompiledModel(LocalModel):
    """The model with compiled derivatives; its weights are the model's own.

    Results equal those of the model up to rounding. ``responses_in_blocks`` makes use of it.

    Args:
        model: a strictly local model.
        backend: of ``torch.compile``.
    """

    def __init__(self, model: LocalModel, backend: str = "inductor") -> None:
        super().__init__()
        self.model = model
        self.species, self.cutoff = model.species, model.cutoff
        self._backend = backend
        self._programs: dict[_Shape, Program | None] = {}
        self._one_at_a_time = threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        """Programs stay in their process: a copy, or a process that is spawned, makes its own."""
        return {key: value for key, value in self.__dict__.items() if key not in ("_programs", "_one_at_a_time")}

    def __setstate__(self, state: dict[str, object]) -> None:
        """Without programs."""
        super().__setstate__(state)
        self._programs = {}
        self._one_at_a_time = threading.Lock()

    @property
    def plain(self) -> EnthalpyModel:
        """The model that is compiled."""
        return self.model.plain

    @property
    def charges(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Those of the model."""
        return self.model.charges

    @property
    def strictly_local(self) -> bool:
        """As of the model."""
        return self.model.strictly_local

    def long_range(self, graph: Graph) -> Tensor:
        """The model's own, not compiled."""
        return self.model.long_range(graph)

    @property
    def floats_per_edge(self) -> int:
        """That of the model."""
        return self.model.floats_per_edge

    @property
    def compiled_shapes(self) -> int:
        """Programs there are."""
        return sum(program is not None for program in self._programs.values())

    @property
    def in_programs(self) -> bool:
        """Yes."""
        return True

    def block_size(self, atoms: int) -> int:
        """A size that programs are made for."""
        return few_sizes(atoms)

    def local_enthalpy(self, environments: Environments) -> Tensor:
        """The model's own, not compiled."""
        return self.model.local_enthalpy(environments)

    def is_new(self, atoms: int, columns: int, directions: Tensor | None, create_graph: bool) -> bool:
        """Will such a block be traced first? No program may run meanwhile in another thread."""
        shape = self._shape(atoms, columns, directions, create_graph)
        return shape not in self._programs and len(self._programs) < MOST_PROGRAMS

    def prepare(self, environments: Environments, directions: Tensor | None, create_graph: bool) -> None:
        """Make the program."""
        atoms, columns = environments.mask.shape
        shape = self._shape(atoms, columns, directions, create_graph)
        self._program(shape, _padded(environments, shape.atoms, shape.columns), directions)

    def derivatives(
        self, environments: Environments, directions: Tensor | None = None, *, create_graph: bool = False
    ) -> Derivatives:
        """As of the model, by a compiled program."""
        atoms, columns = environments.mask.shape
        shape = self._shape(atoms, columns, directions, create_graph)
        padded = _padded(environments, shape.atoms, shape.columns)
        program = self._program(shape, padded, directions)
        if program is None:
            return self.model.derivatives(environments, directions, create_graph=create_graph)
        with torch.set_grad_enabled(create_graph):
            enthalpy, by_vectors, by_field, *second = program(*self._arguments(padded, directions))
        out = Derivatives(environments.vectors, enthalpy[:atoms], by_vectors[:atoms, :columns], by_field[:atoms])
        if not second:
            return out
        return replace(out, mixed=second[0][:atoms, :, :columns], by_field_twice=second[1][:atoms])

    def _arguments(self, padded: Environments, directions: Tensor | None) -> tuple[Any, ...]:
        state = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        return state, directions, *(getattr(padded, name) for name in _INPUTS)

    def _shape(self, atoms: int, columns: int, directions: Tensor | None, create_graph: bool) -> _Shape:
        return _Shape(
            atoms=few_sizes(atoms),
            columns=-(-columns // _COLUMNS) * _COLUMNS,
            directions=0 if directions is None else len(directions),
            create_graph=create_graph,
            device=self.device,
            dtype=self.dtype,
            threads=torch.get_num_threads(),
        )

    def _program(self, shape: _Shape, padded: Environments, directions: Tensor | None) -> Program | None:
        """The program for a shape; None where there is none."""
        with self._one_at_a_time:
            if shape not in self._programs and len(self._programs) < MOST_PROGRAMS:
                with torch.no_grad():
                    # What is computed once for all models must not be computed again in every call of the program.
                    self.model.local_enthalpy(padded)
                self._programs[shape] = self._compile(shape, self._arguments(padded, directions))
                if len(self._programs) == MOST_PROGRAMS:
                    warnings.warn(f"no more than {MOST_PROGRAMS} sizes of blocks are compiled", stacklevel=2)
            return self._programs.get(shape)

    def _compile(self, shape: _Shape, arguments: tuple[Any, ...]) -> Program | None:
        """Trace, compile and try."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        try:
            traced = make_fx(_derivatives_of(self.model, shape.create_graph))(*arguments)
            # Autograd detaches the results it keeps for a backward pass: left in, they cut the gradient by weights.
            for node in traced.graph.find_nodes(op="call_function", target=torch.ops.aten.detach.default):
                node.replace_all_uses_with(node.args[0])
            traced.graph.eliminate_dead_code()
            traced.recompile()
            program: Program = torch.compile(traced, dynamic=False, backend=self._backend)
            with torch.set_grad_enabled(shape.create_graph):
                out = program(*arguments)
                if shape.create_graph and trained:
                    total = torch.stack([one.sum() for one in out]).sum()
                    torch.autograd.grad(total, trained, allow_unused=True)
                elif shape.device.type == "cuda" and shape.atoms * shape.columns <= LARGEST:
                    program = GraphedProgram(program, *arguments)
        except Exception as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            warnings.warn(f"the model is not compiled, and slower for it: {reason}", stacklevel=2)
            return None
        return program


def few_sizes(atoms: int) -> int:
    """The next of the numbers of atoms that programs are made for: eight in each factor of two."""
    step = max(1, 2 ** (atoms.bit_length() - 1) // 8)
    return -(-atoms // step) * step


class _LocalEnthalpy(nn.Module):
    """The enthalpies as what a module does, for weights that are handed in."""

    def __init__(self, model: LocalModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, environments: Environments) -> Tensor:
        return self.model.local_enthalpy(environments)


def _derivatives_of(model: LocalModel, create_graph: bool) -> Program:
    """Derivatives as a function of tensors alone."""
    module = _LocalEnthalpy(model)

    def derivatives(state: dict[str, Tensor], directions: Tensor | None, *tensors: Tensor) -> list[Tensor]:
        named = dict(zip(_INPUTS, tensors, strict=True))
        atoms = len(named["species"])
        environments = Environments(**named, structure=torch.arange(atoms, device=named["species"].device))
        weights = {f"model.{name}": value for name, value in state.items()}

        def enthalpy_of(one: Environments) -> Tensor:
            return functional_call(module, weights, (one,))

        found = differentiate(enthalpy_of, environments, directions, create_graph=create_graph)
        out = [found.enthalpy, found.by_vectors, found.by_field, found.mixed, found.by_field_twice]
        return [one for one in out if one is not None]

    return derivatives


def _padded(environments: Environments, atoms: int, columns: int) -> Environments:
    """With more atoms and neighbours that are none."""
    n, k = environments.mask.shape
    if (n, k) == (atoms, columns):
        return environments
    more = (0, columns - k, 0, atoms - n)
    # Masked neighbours are unit vectors along x.
    along_x = environments.vectors.new_tensor([1.0, 0.0, 0.0]).expand(atoms, columns, 3).clone()
    along_x[:n, :k] = environments.vectors
    return Environments(
        vectors=along_x,
        mask=nn.functional.pad(environments.mask, more),
        species=nn.functional.pad(environments.species, (0, atoms - n)),
        neighbour_species=nn.functional.pad(environments.neighbour_species, more),
        field=nn.functional.pad(environments.field, (0, 0, 0, atoms - n)),
        structure=torch.arange(atoms, device=environments.structure.device),
    )
