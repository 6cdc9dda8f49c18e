"""Noise that belongs to the sample: z is a function of the sample's seed and of what is drawn, never of the batch.

A source is called as `source(draw, like)` and returns z of like's shape, dtype and device. A `Draw` says which row and
slot asks, and for which increment of the sample's Brownian path in lam.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from .brownian import BrownianPaths, unit_normal
from .tableau import Draw

Noise = Callable[[Draw, torch.Tensor], torch.Tensor]


class NoiseSource:
    """Independent increments: counter-based unit Gaussians, one 64-bit seed a sample, one counter block a (row, slot).

    The same seed gives the same z on every device, in every dtype and batch, and in any order of asking.
    """

    def __init__(self, seeds: Sequence[int]):
        self.seeds = tuple(int(s) for s in seeds)

    def __call__(self, draw: Draw, like: torch.Tensor) -> torch.Tensor:
        """z of shape (B, ...) with B = number of seeds."""
        check_seeds(self.seeds, like)
        return onto(like, [unit_normal(seed, (0, draw.slot, draw.row), like.shape[1:]) for seed in self.seeds])


class BrownianNoise:
    """Increments of one Brownian path a sample, in lam: the same seed leads to the same image as nfe grows.

    A run that takes finer steps sees the same path more finely. Paths other than 0 belong to the jumps of Restart.
    """

    def __init__(self, seeds: Sequence[int]):
        self.seeds = tuple(int(s) for s in seeds)
        self.paths = [BrownianPaths(seed) for seed in self.seeds]

    def __call__(self, draw: Draw, like: torch.Tensor) -> torch.Tensor:
        """z = (W(end) - W(start)) / sqrt(|end - start|), (B, ...)."""
        check_seeds(self.seeds, like)
        return onto(like, [p.increment(draw.start, draw.end, like.shape[1:], draw.path) for p in self.paths])


class GeneratorNoise:
    """z from torch generators in the order of asking: one generator, or a list with one a sample, as diffusers users expect."""

    def __init__(self, generator: torch.Generator | Sequence[torch.Generator] | None):
        self.generator = generator

    def __call__(self, draw: Draw, like: torch.Tensor) -> torch.Tensor:
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


def check_kind(kind: str) -> None:
    """ValueError for a kind of noise that is not there."""
    if kind not in ("independent", "brownian"):
        raise ValueError(f'`noise` must be "independent" or "brownian"; got {kind!r}')


def source(kind: str, seeds: Sequence[int] | None, generator: Any, batch: int) -> Noise:
    """The noise of a run: "independent" increments or those of one "brownian" path a sample.

    Without seeds, independent noise is drawn by the generator; Brownian paths get seeds that it draws.
    """
    check_kind(kind)
    if kind == "independent":
        return GeneratorNoise(generator) if seeds is None else NoiseSource(seeds)
    return BrownianNoise(drawn_seeds(generator, batch) if seeds is None else seeds)


def drawn_seeds(generator: Any, batch: int) -> list[int]:
    """One 63-bit seed a sample, drawn by a generator, by one generator a sample, or by torch's own."""
    each = list(generator) if isinstance(generator, (list, tuple)) else None
    if each is None:
        device = "cpu" if generator is None else generator.device
        return [int(s) for s in torch.randint(2**63 - 1, (batch,), generator=generator, device=device)]
    return [int(torch.randint(2**63 - 1, (), generator=g, device=g.device)) for g in each]


def check_seeds(seeds: Sequence[int], like: torch.Tensor) -> None:
    """ValueError unless there is one seed a sample."""
    if like.shape[0] != len(seeds):
        raise ValueError(f"{len(seeds)} noise seeds for a batch of {like.shape[0]}: give one seed a sample")


def onto(like: torch.Tensor, parts: Sequence[np.ndarray]) -> torch.Tensor:
    """One array a sample as a tensor beside `like`."""
    return torch.from_numpy(np.stack(parts)).to(like.device, like.dtype)
