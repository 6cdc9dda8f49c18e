"""How far a row may extrapolate: no farther than its history supports.

A multistep row x_t = a x_s + sum_j b_j m_j has two parts: the weight of a constant output, b = sum_j b_j, which consistency
fixes, and shares w_j = b_j / b, by which the polynomial through the past outputs says what their mean over the step will be.
With two outputs that is

    mean = m_0 + c (m_0 - m_1),     c = -w_1,

and c grows with the step: on a grid whose steps grow fourfold (flow times near the data) a straight line foretells four and
more times the last change. But outputs saturate: x0 stops where the data is, eps where the noise is. As the slope limiters of
conservation laws do (minmod), the change foretold is bounded by the one that was seen. The shares are those of a step no
longer than `REACH` times the last one, in the variable g of the polynomial,

    b_j = b(s, t) w_j(s, u),        g_u = g_s + min(g_t - g_s, REACH (g_s - g_prev)),

so that the output is followed up to u and stays there. Where steps do not grow u = t and the published row is what is
played; orders stay, for neighbouring steps of a smooth grid become equal as their number grows (g = t and G, in which
outputs are smooth to both ends, may go farther than lam, in which they saturate). A step into sigma = 0 is infinite in lam
and would be first order; so limited it is second order too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fewstep.samplers.building.path import Path
from fewstep.samplers.coefficients.weights import CLOCKS, euler_weight
from fewstep.samplers.schedule.base import Node

REACH = {"lam": 1.0, "t": 1.5, "G": 1.5}
REST = 0.5
LONG = 1.0
MOST = 2  # outputs of a row whose step grows: a straight line
_EVEN = 1 + 1e-6  # steps of a grid that is even but for rounding

Kind = tuple[str, str, float]  # form, var, tau of a row


def limited(
    path: Path, weights: Callable[[Node, Sequence[Node]], list[float]], kind: Kind, t: Node, past: Sequence[Node]
) -> list[float]:
    """Weights of the outputs at `past` (s first) for the step s -> t; weights(u, past): those of a step s -> u."""
    (form, var, tau), s = kind, past[0]
    u = supported(path, form, var, t, past)
    if u is t:
        return weights(t, past)
    gain = euler_weight(form, s, t, tau) / euler_weight(form, s, u, tau)
    return [gain * b for b in weights(u, past[:MOST])]


def supported(path: Path, form: str, var: str, t: Node, past: Sequence[Node]) -> Node:
    """u, the node between s and t up to which the outputs at `past` (s first) are followed; t itself if that is all."""
    if not path.limiter or len(past) == 1:
        return t
    clock = CLOCKS[form]
    place = {"t": lambda n: n.t, "lam": lambda n: n.lam, "G": lambda n: float(clock.G(np.float64(n.lam)))}[var]
    before, now, end = (place(n) for n in (past[1], past[0], t))
    allowed = REACH[var] * (now - before)
    if var == "lam":
        allowed = max(allowed, min(REST, 4 * allowed))
    if abs(end - now) <= abs(allowed) * _EVEN:
        return t
    g = now + allowed
    if var == "t":
        return path.schedule.node(g)
    return path.schedule.node(float(path.schedule.t_of_lam(g if var == "lam" else float(clock.lam(np.float64(g))))))


def too_long(path: Path, s: Node, t: Node) -> bool:
    """Whether outputs of eps within a step s -> t would be blown up: their weights grow like e^h, those of x0 like 1 - e^-h."""
    return path.limiter and s.alpha > 0 and t.sigma > 0 and t.lam - s.lam > LONG
