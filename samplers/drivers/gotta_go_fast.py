"""Gotta go fast: the reverse SDE with steps that each sample chooses for itself."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fewstep.samplers.building import options as opt
from fewstep.samplers.building import references as ref
from fewstep.samplers.building.solver_entry import driver
from fewstep.samplers.drivers.adaptive_loop import Method, Rule, Trial, integrate, larger, scaled
from fewstep.samplers.drivers.driven_run import Outcome, Task
from fewstep.samplers.drivers.unit_variance import Array, problem_of
from fewstep.samplers.noise.brownian import BrownianPaths
from fewstep.samplers.noise.draws import onto
from fewstep.samplers.run.per_sample import Rows, columns


@driver("gotta_go_fast", order=2, prediction="eps", reference=ref.GOTTA, stochastic=True, adaptive=True)
def gotta_go_fast(
    task: Task,
    *,
    rtol: float = 0.01,
    atol: float = 0.0078,
    h_init: float = 0.05,
    safety: float = 0.9,
    r: float = 0.9,
    denoise: bool = True,
    per_sample: bool | None = None,
    min_step: float = 1e-6,
) -> Outcome:
    """Adaptive stochastic improved Euler, 2 evaluations an attempt, weak order 2 in the step.

    In lam and u = x / sqrt(alpha^2 + sigma^2) the reverse SDE of every schedule is the same and its noise additive,

        du = sigma (sigma u - 2 eps) dlam + sqrt(2) sigma dW = F dlam + G dW,

    while the time of discrete tables is not smooth. With dW the sample's own Brownian increment over [s, s + h],

        K1 = h F(u, s) + G_s dW,     K2 = h F(u + K1, s + h) + G_{s+h} dW,     u' = u + K1,     u'' = u + (K1 + K2) / 2,
        error = rms((u' - u'') / max(atol, rtol max(|u'|, |u'_prev|))),     h <- safety h error^-r,

    at most doubled. Accepted, u'' goes on. Noise is never redrawn: a rejected step is tried again, shorter, on the same
    path, so choosing steps by their noise does not bias the result, which converges along each path as the tolerance
    falls.

    rtol, atol: tolerance, for data of size one. h_init: first step, min_step: smallest, both in lam. safety, r: the rule.
    denoise: end in E[x0 | x] at t_end, one evaluation more; False: in x at t_end (where sigma = 0 both are one).
    per_sample: own steps for every sample, where the denoiser has `vector_time` (default: then); else the worst sample
    decides for all. Noise comes from noise_seeds or the generator. The limit `nfe` is 1000 by default.

    Raises: ValueError for a grid, a tolerance or step that is not positive, per_sample=True without vector_time.
    """
    name = "gotta_go_fast"
    rtol, atol, h_init, min_step = opt.positive(name, rtol=rtol, atol=atol, h_init=h_init, min_step=min_step)
    safety, r = opt.fraction(name, "safety", safety), opt.fraction(name, "r", r)
    denoise = opt.one_of(name, "denoise", denoise, (True, False))
    problem = problem_of(task, name, per_sample, max(atol, rtol), denoise=denoise)
    paths = [BrownianPaths(seed) for seed in task.own_seeds]

    def attempt(rows: Rows, u: Tensor, s: Array, h: Array, before: Tensor) -> Trial:
        ends = zip(rows, s, s + h, strict=True)
        z = onto(u, [paths[i].increment(a, b, u.shape[1:]) for i, a, b in ends])

        def K(v: Tensor, at: Array) -> Tensor:
            _, sigma = problem.levels(at)
            a, b, g = columns([h * sigma**2, -2 * h * sigma, sigma * np.sqrt(2 * h)], u)
            return a * v + b * problem.eps(rows, v, at) + g * z

        K1 = K(u, s)
        low = u + K1
        high = u + (K1 + K(low, s + h)) / 2
        return Trial(high, scaled(high - low, larger(atol, rtol, low, before)), low)

    return integrate(problem, Method(2, Rule(r, safety), attempt), h_init, min_step)
