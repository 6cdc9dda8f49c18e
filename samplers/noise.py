"""Noise that belongs to the sample: z is a function of (the sample's seed, row, slot), never of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


class NoiseSource:
    """Counter-based unit Gaussians: one 64-bit seed a sample, one Philox counter block a (row, slot).

    `source(row, slot, like)` returns z of like's shape, dtype and device. The same seed gives the same z on every
    device, in every batch and in any order of asking. Drawn on the host in float32 (float64 for float64 states).
    """

    def __init__(self, seeds: Sequence[int]):
        self.seeds = tuple(int(s) for s in seeds)

    def __call__(self, row: int, slot: int, like: torch.Tensor) -> torch.Tensor:
        """z of shape (B, ...) with B = number of seeds."""
        if like.shape[0] != len(self.seeds):
            raise ValueError(f"{len(self.seeds)} noise seeds for a batch of {like.shape[0]}: give one seed a sample")
        wide = np.float64 if like.dtype == torch.float64 else np.float32
        draws = [
            np.random.Generator(np.random.Philox(key=seed % 2**64, counter=[0, 0, slot, row])).standard_normal(
                tuple(like.shape[1:]), dtype=wide
            )
            for seed in self.seeds
        ]
        return torch.from_numpy(np.stack(draws)).to(like.device, like.dtype)


class GeneratorNoise:
    """z from torch generators in the order of asking: one generator, or a list with one a sample, as diffusers users expect."""

    def __init__(self, generator: torch.Generator | Sequence[torch.Generator] | None):
        self.generator = generator

    def __call__(self, row: int, slot: int, like: torch.Tensor) -> torch.Tensor:
        """z of like's shape, drawn on each generator's own device."""
        if isinstance(self.generator, (list, tuple)):
            if len(self.generator) != like.shape[0]:
                raise ValueError(f"{len(self.generator)} generators for a batch of {like.shape[0]}: give one a sample")
            return torch.cat([self._draw(g, like[:1]) for g in self.generator])
        return self._draw(self.generator, like)  # type: ignore[arg-type]

    @staticmethod
    def _draw(generator: torch.Generator | None, like: torch.Tensor) -> torch.Tensor:
        device = like.device if generator is None else generator.device
        return torch.randn(like.shape, generator=generator, device=device, dtype=like.dtype).to(like.device)


def drawn(
    row: int, slots: Sequence[int], like: torch.Tensor, generator: Any, given: torch.Tensor | None = None
) -> list[torch.Tensor]:
    """The noises of a row from torch generators, the first of them `given` where the caller brings it."""
    source = GeneratorNoise(generator)
    noises = [source(row, slot, like) for slot in slots]
    return noises if given is None else [given.to(like.dtype), *noises[1:]]


Noise = NoiseSource | GeneratorNoise
