"""Noise that belongs to the sample: z is a function of the sample's seed and of what is drawn, never of the batch.

A source is called as `source(draw, like)` and returns z of like's shape, dtype and device. A `Draw` says which row and
slot asks, and for which increment of the sample's Brownian path in lam.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from fewstep.samplers.noise.brownian import BrownianPaths, unit_normal, unit_uniform
from fewstep.samplers.noise.draws import Draw, Noise, check_seeds, drawn_seeds, onto, uniforms
from fewstep.samplers.noise.field import GaussianField

DRAWN_THERE, MANY = ("cuda",), 2**17  # devices that draw by themselves, and of how many numbers on it is faster
JUMPS = 2**32  # counters of jumps, beyond those of rows and paths


class NoiseSource:
    """Independent increments: counter-based unit Gaussians, one 64-bit seed a sample, one counter block a (row, slot).

    The same seed gives the same z on every device, in every dtype and batch, and in any order of asking. On a GPU large
    batches are drawn there: the same numbers, save that one in 4,000, beyond 3.65, may differ in its last bit.
    """

    def __init__(self, seeds: Sequence[int]):
        self.seeds = tuple(int(s) for s in seeds)

    def __call__(self, draw: Draw, like: torch.Tensor) -> torch.Tensor:
        """z of shape (B, ...) with B = number of seeds."""
        check_seeds(self.seeds, like)
        if like.device.type in DRAWN_THERE and like.numel() >= MANY:
            from fewstep.samplers.noise.philox import normals

            return normals(self.seeds, (0, draw.slot, draw.row), like.shape[1:], like.device).to(like.dtype)
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


class JumpNoise:
    """Noise for a schedule whose jumps up are not Gaussian: z of every path but 0 times `schedule.jump_scale` of a uniform.

    The uniform belongs to the sample and the jump: of its seed, or of its generator after z.
    """

    def __init__(self, noise: Noise, jump_scale: Callable[..., np.ndarray], seeds: Any, generator: Any):
        self.noise, self.jump_scale, self.seeds, self.generator = noise, jump_scale, seeds, generator

    def __call__(self, draw: Draw, like: torch.Tensor) -> torch.Tensor:
        """z of like's shape: scale (B, 1, ...) times a unit Gaussian."""
        z = self.noise(draw, like)
        if draw.path == 0:
            return z
        if self.seeds is None:
            uniform = uniforms(self.generator, like.shape[0])
        else:
            uniform = np.array([unit_uniform(seed, (JUMPS, 0, draw.path)) for seed in self.seeds])
        scale = self.jump_scale(float(np.exp(-draw.start)), float(np.exp(-draw.end)), uniform)
        return z * onto(like, scale.reshape(-1, *(1,) * (like.ndim - 1)))


def check_kind(kind: str) -> None:
    """ValueError for a kind of noise that is not there."""
    if kind not in ("independent", "brownian"):
        raise ValueError(f'`noise` must be "independent" or "brownian"; got {kind!r}')


def source(
    kind: str,
    seeds: Sequence[int] | None,
    generator: Any,
    batch: int,
    jump_scale: Callable[..., np.ndarray] | None = None,
    field: GaussianField | None = None,
) -> Noise:
    """The noise of a run: "independent" increments or those of one "brownian" path a sample.

    Without seeds, independent noise is drawn by the generator; Brownian paths get seeds that it draws. jump_scale: of a
    schedule whose jumps up have a law of their own. field: what the noise is a draw of, in place of white noise.
    """
    check_kind(kind)
    noise: Noise
    if kind == "brownian":
        seeds = drawn_seeds(generator, batch) if seeds is None else seeds
        noise = BrownianNoise(seeds)
    else:
        noise = GeneratorNoise(generator) if seeds is None else NoiseSource(seeds)
    noise = noise if field is None else field.coloured(noise)
    return noise if jump_scale is None else JumpNoise(noise, jump_scale, seeds, generator)
