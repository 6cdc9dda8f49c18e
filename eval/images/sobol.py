"""Initial noise that fills the space evenly: a scrambled Sobol sequence through the inverse normal distribution function.

Reference: Effectively Unbiased FID and Inception Score and Where to Find Them, Chong and Forsyth, 2020, arXiv:1911.07023.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

DIMENSIONS = SobolEngine.MAXDIM  # 21201: pixels of 3x32x32 and latents of 4x64x64, not 3x256x256


class Sobol:
    """x_T of seed s is point s of one sequence: z = Phi^-1(u + 2^-31), so that u = 0 is no infinity.

    Beyond 21201 numbers a sample the rest is the seed's own independent noise. Consecutive seeds from 0 on, 2^k of them,
    are balanced best; any are allowed, and give the same points in any batch and process.

    Args:
        scramble: seed of the scrambling; each one is an independent repetition.
    """

    def __init__(self, scramble: int = 0) -> None:
        self.scramble = scramble
        self._engine: SobolEngine | None = None

    def __call__(self, batch: Any) -> Tensor:
        """x_T (B, *shape) of a `Batch`, instead of its own."""
        own, schedule = batch.x_T, batch.denoiser.schedule
        scale = float(schedule.sigma(schedule.t_max)) if schedule.kind == "ve" else 1.0
        _require_noise(own / scale, batch.seeds, schedule)
        x = own.flatten(1).clone()
        some = min(x.shape[1], DIMENSIONS)
        x[:, :some] = (self.points(batch.seeds, some) * scale).to(x)
        return x.view_as(own)

    def points(self, seeds: Sequence[int], dimensions: int) -> Tensor:
        """Unit Gaussians (len(seeds), dimensions), float64."""
        if not all(0 <= seed < 2**30 for seed in seeds):
            raise ValueError(
                f"Sobol noise is numbered by the seeds, from 0 to 2^30 - 1; got {min(seeds)} to {max(seeds)}"
            )
        if self._engine is None or self._engine.dimension != dimensions:
            self._engine = SobolEngine(dimensions, scramble=True, seed=self.scramble)
        u = torch.cat([self._point(self._engine, int(seed)) for seed in seeds])
        return torch.special.ndtri(u + 2.0**-31)

    @staticmethod
    def _point(engine: SobolEngine, index: int) -> Tensor:
        if index < engine.num_generated:
            engine.reset()
        engine.fast_forward(index - engine.num_generated)
        return engine.draw(1, dtype=torch.float64)


def _require_noise(z: Tensor, seeds: Sequence[int], schedule: Any) -> None:
    """ValueError for a pipeline that starts from anything but unit Gaussian noise, one for each seed."""
    n, z = z.numel(), z.double()
    noise = abs(float(z.mean())) < 6 / sqrt(n) and abs(float(z.std()) - 1) < 6 / sqrt(2 * n)
    if len(z) != len(seeds) or not noise or schedule.jump_scale is not None:
        raise ValueError(
            "Sobol noise needs a pipeline that starts from independent Gaussian noise alone; this one does not"
        )
