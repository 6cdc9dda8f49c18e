"""Resampling of weighted particles: copies of heavy ones in the place of light ones, (groups, K) at once on any device.

The weights and the uniforms decide which particle survives; nothing is read back from the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

METHODS = ("systematic", "stratified", "multinomial", "one")
CHOICES = 2**33  # counters of resampling, beyond those of a seed's noise


def effective(log_w: Tensor) -> Tensor:
    """Effective sample size 1 / sum w^2 of normalised weights: (..., K) -> (...)."""
    return 1.0 / torch.softmax(log_w, -1).square().sum(-1)


def ancestors(log_w: Tensor, uniforms: Tensor) -> Tensor:
    """Who stands in each place after resampling: log weights (G, K), places (G, n) in [0, 1) -> indices (G, n) in 0..K-1.

    Place u goes to the particle whose share of [0, 1) holds it; one of weight 0 has none.
    """
    steps = torch.softmax(log_w, -1).cumsum(-1)
    found = torch.searchsorted(steps / steps[:, -1:], uniforms.contiguous(), right=True)
    return found.clamp(max=log_w.shape[1] - 1)


def places(method: str, seeds: Sequence[int], row: int, n: int) -> np.ndarray:
    """Places (groups, n) in [0, 1), float64, a function of each group's seed and the row alone.

    systematic: (i + u) / n with one u; stratified: (i + u_i) / n; multinomial: u_i; one: the same u for all.
    """
    count = 1 if method in ("systematic", "one") else n
    u = np.stack([_uniforms(seed, row, count) for seed in seeds])
    if method == "one":
        return np.repeat(u, n, axis=1)
    return u if method == "multinomial" else (np.arange(n) + u) / n


def _uniforms(seed: int, row: int, count: int) -> np.ndarray:
    philox = np.random.Philox(key=seed % 2**64, counter=[0, CHOICES, 0, row % 2**64])
    return np.random.Generator(philox).random(count)


class Alone:
    """Particles that are all in this process."""

    rank, size = 0, 1

    def joined(self, x: Tensor) -> Tensor:
        """The samples of all processes, one process after another."""
        return x

    def total(self, x: Tensor) -> int:
        """Particles of all processes, for x of this one."""
        return x.shape[0]

    def taker(self, index: Tensor, batch: int) -> Callable[[Tensor], Tensor]:
        """(B, ...) -> (B, ...): what stands in this process's places, of `index` into all samples."""
        mine = index[self.rank * batch : (self.rank + 1) * batch]
        return lambda x: self.joined(x).index_select(0, mine)


class Spread(Alone):
    """Particles spread over the processes of a torch.distributed group, as many in each."""

    def __init__(self, group: Any):
        import torch.distributed as dist

        if not (dist.is_available() and dist.is_initialized()):
            raise ValueError(
                "`across` spreads particles over processes: call torch.distributed.init_process_group first"
            )
        self.group = None if group is True else group
        self.rank, self.size = dist.get_rank(self.group), dist.get_world_size(self.group)

    def joined(self, x: Tensor) -> Tensor:
        import torch.distributed as dist

        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(self.size)]
        dist.all_gather(parts, x.contiguous(), group=self.group)
        return torch.cat(parts)

    def total(self, x: Tensor) -> int:
        sizes = self.joined(torch.tensor([x.shape[0]], device=x.device)).tolist()
        if len(set(sizes)) > 1:
            raise ValueError(f"every process must have as many particles; got {sizes}")
        return sum(sizes)
