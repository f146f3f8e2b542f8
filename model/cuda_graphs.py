"""A program of fixed shapes as one CUDA graph: a small cell costs its arithmetic, not the launches of its kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

_WARM_UPS = 3
"""Runs before the capture: libraries set themselves up, the allocator finds its sizes."""

LARGEST = 1 << 17
"""Edges of a block beyond which kernels take longer than their launch, and a graph would only hold memory."""

Program = Callable[..., Sequence[Tensor]]


class GraphedProgram:
    """A program that is replayed.

    Weights are read where they were when it was captured. They may change there, as an optimizer changes them; where
    they have moved, the program itself runs.

    Args:
        program: takes weights by name, directions or None, and tensors; changes none of them.
        state, directions, tensors: of the calls to come, on one CUDA device; a later call may bring other values.

    Raises:
        RuntimeError: the program cannot be captured.
    """

    def __init__(
        self, program: Program, state: Mapping[str, Tensor], directions: Tensor | None, *tensors: Tensor
    ) -> None:
        self._program = program
        self._places = _places(state)
        self._inputs = [one.clone() for one in _present(directions, *tensors)]
        given = self._inputs if directions is not None else [None, *self._inputs]
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(tensors[0].device):
            beside = torch.cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                for _ in range(_WARM_UPS):
                    program(state, *given)
            torch.cuda.current_stream().wait_stream(beside)
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._outputs = list(program(state, *given))

    def __call__(self, state: Mapping[str, Tensor], directions: Tensor | None, *tensors: Tensor) -> Sequence[Tensor]:
        """What the program gives, in tensors of the caller's own."""
        if _places(state) != self._places:
            return self._program(state, directions, *tensors)
        for kept, given in zip(self._inputs, _present(directions, *tensors), strict=True):
            kept.copy_(given)
        self._graph.replay()
        return [one.clone() for one in self._outputs]


def _places(state: Mapping[str, Tensor]) -> list[int]:
    return [tensor.data_ptr() for tensor in state.values()]


def _present(*tensors: Tensor | None) -> list[Tensor]:
    return [one for one in tensors if one is not None]
