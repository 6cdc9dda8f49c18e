"""A network with a known true gradient of its flow: what continuous adjoints and gradients of samplers are measured on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.adjoint.continuous.continuous_adjoint import continuous
from fewstep.adjoint.exact.repeatable_noise import repeatable
from fewstep.adjoint.exact.rows import Network, Rows
from fewstep.samplers import Denoiser, NoiseSchedule, Tableau, build
from fewstep.samplers.run.lowering import lower
from fewstep.samplers.run.step import first_state

SCHEDULE = NoiseSchedule.vp_linear()
T_END = 1e-3


class Problem:
    """eps(x, t, c) = sigma x + MLP(x, c, t), and the loss |x - target|^2 / 2 + sum sin x; float64, batch 4 of 8 numbers."""

    def __init__(self, seed: int = 1, d: int = 8, batch: int = 4, width: int = 32, gain: float = 1.0):
        self.seed, g = seed, torch.Generator().manual_seed(seed)

        def normal(*shape: int, scale: float = 1.0) -> Tensor:
            return scale * torch.randn(*shape, generator=g, dtype=torch.float64)

        sizes = [d + 4 + 2, width, width, d]
        self.weights = [normal(n, m, scale=gain / n**0.5) for n, m in zip(sizes, sizes[1:], strict=False)]
        self.biases = [normal(m, scale=0.1) for m in sizes[1:]]
        self.x_T, self.c, self.target = normal(batch, d), normal(4), normal(batch, d)
        self.leaves = [self.c, *self.weights, *self.biases]
        for leaf in (self.x_T, *self.leaves):
            leaf.requires_grad_()

    def network(self, x: Tensor, t: Any) -> Tensor:
        """eps at one time."""
        t = float(t)
        sigma = float(SCHEDULE.sigma(t))
        h = torch.cat([x, self.c.expand(len(x), -1), x.new_tensor([t, math.sin(3 * t)]).expand(len(x), -1)], 1)
        for i, (W, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = h @ W + b
            h = torch.tanh(h) if i < 2 else h
        return sigma * x + h

    def denoiser(self, prediction: str = "epsilon") -> Denoiser:
        """The network as it is, or what one of another type would return."""
        if prediction == "epsilon":
            return Denoiser(self.network, SCHEDULE)

        def v(x: Tensor, t: Tensor) -> Tensor:
            alpha, sigma = float(SCHEDULE.alpha(float(t))), float(SCHEDULE.sigma(float(t)))
            eps = self.network(x, t)
            return alpha * eps - sigma * (x - sigma * eps) / alpha

        return Denoiser(v, SCHEDULE, "v_prediction")

    def loss(self, x: Tensor) -> Tensor:
        return 0.5 * (x - self.target).square().sum() + x.sin().sum()

    def gradient(self, x0: Tensor) -> list[Tensor]:
        """dL/d(x_T, c, theta), the last of them in a row."""
        gx, gc, *theta = torch.autograd.grad(self.loss(x0), [self.x_T, *self.leaves])
        return [gx, gc, torch.cat([v.flatten() for v in theta])]

    def true_gradient(self, steps: int) -> list[Tensor]:
        """Of the flow itself: RK4 of dy/dlam = -e^-lam eps, and autograd through it."""
        ends = SCHEDULE.lam(np.array([1.0, T_END]))
        lam = np.linspace(*ends, 2 * steps + 1)
        t = np.clip(SCHEDULE.t_of_lam(lam), T_END, 1.0)
        alpha, rho, h = SCHEDULE.alpha(t), np.exp(-lam), lam[2] - lam[0]

        def slope(y: Tensor, i: int) -> Tensor:
            return -float(rho[i]) * self.network(float(alpha[i]) * y, t[i])

        y = self.x_T / float(alpha[0])
        for i in range(0, 2 * steps, 2):
            k1 = slope(y, i)
            k2 = slope(y + h / 2 * k1, i + 1)
            k3 = slope(y + h / 2 * k2, i + 1)
            k4 = slope(y + h * k3, i + 2)
            y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return self.gradient(float(alpha[-1]) * y)


class Task:
    """A run of a table, as `adjoint.sample` prepares one."""

    def __init__(self, problem: Problem, table: Tableau, noise: str = "independent", seed: int = 0, **given: Any):
        self.denoiser = problem.denoiser(given.pop("prediction", "epsilon"))
        self.problem, self.tableau, self.mu, self.post = problem, table, None, given.pop("post", None)
        seeds = [100 * seed + i for i in range(len(problem.x_T))]
        self.source = repeatable(noise, seeds, None, problem.x_T, SCHEDULE)

    def run(self, method: str, **options: Any) -> list[Tensor]:
        """Gradients by a continuous adjoint."""
        return self.problem.gradient(self.sample(method, options))

    def sample(self, method: str, options: Mapping[str, Any]) -> Tensor:
        problem, table = self.problem, self.tableau
        x = problem.x_T
        state = first_state(table, x)
        steps = lower(table, self.denoiser.prediction, x.device, x.dtype, self.post)
        draws = [table.draws(k) for k in range(table.nfe)]
        network = Network(self.denoiser, x.dtype, x.device)
        rows = Rows(
            network, steps, [s.model_time for s in steps], [0, *(s.keep for s in steps[:-1])], draws,
            lambda k, like: [self.source(draw, like) for draw in draws[k]],
        )  # fmt: skip
        if method == "direct":
            for k in range(len(rows)):
                state = rows.advance(k, state)
            return state.input
        return continuous(self, rows, state, lambda: tuple(problem.leaves), method, options)


class Walk:
    """Brownian paths known on a fine grid in lam."""

    def __init__(self, seed: int, n: int, shape: tuple[int, ...] = (4, 8)):
        generator = torch.Generator().manual_seed(seed)
        self.n, self.ends = n, SCHEDULE.lam(np.array([1.0, T_END]))
        steps = torch.randn(n, *shape, generator=generator, dtype=torch.float64)
        self.W = torch.cat([torch.zeros_like(steps[:1]), steps.cumsum(0) * float((np.ptp(self.ends) / n) ** 0.5)])

    def __call__(self, draw: Any, like: Tensor) -> Tensor:
        i, j = (round((v - self.ends[0]) / np.ptp(self.ends) * self.n) for v in (draw.start, draw.end))
        return (self.W[j] - self.W[i]) / abs(draw.end - draw.start) ** 0.5


def table(solver: str, n: int, **options: Any) -> Tableau:
    """n steps of a solver on a uniform grid in lam, from t = 1 to 0.001."""
    lam = np.linspace(*SCHEDULE.lam(np.array([1.0, T_END])), n + 1)
    times = SCHEDULE.t_of_lam(lam)
    times[[0, -1]] = 1.0, T_END
    return build(solver, SCHEDULE, grid=times, **options)


def relative(found: list[Tensor], true: list[Tensor]) -> list[float]:
    """|found - true| / |true| of each."""
    return [float((a - b).norm() / b.norm()) for a, b in zip(found, true, strict=True)]
