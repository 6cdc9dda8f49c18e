"""What must be equal to rounding: solvers that are one method under two names, published update rules written out
longhand, polynomials in the solver's own variable, and the same path in lam under different schedules."""

from __future__ import annotations

from math import exp, expm1, factorial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import PREDICTIONS, Mixture, output, starts
from scipy.integrate import quad

from fewstep.samplers import SOLVERS, Denoiser, NoiseSchedule, build, sample
from fewstep.samplers.phi import phi
from fewstep.samplers.schedule import Node
from fewstep.samplers.solvers.exponential_rk import fast_plan
from fewstep.samplers.solvers.stork import responses
from fewstep.samplers.weights import lagrange_row, scale

Tensor = torch.Tensor
SCHEDULES = {
    "vp": (NoiseSchedule.vp_linear(), 1.0, 1e-3),
    "edm": (NoiseSchedule.edm(), 80.0, 2e-3),
    "flow": (NoiseSchedule.flow(), 0.995, 0.005),
}
EQUAL = 1e-12
FULL = {"lower_order_final": False}
ODE = [name for name, entry in SOLVERS.items() if not entry.stochastic and entry.kind == "tableau"]


def uneven(n: int, low: float, high: float, seed: int = 0) -> np.ndarray:
    """n + 1 increasing values whose spacings differ by up to a factor of three."""
    gaps = np.random.default_rng(seed).uniform(1, 3, n)
    return low + (high - low) * np.append(0, np.cumsum(gaps)) / gaps.sum()


def path(kind: str, n: int = 9) -> tuple[NoiseSchedule, np.ndarray, list[Node]]:
    """A schedule, uneven times on it and their nodes."""
    schedule, first, last = SCHEDULES[kind]
    times = schedule.t_of_lam(uneven(n, float(schedule.lam(first)), float(schedule.lam(last))))
    return schedule, times, nodes_at(schedule, times)


def nodes_at(schedule: NoiseSchedule, times: np.ndarray) -> list[Node]:
    return [Node(*map(float, row)) for row in zip(*schedule.nodes(times), strict=True)]


def close(a: Any, b: Any, rel: float = EQUAL) -> None:
    """Equal to `rel` of the largest entry."""
    a, b = (torch.as_tensor(np.asarray(v)) for v in (a, b))
    assert float((a - b).abs().max()) <= rel * float(b.abs().max())


def run(kind: str, name: str, prediction: str = "sample", n: int = 9, nfe: int | None = None, **options: Any) -> Tensor:
    """The solver's result on the mixture, on the uneven path."""
    schedule, times, _ = path(kind, n)
    denoiser, x = Mixture().denoiser(schedule, prediction), starts(schedule, times[0])
    return sample(denoiser, x, name, nfe, times, **options)


def longhand(kind: str, rule: Any, n: int = 9) -> Tensor:
    """The result of `rule(x, nodes, x0, eps)`, a sampler written out, on the same problem and path."""
    schedule, times, nodes = path(kind, n)

    def x0(x: Tensor, node: Node) -> Tensor:
        return Mixture().predict(x, node.alpha, node.sigma)[0]

    def eps(x: Tensor, node: Node) -> Tensor:
        return Mixture().predict(x, node.alpha, node.sigma)[1]

    return rule(starts(schedule, times[0]), nodes, x0, eps)


everywhere = pytest.mark.parametrize("kind", SCHEDULES)


# One method, two names -------------------------------------------------------------------------------------------


@everywhere
@pytest.mark.parametrize("p", [1, 2, 3, 4])
def test_tables_that_are_one_table(kind: str, p: int) -> None:
    schedule, times, _ = path(kind)

    def lines(name: str, **options: Any) -> np.ndarray:
        return build(name, schedule, None, times, **options).W[:, 1]

    exact, plain = {"order": p, "weights": "exact", "corrector": False, **FULL}, {"order": p, **FULL}
    pairs: list[tuple[tuple[str, dict[str, Any]], tuple[str, dict[str, Any]]]] = [
        (("abnorsett", {"form": "eps", **plain}), ("deis_log_rho", plain)),
        (("abnorsett", plain), ("unipc", exact)),
        (("abnorsett", plain), ("res_multistep", plain)),
        (("lms", plain), ("ipndm_v", plain)),
        (("lms", plain), ("deis_rho_ab", plain)),
    ]
    if p == 2:
        pairs += [
            (("unipc", {**exact, "weights": "bh2"}), ("dpmpp_2m", FULL)),
            (("abnorsett", plain), ("dpmpp_2m", {"variant": "exact", **FULL})),
            (("res_2s", {}), ("etd_rk2", {"c2": 0.5})),
            (("dpm_2", {"correction": "taylor"}), ("etd_rk2", {"c2": 0.5, "form": "eps"})),
            (("dpmpp_2s", {"correction": "taylor"}), ("res_2s", {})),
            (("heun", {"alpha": 0.5}), ("deis_rho_rk", {"method": "midpoint"})),
            (("heun", {}), ("deis_rho_rk", {"method": "heun"})),
            (("heun", {"alpha": 2 / 3}), ("deis_rho_rk", {"method": "ralston"})),
        ]
    if p == 3:
        pairs += [
            (("abnorsett", plain), ("dpmpp_3m", FULL)),
            (("dpm_3", {}), ("etd_rk3", {"c2": 1 / 3, "form": "eps"})),
            (("dpmpp_3s", {}), ("etd_rk3", {"c2": 1 / 3})),
        ]
    for (a, of_a), (b, of_b) in pairs:
        close(lines(a, **of_a), lines(b, **of_b))


@everywhere
def test_first_order_methods_are_one(kind: str) -> None:
    ddim = run(kind, "ddim")
    for name, options in {
        "euler": {}, "dpm_1": {}, "deis": {"order": 1}, "cab": {"order": 1}, "ipndm": {"order": 1}, "stork": {"order": 1},
        "unipc": {"order": 1, "corrector": False}, "deis_rho_rk": {"method": "euler"},
    }.items():  # fmt: skip
        close(run(kind, name, **options), ddim)


@everywhere
def test_prediction_types_give_one_result(kind: str) -> None:
    for name in ODE:
        want = run(kind, name, "sample")
        for prediction in PREDICTIONS:
            close(run(kind, name, prediction), want, 1e-10)


# Published rules, longhand ---------------------------------------------------------------------------------------


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
    close(sample(denoiser, start, "heun", None, sigmas), x)
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

    for name in ("ipndm_v", "lms", "deis_rho_ab"):
        close(run(kind, name, order=p), longhand(kind, rule))


@everywhere
@pytest.mark.parametrize("p", [2, 3, 4])
def test_deis_tab_by_an_independent_quadrature(kind: str, p: int) -> None:
    schedule, times, nodes = path(kind)
    table = build("deis", schedule, None, times, order=p)
    for k in range(p - 1, len(nodes) - 1):
        s, t, past = nodes[k], nodes[k + 1], [nodes[k - j].t for j in range(p)]
        for j in range(p):

            def integrand(lam: float, j: int = j, past: list[float] = past) -> float:
                at = float(schedule.t_of_lam(lam))
                basis = np.prod([(at - v) / (past[j] - v) for i, v in enumerate(past) if i != j])
                return -exp(-lam) * float(basis)

            value = t.alpha * quad(integrand, s.lam, t.lam, epsabs=0, epsrel=1e-13)[0]
            assert table.W[k, 1, 2 + j] == pytest.approx(value, rel=1e-10)


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

    nfe = {"pndm": 9 + 9, "plms": 9 + 1, "ipndm": 9}[name]
    close(run(kind, name, nfe=nfe), longhand(kind, rule))


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


# Uniform steps in lam --------------------------------------------------------------------------------------------


def test_closed_forms_on_a_uniform_grid_in_lam() -> None:
    schedule, first, last = SCHEDULES["vp"]
    closed = {
        2: [[0, -1]],
        3: [[0, -2, -2], [0, 1 / 2, 1]],
        4: [[0, -3, -5, -3], [0, 3 / 2, 4, 3], [0, -1 / 3, -1, -1]],
    }
    for p, older in closed.items():
        table = build("abnorsett", schedule, 8, "logsnr", t_start=first, t_end=last, order=p, **FULL)
        h = float(np.diff(table.nodes.lam)[0])
        past = [sum(c * phi(i + 1, -h) for i, c in enumerate(row)) for row in older]
        weights = np.array([phi(1, -h) - sum(past), *past]) * h
        for k in range(p, 8):
            close(table.W[k, 1, 2:], table.nodes.alpha[k + 1] * weights, 1e-11)
    table = build("dpmpp_2m", schedule, 8, "logsnr", t_start=first, t_end=last, **FULL)
    close(table.W[1:, 1, 2:] / (-np.expm1(-h) * table.nodes.alpha[2:, None]), np.tile([1.5, -0.5], (7, 1)), 1e-11)


# Polynomials in the solver's own variable ------------------------------------------------------------------------

POLYNOMIAL = [
    *(("abnorsett", {"order": p, "form": form, **FULL}, form, "lam", p) for p in range(1, 6) for form in ("x0", "eps")),
    *(("deis", {"order": p}, "eps", "t", p) for p in range(1, 5)),
    *(("deis_rho_ab", {"order": p}, "eps", "G", p) for p in range(1, 5)),
    *(("cab", {"order": p}, "flow", "G", p) for p in range(1, 5)),
    *(("unipc", {"order": p, "weights": "exact", "form": form, **FULL}, form, "lam", p)
      for p in range(1, 5) for form in ("x0", "eps")),
]  # fmt: skip


def variable(schedule: NoiseSchedule, form: str, var: str, lam: float) -> float:
    if var != "G":
        return lam if var == "lam" else float(schedule.t_of_lam(lam))
    return {"x0": exp(lam), "eps": exp(-lam), "flow": 1 / (1 + exp(lam))}[form]


def dG(form: str, lam: float) -> float:
    return {"x0": exp(lam), "eps": -exp(-lam), "flow": -exp(lam) / (1 + exp(lam)) ** 2}[form]


@everywhere
@pytest.mark.parametrize(("name", "options", "form", "var", "p"), POLYNOMIAL)
def test_polynomials_are_integrated_exactly(
    kind: str, name: str, options: dict[str, Any], form: str, var: str, p: int
) -> None:
    """From exact registers every row of full order reaches the exact next state, for outputs of degree p - 1.

    A corrector sees one output more and must be exact for degree p as well.
    """
    schedule, times, nodes = path(kind)
    table = build(name, schedule, None, times, **options)
    for k in range(p, len(nodes) - 1):
        centre, size = variable(schedule, form, var, nodes[k].lam), abs(
            variable(schedule, form, var, nodes[k + 1].lam) - variable(schedule, form, var, nodes[k - p].lam)
        )  # fmt: skip
        for degree in range(p + (name == "unipc")):

            def m(lam: float, centre: float = centre, size: float = size, degree: int = degree) -> float:
                return ((variable(schedule, form, var, lam) - centre) / size) ** degree

            def state(node: Node, origin: Node = nodes[k], m: Any = m) -> float:
                grown = quad(lambda lam: m(lam) * dG(form, lam), origin.lam, node.lam, epsabs=0, epsrel=1e-13)[0]
                return scale(form, node) * (1.0 / scale(form, origin) + grown)

            outputs = [m(nodes[k - j].lam) for j in range(table.history)]
            registers = np.array(
                [state(nodes[k - 1]) if name == "unipc" else state(nodes[k]), state(nodes[k]), *outputs]
            )
            carry, after = table.W[k] @ registers
            magnitude = np.abs(table.W[k]) @ np.abs(registers)
            if degree < p:
                assert abs(after - state(nodes[k + 1])) <= 1e-10 * magnitude[1]
            if name == "unipc":
                assert abs(carry - state(nodes[k])) <= 1e-10 * magnitude[0]


@everywhere
def test_a_corrector_row_is_the_exponential_adams_moulton_row(kind: str) -> None:
    """The Lagrange row with one node at the target, against its integral by quadrature."""
    schedule, _, nodes = path(kind)
    past, s, t = nodes[3], nodes[4], nodes[5]
    for form in ("x0", "eps"):
        got = lagrange_row(schedule, form, "lam", s, t, [s, t, past])
        lams = [s.lam, t.lam, past.lam]
        for j in range(3):
            a, b = (v for i, v in enumerate(lams) if i != j)

            def f(lam: float, a: float = a, b: float = b, c: float = lams[j], form: str = form) -> float:
                return (lam - a) * (lam - b) / ((c - a) * (c - b)) * dG(form, lam)

            assert got[j] == pytest.approx(scale(form, t) * quad(f, s.lam, t.lam, epsabs=0, epsrel=1e-13)[0], rel=1e-10)


# Schedules with equal lam ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in ODE if n not in ("deis", "pndm")])
def test_the_schedule_does_not_matter_where_lam_is_equal(name: str) -> None:
    """Every solver speaks of lam alone, except tAB and the middle points of PNDM, which speak of t."""
    lam = uneven(8, -4.0, 4.5)
    options = {"var": "rho"} if "var" in SOLVERS[name].options else {}
    y0 = starts(NoiseSchedule.edm(), float(np.exp(-lam[0])))
    results = []
    for schedule, _, _ in SCHEDULES.values():
        times = schedule.t_of_lam(lam)
        x = y0 * float(schedule.alpha(times[0]))
        result = sample(Mixture().denoiser(schedule, "sample"), x, name, None, times, **options)
        results.append(result / float(schedule.alpha(times[-1])))
    close(results[1], results[0], 1e-10)
    close(results[2], results[0], 1e-10)


# Constants -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(ODE),
    kind=st.sampled_from(list(SCHEDULES)),
    prediction=st.sampled_from(PREDICTIONS),
    gaps=st.lists(st.floats(0.05, 3.0), min_size=1, max_size=14),
    nfe=st.integers(1, 20),
    to_zero=st.booleans(),
)
def test_a_constant_x0_and_eps_are_followed_exactly(
    name: str, kind: str, prediction: str, gaps: list[float], nfe: int, to_zero: bool
) -> None:
    """Whatever the grid, x = alpha X + sigma E stays on its path, down to sigma = 0 where the prediction allows it."""
    schedule, first, _ = SCHEDULES[kind]
    lam = float(schedule.lam(first)) + np.append(0, np.cumsum(gaps) * min(1.0, 10.0 / sum(gaps)))
    times = schedule.t_of_lam(lam)
    times = np.append(times[:-1], 0.0) if to_zero else times
    generator = torch.Generator().manual_seed(7)
    X, E = torch.randn(2, 3, 5, dtype=torch.float64, generator=generator)

    def fn(x: Tensor, tau: Tensor) -> Tensor:
        t = schedule.time_of_model(float(tau))
        return output(prediction, X, E, float(schedule.alpha(t)), float(schedule.sigma(t)))

    x = float(schedule.alpha(times[0])) * X + float(schedule.sigma(times[0])) * E
    got = sample(Denoiser(fn, schedule, prediction), x, name, nfe, times)
    close(got, float(schedule.alpha(times[-1])) * X + float(schedule.sigma(times[-1])) * E, 1e-8)


def test_the_plan_of_dpm_solver_fast() -> None:
    """K = floor(nfe / 3) + 1 steps: 3 .. 3 2 1, 3 .. 3 1 or 3 .. 3 2."""
    for nfe in range(3, 31):
        K = nfe // 3 + 1
        ends = {0: (2, 1), 1: (1,), 2: (2,)}[nfe % 3]
        assert fast_plan(nfe, 3, False) == (3,) * (K - len(ends)) + ends
