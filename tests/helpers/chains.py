"""A small network that is a chain of blocks, and tables that leave some of them out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import Linear, Module, ModuleList

from fewstep.samplers import BlockCache, Denoiser, NoiseSchedule, Tableau, build

VP = NoiseSchedule.vp_linear()
INNER = (("blocks.1", "blocks.2", "blocks.3"),)
SHAPE = (2, 4, 4)


class Block(Module):
    """h + tanh(A h + b tau); "still": h + b, whatever comes; "linear": h + A h."""

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.linear, self.kind = Linear(width, width), kind
        self.calls = 0

    def forward(self, h: Tensor, tau: Tensor) -> Tensor:
        self.calls += 1
        if self.kind == "still":
            return h + self.linear.bias
        if self.kind == "linear":
            return h + 0.4 * self.linear(h)
        return h + 0.4 * torch.tanh(self.linear(h) + tau * self.linear.bias)


class Chain(Module):
    """Five blocks over a flat picture, predicting x0."""

    def __init__(self, kind: str = "tanh", width: int = 24) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = Linear(32, width), Linear(width, 32)
        self.blocks = ModuleList(Block(width, kind) for _ in range(5))

    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        h = self.first(x.flatten(1).to(self.first.weight.dtype))
        for block in self.blocks:
            h = block(h, (tau / 1000).to(h.dtype))
        return torch.tanh(self.last(h)).view(x.shape)

    @property
    def counts(self) -> list[int]:
        return [block.calls for block in self.blocks]


def chain(kind: str = "tanh") -> tuple[Chain, Denoiser]:
    network = Chain(kind).double().requires_grad_(False)
    return network, Denoiser(network, VP, "sample")


def cache(weights: dict[int, list[float]], nfe: int = 6, groups: tuple[tuple[str, ...], ...] = INNER) -> BlockCache:
    """Rows that leave all groups out, with these weights."""
    w = np.zeros((nfe, len(groups), max(map(len, weights.values()), default=1)))
    for k, values in weights.items():
        w[k, :, : len(values)] = values
    return BlockCache(groups, w, np.where(w.any((1, 2)), 0.4, 1.0))


def cached(
    weights: dict[int, list[float]], nfe: int = 6, solver: str = "dpmpp_2m", schedule: NoiseSchedule = VP
) -> Tableau:
    return replace(build(solver, schedule, nfe), cache=cache(weights, nfe))


def noise(count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
