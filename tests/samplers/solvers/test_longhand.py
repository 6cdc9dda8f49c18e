"""Published update rules, written out longhand, equal the tables to rounding."""

from __future__ import annotations

from math import exp, expm1, factorial
from typing import Any

import numpy as np
import pytest
from paths import FULL, SCHEDULES, close, everywhere, longhand, nodes_at, run, uneven
from problems import Mixture, starts
from torch import Tensor

from fewstep.samplers import NoiseSchedule, build, sample
from fewstep.samplers.coefficients.phi import phi
from fewstep.samplers.schedule.base import Node
from fewstep.samplers.solvers.exponential_rk import fast_plan
from fewstep.samplers.solvers.stork import responses


@everywhere
def test_ddim(kind: str) -> None:
    def rule(x: Tensor, nodes: list[Node], x0: Any, eps: Any) -> Tensor:
        for s, t in zip(nodes, nodes[1:], strict=False):
            x = t.alpha * x0(x, s) + t.sigma * eps(x, s)
        return x

    close(run(kind, "ddim"), longhand(kind, rule))


def test_euler_of_a_flow() -> None:
    def rule(x: Tensor, nodes: list[Node], x0: Any, eps: Any) -> Tensor:
        for s, t in zip(nodes, nodes[1:], strict=False):
            x = x + (t.t - s.t) * (eps(x, s) - x0(x, s))
        return x

    close(run("flow", "euler", "flow_prediction"), longhand("flow", rule))


def test_heun_of_a_flow() -> None:
    def rule(x: Tensor, nodes: list[Node], x0: Any, eps: Any) -> Tensor:
        for s, t in zip(nodes, nodes[1:], strict=False):
            v = eps(x, s) - x0(x, s)
            y = x + (t.t - s.t) * v
            x = x + (t.t - s.t) * (v + eps(y, t) - x0(y, t)) / 2
        return x

    close(run("flow", "heun", "flow_prediction"), longhand("flow", rule))


def test_heun_of_edm_ends_with_an_euler_step_to_zero() -> None:
    sigmas = np.append(np.exp(-uneven(8, -4, 6)), 0.0)
    schedule, mixture = NoiseSchedule.edm(), Mixture()
    start = starts(schedule, sigmas[0])
    x = start
    for now, after in zip(sigmas, sigmas[1:], strict=False):
        d = (x - mixture.predict(x, 1.0, now)[0]) / now
        y = x + (after - now) * d
        if after > 0:
            y = x + (after - now) * (d + (y - mixture.predict(y, 1.0, after)[0]) / after) / 2
        x = y
    denoiser = mixture.denoiser(schedule, "sample")
    close(sample(denoiser, start, "heun", None, sigmas, limiter=False), x)
    assert denoiser.nfe == 17


@everywhere
def test_dpmpp_2m(kind: str) -> None:
    def rule(x: Tensor, nodes: list[Node], x0: Any, eps: Any) -> Tensor:
        old, last = None, None
        for s, t in zip(nodes, nodes[1:], strict=False):
            h, m = t.lam - s.lam, x0(x, s)
            d = m
            if old is not None:
                r = (s.lam - last) / h
                d = (1 + 1 / (2 * r)) * m - old / (2 * r)
            x, old, last = t.sigma / s.sigma * x - t.alpha * expm1(-h) * d, m, s.lam
        return x

    close(run(kind, "dpmpp_2m", **FULL), longhand(kind, rule))


@pytest.mark.parametrize(("variant", "factor"), [("exact", 2.0), ("public", 1.0)])
@everywhere
def test_dpmpp_3m(kind: str, variant: str, factor: float) -> None:
    def rule(x: Tensor, nodes: list[Node], x0: Any, eps: Any) -> Tensor:
        m: list[Tensor] = []
        for k, (s, t) in enumerate(zip(nodes, nodes[1:], strict=False)):
            m, h = [x0(x, s), *m], t.lam - s.lam
            base = t.sigma / s.sigma * x + t.alpha * h * phi(1, -h) * m[0]
            if k == 0:
                x = base
                continue
            r0 = (s.lam - nodes[k - 1].lam) / h
            d0 = (m[0] - m[1]) / r0
            if k == 1:  # public code takes its 2M step here
                x = base + t.alpha * h * (phi(2, -h) if variant == "exact" else 0.5 * phi(1, -h)) * d0
                continue
            r1 = (nodes[k - 1].lam - nodes[k - 2].lam) / h
            d1 = (m[1] - m[2]) / r1
            D1 = d0 + r0 / (r0 + r1) * (d0 - d1)
            x = base + t.alpha * h * (phi(2, -h) * D1 + phi(3, -h) * factor * (d0 - d1) / (r0 + r1))
        return x

    close(run(kind, "dpmpp_3m", variant=variant, **FULL), longhand(kind, rule))


@everywhere
@pytest.mark.parametrize("correction", ["dpmsolver", "taylor"])
@pytest.mark.parametrize("name", ["dpm_2", "dpmpp_2s", "dpm_3", "dpmpp_3s"])
def test_singlestep_dpm_solvers(kind: str, name: str, correction: str) -> None:
    """x0 form: sign -1 throughout, alpha and sigma exchanged."""
    schedule = SCHEDULES[kind][0]
    plus, third = "pp" in name, "3" in name

    def rule(x: Tensor, nodes: list[Node], x0: Any, eps: Any) -> Tensor:
        for s, t in zip(nodes, nodes[1:], strict=False):
            h = t.lam - s.lam
            z = -h if plus else h

            def mid(r: float, s: Node = s, h: float = h) -> Node:
                return nodes_at(schedule, np.array([schedule.t_of_lam(s.lam + r * h)]))[0]

            def first(node: Node, r: float, m: Tensor, s: Node = s, x: Tensor = x, z: float = z) -> Tensor:
                if plus:
                    return node.sigma / s.sigma * x - node.alpha * expm1(r * z) * m
                return node.alpha / s.alpha * x - node.sigma * expm1(r * z) * m

            f, size = (x0, t.alpha) if plus else (eps, t.sigma)
            r1, r2 = (1 / 3, 2 / 3) if third else (1 / 2, None)
            n1 = mid(r1)
            m0 = f(x, s)
            m1 = f(first(n1, r1, m0), n1)
            if not third:
                weight = expm1(z) / (2 * r1) if correction == "dpmsolver" else (expm1(z) / z - 1) / r1
                x = first(t, 1.0, m0) - size * weight * (m1 - m0)
                continue
            n2 = mid(r2)
            size2 = n2.alpha if plus else n2.sigma
            m2 = f(first(n2, r2, m0) - size2 * r2 / r1 * (expm1(r2 * z) / (r2 * z) - 1) * (m1 - m0), n2)
            if correction == "dpmsolver":
                x = first(t, 1.0, m0) - size / r2 * (expm1(z) / z - 1) * (m2 - m0)
                continue
            d10, d11 = (m1 - m0) / r1, (m2 - m0) / r2
            D1, D2 = (r2 * d10 - r1 * d11) / (r2 - r1), 2 * (d11 - d10) / (r2 - r1)
            x = first(t, 1.0, m0) - size * z * (phi(2, z) * D1 + phi(3, z) * D2)
        return x

    close(run(kind, name, correction=correction), longhand(kind, rule), 1e-11)


def adams(nodes: list[float], s: float, t: float) -> list[float]:
    """int_s^t l_j for the Lagrange basis on `nodes`."""
    out = []
    for j, node in enumerate(nodes):
        others = [v for i, v in enumerate(nodes) if i != j]
        basis = np.polynomial.Polynomial.fromroots(others) if others else np.polynomial.Polynomial([1.0])
        out.append(float((basis / np.prod([node - v for v in others] or [1.0])).integ(lbnd=s)(t)))
    return out


@everywhere
@pytest.mark.parametrize("p", [1, 2, 3, 4])
def test_adams_bashforth_in_rho(kind: str, p: int) -> None:
    def rule(x: Tensor, nodes: list[Node], x0: Any, eps: Any) -> Tensor:
        m: list[Tensor] = []
        for k, (s, t) in enumerate(zip(nodes, nodes[1:], strict=False)):
            m = [eps(x, s), *m][:p]
            rho = [exp(-nodes[k - j].lam) for j in range(len(m))]
            y = x / s.alpha + sum(b * e for b, e in zip(adams(rho, rho[0], exp(-t.lam)), m, strict=True))
            x = t.alpha * y
        return x

    for name, options in {"ipndm_v": {"variant": "exact"}, "lms": {}, "deis_rho_ab": {}}.items():
        close(run(kind, name, order=p, **options), longhand(kind, rule))


@everywhere
@pytest.mark.parametrize("name", ["pndm", "plms", "ipndm"])
def test_pseudo_numerical_methods(kind: str, name: str) -> None:
    schedule = SCHEDULES[kind][0]
    weights = {1: [1], 2: [3 / 2, -1 / 2], 3: [23 / 12, -16 / 12, 5 / 12], 4: [55 / 24, -59 / 24, 37 / 24, -9 / 24]}

    def transfer(x: Tensor, e: Tensor, s: Node, t: Node) -> Tensor:
        return t.alpha / s.alpha * x + (t.sigma - t.alpha * s.sigma / s.alpha) * e

    def rule(x: Tensor, nodes: list[Node], x0: Any, eps: Any) -> Tensor:
        m: list[Tensor] = []
        for k, (s, t) in enumerate(zip(nodes, nodes[1:], strict=False)):
            m = [eps(x, s), *m][:4]
            if name == "plms" and k == 0:
                x = transfer(x, (m[0] + eps(transfer(x, m[0], s, t), t)) / 2, s, t)
            elif name == "pndm" and k < 3:
                mid = nodes_at(schedule, np.array([(s.t + t.t) / 2]))[0]
                e2 = eps(transfer(x, m[0], s, mid), mid)
                e3 = eps(transfer(x, e2, s, mid), mid)
                e4 = eps(transfer(x, e3, s, t), t)
                x = transfer(x, (m[0] + 2 * e2 + 2 * e3 + e4) / 6, s, t)
            else:
                x = transfer(x, sum(w * e for w, e in zip(weights[len(m)], m, strict=True)), s, t)
        return x

    n, nfe = {"pndm": (16, 16 + 9), "plms": (9, 9 + 1), "ipndm": (9, 9)}[name]
    close(run(kind, name, n=n, nfe=nfe), longhand(kind, rule, n))


@everywhere
@pytest.mark.parametrize("form", ["x0", "eps"])
@pytest.mark.parametrize("weights", ["bh1", "bh2"])
@pytest.mark.parametrize("p", [1, 2, 3, 4])
def test_unipc(kind: str, p: int, weights: str, form: str) -> None:
    """R a = b of the paper, predictor and corrector, one evaluation a step."""

    def update(x: Tensor, s: Node, t: Node, m0: Tensor, others: list[tuple[float, Tensor]], fixed: bool) -> Tensor:
        h = t.lam - s.lam
        z = -h if form == "x0" else h
        S, a = (t.alpha, t.sigma / s.sigma) if form == "x0" else (t.sigma, t.alpha / s.alpha)
        base = a * x - S * expm1(z) * m0
        if not others:
            return base
        B = z if weights == "bh1" else expm1(z)
        r = np.array([(lam - s.lam) / h for lam, _ in others])
        b = np.array([z * factorial(k) * phi(k + 1, z) / B for k in range(1, len(r) + 1)])
        c = np.array([0.5]) if fixed else np.linalg.solve(np.vander(r, increasing=True).T, b)
        return base - S * B * sum(c[i] / r[i] * (m - m0) for i, (_, m) in enumerate(others))

    def rule(x: Tensor, nodes: list[Node], x0: Any, eps: Any) -> Tensor:
        f = x0 if form == "x0" else eps
        n = len(nodes) - 1
        past: list[tuple[float, Tensor]] = []
        corrected = x
        for k in range(n):
            now = (nodes[k].lam, f(x, nodes[k]))
            if k:
                q = min(p, k)
                corrected = update(corrected, nodes[k - 1], nodes[k], past[0][1], [*past[1:q], now], q == 1)
            past = [now, *past]
            q = min(p, k + 1)
            x = update(corrected, nodes[k], nodes[k + 1], now[1], past[1:q], q == 2)
        return x

    close(run(kind, "unipc", order=p, weights=weights, form=form, **FULL), longhand(kind, rule), 1e-11)


def test_stork_rows_are_the_stabilised_recursion_on_a_taylor_model() -> None:
    """c2 = 1/2 whatever the number of stages, c3 from 0.107 (3 stages) up to 1/8."""
    for stages in (3, 9, 50, 200):
        c1, c2, c3 = responses(stages)
        assert (c1, c2) == pytest.approx((1.0, 0.5), rel=1e-12) and c3 < 0.125
    assert responses(3)[2] == pytest.approx(0.107, abs=5e-4)
    assert responses(200)[2] == pytest.approx(0.125, abs=1e-4)


@everywhere
def test_lower_orders_at_the_start_and_at_the_end(kind: str) -> None:
    """A list of orders is the build-up written out; the taper acts below 15 steps, or always where it is asked for."""
    written = {"order": [1, 2, 3, 3, 3, 3, 3, 3, 3]}
    close(run(kind, "unipc", **written), run(kind, "unipc", order=3, **FULL))
    close(run(kind, "unipc", order=[1, 2, 3, 3, 3, 3, 3, 2, 1]), run(kind, "unipc", order=3))
    close(run(kind, "unipc", disable_corrector=range(9)), run(kind, "unipc", corrector=False))
    schedule, first, last = SCHEDULES[kind]
    for n, taper, last_order in ((14, True, 1), (15, True, 3), (15, "always", 1), (14, False, 3)):
        ends = {"t_start": first, "t_end": last, "lower_order_final": taper}
        table = build("dpmpp_3m", schedule, n, "logsnr", **ends)
        assert np.count_nonzero(table.W[-1, 1, 2:]) == last_order


def test_the_plan_of_dpm_solver_fast() -> None:
    """K = floor(nfe / 3) + 1 steps: 3 .. 3 2 1, 3 .. 3 1 or 3 .. 3 2."""
    for nfe in range(3, 31):
        K = nfe // 3 + 1
        ends = {0: (2, 1), 1: (1,), 2: (2,)}[nfe % 3]
        assert fast_plan(nfe, 3, False) == (3,) * (K - len(ends)) + ends
