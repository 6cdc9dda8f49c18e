"""A linear inverse problem with Gaussian data, whose posterior is known; on any schedule and prediction type."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from fewstep import Denoiser, NoiseSchedule, sample
from fewstep.samplers import guidance


@dataclass(eq=False)
class Linear:
    """x0 ~ N(0, C0) with d = 8, y = A x0 + N(0, noise^2) of 3 numbers; the network knows C0."""

    schedule: NoiseSchedule = field(default_factory=lambda: NoiseSchedule.edm(0.005, 30.0))
    prediction: str = "sample"
    noise: float = 0.1
    white: bool = False
    d: int = 8
    vjps: int = 0

    def __post_init__(self) -> None:
        draw = torch.Generator().manual_seed(5)
        turn, _ = torch.linalg.qr(torch.randn(self.d, self.d, generator=draw, dtype=torch.float64))
        spectrum = torch.ones(self.d) if self.white else torch.logspace(0.3, -1.3, self.d)  # 2 to 0.05
        self.turn, self.spectrum = turn, spectrum.double()
        self.C0 = turn * self.spectrum @ turn.T
        self.A = torch.randn(3, self.d, generator=draw, dtype=torch.float64)
        truth = torch.linalg.cholesky(self.C0) @ torch.randn(self.d, generator=draw, dtype=torch.float64)
        self.y = (self.A @ truth + self.noise * torch.randn(3, generator=draw, dtype=torch.float64))[None]
        self.operator = guidance.matrix(self.A)

    @cached_property
    def covariance(self) -> Tensor:
        """Of the posterior."""
        return torch.linalg.inv(torch.linalg.inv(self.C0) + self.A.T @ self.A / self.noise**2)

    @cached_property
    def mean(self) -> Tensor:
        """Of the posterior."""
        return self.covariance @ self.A.T @ self.y[0] / self.noise**2

    def denoiser(self) -> Denoiser:
        """D = alpha C0 (alpha^2 C0 + sigma^2)^-1 x, as the prediction asked for."""

        def fn(x: Tensor, tau: Tensor) -> Tensor:
            t = self.schedule.time_of_model(float(tau))
            alpha, sigma = float(self.schedule.alpha(t)), float(self.schedule.sigma(t))
            gain = self.turn * (alpha * self.spectrum / (alpha**2 * self.spectrum + sigma**2)) @ self.turn.T
            x0 = x @ gain.to(x)
            if x0.requires_grad:
                x0.register_hook(self._count)
            eps = (x - alpha * x0) / sigma
            return {
                "sample": x0,
                "epsilon": eps,
                "v_prediction": alpha * eps - sigma * x0,
                "flow_prediction": eps - x0,
            }[self.prediction]

        return Denoiser(fn, self.schedule, self.prediction)

    def _count(self, _: Tensor) -> None:
        self.vjps += 1

    def start(self, n: int) -> Tensor:
        return self.schedule.initial_noise((n, self.d), torch.Generator().manual_seed(1), dtype=torch.float64)

    def errors(self, guided: Denoiser, solver: str, nfe: int, n: int = 4000, **options: object) -> tuple[float, float]:
        """Relative errors of the samples' mean and covariance."""
        with torch.no_grad():
            x = sample(guided, self.start(n), solver, nfe, generator=torch.Generator().manual_seed(2), **options)
        mean, covariance = x.mean(0), torch.cov(x.T)
        away = (mean - self.mean).norm() / self.mean.norm()
        return float(away), float((covariance - self.covariance).norm() / self.covariance.norm())
