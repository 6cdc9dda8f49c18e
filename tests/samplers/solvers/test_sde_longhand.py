"""Stochastic update rules as published, written out longhand with the noises of the run, equal the tables to rounding."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, expm1, log, log10, pi, sin, sqrt
from typing import Any

import numpy as np
import pytest
import scipy
from paths import FULL, SCHEDULES, close, everywhere, longhand, nodes_at, path, run
from torch import Tensor

from fewstep.samplers import NoiseSchedule, NoiseSource, build
from fewstep.samplers.noise.draws import Draw
from fewstep.samplers.schedule.base import Node

SEEDS = list(range(100, 116))
VP = NoiseSchedule.vp_linear()


def z(call: int, like: Tensor) -> Tensor:
    """The first noise after network call `call`."""
    return NoiseSource(SEEDS)(Draw(call + 1, 0, 0.0, 0.0), like)


def check(kind: str, name: str, rule: Any, n: int = 9, rel: float = 1e-10, **options: Any) -> None:
    close(run(kind, name, n=n, noise_seeds=SEEDS, **options), longhand(kind, rule, n), rel)


def steps(nodes: list[Node]) -> Any:
    return enumerate(zip(nodes, nodes[1:], strict=False))


# Plain discretisations -------------------------------------------------------------------------------------------

DRIFT: dict[str, Callable[[float], float]] = {
    "vp": lambda t: -0.5 * (0.1 + 19.9 * t),
    "edm": lambda t: 0.0,
    "flow": lambda t: -1 / (1 - t),
}
G2: dict[str, Callable[[float], float]] = {
    "vp": lambda t: 0.1 + 19.9 * t,
    "edm": lambda t: 2 * t,
    "flow": lambda t: 2 * t / (1 - t),
}


@everywhere
@pytest.mark.parametrize("tau", [1.0, 0.4, 0.0])
def test_euler_maruyama(kind: str, tau: float) -> None:
    def rule(x: Tensor, nodes: list[Node], x0: Any, eps: Any) -> Tensor:
        for k, (s, t) in steps(nodes):
            dt, g2 = s.t - t.t, G2[kind](s.t)
            drift = DRIFT[kind](s.t) * x + (1 + tau**2) * g2 / (2 * s.sigma) * eps(x, s)
            x = x - dt * drift + tau * sqrt(g2 * dt) * z(k, x)
        return x

    check(kind, "euler_maruyama", rule, n=30, rel=1e-8, tau=tau)  # derivatives of the schedule are numerical


@everywhere
def test_reverse_diffusion(kind: str) -> None:
    def rule(x: Tensor, nodes: list[Node], x0: Any, eps: Any) -> Tensor:
        for k, (s, t) in steps(nodes):
            score = -eps(x, s) / s.sigma
            if kind == "vp":
                beta = 1 - (s.alpha / t.alpha) ** 2
                x = (2 - sqrt(1 - beta)) * x + beta * score + sqrt(beta) * z(k, x)
            else:
                A = s.alpha / t.alpha
                v = s.sigma**2 - A**2 * t.sigma**2
                x = (2 - A) * x + v * score + sqrt(v) * z(k, x)
        return x

    check(kind, "reverse_diffusion", rule)


@pytest.mark.parametrize("variance", ["small", "large", "fixed_small", "fixed_large"])
def test_ddpm(variance: str) -> None:
    def of_vp(x: Tensor, nodes: list[Node], x0: Any, eps: Any) -> Tensor:
        for k, (s, t) in steps(nodes):
            beta = 1 - (s.alpha / t.alpha) ** 2
            mean = t.alpha * beta / s.sigma**2 * x0(x, s) + sqrt(1 - beta) * t.sigma**2 / s.sigma**2 * x
            small = t.sigma**2 / s.sigma**2 * beta
            x = mean + sqrt(beta if "large" in variance else small) * z(k, x)
        return x

    def of_ve(x: Tensor, nodes: list[Node], x0: Any, eps: Any) -> Tensor:
        for k, (s, t) in steps(nodes):
            gone = s.sigma**2 - t.sigma**2
            mean = x - gone / s.sigma * eps(x, s)
            x = mean + sqrt(gone if "large" in variance else t.sigma**2 * gone / s.sigma**2) * z(k, x)
        return x

    check("vp", "ddpm", of_vp, variance=variance)
    check("edm", "ddpm", of_ve, variance=variance)


W: dict[Any, Callable[[float], float]] = {
    "t": lambda t: t,
    "sin2": lambda t: sin(pi * t) ** 2,
    "g2": lambda t: 2 * t / (1 - t),
    0.02: lambda t: 0.02,
}


@everywhere
@pytest.mark.parametrize("w", W)
@pytest.mark.one_in(3)
def test_flow_sde(kind: str, w: Any) -> None:
    """Other schedules follow it in the rectified coordinate."""

    def rule(x: Tensor, nodes: list[Node], x0: Any, eps: Any) -> Tensor:
        for k, (s, t) in steps(nodes):
            S, S_t = s.alpha + s.sigma, t.alpha + t.sigma
            r, dt, e = s.sigma / S, s.sigma / S - t.sigma / S_t, eps(x, s)
            rate = 0.5 * W[w](r)
            y = x / S - dt * (e - x0(x, s)) - rate / 2 * dt * e / r + sqrt(rate * dt) * z(k, x)
            x = S_t * y
        return x

    check(kind, "flow_sde", rule, n=60, w=w, scale=0.5)
    if not isinstance(w, float):
        check(kind, "flow_sde", rule, n=60, w=lambda r: 0.5 * W[w](r))


@pytest.mark.parametrize("w", ["g2", 30.0])
def test_a_flow_step_that_would_take_all_noise_away_draws_it_anew(w: Any) -> None:
    table = build("flow_sde", NoiseSchedule.flow(), None, [1.0, 0.7, 0.4, 0.0], w=w)
    assert table.W[0, 1].tolist() == pytest.approx([0.0, 0.0, 0.3, 0.7])
    assert table.W[-1, 1].tolist() == [0.0, 0.0, 1.0, 0.0]


# ER-SDE ----------------------------------------------------------------------------------------------------------

PHI: dict[str, Callable[[float], float]] = {
    "ode": lambda u: u,
    "sde": lambda u: u**2,
    "power1.5": lambda u: u**1.5,
    "power2.5": lambda u: u**2.5,
    "exp": lambda u: u * (exp(-1 / u) + 10),
    "log": lambda u: u**0.9 * log10(1 + 100 * u**1.5),
    "sde5": lambda u: u * (exp(u**0.3) + 10),
}
POWER = {"sde": 2.0, "power1.5": 1.5, "power2.5": 2.5}


def integrals(name: str, low: float, high: float) -> tuple[float, float]:
    """int 1/phi and int (v - high)/phi from low to high: in closed form for powers, else by adaptive quadrature."""
    if name == "ode":
        return log(high / low), high - low - high * log(high / low)
    if name in POWER:
        p = POWER[name]

        def moment(k: int) -> float:
            q = k + 1 - p
            return log(high / low) if q == 0 else (high**q - low**q) / q

        return moment(0), moment(1) - high * moment(0)
    parts = [lambda y, k=k: exp(y) * (exp(y) - high) ** k / PHI[name](exp(y)) for k in (0, 1)]
    return tuple(scipy.integrate.quad(part, log(low), log(high), epsabs=0, epsrel=1e-13)[0] for part in parts)  # type: ignore[return-value]


@everywhere
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("name", PHI)
@pytest.mark.one_in(3)
def test_er_sde(kind: str, name: str, order: int) -> None:
    phi = PHI[name]

    def rule(x: Tensor, nodes: list[Node], x0: Any, eps: Any) -> Tensor:
        m: list[Tensor] = []
        u = [n.sigma / n.alpha for n in nodes]
        for k, (s, t) in steps(nodes):
            m, r, du = [x0(x, s), *m], phi(u[k + 1]) / phi(u[k]), u[k + 1] - u[k]
            I0, I1 = integrals(name, u[k + 1], u[k])
            out = t.alpha / s.alpha * r * x + t.alpha * (1 - r) * m[0]
            variance = 0.0 if name == "ode" else u[k + 1] ** 2 - r**2 * u[k] ** 2
            out = out + t.alpha * sqrt(variance) * z(k, x)
            if k and order > 1:
                first = (m[0] - m[1]) / (u[k] - u[k - 1])
                if k > 1 and order > 2:
                    before = (m[1] - m[2]) / (u[k - 1] - u[k - 2])
                    second = 2 * (first - before) / (u[k] - u[k - 2])
                    if variant == "corrected":
                        first = first + second * (u[k] - u[k - 1]) / 2
                    out = out + t.alpha * (du**2 / 2 + phi(u[k + 1]) * I1) * second
                out = out + t.alpha * (du + phi(u[k + 1]) * I0) * first
            x = out
        return x

    for variant in ("corrected", "public"):
        check(kind, "er_sde", rule, rel=1e-9, order=order, phi=name, variant=variant)
    check(kind, "er_sde", rule, rel=1e-9, order=order, phi=phi, variant=variant)


# SA-Solver -------------------------------------------------------------------------------------------------------


def adams(form: str, s: Node, t: Node, nodes: list[Node], tau: float) -> list[float]:
    """(1 + tau^2) sigma_t e^(-tau^2 lam_t) int e^((1 + tau^2) lam) l_j, and -(1 + tau^2) alpha_t int e^(-lam) l_j."""
    lam, h, out = [n.lam for n in nodes], t.lam - s.lam, []
    for j in range(len(nodes)):
        others = [v for i, v in enumerate(lam) if i != j]

        def integrand(y: float, j: int = j, others: list[float] = others) -> float:
            basis = float(np.prod([(y - v) / (lam[j] - v) for v in others]))
            if form == "x0":
                return (1 + tau**2) * t.alpha * exp((1 + tau**2) * (y - t.lam)) * basis
            return -(1 + tau**2) * t.sigma * exp(t.lam - y) * basis

        out.append(scipy.integrate.quad(integrand, s.lam, s.lam + h, epsabs=1e-15, epsrel=1e-13)[0])
    return out


def sa_rule(kind: str, form: str, p: int, q: int, tau: float, interval: bool, few_step: bool, pece: bool) -> Any:
    def weights(s: Node, t: Node, nodes: list[Node], tau: float) -> list[float]:
        exact = adams(form, s, t, nodes, tau)
        if not few_step or len(nodes) != 2:
            return exact
        h, full = t.lam - s.lam, -t.alpha * expm1(-(1 + tau**2) * (t.lam - s.lam))
        if nodes[0] is t:
            slope = t.alpha * (1 + tau**2) * h / 2
            return [slope, full - slope]
        slope = t.alpha * (1 + tau**2) * (h**2 / 2) / (nodes[0].lam - nodes[1].lam)
        return [full + slope, -slope]

    def noise_of(s: Node, t: Node) -> float:
        """tau^2 is spread over the step where noise begins or ends within it."""
        clock = SCHEDULES["flow"][0] if kind == "flow" else VP
        low, high = (float(clock.lam(v)) for v in (0.8, 0.2))
        inside = max(0.0, min(t.lam, high) - max(s.lam, low)) / (t.lam - s.lam)
        return tau * sqrt(inside) if interval else tau

    def rule(x: Tensor, nodes: list[Node], x0: Any, eps: Any) -> Tensor:
        f, past, call = (x0 if form == "x0" else eps), [], 0
        m: list[Tensor] = [f(x, nodes[0])]
        for k, (s, t) in steps(nodes):
            past, tau_k, h = [s, *past], noise_of(s, t), t.lam - s.lam
            if form == "x0":
                a, c = t.sigma / s.sigma * exp(-(tau_k**2) * h), t.sigma * sqrt(1 - exp(-2 * tau_k**2 * h))
            else:
                a, c = t.alpha / s.alpha, tau_k * t.sigma * sqrt(exp(2 * h) - 1)
            base = a * x + c * z(call, x)
            use = weights(s, t, past[:p], tau_k)
            y = base + sum(b * v for b, v in zip(use, m, strict=False))
            call += 2 if pece else 1
            if k + 2 == len(nodes) and not pece:
                return y
            new = f(y, t)
            if q:
                at = [t, *past][: min(q, len(past) + 1)]
                use = weights(s, t, at, tau_k)
                y = base + sum(b * v for b, v in zip(use, [new, *m], strict=False))
                if pece and k + 2 < len(nodes):
                    new = f(y, t)
            x, m = y, [new, *m]
        return x

    return rule


@everywhere
@pytest.mark.parametrize(("p", "q"), [(1, 0), (3, 0), (1, 1), (1, 2), (2, 2), (3, 4), (4, 3)])
@pytest.mark.one_in(3)
def test_sa_solver(kind: str, p: int, q: int) -> None:
    for form, tau, interval in (("x0", 1.0, False), ("x0", 0.6, True), ("eps", 0.4, False)):
        options = {"tau_interval": (0.2, 0.8) if interval else None, "form": form, "tau": tau}
        rule = sa_rule(kind, form, p, q, tau, interval, False, False)
        check(kind, "sa_solver", rule, rel=1e-9, predictor_order=p, corrector_order=q, **options, **FULL)


@everywhere
def test_sa_solver_with_published_weights_of_two_outputs(kind: str) -> None:
    rule = sa_rule(kind, "x0", 2, 2, 0.8, True, True, False)
    check(kind, "sa_solver", rule, few_step=True, predictor_order=2, corrector_order=2, tau=0.8, **FULL)


@everywhere
@pytest.mark.parametrize("form", ["x0", "eps"])
def test_sa_solver_that_evaluates_twice(kind: str, form: str) -> None:
    rule = sa_rule(kind, form, 3, 3, 0.5, False, False, True)
    options = {"predictor_order": 3, "corrector_order": 3, "tau_interval": None}
    check(kind, "sa_solver", rule, rel=1e-9, pece=True, form=form, tau=0.5, **options, **FULL)


def test_tau_of_a_time_is_that_of_its_step() -> None:
    schedule, times, _ = path("vp")
    stepwise = build("sa_solver", schedule, None, times, tau=lambda t: 0.7)
    assert np.array_equal(stepwise.W, build("sa_solver", schedule, None, times, tau=0.7, tau_interval=None).W)


def test_noise_begins_and_ends_where_its_interval_does() -> None:
    """The noises of a run lie end to end within the interval, wherever the steps are."""
    schedule, times, _ = path("vp")
    table = build("sa_solver", schedule, None, times, tau_interval=(0.3, 0.7))
    draws = [draw for row in range(table.nfe) for draw in table.draws(row)]
    assert (draws[0].start, draws[-1].end) == tuple(float(schedule.lam(t)) for t in (0.7, 0.3))
    assert all(a.end == b.start for a, b in zip(draws[:-1], draws[1:], strict=True))


# SEEDS -----------------------------------------------------------------------------------------------------------


def between(schedule: NoiseSchedule, s: Node, h: float) -> Node:
    return nodes_at(schedule, np.array([schedule.t_of_lam(s.lam + h)]))[0]


@everywhere
@pytest.mark.parametrize("order", [1, 2, 3])
def test_seeds(kind: str, order: int) -> None:
    schedule = SCHEDULES[kind][0]
    E = expm1

    def rule(x: Tensor, nodes: list[Node], x0: Any, eps: Any) -> Tensor:
        for k, (s, t) in steps(nodes):
            h, zs = t.lam - s.lam, [z(order * k + i, x) for i in range(order)]
            e = eps(x, s)
            if order == 1:
                x = t.alpha / s.alpha * x - 2 * t.sigma * E(h) * e + t.sigma * sqrt(E(2 * h)) * zs[0]
            elif order == 2:
                m = between(schedule, s, h / 2)
                X = m.alpha / s.alpha * x - 2 * m.sigma * E(h / 2) * e + m.sigma * sqrt(E(h)) * zs[0]
                noises = sqrt(exp(2 * h) - exp(h)) * zs[0] + sqrt(E(h)) * zs[1]
                x = t.alpha / s.alpha * x - 2 * t.sigma * E(h) * eps(X, m) + t.sigma * noises
            else:
                p, q = between(schedule, s, h / 3), between(schedule, s, 2 * h / 3)
                X = p.alpha / s.alpha * x - 2 * p.sigma * E(h / 3) * e + p.sigma * sqrt(E(2 * h / 3)) * zs[0]
                D = eps(X, p) - e
                X = q.alpha / s.alpha * x - 2 * q.sigma * E(2 * h / 3) * e
                X = X - 4 * q.sigma * (E(2 * h / 3) / (2 * h / 3) - 1) * D
                X = X + q.sigma * (sqrt(exp(4 * h / 3) - exp(2 * h / 3)) * zs[0] + sqrt(E(2 * h / 3)) * zs[1])
                D = eps(X, q) - e
                x = t.alpha / s.alpha * x - 2 * t.sigma * E(h) * e - 3 * t.sigma * (E(h) / h - 1) * D
                x = x + t.sigma * (
                    sqrt(exp(2 * h) - exp(4 * h / 3)) * zs[0]
                    + sqrt(exp(4 * h / 3) - exp(2 * h / 3)) * zs[1]
                    + sqrt(E(2 * h / 3)) * zs[2]
                )
        return x

    check(kind, "seeds", rule, order=order)


@everywhere
def test_seeds_on_x0(kind: str) -> None:
    schedule = SCHEDULES[kind][0]

    def rule(x: Tensor, nodes: list[Node], x0: Any, eps: Any) -> Tensor:
        for k, (s, t) in steps(nodes):
            h, m = t.lam - s.lam, between(schedule, s, (t.lam - s.lam) / 2)
            z1, z2 = z(2 * k, x), z(2 * k + 1, x)
            X = m.sigma / s.sigma * exp(-h / 2) * x - m.alpha * expm1(-h) * x0(x, s) + m.sigma * sqrt(-expm1(-h)) * z1
            noises = sqrt(exp(-h) - exp(-2 * h)) * z1 + sqrt(-expm1(-h)) * z2
            x = t.sigma / s.sigma * exp(-h) * x - t.alpha * expm1(-2 * h) * x0(X, m) + t.sigma * noises
        return x

    check(kind, "seeds", rule, form="x0")
