"""Stochastic solvers without Monte Carlo: on Gaussian data every state is an affine function of x_T and the noises.

The state is carried as its coefficients on {1, x_T, z_1, z_2, ...}; the exact network acts on coefficients as well as on
numbers, and the solver runs unchanged with unit vectors as noises. The first entry is the mean of the state, the norm of
the rest its deviation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fewstep.samplers import Denoiser, NoiseSchedule, Tableau
from fewstep.samplers.noise.draws import Draw
from fewstep.samplers.run.lowering import lower
from fewstep.samplers.run.step import first_state

MEAN, STD = 0.7, 0.3


def denoiser(schedule: NoiseSchedule, mean: float = MEAN, std: float = STD, prediction: str = "sample") -> Denoiser:
    """The exact network of N(mean, std^2), on coefficients (1, K) whose first entry stands for 1."""

    def fn(x: Tensor, tau: Tensor) -> Tensor:
        t = schedule.time_of_model(float(tau))
        alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
        one = torch.zeros_like(x)
        one[..., 0] = 1.0
        gap = (x - alpha * mean * one) / (alpha**2 * std**2 + sigma**2)
        x0, eps = mean * one + alpha * std**2 * gap, sigma * gap
        return {"sample": x0, "epsilon": eps, "flow_prediction": eps - x0}[prediction]

    return Denoiser(fn, schedule, prediction)


def marginal(schedule: NoiseSchedule, t: float, mean: float = MEAN, std: float = STD) -> tuple[float, float]:
    """Mean and deviation of x_t."""
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    return alpha * mean, (alpha**2 * std**2 + sigma**2) ** 0.5


def propagate(table: Tableau, mean: float = MEAN, std: float = STD) -> Tensor:
    """Coefficients (K,) of the result on {1, unit Gaussian of x_T, noises}, from the exact marginal at the start."""
    draws = [draw for row in range(table.nfe) for draw in table.draws(row)]
    place = {(draw.row, draw.slot): 2 + i for i, draw in enumerate(draws)}

    def unit(draw: Draw, like: Tensor) -> Tensor:
        z = torch.zeros_like(like)
        z[0, place[draw.row, draw.slot]] = 1.0
        return z

    x = torch.zeros(1, 2 + len(draws), dtype=torch.float64)
    x[0, 0], x[0, 1] = marginal(table.schedule, float(table.times[0]), mean, std)
    network, state = denoiser(table.schedule, mean, std), first_state(table, x)
    for step in lower(table, "sample", dtype=torch.float64, constant=_ones(table, x)):
        output = network.call(state.input, step.model_time)
        state = step(state, output, [unit(draw, x) for draw in step.draws])
    return state.input[0]


def _ones(table: Tableau, x: Tensor) -> Any:
    """What the const register means in coefficients: one."""
    if not table.constant:
        return None
    one = torch.zeros_like(x)
    one[0, 0] = 1.0
    return one


def errors(table: Tableau, mean: float = MEAN, std: float = STD) -> tuple[float, float]:
    """(error of the mean, error of the deviation) of the result."""
    out = propagate(table, mean, std)
    want = marginal(table.schedule, float(table.times[-1]), mean, std)
    return abs(float(out[0]) - want[0]), abs(float(out[1:].norm()) - want[1])
