"""Mixtures with exact scores on which schedules are learned: differentiable in the state and in the time shown."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.samplers import Denoiser, NoiseSchedule, Tableau, build
from fewstep.samplers.learned.problem.problem import Problem
from fewstep.samplers.learned.problem.teacher import Teacher
from fewstep.samplers.learned.tasks.learner_task import Task


class _Levels(torch.autograd.Function):
    """(alpha, sigma) of a schedule at a model time, with their derivative by central differences."""

    @staticmethod
    def forward(ctx: Any, tau: Tensor, schedule: NoiseSchedule) -> Tensor:
        def at(tau: float) -> np.ndarray:
            t = schedule.time_of_model(tau)
            return np.array([float(schedule.alpha(t)), float(schedule.sigma(t))])

        here, last = float(tau), float(schedule.model_time(schedule.t_max))
        h = 1e-6 * max(abs(here), 1e-3)
        low, high = max(here - h, 0.0), min(here + h, last)
        ctx.slope = torch.from_numpy((at(high) - at(low)) / (high - low)) if tau.requires_grad else None
        return torch.from_numpy(at(here))

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> tuple[Tensor, None]:
        return (gradient[0] * ctx.slope).sum(), None


class Axes:
    """sum_k weight_k N(means_k, diag stds_k^2); means and stds (K, D)."""

    def __init__(self, means: Tensor, stds: Tensor, weights: Tensor):
        self.means, self.variances, self.log_weights = means.double(), stds.double() ** 2, weights.double().log()

    def x0(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x] at x (B, D)."""
        gap = x.double()[:, None] - alpha * self.means
        variance = alpha**2 * self.variances + sigma**2
        logs = self.log_weights - 0.5 * (gap**2 / variance + variance.log()).sum(-1)
        x0 = self.means + alpha * self.variances * gap / variance
        return (torch.softmax(logs, -1)[..., None] * x0).sum(1).to(x.dtype)

    def denoiser(self, schedule: NoiseSchedule | None = None) -> Denoiser:
        """The exact network, prediction "sample"; VP-linear unless told otherwise."""
        schedule = schedule or NoiseSchedule.vp_linear()

        def fn(x: Tensor, tau: Tensor) -> Tensor:
            alpha, sigma = _Levels.apply(tau.double(), schedule)
            return self.x0(x, alpha, sigma)

        return Denoiser(fn, schedule, "sample")


def ring(schedule: NoiseSchedule | None = None) -> Denoiser:
    """Eight modes of different widths on a circle; two dimensions, data of rms 1."""
    angle = torch.arange(8, dtype=torch.float64) * 2 * math.pi / 8
    means = 0.98 * math.sqrt(2) * torch.stack([angle.cos(), angle.sin()], -1)
    stds = torch.linspace(0.05, 0.25, 8, dtype=torch.float64)[:, None].expand(8, 2)
    return Axes(means, stds, torch.ones(8) / 8).denoiser(schedule)


def sixteen(schedule: NoiseSchedule | None = None) -> Denoiser:
    """Twenty anisotropic modes of unequal weight in sixteen dimensions whose scales decay by a factor of eight."""
    generator = torch.Generator().manual_seed(0)
    scales = 2.0 ** (-torch.arange(16, dtype=torch.float64) / 5)
    means = 1.3 * scales * torch.randn(20, 16, generator=generator, dtype=torch.float64)
    stds = scales * (0.05 + 0.3 * torch.rand(20, 16, generator=generator, dtype=torch.float64))
    weights = 0.2 + torch.rand(20, generator=generator, dtype=torch.float64)
    return Axes(means, stds, weights / weights.sum()).denoiser(schedule)


def third(schedule: NoiseSchedule | None = None) -> Denoiser:
    """Twelve modes along a spiral in six dimensions, wide and heavy outside, narrow and light inside: tuned on by nobody."""
    u = torch.linspace(0, 1, 12, dtype=torch.float64)[:, None]
    rates = torch.tensor([1.0, 1.0, 2.0, 2.0, 3.0, 3.0], dtype=torch.float64)
    phases = torch.tensor([0.0, 0.5, 0.0, 0.5, 0.0, 0.5], dtype=torch.float64) * math.pi
    sizes = torch.tensor([1.2, 1.2, 0.6, 0.6, 0.3, 0.3], dtype=torch.float64)
    means = (0.3 + u) * sizes * torch.cos(2 * math.pi * rates * u + phases)
    stds = (0.03 + 0.15 * u) * sizes.sqrt()
    weights = (0.3 + u[:, 0]).square()
    return Axes(means, stds, weights / weights.sum()).denoiser(schedule)


SHAPES = {"ring": (2,), "sixteen": (16,), "third": (6,)}
MIXTURES = {"ring": ring, "sixteen": sixteen, "third": third}


def task(denoiser: Denoiser, shape: tuple[int, ...], nfe: int, train: int = 128, valid: int = 128, **how: Any) -> Task:
    """What a method is given: seeds 0.. to learn on, 10,000.. to choose on; float64, the teacher in memory."""
    size = how.pop("batch_size", 256)
    teacher = how.pop("teacher", {})
    problem = Problem(denoiser, shape=shape, batch_size=size, dtype=torch.float64)
    seeds = {"train": tuple(range(train)), "valid": tuple(range(10_000, 10_000 + valid))}
    return Task(problem, Teacher(problem, cache=False, **teacher), nfe, **seeds, **how)


def base(task: Task, solver: str = "dpmpp_2m", grid: str = "quadratic", **options: Any) -> Tableau:
    """A solver's own table where a task begins and ends."""
    ends = {"t_start": task.problem.t_start, "t_end": task.problem.t_end}
    return build(solver, task.problem.schedule, task.nfe, grid, **ends, **options)


def turned(knobs: Any, size: float, seed: int = 0) -> Any:
    """The knobs at random values of this size."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in knobs.parameters.values():
            value.copy_(size * torch.randn(len(value), generator=generator, dtype=torch.float64))
    return knobs
