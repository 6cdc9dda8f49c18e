"""Weights of multistep rows as public code has them, where those are not the exact ones: for results that must agree.

`multistep(..., public=f)` asks f(path, past, t, tau) for the weights of the outputs at `past`, newest first; None: exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fewstep.samplers.building.path import Path
from fewstep.samplers.coefficients.phi import phis
from fewstep.samplers.coefficients.weights import euler_weight, lagrange_row, scale
from fewstep.samplers.schedule.base import Node

Correction = Callable[[Path, Sequence[Node], Node, float], "list[float] | None"]


def half_curvature(form: str, midpoint: bool) -> Correction:
    """Rows of two and three outputs of multistep DPM-Solver(++): D2 halved, D1 of two outputs by the midpoint or exact.

    b . m = size [phi_1 D0 + c D1 + phi_3 D2](z),   D2 = (d0 - d1) / (r0 + r1): exact would be twice that;
    x0: size = alpha_t (1 + tau^2) h, z = -(1 + tau^2) h;  eps: size = -sigma_t (1 + tau^2) h, z = h.
    c = phi_1 / 2 beside two outputs where `midpoint`, else phi_2.
    """

    def weights(path: Path, past: Sequence[Node], t: Node, tau: float) -> list[float] | None:
        if not 2 <= len(past) <= 3:
            return None
        s = past[0]
        h, gain = t.lam - s.lam, 1 + tau**2
        size = gain * h * (t.alpha if form == "x0" else -t.sigma)
        _, p1, p2, p3 = phis(-gain * h if form == "x0" else h, 3)
        r0 = (s.lam - past[1].lam) / h
        if len(past) == 2:
            slope = (0.5 * p1 if midpoint else p2) / r0
            return [size * (p1 + slope), -size * slope]
        r1 = (past[1].lam - past[2].lam) / h
        first, second = np.array([1.0, -1.0, 0.0]) / r0, np.array([0.0, 1.0, -1.0]) / r1
        bend = (first - second) / (r0 + r1)
        row = p1 * np.array([1.0, 0.0, 0.0]) + p2 * (first + r0 * bend) + p3 * bend
        return [float(size * w) for w in row]

    return weights


def misplaced_adams(form: str, as_public: bool) -> Correction:
    """Variable-step Adams-Bashforth weights with the three slips that public code of iPNDM_v shares.

    With steps h (this one), h1, h2, h3 in the form's own variable, order 3 has

        t1 = (1 - [h / 3(h + h1)] [h (h + h1) / h1(h1 + h2)]) / 2    for   (1 - h / 3(h + h1)) / 2 times the second bracket

    (equal where steps are), order 4 adds instead of subtracting in its t2 and takes h1 / h2 for h2 / h3 in its last weight:
    beside equal steps (57, -65, 43, -11) / 24 for (55, -59, 37, -9) / 24. Order 1 beside three and more outputs.

    as_public: as they are, four weights that sum to one on equal steps only, and x0 in the step into sigma = 0. Else the newest
    output has what is missing to one, and the step into sigma = 0 has exact weights.
    """

    def weights(path: Path, past: Sequence[Node], t: Node, tau: float) -> list[float] | None:
        if t.sigma == 0 and as_public:
            return [euler_weight(form, past[0], t), *[0.0] * (len(past) - 1)]
        if len(past) < 3 or t.sigma == 0:
            return None
        G = [n.r if form == "flow" else n.rho for n in (t, *past)]
        steps = [a - b for a, b in zip(G, G[1:], strict=False)]
        shares = _misplaced(steps[0], steps[1], steps[2], steps[3] if len(past) > 3 else None)
        if not as_public:
            shares[0] += 1 - sum(shares)
        total = scale(form, t) * (G[0] - G[1])
        return [total * share for share in shares]

    return weights


def _misplaced(h: float, h1: float, h2: float, h3: float | None) -> list[float]:
    """Shares of three or four outputs of the step."""
    t1 = 0.5 * (1 - h / (3 * (h + h1)) * (h * (h + h1)) / (h1 * (h1 + h2)))
    if h3 is None:
        return [1 + h / (2 * h1) + t1, -h / (2 * h1) - (1 + h1 / h2) * t1, t1 * h1 / h2]
    t2 = 0.5 * (1 - h / (3 * (h + h1))) + (1 - h / (2 * (h + h1))) * h / (6 * (h + h1 + h2))
    t2 *= h * (h + h1) * (h + h1 + h2) / (h1 * (h1 + h2) * (h1 + h2 + h3))
    q = h1 * (h1 + h2) / (h2 * (h2 + h3))
    return [
        1 + h / (2 * h1) + t1 + t2,
        -h / (2 * h1) - (1 + h1 / h2) * t1 - (1 + h1 / h2 + q) * t2,
        t1 * h1 / h2 + (h1 / h2 + q * (1 + h2 / h3)) * t2,
        -t2 * q * h1 / h2,
    ]


class VPClock(NamedTuple):
    """The time of a linear VP process of that level, whatever the schedule: a clock for polynomials in t.

    log(1 + level^2) = beta_d t^2 / 2 + beta_min t, with the numbers of a process from level 0.002 at t = 0.001 to 80 at
    t = 1, as public code of DEIS has it; levels sigma / alpha, or the time of a flow (form "flow").
    """

    form: str
    beta_d: float = 17.537957
    beta_min: float = -0.004769

    def t_of_lam(self, lam: Any) -> Any:
        """The clock's time at a lam of the schedule."""
        lam = np.asarray(lam, np.float64)
        level = -np.logaddexp(0.0, lam) if self.form == "flow" else -lam
        grown = np.logaddexp(0.0, 2 * level)
        return (np.sqrt(self.beta_min**2 + 2 * self.beta_d * grown) - self.beta_min) / self.beta_d

    def weights(self, path: Path, past: Sequence[Node], t: Node, tau: float) -> list[float] | None:
        """Lagrange weights of outputs polynomial in the clock's time."""
        if len(past) < 2:
            return None
        s, end, *nodes = (n._replace(t=float(self.t_of_lam(n.lam))) for n in (past[0], t, *past))
        clock: Any = self
        return lagrange_row(clock, self.form, "t", s, end, nodes)
