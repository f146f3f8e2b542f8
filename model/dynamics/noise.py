"""Random numbers of a batch of replicas, resumable to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NOISE_BLOCK = 16
"""Steps of noise drawn at once, so that a batch of many replicas does not wait for as many small draws."""


@dataclass(frozen=True)
class Noise:
    """Independent standard normal numbers of one step, float64.

    Attributes:
        atoms: (N, 3).
        cell: (B, 3, 3).
    """

    atoms: Tensor
    cell: Tensor


class NoiseStream:
    """Standard normal numbers for each step, from one generator per replica.

    What a replica draws does not depend on which others share its batch, and the stream is resumable: ``states``
    and ``block`` give it back.

    Attributes:
        states: state of each generator before the block in use, as bytes.
        block: number of the block in use; -1 before the first.
    """

    def __init__(self, generators: Sequence[torch.Generator], counts: Sequence[int]) -> None:
        """Start a stream.

        Args:
            generators: one per replica; they are used up by the stream.
            counts: atoms of each replica.
        """
        self.block = -1
        self.states = [generator.get_state() for generator in generators]
        self._generators = list(generators)
        self._counts = list(counts)
        self._atoms = self._cells = torch.empty(0)

    @classmethod
    def resumed(
        cls, states: Sequence[Tensor], block: int, counts: Sequence[int], device: torch.device | str
    ) -> NoiseStream:
        """Continue the stream that had these ``states`` and this ``block``."""
        generators = [torch.Generator(device=device) for _ in states]
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        stream = cls(generators, counts)
        if block >= 0:
            stream.block = block - 1
            stream._draw()
        return stream

    def at(self, step: int) -> Noise:
        """Noise of a step. Steps are asked for in ascending order."""
        while self.block < step // NOISE_BLOCK:
            self._draw()
        row = step % NOISE_BLOCK
        return Noise(self._atoms[row], self._cells[row])

    def keep(self, replicas: Sequence[int]) -> NoiseStream:
        """The stream of some of the replicas."""
        device = self._generators[0].device
        counts = [self._counts[i] for i in replicas]
        return NoiseStream.resumed([self.states[i] for i in replicas], self.block, counts, device)

    def _draw(self) -> None:
        self.states = [generator.get_state() for generator in self._generators]
        draws = [
            torch.randn((NOISE_BLOCK, count + 3, 3), generator=generator, device=generator.device, dtype=torch.float64)
            for generator, count in zip(self._generators, self._counts, strict=True)
        ]
        self._atoms = torch.cat([draw[:, :-3] for draw in draws], dim=1)
        self._cells = torch.stack([draw[:, -3:] for draw in draws], dim=1)
        self.block += 1
