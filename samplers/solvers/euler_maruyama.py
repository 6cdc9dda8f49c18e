"""Plain discretisations of the reverse SDE, and DDPM's ancestral sampling: one evaluation a step, weak order 1.

    dx = [f x + (1 + tau^2) g^2 / (2 sigma) eps] dt + tau g dW,     f = d log alpha / dt,   g^2 = -2 sigma^2 dlam / dt.

Every tau >= 0 has the same marginals. A plain step back by dt, whatever it takes for F = -f dt and G^2 = g^2 dt, is

    x_t = (1 + F) x_s - (1 + tau^2) / 2 (G^2 / sigma_s) eps + tau G z.

f and g are infinite where alpha = 0, and the step into sigma = 0 is not small: both are exponential steps on x0.
"""

from __future__ import annotations

from collections.abc import Callable
from math import cos, expm1, inf, isfinite, pi, sin, sqrt
from typing import Any

import numpy as np

from fewstep.samplers.building import options as opt
from fewstep.samplers.building import references as ref
from fewstep.samplers.building.path import Path, Solution
from fewstep.samplers.building.solver_entry import solver
from fewstep.samplers.schedule.base import Node, NoiseSchedule
from fewstep.samplers.solvers.exponential_rk import euler_row
from fewstep.samplers.solvers.sde_dpm import TAU_MOST
from fewstep.samplers.table.row import INPUT, Row, noise

Increments = Callable[[NoiseSchedule, Node, Node], tuple[float, float]]  # (F, G^2) of a step

# derivative at the first of five equidistant points, in lam, where every schedule is smooth
_APART = 1e-3
_ONE_SIDED = np.array([-25 / 12, 4.0, -3.0, 4 / 3, -1 / 4]) / _APART


def _at_start(schedule: NoiseSchedule, s: Node, t: Node) -> tuple[float, float]:
    """(-f dt, g^2 dt) with f and g of node s, by the derivatives of t and log alpha in lam.

    Towards the data, since nothing may be known beyond the first node.
    """
    lam = s.lam + _APART * np.arange(5)
    times = np.asarray(schedule.t_of_lam(lam))
    slope, pull = _ONE_SIDED @ times, _ONE_SIDED @ np.log(schedule.alpha(times))
    rise = (t.t - s.t) / slope  # lam'(s) dt
    return float(pull * rise), float(2 * s.sigma**2 * rise)


def _over_step(schedule: NoiseSchedule, s: Node, t: Node) -> tuple[float, float]:
    """(1 - A, G^2) of the forward step x_s = A x_t + G z with its exact kernel, A = alpha_s / alpha_t."""
    return 1 - s.alpha / t.alpha, _forward_variance(s, t)


def _forward_variance(s: Node, t: Node) -> float:
    """sigma_s^2 - (alpha_s / alpha_t)^2 sigma_t^2, what the noise adds from t up to s."""
    return float(-(s.sigma**2) * expm1(-2 * (t.lam - s.lam)))


def _plain(path: Path, increments: Increments, tau: float) -> Solution:
    """Plain steps; exponential ones at the singular ends."""
    rows = []
    for s, t in zip(path.nodes[:-1], path.nodes[1:], strict=True):
        if s.alpha == 0 or t.sigma == 0:
            rows.append(euler_row(s, t, "x0", tau))
            continue
        F, G2 = increments(path.schedule, s, t)
        terms: dict[Any, float] = {INPUT: 1 + F, 0: -0.5 * (1 + tau**2) * G2 / s.sigma}
        if tau:
            terms[noise(s, t)] = tau * sqrt(G2)
        rows.append(Row(s, "eps", terms))
    return Solution(rows, 1, conserves="")


@solver(
    "euler_maruyama", order=1, prediction="eps", stochastic=True, reference=ref.SCORE_SDE,
    aliases=("em",),
)  # fmt: skip
def euler_maruyama(path: Path, *, tau: float = 1.0) -> Solution:
    """Euler-Maruyama on the reverse SDE in the schedule's own time. Weak order 1, 1 evaluation a step.

    x_t = (1 - f dt) x_s - (1 + tau^2) (g^2 dt / 2 sigma_s) eps + tau g sqrt(dt) z, f and g at s, dt = s - t. Needs far more
    evaluations than exponential steps: the linear part is not solved exactly.
    """
    return _plain(path, _at_start, opt.number("euler_maruyama", "tau", tau, TAU_MOST))


@solver("reverse_diffusion", order=1, prediction="eps", stochastic=True, reference=ref.SCORE_SDE)
def reverse_diffusion(path: Path, *, tau: float = 1.0) -> Solution:
    """Reverse diffusion: the forward chain x_s = A x_t + G z of the grid, reversed. Weak order 1, 1 evaluation a step.

    x_t = (2 - A) x_s - (1 + tau^2)/2 (G^2 / sigma_s) eps + tau G z; VP: A = sqrt(1 - beta), G^2 = beta; VE: A = 1,
    G^2 = sigma_s^2 - sigma_t^2.
    """
    return _plain(path, _over_step, opt.number("reverse_diffusion", "tau", tau, TAU_MOST))


_VARIANCES = {"small": False, "large": True, "fixed_small": False, "fixed_large": True}


@solver(
    "ddpm", order=1, prediction="x0", stochastic=True, reference=ref.DDPM,
    aliases=("DDPMScheduler", "ancestral", "ancestral_sampling"),
)  # fmt: skip
def ddpm(path: Path, *, variance: str = "small") -> Solution:
    """DDPM, ancestral sampling: the posterior mean of x_t given x_s and x0, plus noise. Weak order 1, 1 evaluation a step.

    variance "small" (or "fixed_small"): the posterior's deviation sigma_t sqrt(1 - e^-2h); the row of `ddim` with eta = 1.
    "large" ("fixed_large"): the forward step's sigma_s sqrt(1 - e^-2h), which for VP is sqrt(1 - alpha_s^2 / alpha_t^2).
    """
    large = _VARIANCES[opt.one_of("ddpm", "variance", variance, _VARIANCES)]
    rows = []
    for s, t in zip(path.nodes[:-1], path.nodes[1:], strict=True):
        row = euler_row(s, t, "x0", 1.0)
        if large and s.alpha > 0 and t.sigma > 0:  # out of alpha = 0 all is drawn anew
            row = Row(s, row.form, {**row.input, noise(s, t): sqrt(_forward_variance(s, t))})
        rows.append(row)
    return Solution(rows, 1, conserves="x0" if large else "x0 eps")


_DIFFUSION: dict[str, Callable[[float], float]] = {
    "t": lambda r: r,
    "sin2": lambda r: sin(pi * r) ** 2,
    "g2": lambda r: 2 * r / (1 - r) if r < 1 else inf,
}
_NAMED = (*_DIFFUSION, "grpo", "cps")


def _diffusion(w: Any, scale: float, second: float) -> Callable[[float], float]:
    """The function scale w(r), its values checked; second: r of the second node."""
    if callable(w) or isinstance(w, str):
        if not callable(w):
            opt.one_of("flow_sde", "w", w, _NAMED)
        fn = w if callable(w) else _DIFFUSION.get(w, lambda r: r / (1 - (r if r < 1 else second)))
    else:
        constant = opt.number("flow_sde", "w", w, 1e6)
        fn = lambda r: constant  # noqa: E731

    def checked(r: float) -> float:
        value = scale * float(fn(r)) if scale else 0.0
        if not value >= 0 or (r < 1 and not isfinite(value)):
            raise ValueError(
                f"flow_sde: `w` must be finite and at least 0 for 0 < t < 1; got w({r:.6g}) = {value!r}. Known names: "
                f"{', '.join(_NAMED)}"
            )
        return value

    return checked


@solver(
    "flow_sde", order=1, prediction="flow", stochastic=True, reference=ref.INTERPOLANTS, aliases=("flow_euler_sde",)
)
def flow_sde(path: Path, *, w: str | float | Callable[[float], float] = "t", scale: float = 1.0) -> Solution:
    """Euler steps of a flow with free diffusion w(t) >= 0, whose marginals are those of the flow. Weak order 1, 1 evaluation.

    x' = x - dt v + (w/2) dt score + sqrt(w dt) z,   v = eps - x0,  score = -eps / t,  t from 1 (noise) to 0 (data).
    w: "t", "sin2" (sin^2 pi t), "g2" (2t/(1-t): with scale = tau^2 the variance-controlled SDE), a number (DanceGRPO) or a
    function of t; times `scale`. Flow-GRPO's are "grpo", t/(1-t), with scale = a^2 of its noise level a (0.7), the second time
    in the place of t = 1; "cps" keeps the coefficients instead, x' = (1-t') x0 + t' cos(q) eps + t' sin(q) z, q = scale pi/2.
    Schedules other than flows follow it in t = sigma/(alpha+sigma), y = x/(alpha+sigma). Where a step would take more than
    all of eps away (w dt >= 2 t t', so where w is infinite), all of it is drawn anew; the last step is x0.
    Between two laws of data v and score are the fields of a TwoFields denoiser, and every finite w has the interpolant's law.
    """
    scale = opt.number("flow_sde", "scale", scale, 1.0 if w == "cps" else 1e6)
    between = path.schedule.kind == "two-sided"
    if w == "cps":
        if between:
            raise ValueError(
                'flow_sde: w="cps" keeps the coefficients of data and noise; between two laws of data take "t"'
            )
        return _kept_coefficients(path, 0.5 * pi * scale)
    diffusion = _diffusion(w, scale, path.nodes[1].t if between else path.nodes[1].r)
    if between:
        return _between(path, diffusion)
    rows = []
    for s, t in zip(path.nodes[:-1], path.nodes[1:], strict=True):
        r, after, S = s.r, t.r, t.S
        dt = r - after
        k = 0.5 * diffusion(r) * dt / r
        if k >= after:
            rows.append(euler_row(s, t, "x0", inf))
            continue
        terms: dict[Any, float] = {INPUT: (1 - k) * S / s.S, 0: -S * (dt + k * (1 - r))}
        if k:
            terms[noise(s, t)] = S * sqrt(2 * r * k)
        rows.append(Row(s, "flow", terms))
    return Solution(rows, 1, conserves="x0")


def _kept_coefficients(path: Path, q: float) -> Solution:
    """Coefficients-Preserving Sampling: of every new eps, the part t' sin(q) is drawn anew, the last one but for none.

    Reference: Coefficients-Preserving Sampling for Reinforcement Learning with Flow Matching; Wang, Yu; 2025;
    arXiv:2509.05952.
    """
    rows = []
    for s, t in zip(path.nodes[:-1], path.nodes[1:], strict=True):
        r, after, S = s.r, t.r, t.S
        kept = after * cos(q)
        terms: dict[Any, float] = {INPUT: S / s.S * (1 - after + kept), 0: S * (kept * (1 - r) - (1 - after) * r)}
        if after and q:
            terms[noise(s, t)] = S * after * sin(q)
        rows.append(Row(s, "flow", terms))
    return Solution(rows, 1)


def _between(path: Path, diffusion: Callable[[float], float]) -> Solution:
    """x' = x - dt (v - (w/2) score) + sqrt(w dt) z between two laws of data; v as its parts of x0 and x1."""
    rows = []
    for s, t in zip(path.nodes[:-1], path.nodes[1:], strict=True):
        dt, w = s.t - t.t, diffusion(s.t)
        if not isfinite(w):
            raise ValueError(
                f'flow_sde: `w` must be finite between two laws of data; got w({s.t:.6g}) = {w!r}, take "t"'
            )
        velocity = path.schedule.velocity(s.t)  # type: ignore[attr-defined]
        terms: dict[Any, float] = {INPUT: 1.0, 0: -dt}
        if w:
            terms[noise(s, t)] = sqrt(w * dt)
        rows.append(Row(s, (*velocity, -0.5 * w) if w else velocity, terms))
    return Solution(rows, 1, conserves="")
