"""The one formula behind every multistep and Adams-type row.

The probability-flow ODE is exact in the linear part whatever the network output m is called:

    form   m          x = S y          dy = m dG            S             G
    x0     x0         x / sigma        x0  d(alpha/sigma)   sigma         alpha / sigma = e^lam
    eps    eps        x / alpha        eps d(sigma/alpha)   alpha         sigma / alpha = e^-lam
    flow   eps - x0   x / (alpha+sigma)  v d(r)             alpha+sigma   r = sigma / (alpha + sigma)

so that a step from s to t with m interpolated by the Lagrange basis l_j of a monotone variable g through any nodes is

    x_t = (S_t / S_s) x_s + sum_j b_j m_j,      b_j = S_t int_s^t l_j(g) dG.

`lagrange_row` returns b. With g = lam the integrals are phi functions (DPM-Solver++, UniP/UniC, ABNorsett, DEIS in
log rho, exponential Adams-Moulton); with g = G they are plain Adams weights (rho-AB, LMS, iPNDM_v, CAB); g = t gives
DEIS tAB. Node may lie behind s (predictor), at t (corrector) or between (stages).

With noise, the reverse SDE of every tau >= 0 has the same marginals (tau = 0 the flow above, 1 the classical one). For
constant tau over a step, beside outputs polynomial in lam and one unit Gaussian z, in x0 (eps) form,

    x_t = a x_s + sum_j b_j m_j + c z,      a = S_t / S_s e^(-tau^2 h)  (a = S_t / S_s),

with (1 + tau^2) h in place of h in the phi functions of x0 (times 1 + tau^2, of eps).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, expm1, factorial, sqrt
from typing import Any

import numpy as np

from fewstep.samplers.coefficients.phi import phis
from fewstep.samplers.schedule.base import Node, NoiseSchedule

FORMS = ("x0", "eps", "flow")
_GAUSS = {n: np.polynomial.legendre.leggauss(n) for n in (8, 24)}


def scale(form: str, node: Node) -> float:
    """S of the table above at a node."""
    return float({"x0": node.sigma, "eps": node.alpha, "flow": node.S}[form])


def linear(form: str, s: Node, t: Node, tau: float = 0.0) -> float:
    """a = S_t / S_s, the exact linear part of a step from s to t; with noise and x0 outputs, times e^(-tau^2 h)."""
    decay = exp(-(tau**2) * (t.lam - s.lam)) if tau and form == "x0" else 1.0
    return scale(form, t) / scale(form, s) * decay


def euler_weight(form: str, s: Node, t: Node, tau: float = 0.0) -> float:
    """b = S_t (G_t - G_s), written as differences so that sigma_t = 0 (x0, eps, flow) and alpha_s = 0 (x0, flow) hold."""
    if form == "x0":
        return float(t.alpha - s.alpha * linear(form, s, t, tau))
    if form == "eps":
        return float((1 + tau**2) * (t.sigma - s.sigma * (t.alpha / s.alpha)))
    return float((t.sigma * s.alpha - t.alpha * s.sigma) / s.S)


def noise_weight(form: str, s: Node, t: Node, tau: float) -> float:
    """c, the deviation of the noise of a step with constant tau: exact beside a constant output of the form.

    x0: sigma_t sqrt(1 - e^(-2 tau^2 h));   eps: tau sqrt((alpha_t sigma_s / alpha_s)^2 - sigma_t^2).
    """
    if tau == 0 or (t.sigma == 0 and form == "x0"):
        return 0.0
    if form == "x0":
        return float(t.sigma * sqrt(-expm1(-2 * tau**2 * (t.lam - s.lam))))
    return float(tau * sqrt(max(0.0, (t.alpha * s.sigma / s.alpha) ** 2 - t.sigma**2)))


def lagrange_basis(nodes: np.ndarray) -> np.ndarray:
    """p[j, k] with l_j(u) = sum_k p[j, k] u^k for the Lagrange basis on `nodes`."""
    return np.linalg.inv(np.vander(nodes, increasing=True)).T


def lagrange_row(
    schedule: NoiseSchedule, form: str, var: str, s: Node, t: Node, nodes: Sequence[Node], tau: float = 0.0
) -> list[float]:
    """Weights b_j of the outputs at `nodes` for the step s -> t.

    Args:
        schedule: needed only for var = "t", whose integrand is t(lam).
        form: "x0", "eps" or "flow": what the outputs are.
        var: variable of the polynomial: "lam", "t", or "G" (the form's own variable: plain Adams weights).
        s, t: ends of the step.
        nodes: where the outputs were taken, distinct in `var`.
        tau: noise of the step, for x0 and eps outputs with var = "lam".

    Returns:
        One float64 weight a node; exact for outputs that are polynomials of degree len(nodes) - 1 in `var`.
    """
    if len(nodes) == 1:
        return [euler_weight(form, s, t, tau)]
    if var == "lam" and form != "flow":
        h = t.lam - s.lam
        z = -(1 + tau**2) * h if form == "x0" else h
        scaled = (1 + tau**2) * h * (t.alpha if form == "x0" else -t.sigma)
        p = lagrange_basis(np.array([(n.lam - s.lam) / h for n in nodes]))
        ph = phis(float(z), len(nodes))
        moments = np.array([factorial(k) * ph[k + 1] for k in range(len(nodes))])
        return [float(b) for b in scaled * (p @ moments)]
    return _by_quadrature(schedule, form, var, s, t, nodes)


@dataclass(frozen=True)
class Clock:
    """A form's own variable G as a function of lam, its derivative and its inverse."""

    G: Callable[[Any], Any]
    dG: Callable[[Any], Any]
    lam: Callable[[Any], Any]


CLOCKS = {
    "x0": Clock(np.exp, np.exp, np.log),
    "eps": Clock(lambda lam: np.exp(-lam), lambda lam: -np.exp(-lam), lambda G: -np.log(G)),
    "flow": Clock(
        lambda lam: 1.0 / (1.0 + np.exp(lam)),
        lambda lam: -0.25 / np.cosh(lam / 2) ** 2,
        lambda G: np.log1p(-G) - np.log(G),
    ),
}


def _by_quadrature(
    schedule: NoiseSchedule, form: str, var: str, s: Node, t: Node, nodes: Sequence[Node]
) -> list[float]:
    """b_j = S_t int l_j(g) dG by Gauss-Legendre: in G itself when g = G (exact) or when an end is infinite, else in lam."""
    clock = CLOCKS[form]
    in_G = var == "G" or not (np.isfinite(s.lam) and np.isfinite(t.lam))
    lo, hi = (float(clock.G(n.lam)) if in_G else n.lam for n in (s, t))
    x, w = map(np.asarray, _GAUSS[8 if var == "G" else 24])
    q, w = np.asarray(lo + 0.5 * (hi - lo) * (x + 1.0)), 0.5 * (hi - lo) * w
    lam = clock.lam(q) if in_G else q
    if not in_G:
        w = w * clock.dG(lam)
    if var == "G":
        g, at = q, clock.G(np.array([n.lam for n in nodes]))
    elif var == "t":
        g, at = np.asarray(schedule.t_of_lam(lam)), np.array([n.t for n in nodes])
    else:
        g, at = lam, np.array([n.lam for n in nodes])
    span = at.max() - at.min()
    p = lagrange_basis((at - at[0]) / span)
    values = np.vander((g - at[0]) / span, len(nodes), increasing=True)
    return [float(b) for b in scale(form, t) * (p @ (w @ values))]
