"""Black-box integration of the probability-flow ODE by the pair of Dormand and Prince."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fewstep.samplers.building import options as opt
from fewstep.samplers.building import references as ref
from fewstep.samplers.building.solver_entry import driver
from fewstep.samplers.coefficients.butcher import DORMAND_PRINCE
from fewstep.samplers.drivers.adaptive_loop import Method, Rule, Trial, integrate, scaled
from fewstep.samplers.drivers.driven_run import Outcome, Task
from fewstep.samplers.drivers.unit_variance import Array, problem_of
from fewstep.samplers.run.per_sample import Rows, column, columns


@driver("rk45", order=5, prediction="eps", reference=ref.DOPRI, adaptive=True, aliases=("dopri5",))
def rk45(
    task: Task,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    var: str = "lam",
    per_sample: bool | None = None,
    min_step: float = 1e-6,
) -> Outcome:
    """Dormand-Prince 5(4) on the probability-flow ODE, 6 evaluations an attempt and 2 before the first. Order 5.

    With u = x / sqrt(alpha^2 + sigma^2), which is x on VP, in lam or in the schedule's time t,

        du/dlam = sigma (sigma u - eps),     du/dt = du/dlam dlam/dt,
        error = rms((u_5 - u_4) / (atol + rtol max(|u|, |u_5|))),     h <- h clip(0.9 error^(-1/5), 0.2, 10),

    without growth right after a rejection; the first step is chosen from the size of slope and curvature.

    rtol, atol: tolerance, for data of size one. var: "lam", smooth everywhere, or "t". min_step: smallest, in that
    variable. per_sample: own steps for every sample, where the denoiser has `vector_time` (default: then); else the worst
    sample decides for all. The limit `nfe` is 1000 by default.

    Raises: ValueError for a grid, a tolerance or step that is not positive, per_sample=True without vector_time.
    """
    rtol, atol, min_step = opt.positive("rk45", rtol=rtol, atol=atol, min_step=min_step)
    clock = str(opt.one_of("rk45", "var", var, ("lam", "t")))
    problem = problem_of(task, "rk45", per_sample, max(atol, rtol), clock)

    def slope(rows: Rows, u: Tensor, s: Array) -> Tensor:
        _, sigma = problem.levels(s)
        speed = problem.speed(s)
        a, b = columns([speed * sigma**2, -speed * sigma], u)
        return a * u + b * problem.eps(rows, u, s)

    def attempt(rows: Rows, u: Tensor, s: Array, h: Array, k: Tensor) -> Trial:
        step, pair = column(h, u), DORMAND_PRINCE
        slopes, new = pair.slopes(
            lambda row, known: u + step * _sum(row, known), lambda v, c: slope(rows, v, s + c * h), first=k
        )
        delta = torch.maximum(u.abs(), new.abs()).mul(rtol).add(atol)
        return Trial(new, scaled(step * _sum(pair.error, slopes), delta), slopes[-1])

    def first(rows: Rows, u: Tensor, s: Array, k: Tensor) -> Array:
        """Such that an Euler step moves little and the second derivative, seen after one, stays below the tolerance."""
        delta, left = u.abs().mul(rtol).add(atol), problem.end - s
        d0, d1 = (problem.read(scaled(v, delta)) for v in (u, k))
        with np.errstate(divide="ignore", invalid="ignore"):
            h0 = np.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1)
            h0 = np.minimum(np.nan_to_num(h0, nan=1e-6, posinf=1e-6), left)
            bent = slope(rows, u + column(h0, u) * k, s + h0) - k
            d2 = problem.read(scaled(bent, delta)) / h0
            most = np.maximum(d1, d2)
            h1 = np.where(most <= 1e-15, np.maximum(1e-6, 1e-3 * h0), (0.01 / most) ** 0.2)
        return np.nan_to_num(np.minimum(100 * h0, h1), nan=0.0)

    method = Method(6, Rule(1 / 5, low=0.2, high=10.0), attempt, begin=slope, opening=1, first=first)
    return integrate(problem, method, None, min_step)


def _sum(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    """sum_i w_i k_i over the weights that are not zero."""
    (w, k), *rest = ((w, k) for w, k in zip(weights, slopes, strict=True) if w)
    total = w * k
    for v, other in rest:
        total = torch.add(total, other, alpha=v)
    return total
