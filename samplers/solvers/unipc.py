"""UniPC: a predictor and a corrector that share every network output.

Along nodes ... s, t with outputs m_j, h = lam_t - lam_s and D_j = m_j - m_0:

    predict  x_t   = base - S B(h) sum_j a_j D_j / r_j          nodes s and p - 1 earlier ones       (UniP-p)
    correct  x_t^c = the same with the output at x_t as one more node                              (UniC-p)

The exact solution a = R^{-1} b makes B cancel and gives the Lagrange rows of `weights.py`; B(h) = h (bh1) or e^h - 1
(bh2) is left only in UniP-2 and UniC-1, where the published method sets a = 1/2. A row holds the corrected state in
`carry` and the next prediction in `input`, so one evaluation a step suffices; the last state is a prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import expm1

from fewstep.samplers.building import options as opt
from fewstep.samplers.building import references as ref
from fewstep.samplers.building.path import Path, Solution
from fewstep.samplers.building.solver_entry import solver
from fewstep.samplers.coefficients.weights import euler_weight, lagrange_row, linear
from fewstep.samplers.schedule.base import Node
from fewstep.samplers.solvers.limiter import limited, usable
from fewstep.samplers.solvers.multistep import orders, safe_form
from fewstep.samplers.solvers.starting import Start, asks_again, total
from fewstep.samplers.table.row import CARRY, INPUT, Row, Terms


def uni_weights(path: Path, form: str, kind: str, s: Node, t: Node, nodes: Sequence[Node]) -> list[float]:
    """Weights at `nodes`: nodes[0] = s and one other make the two cases where B(h) matters; else the exact row."""
    if kind == "exact" or len(nodes) != 2:
        return lagrange_row(path.schedule, form, "lam", s, t, nodes)
    h = t.lam - s.lam
    z, size = (-h, t.alpha) if form == "x0" else (h, t.sigma)
    B = z if kind == "bh1" else expm1(z)
    r = (nodes[1].lam - s.lam) / h
    half = -size * B * 0.5 / r
    return [euler_weight(form, s, t) - half, half]


def _order_list(path: Path, form: str, order: int | Sequence[int], taper: bool | str) -> list[int]:
    """One predictor order a step, within what the history and the ends of the grid allow."""
    if not isinstance(order, Sequence) or isinstance(order, str):
        return orders(path, opt.whole("unipc", "order", order, 4), taper, form, "lam")
    if len(order) != len(path.groups):
        raise ValueError(
            f"unipc: `order` must be 1..4 or a list with one a step, {len(path.groups)}; got {list(order)!r}"
        )
    order = [opt.whole("unipc", "order", p, 4) for p in order]
    return [min(p, most) for p, most in zip(order, orders(path, 4, False, form, "lam"), strict=True)]


@solver(
    "unipc",
    order=4,
    prediction="x0",
    again=asks_again,
    per_step=("order",),
    reference=ref.UNIPC,
    aliases=("UniPCMultistepScheduler", "unipc_bh2"),
)
def unipc(
    path: Path,
    *,
    order: int | Sequence[int] = 3,
    weights: str = "bh2",
    form: str = "x0",
    corrector: bool = True,
    disable_corrector: Sequence[int] = (),
    lower_order_final: bool | str = "zero",
) -> Solution:
    """UniPC-p: UniP-p predictor and UniC-p corrector, order p + 1 at 1 evaluation a step (default p = 3).

    order: 1..4, or a list with one order a step. weights: "bh1", "bh2" or "exact". form: "x0" or "eps".
    corrector: False gives UniP alone, of order p. disable_corrector: steps whose result is not corrected.
    """
    opt.one_of("unipc", "weights", weights, ("bh1", "bh2", "exact"))
    opt.one_of("unipc", "corrector", corrector, (True, False))
    form = opt.form("unipc", form)
    uncorrected = opt.several("unipc", "disable_corrector", disable_corrector)
    plan = _order_list(path, form, order, lower_order_final)
    forms = [safe_form(form, node) for node in path.nodes]
    top = (max(plan) if isinstance(order, Sequence) else order) + bool(corrector)
    start = Start(path, forms, top)
    if start.again:  # node 0 is no neighbour of node 3 any more
        plan = [min(p, k) if k > 1 else p for k, p in enumerate(plan)]
    rows: list[Row] = []
    for k, (p, s, t) in enumerate(zip(plan, path.nodes[:-1], path.nodes[1:], strict=True)):
        kind, (nodes, outputs) = forms[k], start.past(k, p)
        anchor: Terms = {INPUT: 1.0}
        carry: Terms | None = None
        if start.again or not corrector:
            anchor, carry = start.state(k), start.keeps(k)
        if corrector and k > 2 * start.again and k - 1 not in uncorrected and path.nodes[k - 1].alpha > 0:
            anchor = _corrected(path, form, weights, k, plan[k - 1])

        def row(u: Node, nodes: Sequence[Node], kind: str = kind) -> list[float]:
            return uni_weights(path, kind, weights, nodes[0], u, nodes)

        predicted = zip(limited(path, row, (kind, "lam", 0.0), t, nodes), outputs, strict=False)
        if k == 1:
            rows += start.first_answer()
        rows.append(Row(s, kind, total([(linear(kind, s, t), anchor), *predicted]), carry or anchor))
    return Solution(rows, top)


def _corrected(path: Path, form: str, weights: str, k: int, p: int) -> Terms:
    """Terms of the state at node k after UniC-p over the step k-1 -> k; m_{k-j} is register j, so node k is register 0."""
    s, t = path.nodes[k - 1], path.nodes[k]
    p = min(p, usable(path, form, "lam", [t, s, *path.nodes[k - 2 :: -1]] if k > 1 else [t, s]) - 1)
    nodes = [s, t, *(path.nodes[k - 1 - j] for j in range(1, p))]
    values = uni_weights(path, form, weights, s, t, nodes)
    registers = [1, 0, *range(2, p + 1)]
    return {CARRY: linear(form, s, t), **dict(zip(registers, values, strict=True))}
