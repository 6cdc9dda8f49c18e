"""Samplers of user interfaces beside their rules written out, in their variables: x / alpha and sigma / alpha (flows: x, t)."""

from __future__ import annotations

from math import exp, expm1, log, log1p, sqrt
from typing import Any

import numpy as np
import pytest
import scipy
from paths import SCHEDULES, close, everywhere, longhand, path, run
from torch import Tensor

from fewstep.samplers import NoiseSchedule, build
from fewstep.samplers.schedule.base import Node

EDM, FLOW = NoiseSchedule.edm(), NoiseSchedule.flow()
LEVELS = np.array([9.0, 5.9, 3.9, 2.5, 1.5])  # steps -3.1, -2, -1.4, -1


def in_sigma(kind: str, rule: Any) -> Tensor:
    """The result of rule(y, levels, slope) with y = x / alpha and its slope eps, or on flows x and v."""

    def whole(x: Tensor, nodes: list[Node], x0: Any, eps: Any) -> Tensor:
        size = [1.0 if kind == "flow" else n.alpha for n in nodes]
        levels = [n.sigma / a for n, a in zip(nodes, size, strict=True)]

        def slope(y: Tensor, k: int) -> Tensor:
            e = eps(size[k] * y, nodes[k])
            return e - x0(y, nodes[k]) if kind == "flow" else e

        return size[-1] * rule(x / size[0], levels, slope)

    return longhand(kind, whole)


@everywhere
@pytest.mark.parametrize("gamma", [2.0, 1.3])
def test_gradient_estimation(kind: str, gamma: float) -> None:
    def rule(y: Tensor, s: list[float], slope: Any) -> Tensor:
        last = None
        for k in range(len(s) - 1):
            d = slope(y, k)
            y = y + (s[k + 1] - s[k]) * (d if last is None else gamma * d + (1 - gamma) * last)
            last = d
        return y

    close(run(kind, "gradient_estimation", gamma=gamma), in_sigma(kind, rule), 1e-11)


@everywhere
def test_heunpp2(kind: str) -> None:
    def rule(y: Tensor, s: list[float], slope: Any) -> Tensor:
        last = len(s) - 1
        for k in range(last):
            d1, h = slope(y, k), s[k + 1] - s[k]
            if k + 1 == last:
                y = y + h * d1
                continue
            y2 = y + h * d1
            d2 = slope(y2, k + 1)
            if k + 2 == last:
                w = s[k + 1] / (2 * s[0])
                y = y + h * ((1 - w) * d1 + w * d2)
                continue
            d3 = slope(y2 + (s[k + 2] - s[k + 1]) * d2, k + 2)
            w2, w3 = s[k + 1] / (3 * s[0]), s[k + 2] / (3 * s[0])
            y = y + h * ((1 - w2 - w3) * d1 + w2 * d2 + w3 * d3)
        return y

    close(run(kind, "heunpp2"), in_sigma(kind, rule), 1e-11)
    schedule, times, _ = path(kind)
    assert build("heunpp2", schedule, None, times).nfe == 3 * 9 - 3 == build("heunpp2", schedule, 24, times).nfe
    assert build("heunpp2", schedule, 24).groups[-3:] == (3, 2, 1)


@everywhere
@pytest.mark.parametrize("form", ["lms", "ipndm"])
def test_velocities_in_t(kind: str, form: str) -> None:
    """`form="flow"` on flow models is Adams-Bashforth on v in t; on any schedule in r = sigma / (alpha + sigma)."""
    equal = {1: [1], 2: [3 / 2, -1 / 2], 3: [23 / 12, -16 / 12, 5 / 12], 4: [55 / 24, -59 / 24, 37 / 24, -9 / 24]}

    def rule(x: Tensor, nodes: list[Node], x0: Any, eps: Any) -> Tensor:
        m: list[Tensor] = []
        for k, (s, t) in enumerate(zip(nodes, nodes[1:], strict=False)):
            m = [eps(x, s) - x0(x, s), *m][:4]
            r = [nodes[k - j].r for j in range(len(m))]
            share = [(t.r - s.r) * w for w in equal[len(m)]]
            if form == "lms":
                basis = [np.poly1d([v for i, v in enumerate(r) if i != j], True) for j in range(len(r))]
                share = [float((p / p(r[j])).integ()(t.r) - (p / p(r[j])).integ()(s.r)) for j, p in enumerate(basis)]
            x = t.S * (x / s.S + sum(w * v for w, v in zip(share, m, strict=True)))
        return x

    close(run(kind, form, form="flow"), longhand(kind, rule), 1e-8)
    if form == "lms":
        close(run(kind, "ipndm_v", form="flow", variant="exact"), longhand(kind, rule), 1e-8)
        if kind == "flow":
            close(run(kind, "deis", order=4, form="flow", clock="own"), longhand(kind, rule), 1e-8)


def test_public_ipndm_v_has_the_published_weights() -> None:
    """Beside steps of 1, 1.4, 2, 3.1: numbers that all public code shares, exact ones for comparison."""
    weights = lambda **o: build("ipndm_v", EDM, None, LEVELS, limiter=False, **o).W[-1, 1, 2:] / -1.0  # noqa: E731
    np.testing.assert_allclose(weights(variant="public"), [1.979315, -1.488189, 0.556199, -0.051347], atol=1e-6)
    np.testing.assert_allclose(weights(variant="exact"), [1.710946, -1.022409, 0.352625, -0.041162], atol=1e-6)
    np.testing.assert_allclose(weights(variant="public", order=3), [1.822129, -1.147619, 0.325490], atol=1e-6)
    default, public = weights(), weights(variant="public")
    np.testing.assert_allclose(default, public + np.array([1 - public.sum(), 0, 0, 0]), atol=1e-12)
    equal = build("ipndm_v", EDM, None, np.arange(9.0, 1.0, -1.0), variant="public").W[-1, 1, 2:] / -1.0
    np.testing.assert_allclose(equal, np.array([57, -65, 43, -11]) / 24, atol=1e-12)
    to_data = build("ipndm_v", EDM, None, [*LEVELS, 0.0], variant="public")
    np.testing.assert_allclose(to_data.W[-1, 1, 2:], [-1.5, 0, 0, 0], atol=1e-12)
    long = np.geomspace(80, 0.01, 16)
    np.testing.assert_array_equal(build("ipndm_v", EDM, None, long).W, build("lms", EDM, None, long).W)


@pytest.mark.parametrize("form", ["eps", "flow"])
def test_deis_by_the_clock_of_a_vp_process(form: str) -> None:
    beta_d, beta_min = 17.537957, -0.004769

    def clock(level: float) -> float:
        return (sqrt(beta_min**2 + 2 * beta_d * log1p(level**2)) - beta_min) / beta_d

    schedule, levels = (EDM, LEVELS) if form == "eps" else (FLOW, LEVELS / 10)
    row = build("deis", schedule, None, levels, clock="vp", form=form).W[-1, 1, 2:]
    nodes = [clock(v) for v in levels[-2:-5:-1]]
    for j, node in enumerate(nodes):
        others = [v for v in nodes if v != node]

        def integrand(level: float, node: float = node, others: list[float] = others) -> float:
            return float(np.prod([(clock(level) - v) / (node - v) for v in others]))

        wanted = scipy.integrate.quad(integrand, levels[-2], levels[-1], epsrel=1e-12)[0]
        assert row[j] == pytest.approx(wanted, rel=1e-9)
    if form == "eps":
        np.testing.assert_array_equal(
            build("deis", EDM, None, levels).W, build("deis", EDM, None, levels, clock="vp").W
        )


def test_eps_forms_of_published_multistep_dpm_solver() -> None:
    """2M by the midpoint, 3M with half of the second difference, both on eps."""
    schedule, times, nodes = path("vp")
    W = build("deis_log_rho", schedule, None, times, limiter=False, variant="public", lower_order_final=False).W[:, 1]
    q, p, s, t = nodes[3:7]
    h, r0, r1 = t.lam - s.lam, (s.lam - p.lam) / (t.lam - s.lam), (p.lam - q.lam) / (t.lam - s.lam)
    e, size = expm1(h), -t.sigma
    first, second = np.array([1, -1, 0]) / r0, np.array([0, 1, -1]) / r1
    d1, d2 = first + r0 / (r0 + r1) * (first - second), (first - second) / (r0 + r1)
    wanted = size * (e * np.array([1, 0, 0]) + (e / h - 1) * d1 + ((e - h) / h**2 - 0.5) * d2)
    np.testing.assert_allclose(W[5, 2:5], wanted, rtol=1e-10)
    two = build(
        "deis_log_rho", schedule, None, times, limiter=False, variant="public", order=2, lower_order_final=False
    ).W[5, 1]
    np.testing.assert_allclose(two[2:4], size * e * np.array([1 + 0.5 / r0, -0.5 / r0]), rtol=1e-10)


def test_k_diffusions_three_step_sde() -> None:
    """Exact weights beside two outputs, half the second difference beside three, and no lower order before the end."""
    _, _, nodes = path("edm", 5)
    times = [n.t for n in nodes] + [0.0]
    W = build("dpmpp_3m_sde", EDM, None, times, limiter=False, variant="k_diffusion").W[:, 1]
    for k in (1, 2, 4):
        s, t, p = nodes[k], nodes[k + 1], nodes[k - 1]
        h, k2 = t.lam - s.lam, 2 * (t.lam - s.lam)
        phi1, phi2 = -expm1(-k2), k2 * ((exp(-k2) - 1 + k2) / k2**2)
        r0 = (s.lam - p.lam) / h
        row = np.array([phi1 + phi2 / r0, -phi2 / r0, 0.0])
        if k > 1:
            q = nodes[k - 2]
            r1 = (p.lam - q.lam) / h
            phi3 = k2 * ((0.5 - phi2 / k2) / k2)
            first, second = np.array([1, -1, 0]) / r0, np.array([0, 1, -1]) / r1
            bend = (first - second) / (r0 + r1)
            row = phi1 * np.array([1, 0, 0]) + phi2 * (first + r0 * bend) + phi3 * bend
        np.testing.assert_allclose(W[k, 2:5], row, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(W[-1, 2:5], [1, 0, 0], atol=1e-12)


@pytest.mark.parametrize("eta", [0.4, 1.0])
def test_res_multistep_ancestral(eta: float) -> None:
    """The distance of two outputs is the length of the previous step down, to where noise takes the state up again."""
    table = build("res_multistep_ancestral", EDM, None, LEVELS, limiter=False, eta=eta)
    downs = []
    for k, (a, b) in enumerate(zip(LEVELS, LEVELS[1:], strict=False)):
        up = min(b, eta * sqrt(b**2 * (a**2 - b**2) / a**2))
        down = sqrt(b**2 - up**2)
        h = log(a / down)
        row = [exp(-h), -expm1(-h), 0.0]
        if k:
            c2 = -log(LEVELS[k - 1] / downs[-1]) / h
            b2 = (exp(-h) - 1 + h) / h**2 / c2
            row = [exp(-h), -expm1(-h) - h * b2, h * b2]
        downs.append(down)
        np.testing.assert_allclose(table.W[k, 1, 1:4], row, rtol=1e-10)
        np.testing.assert_allclose(table.W[k, 1, 4], up, rtol=1e-10)
    np.testing.assert_allclose(
        build("res_multistep_ancestral", EDM, 8, eta=0.0).W,
        build("res_multistep", EDM, 8, lower_order_final=False).W, rtol=1e-9, atol=1e-12,
    )  # fmt: skip


def _rf(s: float, t: float, eta: float) -> tuple[float, float, float]:
    """r_down, the scale up to 1 - t, and the noise of the way up."""
    down = t * (1 + (t / s - 1) * eta)
    scale = (1 - t) / (1 - down)
    return down, scale, sqrt(t**2 - (down * scale) ** 2)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_rectified_flow_ancestral_of_two_evaluations(eta: float) -> None:
    s, t = 0.8, 0.5
    down, scale, up = _rf(s, t, eta)
    table = build("dpm_2_ancestral", FLOW, None, [s, t], eta=eta, variant="rf")
    middle = sqrt(s * down)
    assert table.times[1] == pytest.approx(middle)
    np.testing.assert_allclose(table.W[0, 1, 1:3], [1, middle - s], rtol=1e-12)  # x + d (mid - s) of x and v
    np.testing.assert_allclose(table.W[1, 1, [0, 2, -1]], [scale, scale * (down - s), up], rtol=1e-12)
    table = build("dpmpp_2s_ancestral", FLOW, None, [s, t], eta=eta, variant="rf")
    lam = 0.5 * (log((1 - s) / s) + log((1 - down) / down))
    middle = 1 / (1 + exp(lam))
    assert table.times[1] == pytest.approx(middle)
    np.testing.assert_allclose(table.W[0, 1, 1:3], [middle / s, 1 - middle / s], rtol=1e-10)
    row = table.W[1, 1]
    np.testing.assert_allclose(row[[0, 2, -1]], [scale * down / s, scale * (1 - down / s), up], rtol=1e-10)


def test_exponential_heun_for_the_sde() -> None:
    """r = 1, phi_2 weights, one noise in both stages; without noise it is ETD2RK."""
    schedule, times, nodes = path("vp")
    W = build("exp_heun_2_x0_sde", schedule, None, times).W
    s, t = nodes[4:6]
    h, k = t.lam - s.lam, 2 * (t.lam - s.lam)
    decay, c = t.sigma / s.sigma * exp(-h), t.sigma * sqrt(-expm1(-2 * h))
    np.testing.assert_allclose(W[8, 1, 1:3], [decay, -t.alpha * expm1(-k)], rtol=1e-10)
    slope = t.alpha * k * (exp(-k) - 1 + k) / k**2
    state = W[9, 1, 0] * W[8, 0]  # the state and the noise come by way of carry
    np.testing.assert_allclose(state[1], decay, rtol=1e-10)
    assert W.shape[2] == 5 and W[8, 1, 4] == pytest.approx(c, rel=1e-10)
    assert state[4] + W[9, 1, 4] == pytest.approx(c, rel=1e-10)
    np.testing.assert_allclose(W[9, 1, [2, 3]], [slope, -t.alpha * expm1(-k) - slope], rtol=1e-10)
    still, ode = (
        build("exp_heun_2_x0_sde", schedule, None, times, tau=0.0),
        build("exp_heun_2_x0", schedule, None, times),
    )
    np.testing.assert_allclose(still.W[..., :4], ode.W, rtol=1e-10, atol=1e-12)


def test_uni_pc_of_interfaces_is_bh1() -> None:
    schedule, times, nodes = path("vp")
    W = build("uni_pc", schedule, None, times, limiter=False, order=2, corrector=False).W[4, 1]
    p, s, t = nodes[3:6]
    h, r = t.lam - s.lam, (p.lam - s.lam) / (t.lam - s.lam)
    half = t.alpha * h * 0.5 / r  # B(h) = h
    np.testing.assert_allclose(W[2:4], [-t.alpha * expm1(-h) - half, half], rtol=1e-10)


def test_sa_solver_with_tau_of_the_target() -> None:
    """A step has all of tau or none, by where it ends; `step` shares where the interval begins or ends within it."""
    schedule, first, _ = SCHEDULES["vp"]
    times = np.array([first, 0.9, 0.7, 0.5, 0.3, 0.1, 0.05])

    def has_noise(**options: Any) -> list[float]:
        table = build(
            "sa_solver", schedule, None, times, limiter=False, tau_interval=(0.2, 0.8), corrector_order=0, **options
        )
        z = 2 + table.history
        return [float(np.abs(w[1, z:]).sum()) for w in table.W]

    h = np.diff(schedule.lam(times))
    full = schedule.sigma(times[1:]) * np.sqrt(-np.expm1(-2 * h))
    np.testing.assert_allclose(has_noise(tau_at="target"), full * [0, 1, 1, 1, 0, 0], rtol=1e-10)
    shared = np.array(has_noise())
    assert 0 < shared[1] < full[1] and shared[4] > 0
    asked: list[float] = []
    build("sa_solver", schedule, None, times, tau=lambda t: asked.append(t) or 0.5, tau_at="target")
    assert set(asked) <= set(times[1:])
    with pytest.raises(ValueError, match="`tau_at` must be one of 'step', 'target'"):
        build("sa_solver", schedule, 5, tau_at="start")


def test_orders_that_are_told() -> None:
    assert build("plms", EDM, 9, order=1).order == 1 and build("plms", EDM, 9).order == 2
    for variant, order in {"exact": 3, "public": 2, "k_diffusion": 2}.items():
        assert build("dpmpp_3m_sde", EDM, 9, tau=0.0, variant=variant).order == order
    assert build("ipndm_v", EDM, 9, variant="public").order == 1 and build("ipndm_v", EDM, 9).order == 4
