"""Stabilised Runge-Kutta with virtual stages (STORK type).

Between two network calls a stabilised method of many stages (Runge-Kutta-Gegenbauer) is run on a Taylor model of the
velocity, v(c H) = v_0 + c H v' + (c H)^2/2 v'', whose derivatives are divided differences of past outputs. The virtual
stages do not depend on the state, so in the rectified coordinate (`weights.py`, form flow) a whole step is one row

    y_t = y_s + H [v_0 + c2 H v' + c3 H^2 v''],     c2, c3 = the method's response to v = c and v = c^2/2.

Consistent abscissae give c2 = 1/2 for any number of stages; c3 tends to 1/8 (1/6 would be the Adams value).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from fewstep.samplers.building import options as opt
from fewstep.samplers.building import references as ref
from fewstep.samplers.building.path import Path, Solution
from fewstep.samplers.building.solver_entry import solver
from fewstep.samplers.coefficients.weights import linear
from fewstep.samplers.schedule.base import Node
from fewstep.samplers.solvers.limiter import limited
from fewstep.samplers.solvers.multistep import orders
from fewstep.samplers.table.row import INPUT, Row


@lru_cache(maxsize=64)
def responses(stages: int) -> tuple[float, float, float]:
    """(c1, c2, c3): one RKG2 step of unit length applied to v(c) = 1, c and c^2/2.

    b_0 = 1, b_1 = 1/3, b_j = 4 (j-1)(j+4) / (3 j (j+1)(j+2)(j+3)),  w = 6 / ((s+4)(s-1)),
    Y_j = mu Y_{j-1} + nu Y_{j-2} + (1 - mu - nu) Y_0 + mt v(c_{j-1}) + gt v(0),  c_j = (j^2 + 3 j - 4) / ((s+4)(s-1)).
    """
    b = [1.0, 1 / 3, *(4 * (j - 1) * (j + 4) / (3 * j * (j + 1) * (j + 2) * (j + 3)) for j in range(2, stages + 1))]
    w = 6.0 / ((stages + 4) * (stages - 1))

    def velocity(c: float) -> np.ndarray:
        return np.array([1.0, c, c * c / 2])

    c = [0.0, w, *((j * j + 3 * j - 4) / ((stages + 4) * (stages - 1)) for j in range(2, stages + 1))]
    before, now = np.asarray(np.zeros(3)), np.asarray(w * velocity(0.0))
    for j in range(2, stages + 1):
        mu, nu = (2 * j + 1) * b[j] / (j * b[j - 1]), -(j + 1) * b[j] / (j * b[j - 2])
        mt = mu * w
        gt = -mt * (1 - j * (j + 1) * b[j - 1] / 2)
        before, now = now, mu * now + nu * before + mt * velocity(c[j - 1]) + gt * velocity(0.0)
    return float(now[0]), float(now[1]), float(now[2])


@solver("stork", order=2, prediction="flow", aliases=("STORKScheduler", "stork2"), reference=ref.STORK)
def stork(path: Path, *, order: int = 2, stages: int = 9, derivatives: int = 2) -> Solution:
    """STORK-type rows: RKG2 of `stages` virtual stages on a Taylor model of the velocity. Order 2, 1 evaluation a step.

    derivatives: highest time derivative in the Taylor model (1 or 2), from divided differences on the real spacing.
    """
    opt.whole("stork", "order", order, 2)
    opt.whole("stork", "derivatives", derivatives, 2)
    coefficients = responses(opt.whole("stork", "stages", stages, 1000, least=2))
    rows = []
    most = 1 if order == 1 else derivatives + 1
    for k, (p, s, t) in enumerate(
        zip(orders(path, most, False, "flow", "G"), path.nodes[:-1], path.nodes[1:], strict=True)
    ):
        past = [path.nodes[k - j] for j in range(p)]

        def row(u: Node, past: Sequence[Node]) -> list[float]:
            H = u.r - past[0].r
            # rows of the inverse Vandermonde matrix are v, v', v''/2 at s as combinations of past outputs
            places = (np.array([node.r for node in past]) - past[0].r) / H
            taylor = np.linalg.inv(np.vander(places, increasing=True)) * np.array([[1.0], [1.0], [2.0]])[: len(past)]
            return (u.S * H * (np.array(coefficients[: len(past)]) @ taylor)).tolist()

        weights = limited(path, row, ("flow", "G", 0.0), t, past)
        rows.append(Row(s, "flow", {INPUT: linear("flow", s, t), **dict(enumerate(weights))}))
    return Solution(rows, order)
