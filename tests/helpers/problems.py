"""Denoising problems whose scores are known exactly, for any schedule and any prediction type."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.samplers import Denoiser, NoiseSchedule

PREDICTIONS = ("epsilon", "score", "sample", "v_prediction", "flow_prediction")
BLIND = ("epsilon", "score")  # these say nothing about x0 where alpha = 0


Level = float | Tensor  # of the whole batch, or one a sample, (B, 1, ...)


def output(prediction: str, x0: Tensor, eps: Tensor, alpha: Level, sigma: Level) -> Tensor:
    """What a perfect network of this prediction type returns."""
    return {
        "epsilon": eps,
        "score": -eps / sigma,
        "sample": x0,
        "v_prediction": alpha * eps - sigma * x0,
        "flow_prediction": eps - x0,
    }[prediction]


def level(schedule: NoiseSchedule, tau: float) -> tuple[float, float]:
    """(alpha, sigma) at a model time."""
    t = schedule.time_of_model(tau)
    return float(schedule.alpha(t)), float(schedule.sigma(t))


def levels(schedule: NoiseSchedule, x: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    """(alpha, sigma) of every sample, (B, 1, ...) float64."""
    t = schedule.time_of_model(tau.double().numpy())
    alpha, sigma = (torch.from_numpy(v).view(-1, *(1,) * (x.ndim - 1)) for v in (schedule.alpha(t), schedule.sigma(t)))
    return alpha, sigma


class Mixture:
    """sum_k weight_k N(mean_k, std_k^2 I): E[x0 | x] and E[eps | x] in closed form, finite at sigma = 0 and alpha = 0.

    By default the three-component mixture in two dimensions on which the orders of convergence are measured. One
    component in any shape of state is the Gaussian, whose probability flow `flow` is known too.
    """

    def __init__(
        self,
        means: object = ((1.0, 0.5), (-1.2, 0.3), (0.2, -1.1)),
        stds: object = (0.35, 0.25, 0.4),
        weights: object = (0.4, 0.35, 0.25),
    ):
        means, stds, weights = (torch.tensor(v, dtype=torch.float64) for v in (means, stds, weights))
        self.means, self.variances, self.log_weights = means.reshape(len(stds), -1), stds[:, None] ** 2, weights.log()

    def predict(self, x: Tensor, alpha: Level, sigma: Level) -> tuple[Tensor, Tensor]:
        """(E[x0 | x], E[eps | x]) at x (B, *shape), in its shape and dtype."""
        wide = x.to(torch.float64).flatten(1)
        alpha, sigma = (v.reshape(-1, 1, 1) if isinstance(v, Tensor) else v for v in (alpha, sigma))
        variance = alpha**2 * self.variances + sigma**2  # (K, 1) or (B, K, 1)
        gap = wide[:, None] - alpha * self.means  # (B, K, D), a mean of one coordinate stands for all
        scaled = gap / variance
        distance = (gap * scaled).sum(-1) + wide.shape[1] * variance.log()[..., 0]
        w = torch.softmax(self.log_weights - 0.5 * distance, -1)[..., None]
        x0 = (w * (self.means + alpha * self.variances * scaled)).sum(1)
        eps = sigma * (w * scaled).sum(1, keepdim=True)
        return x0.view_as(x).to(x.dtype), eps.view_as(x).to(x.dtype)

    def denoiser(
        self,
        schedule: NoiseSchedule,
        prediction: str = "epsilon",
        learned_variance: bool = False,
        vector_time: bool = False,
    ) -> Denoiser:
        """The exact network: it reads its own alpha and sigma off the time, or times, it is shown."""

        def fn(x: Tensor, tau: Tensor) -> Tensor:
            alpha, sigma = levels(schedule, x, tau) if tau.ndim else level(schedule, float(tau))
            out = output(prediction, *self.predict(x, alpha, sigma), alpha, sigma).to(x.dtype)
            return torch.cat([out, 100 * torch.ones_like(out)], 1) if learned_variance else out

        return Denoiser(fn, schedule, prediction, vector_time)


class Gaussian(Mixture):
    """N(mean, std^2 I) for states of any shape."""

    def __init__(self, mean: float = 0.3, std: float = 0.6):
        super().__init__([[mean]], [std], [1.0])
        self.mean, self.std = mean, std

    def flow(self, schedule: NoiseSchedule, x: Tensor, s: float, t: float) -> Tensor:
        """The probability flow from time s to t: x - alpha mean scales with the marginal's standard deviation."""

        def marginal(at: float) -> tuple[float, float]:
            alpha, sigma = float(schedule.alpha(at)), float(schedule.sigma(at))
            return alpha * self.mean, (alpha**2 * self.std**2 + sigma**2) ** 0.5

        (m_s, d_s), (m_t, d_t) = marginal(s), marginal(t)
        return m_t + (x - m_s) * (d_t / d_s)


def in_turn(names: Iterable[Any], kinds: Iterable[Any]) -> list[Any]:
    """All pairs (name, kind) as parameters of a test: every name has one of the kinds in turn, `-m slow` the others too."""
    kinds = list(kinds)
    return [
        pytest.param(name, kind, marks=() if i % len(kinds) == j else pytest.mark.slow)
        for i, name in enumerate(names)
        for j, kind in enumerate(kinds)
    ]


def all_slow(names: Iterable[Any], kinds: Iterable[Any]) -> list[Any]:
    """All pairs (name, kind) as parameters of a test that `-m slow` runs."""
    kinds = list(kinds)
    return [pytest.param(name, kind, marks=pytest.mark.slow) for name in names for kind in kinds]


def starts(schedule: NoiseSchedule, t: float, n: int = 16, seed: int = 0, shape: tuple[int, ...] = (2,)) -> Tensor:
    """n float64 states of the marginal of unit data at time t."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, *shape, generator=generator, dtype=torch.float64)
    return noise * float(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2) ** 0.5


def energy_distance(a: Tensor, b: Tensor) -> float:
    """Between two samples of equal size; about 0 for two of one law."""
    n = len(a)
    inside = torch.cdist(a, a).sum() + torch.cdist(b, b).sum()
    return float(2 * torch.cdist(a, b).mean() - inside / (n * (n - 1)))
