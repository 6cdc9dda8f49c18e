"""Solvers that step down too far and let noise take them back up: ancestral sampling, churn, Restart, full renoising.

A group of the path lands on a node of less noise than the next boundary. From there

    x_t = (alpha_t / alpha_d) x_d + sqrt(sigma_t^2 - (alpha_t / alpha_d)^2 sigma_d^2) z

has exactly the marginal of t if x_d has that of the landing d. The jump costs no evaluation: it is folded into the row
before it. What is between two jumps may be any solver.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import expm1, inf, log, sqrt
from typing import Any

from fewstep.samplers.building import options as opt
from fewstep.samplers.building import references as ref
from fewstep.samplers.building.path import Path, Solution
from fewstep.samplers.building.solver_entry import solver
from fewstep.samplers.coefficients.weights import euler_weight, lagrange_row, linear
from fewstep.samplers.schedule.base import Node
from fewstep.samplers.solvers.classical_rk import heun
from fewstep.samplers.solvers.exponential_rk import dpm_2, dpmpp_2s
from fewstep.samplers.solvers.limiter import limited
from fewstep.samplers.solvers.multistep import euler
from fewstep.samplers.table.row import CARRY, INPUT, Row, noise

Base = Callable[[Path], Solution]


def with_jumps(path: Path, base: Base, s_noise: float = 1.0) -> Solution:
    """Rows of `base` on every stretch of the path between two landings, each stretch followed by its jump."""
    rows: list[Row] = []
    groups: list[int] = []
    begin, upward, order = 0, 0, 1
    landings, last = path.landings or {}, len(path.groups) - 1
    for k in sorted({*landings, last}):
        landing = landings.get(k, path.nodes[k + 1])
        nodes = (*path.nodes[begin : k + 1], landing)
        stretch = replace(path, nodes=nodes, groups=path.groups[begin : k + 1], landings=None, nfe=None)
        part = base(stretch)
        order = max(order, part.order)
        groups += part.groups or stretch.groups
        rows += part.rows
        begin, target = k + 1, path.nodes[k + 1]
        if k in landings and target.sigma > 0:
            back = target.lam <= path.nodes[k].lam  # above where the step began: a path of its own
            upward += back
            z = noise(landing, target, upward) if back else noise(path.nodes[k], target)
            rows[-1] = _lifted(rows[-1], landing, target, z, s_noise)
    conserves = "x0 eps" if s_noise == 1.0 else "x0"
    return Solution(rows, order, conserves=conserves, groups=tuple(groups), jumps=landings)


def _lifted(row: Row, landing: Node, target: Node, z: Any, s_noise: float) -> Row:
    """The row with the jump after it; what comes next starts afresh."""
    scale = target.alpha / landing.alpha
    c = s_noise * sqrt(max(0.0, target.sigma**2 - (scale * landing.sigma) ** 2))
    terms = {register: scale * weight for register, weight in row.input.items()}
    return Row(row.at, row.form, {**terms, z: terms.get(z, 0.0) + c})


def ancestral(path: Path, base: Base, eta: float, s_noise: float = 1.0) -> Solution:
    """Every step lands where fresh noise of deviation eta sigma_t sqrt(1 - e^(-2h)) is still missing at t."""
    if eta == 0:
        return base(path)
    return _landing(path, base, lambda s, t: _down(s, t, eta), s_noise)


def _down(s: Node, t: Node, eta: float) -> Node:
    """Where the noise of deviation eta sigma_t sqrt(1 - e^(-2h)) is still missing at t."""
    return _at_sigma(t, t.sigma * sqrt(1 + eta**2 * expm1(-2 * (t.lam - s.lam))))


def _landing(path: Path, base: Base, land: Callable[[Node, Node], Node], s_noise: float = 1.0) -> Solution:
    """A landing for every step that does not end at sigma = 0."""
    steps = enumerate(zip(path.nodes, path.nodes[1:], strict=False))
    landings = {k: land(s, t) for k, (s, t) in steps if t.sigma > 0}
    part = with_jumps(replace(path, landings=landings), base, s_noise)
    # the rule finds the landings again, wherever a run is resumed
    return Solution(part.rows, part.order, conserves=part.conserves)


def _at_sigma(t: Node, sigma: float) -> Node:
    """The point with t's alpha and less noise. Only sigma / alpha counts where nothing is evaluated."""
    return Node(t.t, t.alpha, sigma, log(t.alpha / sigma) if sigma > 0 and t.alpha > 0 else inf)


@solver(
    "ddim",
    order=1,
    prediction="x0",
    reference=ref.DDIM,
    aliases=("DDIMScheduler", "dpmpp_1", "dpm++1", "etd_euler", "mrs_1"),
)
def ddim(path: Path, *, eta: float = 0.0) -> Solution:
    """DDIM, the first-order exponential step: x_t = alpha_t x0 + sigma_t eps. Order 1, 1 evaluation a step.

    eta: 0 to 1. With noise, x_t = alpha_t x0 + sqrt(sigma_t^2 - sd^2) eps + sd z, sd = eta sigma_t sqrt(1 - e^(-2h)):
    weak order 1, and at eta = 1 DDPM with the small variance.
    """
    return ancestral(path, euler, opt.number("ddim", "eta", eta, 1.0))


@solver(
    "euler_ancestral", order=1, prediction="x0", stochastic=True, reference=ref.K_DIFFUSION,
    aliases=("EulerAncestralDiscreteScheduler", "euler_a", "Euler a", "mrs_sde_1"),
)  # fmt: skip
def euler_ancestral(path: Path, *, eta: float = 1.0, s_noise: float = 1.0) -> Solution:
    """Ancestral Euler: a DDIM step down to sigma_down, noise up to sigma_t; equal to `ddim` with the same eta.

    sigma_up = eta sigma_t sqrt(1 - e^(-2h)), in sigma / alpha that of k-diffusion. Weak order 1, 1 evaluation a step.
    eta: 0 (ODE) to 1. s_noise: factor on the noise.
    """
    return ancestral(path, euler, *_noise("euler_ancestral", eta, s_noise))


@solver(
    "dpm_2_ancestral", order=2, prediction="eps", stochastic=True, reference=ref.K_DIFFUSION, calls=2,
    singular_ends="start end", aliases=("KDPM2AncestralDiscreteScheduler", "dpm2_a", "DPM2 a"),
)  # fmt: skip
def dpm_2_ancestral(path: Path, *, eta: float = 1.0, s_noise: float = 1.0, variant: str = "vp") -> Solution:
    """DPM-Solver-2 down to sigma_down, noise up to sigma_t. Weak order 2, 2 evaluations a step. eta: 0 to 1.

    variant "rf": the landing of `rf_ancestral`, reached by the midpoint rule on the velocity, its middle the geometric mean of
    both flow times, as interfaces have it on flow models.
    """
    eta, s_noise = _noise("dpm_2_ancestral", eta, s_noise)
    if opt.one_of("dpm_2_ancestral", "variant", variant, ("vp", "rf")) == "rf":
        return _rf(path, _flow_midpoint, eta, s_noise)
    return ancestral(path, dpm_2, eta, s_noise)


def _flow_midpoint(path: Path) -> Solution:
    """The midpoint rule on dy/dr = v, y = x / (alpha + sigma), with the middle at the geometric mean of r."""
    rows = []
    for calls, s, t in path.steps():
        a, b = linear("flow", s, t), euler_weight("flow", s, t)
        if calls == 1 or t.sigma == 0:
            rows.append(Row(s, "flow", {INPUT: a, 0: b}))
            continue
        r = sqrt(s.r * t.r)
        middle = path.schedule.node(path.schedule.t_of_lam(log((1 - r) / r)))
        half: dict[Any, float] = {INPUT: linear("flow", s, middle), 0: euler_weight("flow", s, middle)}
        rows += [Row(s, "flow", half, {INPUT: 1.0}), Row(middle, "flow", {CARRY: a, 0: b})]
    return Solution(rows, 2)


@solver(
    "dpmpp_2s_ancestral", order=2, prediction="x0", stochastic=True, reference=ref.K_DIFFUSION, calls=2,
    singular_ends="start end", aliases=("DPM++ 2S a", "dpmpp_2s_a"),
)  # fmt: skip
def dpmpp_2s_ancestral(path: Path, *, eta: float = 1.0, s_noise: float = 1.0, variant: str = "vp") -> Solution:
    """DPM-Solver++(2S) down to sigma_down, noise up to sigma_t. Weak order 2, 2 evaluations a step. eta: 0 to 1.

    variant "rf": to the landing of `rf_ancestral`, as interfaces have it on flow models.
    """
    eta, s_noise = _noise("dpmpp_2s_ancestral", eta, s_noise)
    if opt.one_of("dpmpp_2s_ancestral", "variant", variant, ("vp", "rf")) == "rf":
        return _rf(path, dpmpp_2s, eta, s_noise)
    return ancestral(path, dpmpp_2s, eta, s_noise)


@solver(
    "res_multistep_ancestral", order=2, prediction="x0", stochastic=True, reference=ref.RES,
    aliases=("res_multistep_a",),
)  # fmt: skip
def res_multistep_ancestral(path: Path, *, eta: float = 1.0, s_noise: float = 1.0) -> Solution:
    """`res_multistep` of order 2 down to sigma_down, noise up to sigma_t. Weak order 2, 1 evaluation a step. eta: 0 to 1.

    x_d = (sigma_d/sigma_s) x_s + alpha_t h [phi_1(-h) m0 + phi_2(-h) (m0 - m1) h / g], h the length of the step down in lam
    and g that of the previous one: a step takes the noise back up in no time, so its length is that of its way down.
    """
    eta, s_noise = _noise("res_multistep_ancestral", eta, s_noise)
    rows: list[Row] = []
    before = 0.0  # length of the previous step down; 0 where no output can be used
    for s, t in zip(path.nodes[:-1], path.nodes[1:], strict=True):
        d = _down(s, t, eta) if t.sigma > 0 else t
        past = [s, s._replace(lam=s.lam - before)] if before and (t.sigma > 0 or path.limiter) else [s]
        exact = lambda u, past: lagrange_row(path.schedule, "x0", "lam", past[0], u, past)  # noqa: E731
        terms: dict[Any, float] = {INPUT: linear("x0", s, d)}
        terms |= dict(enumerate(limited(path, exact, ("x0", "lam", 0.0), d, past)))
        row, before = Row(s, "x0", terms), d.lam - s.lam if s.alpha > 0 else 0.0
        rows.append(_lifted(row, d, t, noise(s, t), s_noise) if eta and t.sigma > 0 else row)
    return Solution(rows, 2, conserves="x0 eps" if s_noise == 1.0 else "x0")


@solver(
    "rf_ancestral", order=1, prediction="flow", stochastic=True, reference=ref.RF_ANCESTRAL,
    aliases=("euler_ancestral_rf", "euler_a_rf"),
)  # fmt: skip
def rf_ancestral(path: Path, *, eta: float = 1.0, s_noise: float = 1.0) -> Solution:
    """Ancestral Euler of rectified flows: down to r_down = r_t (1 - eta + eta r_t / r_s), noise up to r_t.

    r = sigma / (alpha + sigma) is the time of a flow model and defined for every schedule. Weak order 1, 1 evaluation a
    step. eta: 0 (the ODE) to 1.
    """
    return _rf(path, euler, *_noise("rf_ancestral", eta, s_noise))


def _rf(path: Path, base: Base, eta: float, s_noise: float) -> Solution:
    """Every step of a base lands at r_down."""

    def land(s: Node, t: Node) -> Node:
        r = t.r * (1 - eta + eta * t.r / s.r)
        return Node(t.t, 1 - r, r, log((1 - r) / r))

    return _landing(path, base, land, s_noise) if eta else base(path)


@solver(
    "renoise", order=0, prediction="x0", stochastic=True, reference=ref.CONSISTENCY,
    aliases=("lcm", "LCMScheduler", "stochastic_sampling"),
)  # fmt: skip
def renoise(path: Path, *, s_noise: float = 1.0) -> Solution:
    """Full renoising, x_t = alpha_t x0 + sigma_t z: the sampler of consistency and distilled models (tau = infinity).

    Not a solver of the reverse SDE: with an ordinary network, more steps do not converge to the data (order 0).
    """
    _, s_noise = _noise("renoise", 1.0, s_noise)
    return _landing(path, euler, lambda s, t: _at_sigma(t, 0.0), s_noise)


@solver(
    "edm_stochastic", order=2, prediction="eps", stochastic=True, reference=ref.EDM, calls=2,
    singular_ends="start end", aliases=("edm_sde", "heun_churn"),
)  # fmt: skip
def edm_stochastic(
    path: Path, *, s_churn: float = 40.0, s_tmin: float = 0.05, s_tmax: float = 50.0, s_noise: float = 1.0
) -> Solution:
    """EDM's stochastic sampler: noise up by gamma, then a Heun step, in sigma / alpha. Weak order 2, 2 evaluations a step.

    sigma_hat = (1 + gamma) sigma, gamma = min(s_churn / N, sqrt(2) - 1) at levels within [s_tmin, s_tmax], N steps. The
    start has all its noise, so the first step has no churn. s_noise: factor on the noise, 1.003 to 1.007 in the paper.
    """
    _, s_noise = _noise("edm_stochastic", 1.0, s_noise)
    s_churn = opt.number("edm_stochastic", "s_churn", s_churn)
    s_tmin, s_tmax = (opt.number("edm_stochastic", n, v) for n, v in (("s_tmin", s_tmin), ("s_tmax", s_tmax)))
    if s_tmin > s_tmax:
        raise ValueError(f"edm_stochastic: s_tmin must not exceed s_tmax; got {s_tmin:g} > {s_tmax:g}")
    if path.landings is not None or s_churn == 0:
        return with_jumps(path, heun, s_noise)
    grow = 1 + min(s_churn / len(path.groups), sqrt(2) - 1)
    nodes, landings = list(path.nodes), {}
    for k, node in enumerate(path.nodes[1:-1]):
        rho = node.rho
        if s_tmin <= rho <= s_tmax:
            nodes[k + 1] = _at_rho(path, min(grow * rho, path.nodes[0].rho))
            landings[k] = node
    return with_jumps(replace(path, nodes=tuple(nodes), landings=landings), heun, s_noise)


def _at_rho(path: Path, rho: float) -> Node:
    return path.schedule.node(path.schedule.t_of_lam(-log(rho)))


def _noise(name: str, eta: Any, s_noise: Any) -> tuple[float, float]:
    return opt.number(name, "eta", eta, 1.0), opt.number(name, "s_noise", s_noise, 2.0)
