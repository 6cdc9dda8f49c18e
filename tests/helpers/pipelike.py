"""Exact networks as a pipeline calls them: they see a state and a timestep, and nothing of the scheduler."""

from __future__ import annotations

from typing import Any

import numpy as np
from problems import Mixture, output
from torch import Tensor


class Network:
    """The exact network of a mixture for a discrete VP table or a flow, read off the timestep it is shown."""

    def __init__(self, problem: Mixture, prediction: str, alphas_cumprod: Any = None):
        self.problem, self.prediction = problem, prediction
        table = None if alphas_cumprod is None else np.asarray(alphas_cumprod, np.float64)
        self.log_rho = None if table is None else 0.5 * np.log((1 - table) / np.maximum(table, 1e-300))

    def level(self, timestep: Any) -> tuple[float, float]:
        """(alpha, sigma) at a timestep, fractional ones included."""
        t = float(timestep)
        if self.log_rho is None:
            return 1 - t / 1000, t / 1000
        rho = float(np.exp(np.interp(t, np.arange(len(self.log_rho)), self.log_rho)))
        return 1 / np.hypot(1, rho), rho / np.hypot(1, rho)

    def __call__(self, x: Tensor, timestep: Any) -> Tensor:
        alpha, sigma = self.level(timestep)
        return output(self.prediction, *self.problem.predict(x, alpha, sigma), alpha, sigma)


class EDMNetwork:
    """The raw network F of EDM preconditioning around the exact denoiser; models trained on v return -F."""

    def __init__(self, problem: Mixture, sigma_data: float, prediction: str = "epsilon"):
        self.problem, self.sigma_data, self.sign = problem, sigma_data, -1 if prediction == "v_prediction" else 1

    def __call__(self, seen: Tensor, timestep: Any) -> Tensor:
        sigma = float(np.exp(4 * float(timestep)))
        c = float(np.hypot(sigma, self.sigma_data))
        x0, _ = self.problem.predict(seen * c, 1.0, sigma)
        return self.sign * (x0 - (self.sigma_data / c) ** 2 * seen * c) / (sigma * self.sigma_data / c)


def run(scheduler: Any, network: Network, x: Tensor, begin: int = 0, **step: Any) -> Tensor:
    """The loop of a pipeline over the scheduler's timesteps from `begin` on, from a state of its own space."""
    for t in scheduler.timesteps[begin:]:
        seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(network(seen, t), t, x, return_dict=False, **step)[0]
    return x


def start(scheduler: Any, x: Tensor) -> Tensor:
    """The state x in the scheduler's own space: x / alpha for the classes that work in sigma."""
    return x * (1 + float(scheduler.sigmas[0]) ** 2) ** 0.5 if getattr(scheduler, "init_noise_sigma", 1) > 1 else x


def distance(a: Tensor, b: Tensor) -> float:
    """Of a from b, relative to b."""
    return float((a - b).norm() / b.norm())
