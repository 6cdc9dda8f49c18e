"""DPM-Solver-12 and -23: pairs of exponential steps in lam that share their evaluations."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fewstep.samplers.building import options as opt
from fewstep.samplers.building import references as ref
from fewstep.samplers.building.solver_entry import driver
from fewstep.samplers.coefficients.exponential_schemes import Scheme, etd2, exp_euler, ho3
from fewstep.samplers.coefficients.phi import phi
from fewstep.samplers.drivers.adaptive_loop import Method, Rule, Trial, integrate, larger, scaled
from fewstep.samplers.drivers.driven_run import Outcome, Task
from fewstep.samplers.drivers.unit_variance import Array, Problem, problem_of
from fewstep.samplers.run.per_sample import Rows, columns

Line = tuple[float, list[float]]


def lines(scheme: Scheme, z: float) -> list[Line]:
    """(c, weights of the outputs so far) of each later stage and of the step itself; the first weight by consistency."""
    c, a, b = scheme
    tails = [*([], *a)[: len(c) - 1], b]
    return [(ci, [ci * phi(1, ci * z) - sum(tail), *tail]) for ci, tail in zip((*c[1:], 1.0), tails, strict=True)]


def pair(order: int, h: float) -> list[Line]:
    """The stages and the step of the higher order, and last the step of one order less from the same outputs."""
    high, low = (etd2(h, 0.5, True), exp_euler(h)) if order == 2 else (ho3(h), etd2(h, 1 / 3, True))
    return [*lines(high, h), lines(low, h)[-1]]


def step(problem: Problem, order: int, rows: Rows, u: Tensor, s: Array, h: Array) -> tuple[Tensor, Tensor]:
    """(high, low) at lam = s + h: u_t = (alpha_t / alpha_s) u - sigma_t h sum_j w_j eps_j for every line of the pair."""
    sizes, of = np.unique(h, return_inverse=True)
    table = [pair(order, float(size)) for size in sizes]
    alpha_s, _ = problem.levels(s)
    outputs, states = [problem.eps(rows, u, s)], []
    for k, (c, _) in enumerate(table[0]):
        alpha, sigma = problem.levels(s + c * h)
        weights = np.array([one[k][1] for one in table])[of].T
        a, *b = columns([alpha / alpha_s, *(-sigma * h * weights)], u)
        states.append(a * u + sum(w * m for w, m in zip(b, outputs, strict=False)))
        if k < order - 1:
            outputs.append(problem.eps(rows, states[-1], s + c * h))
    return states[-2], states[-1]


@driver("dpm_adaptive", order=3, prediction="eps", reference=ref.DPM, adaptive=True, aliases=("DPM adaptive",))
def dpm_adaptive(
    task: Task,
    *,
    order: int = 3,
    rtol: float = 0.05,
    atol: float = 0.0078,
    h_init: float = 0.05,
    theta: float = 0.9,
    per_sample: bool | None = None,
    min_step: float = 1e-6,
) -> Outcome:
    """DPM-Solver-12 (order=2) or -23 (order=3), adaptive in lam; `order` evaluations an attempt, accepted or not.

    With u = x / sqrt(alpha^2 + sigma^2), which is x on VP, and u_prev the lower solution of the last accepted step,

        error = rms((u_high - u_low) / max(atol, rtol max(|u_low|, |u_prev|))),     h <- theta h error^(-1/order),

    at most doubled, and not grown right after a rejection.

    rtol, atol: tolerance, for data of size one. h_init: first step, min_step: smallest, both in lam. theta: safety.
    per_sample: own steps for every sample, where the denoiser has `vector_time` (default: then); else the worst sample
    decides for all. The limit `nfe` is 1000 by default. Deterministic; order 2 or 3 in the step.

    Raises: ValueError for a grid, a tolerance or step that is not positive, per_sample=True without vector_time.
    """
    order = opt.whole("dpm_adaptive", "order", order, 3, least=2)
    rtol, atol, h_init, min_step = opt.positive("dpm_adaptive", rtol=rtol, atol=atol, h_init=h_init, min_step=min_step)
    theta = opt.fraction("dpm_adaptive", "theta", theta)
    problem = problem_of(task, "dpm_adaptive", per_sample, max(atol, rtol))

    def attempt(rows: Rows, u: Tensor, s: Array, h: Array, before: Tensor) -> Trial:
        high, low = step(problem, order, rows, u, s, h)
        return Trial(high, scaled(high - low, larger(atol, rtol, low, before)), low)

    return integrate(problem, Method(order, Rule(1 / order, theta), attempt), h_init, min_step)
