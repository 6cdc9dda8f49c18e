"""How far a row may extrapolate: no farther than its history supports.

A multistep row x_t = a x_s + sum_j b_j m_j has two parts: the weight of a constant output, b = sum_j b_j, which consistency
fixes, and shares w_j = b_j / b, by which the polynomial through past outputs says what their mean over the step will be. With
two outputs that is

    mean = m_0 + c (m_0 - m_1),     c = -w_1,

and c grows with the step: where a step is four times the last one (flow times near the data, most grids of real configs), a
straight line foretells four and more times the last change. But x0 and eps saturate, and in lam they are analytic up to a
distance of about pi/2 only: sqrt(sigmoid(2 (lam + log s))) is x0 along the flow of Gaussian data of deviation s. As the slope
limiters of conservation laws do (minmod), the change that is foretold is bounded by the one that was seen. On a step from s
to t whose history reaches from s back to `prev`, in the variable g of the polynomial,

    b_j = b(s, t) w_j(s, u),        g_u - g_s = min(g_t - g_s, REACH (g_s - g_prev)),

so that outputs are followed up to u, by a straight line where u is not t, and stay there. For the same reason an output is
left out of a polynomial where the step after it is longer than the one before it supports: differences of higher order over
steps that grew sixfold, or longer than the radius, foretell nothing. In lam a reach of REST is always allowed, up to four
steps: that is far within the radius. So nothing changes on steps that do not grow or are short, and orders stay, since steps
of a smooth grid become both as their number grows. In t and G outputs are smooth to both ends, and may be followed farther.
A step into sigma = 0 is infinite in lam and published rows are first order there; these are second order.

With `limiter=False` rows are the published ones; then the first step is not corrected either (solvers/starting.py).

Single steps of several calls have no history. There the eps form is what fails: its weights grow like e^h with the step, those
of x0 like 1 - e^-h, so steps longer than LONG are taken on x0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fewstep.samplers.building.path import Path
from fewstep.samplers.coefficients.weights import CLOCKS, euler_weight
from fewstep.samplers.schedule.base import Node

REACH = {"lam": 1.0, "t": 1.5, "G": 1.5}  # times the last step
GREW = {"lam": 1.0, "t": 1.3, "G": 1.3}  # times, by which steps of one polynomial may have grown
REST, LONG = 0.5, 1.0  # in lam
RADIUS = np.pi / 2  # of steps in lam over which more than a straight line is followed
LINE = 2  # outputs of a row that is limited
_EVEN = 1 + 1e-6  # steps that are even but for rounding

Kind = tuple[str, str, float]  # form, var, tau of a row


def limited(
    path: Path, weights: Callable[[Node, Sequence[Node]], list[float]], kind: Kind, t: Node, past: Sequence[Node]
) -> list[float]:
    """Weights of the outputs at `past` (s first) for the step s -> t; weights(u, past): those of a step s -> u."""
    form, var, tau = kind
    past = past[: usable(path, form, var, past)]
    s, u = past[0], supported(path, form, var, t, past)
    if u is t:
        return weights(t, past)
    gain = euler_weight(form, s, t, tau) / euler_weight(form, s, u, tau)
    return [gain * b for b in weights(u, past[:LINE])]


def usable(path: Path, form: str, var: str, nodes: Sequence[Node]) -> int:
    """How many of the nodes, newest first, a polynomial may go through: up to a step that the one before does not support."""
    if not path.limiter or len(nodes) < 3:
        return len(nodes)
    places = [_place(form, var, node) for node in nodes]
    steps = [a - b for a, b in zip(places, places[1:], strict=False)]
    for j, (newer, older) in enumerate(zip(steps, steps[1:], strict=False)):
        if abs(newer) > abs(_reach(var, older, GREW)) * _EVEN or (var == "lam" and newer > RADIUS):
            return j + 2
    return len(nodes)


def supported(path: Path, form: str, var: str, t: Node, past: Sequence[Node]) -> Node:
    """u, the node between s and t up to which the outputs at `past` (s first) are followed; t itself if that is all."""
    if not path.limiter or len(past) == 1:
        return t
    before, now, end = (_place(form, var, node) for node in (past[1], past[0], t))
    reach = _reach(var, now - before)
    if abs(end - now) <= abs(reach) * _EVEN:
        return t
    g = now + reach
    if var == "t":
        return path.schedule.node(g)
    lam = g if var == "lam" else float(CLOCKS[form].lam(np.float64(g)))
    return path.schedule.node(float(path.schedule.t_of_lam(lam)))


def _place(form: str, var: str, node: Node) -> float:
    """A node's place in the variable of the polynomial."""
    return {"t": node.t, "lam": node.lam}[var] if var != "G" else float(CLOCKS[form].G(np.float64(node.lam)))


def _reach(var: str, step: float, times: Mapping[str, float] = REACH) -> float:
    """How far outputs may be followed after a step."""
    reach = times[var] * step
    return max(reach, min(REST, 4 * reach)) if var == "lam" else reach


def too_long(path: Path, s: Node, t: Node) -> bool:
    """Whether a step s -> t of several calls is too long for eps, and is taken on x0."""
    return path.limiter and s.alpha > 0 and t.sigma > 0 and t.lam - s.lam > LONG
