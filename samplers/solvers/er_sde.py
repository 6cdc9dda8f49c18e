"""ER-SDE: extended reverse SDEs, whose noise scale phi(u), u = sigma/alpha, is free. One evaluation a step.

With y = x/alpha and psi = phi/u, which must not fall with u, the part beside the changes of x0 along a step s -> t is

    x_t = a x_s + (alpha_t - alpha_s a) x0 + sigma_t sqrt(1 - q^2) z,    q = psi(u_t) / psi(u_s),   a = q sigma_t / sigma_s,

so psi = 1 is the probability flow, psi = u the classical reverse SDE, psi = u^(tau^2) that of tau. Derivatives of x0 in u
add alpha_t W_k x0^(k), where, integrated by parts,

    W_k = int_{u_t}^{u_s} (phi(u_t) / phi(v) - 1) (v - u_s)^(k-1) / (k-1)! dv.
"""

from __future__ import annotations

from collections.abc import Callable
from math import factorial, sqrt
from typing import Any

import numpy as np

from fewstep.samplers.building import options as opt
from fewstep.samplers.building import references as ref
from fewstep.samplers.building.path import Path, Solution
from fewstep.samplers.building.solver_entry import solver
from fewstep.samplers.schedule.base import Array, Node
from fewstep.samplers.solvers.limiter import LINE, supported
from fewstep.samplers.solvers.multistep import orders
from fewstep.samplers.table.row import INPUT, Row, noise

Psi = Callable[[Any], Any]

# psi(u) = phi(u) / u of the published noise scales
SCALES: dict[str, Psi] = {
    "ode": np.ones_like,
    "sde": lambda u: u,
    "power1.5": np.sqrt,
    "power2.5": lambda u: u**1.5,
    "exp": lambda u: np.exp(-1 / u) + 10,
    "log": lambda u: u**-0.1 * np.log10(1 + 100 * u**1.5),
    "sde5": lambda u: np.exp(u**0.3) + 10,
}
_X, _W = np.polynomial.legendre.leggauss(24)
_FAR = 1e300  # u where alpha = 0, so that psi has a value


def _psi(phi: Any) -> Psi:
    """psi of a named noise scale, or of a function phi."""
    if not callable(phi):
        return SCALES[opt.one_of("er_sde", "phi", phi, SCALES)]

    def ratio(u: Array) -> Array:
        values = np.reshape([_value(phi, float(v)) for v in np.ravel(u)], np.shape(u)) / u
        if not (values > 0).all():
            raise ValueError(
                f"er_sde: `phi` must be above 0 wherever u = sigma/alpha > 0; phi(u)/u is {values.min():.6g}"
            )
        return np.asarray(values)

    return ratio


def _value(phi: Callable[[float], float], u: float) -> float:
    try:
        return float(phi(u))
    except OverflowError:
        return float("inf")


def _kept(psi: Psi, s: Node, t: Node, check: bool) -> float:
    """q, how much of the noise at s is still there at t; at most 1."""
    if t.sigma == 0:
        return 0.0
    with np.errstate(over="ignore"):
        low, high = (float(psi(np.float64(_FAR if n.alpha == 0 else n.rho))) for n in (t, s))
    if check and low > high * (1 + 1e-12):
        raise ValueError(
            f"er_sde: `phi` takes noise away: phi(u)/u must not fall with u; got {low:.6g} at t = {t.t:.6g} and {high:.6g} at "
            f"t = {s.t:.6g}. Named scales: {', '.join(SCALES)}"
        )
    return min(1.0, low / high)


def _slopes(psi: Psi, s: Node, t: Node, count: int) -> list[float]:
    """W_1 .. W_count by Gauss-Legendre in log v."""
    u_s, u_t = s.rho, t.rho
    v = np.exp(0.5 * (t.lam - s.lam) * (_X - 1) - s.lam)
    dv = 0.5 * (t.lam - s.lam) * _W * v
    change = u_t * psi(np.float64(u_t)) / (v * psi(v)) - 1
    return [float((change * (v - u_s) ** k / factorial(k)) @ dv) for k in range(count)]


def _derivatives(u: list[float], corrected: bool) -> list[list[float]]:
    """x0' and x0'' at u[0] as weights of the outputs at u (newest first), by divided differences.

    The published x0' of third order is the backward difference; the parabola's has half a step of x0'' more.
    """
    d = 1 / (u[0] - u[1])
    first = [d, -d] + [0.0] * (len(u) - 2)
    if len(u) == 2:
        return [first]
    e = 1 / (u[1] - u[2])
    second = [2 * w / (u[0] - u[2]) for w in (d, -d - e, e)]
    if corrected:
        first = [a + 0.5 * (u[0] - u[1]) * b for a, b in zip(first, second, strict=True)]
    return [first, second]


def _weights(path: Path, psi: Psi, t: Node, past: list[Node], corrected: bool) -> list[float]:
    """Weights of the outputs at `past`, s first: of a constant x0, and those of its derivatives."""
    s = past[0]
    first, *_ = b = [t.alpha - s.alpha * _kept(psi, s, t, False) * t.sigma / s.sigma] + [0.0] * (len(past) - 1)
    if len(past) == 1:
        return b
    u = supported(path, "x0", "lam", t, past)
    if u is not t:  # shares of the supported step
        shares = _weights(path, psi, u, past[:LINE], corrected)
        return [first / sum(shares) * share for share in shares]
    rhos = [node.rho for node in past]
    for W, line in zip(_slopes(psi, s, t, len(past) - 1), _derivatives(rhos, corrected), strict=True):
        b = [v + t.alpha * W * d for v, d in zip(b, line, strict=True)]
    return b


@solver("er_sde", order=2, prediction="x0", stochastic=True, reference=ref.ER_SDE, aliases=("ersde", "er_sde_3"))
def er_sde(
    path: Path,
    *,
    order: int = 3,
    phi: str | Callable[[float], float] = "sde5",
    variant: str = "corrected",
    lower_order_final: bool | str = False,
) -> Solution:
    """ER-SDE-Solver-1, -2, -3 on x0. Weak order min(order, 2) with noise, `order` without (phi="ode"); 1 evaluation a step.

    phi: noise scale, phi(u) / u not falling: "sde5" u (e^(u^0.3) + 10), "ode" u, "sde" u^2, "power1.5", "power2.5", "exp"
    u (e^(-1/u) + 10), "log" u^0.9 log10(1 + 100 u^1.5), or a function of u = sigma/alpha. variant "public": the published
    third order, with the backward difference as first derivative, which is second order.
    """
    order = opt.whole("er_sde", "order", order, 3)
    corrected = opt.one_of("er_sde", "variant", variant, ("corrected", "public")) == "corrected"
    psi = _psi(phi)
    rows, noisy = [], False
    for k, (p, s, t) in enumerate(
        zip(orders(path, order, lower_order_final, "x0", "lam"), path.nodes[:-1], path.nodes[1:], strict=True)
    ):
        q = _kept(psi, s, t, callable(phi))
        a = q * t.sigma / s.sigma
        weights = _weights(path, psi, t, [path.nodes[k - j] for j in range(p)], corrected)
        terms: dict[Any, float] = {INPUT: a, **dict(enumerate(weights))}
        if q < 1 and t.sigma > 0:
            terms[noise(s, t)] = t.sigma * sqrt((1 - q) * (1 + q))
            noisy = True
        rows.append(Row(s, "x0", terms))
    most = 2 if noisy or not corrected else 3
    return Solution(rows, min(order, most))
