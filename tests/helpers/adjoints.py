"""A guided network with parameters, a condition and a weight of guidance, for tests of gradients; float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fewstep import adjoint
from fewstep.samplers import Denoiser, NoiseSchedule

WIDE = torch.float64
BATCH, SIZE = 3, 4
SEEDS = range(5, 5 + BATCH)
EXACT = ("checkpoint", "revolve", "segments")


class Guided:
    """eps = u + w (c - u), both branches one small network of (x, condition, time); everything requires a gradient.

    counts the calls; `targets` are all that gradients are asked for beside x_T.
    """

    def __init__(self, schedule: NoiseSchedule | None = None, dtype: torch.dtype = WIDE, prediction: str = "epsilon"):
        generator = torch.Generator().manual_seed(0)

        def drawn(*shape: int, scale: float = 1.0) -> Tensor:
            values = scale * torch.randn(*shape, generator=generator, dtype=WIDE)
            return values.to(dtype).requires_grad_()

        self.first, self.second = drawn(SIZE + 3, 16, scale=0.6), drawn(16, SIZE, scale=0.4)
        self.cond, self.weight = drawn(BATCH, 2), torch.tensor(2.5, dtype=dtype, requires_grad=True)
        self.schedule = schedule or NoiseSchedule.vp_linear()
        self.denoiser = Denoiser(self.predict, self.schedule, prediction)
        self.x_T = self.schedule.initial_noise((BATCH, SIZE), generator, dtype=dtype)

    @property
    def params(self) -> tuple[Tensor, Tensor]:
        return self.first, self.second

    @property
    def targets(self) -> tuple[Tensor, ...]:
        return (*self.params, self.cond, self.weight)

    def branch(self, x: Tensor, cond: Tensor, tau: Tensor) -> Tensor:
        clock = (tau / (1 + tau)).to(x).expand(len(x), 1)
        return 0.5 * x + torch.tanh(torch.cat([x, cond, clock], 1) @ self.first) @ self.second

    def predict(self, x: Tensor, tau: Tensor) -> Tensor:
        empty, full = self.branch(x, torch.zeros_like(self.cond), tau), self.branch(x, self.cond, tau)
        return empty + self.weight * (full - empty)


def drawn(problem: Guided, name: str, nfe: int, method: str, **more: Any) -> Tensor:
    """The sample at the end t = 1e-3, with given noise where the solver draws any."""
    where = {"t_end": 1e-3} if problem.schedule.kind != "edm" else {}
    return adjoint.sample(problem.denoiser, problem.x_T.requires_grad_(), name, nfe, method=method, **where, **more)


def loss(x0: Tensor) -> Tensor:
    """Different for every sample and element."""
    return (0.5 * (x0 - 1).square() + x0.sin()).sum()


def gradients(x0: Tensor, targets: Any) -> list[Tensor]:
    """Of the loss of a sample; zeros where it does not depend."""
    found = torch.autograd.grad(loss(x0), targets, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for g, t in zip(found, targets, strict=True)]


def apart(one: Any, other: Any) -> float:
    """The largest relative distance between two lists of tensors."""
    return max(
        float((a - b).detach().norm() / b.detach().norm().clamp(min=1e-300)) for a, b in zip(one, other, strict=True)
    )
