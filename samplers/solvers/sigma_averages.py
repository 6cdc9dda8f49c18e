"""Steps along an average of slopes whose weights are chosen, not derived: dx = B sum_j w_j m_j with sum w = 1.

In the variable of `classical_rk`: dy/drho = eps with rho = sigma / alpha, and on flows dx/dt = v. First order, whatever the
number of slopes; what they gain in few steps depends on the model.
"""

from __future__ import annotations

from typing import Any

from fewstep.samplers.building import options as opt
from fewstep.samplers.building import references as ref
from fewstep.samplers.building.path import Path, Solution
from fewstep.samplers.building.solver_entry import solver
from fewstep.samplers.coefficients.weights import euler_weight, linear
from fewstep.samplers.schedule.base import Node
from fewstep.samplers.solvers.classical_rk import resolve_var
from fewstep.samplers.solvers.multistep import safe_form
from fewstep.samplers.table.row import CARRY, INPUT, KEEP, Row


@solver("gradient_estimation", order=1, prediction="eps", reference=ref.GRADIENT, aliases=("ge", "euler_ge"))
def gradient_estimation(path: Path, *, gamma: float = 2.0, var: str | None = None) -> Solution:
    """Gradient estimation: Euler along gamma eps_k + (1 - gamma) eps_{k-1}. Order 1, 1 evaluation a step.

    gamma: 1 is Euler, 3/2 on equal steps Adams-Bashforth. The first step, and that into sigma = 0, are Euler's. var: "rho" or
    "flow"; default the schedule's.
    """
    gamma = opt.number("gradient_estimation", "gamma", gamma, 10.0)
    form = "flow" if resolve_var(path, var) == "flow" else "eps"
    rows = []
    for k, (s, t) in enumerate(zip(path.nodes[:-1], path.nodes[1:], strict=True)):
        kind, b = safe_form(form, s), euler_weight(safe_form(form, s), s, t)
        terms: dict[Any, float] = {INPUT: linear(kind, s, t), 0: b}
        if k and t.sigma > 0 and safe_form(form, path.nodes[k - 1]) == form:
            terms |= {0: gamma * b, 1: (1 - gamma) * b}
        rows.append(Row(s, kind, terms))
    return Solution(rows, 1)


def heunpp_plan(nfe: int, calls: int, reserved: bool) -> tuple[int, ...]:
    """Three calls a step, two in the last but one, one in the last (`reserved` where that follows anyway)."""
    rest = nfe - (not reserved)
    tail = (2,) if rest >= 2 else (1,) * rest
    threes, left = divmod(rest - sum(tail), 3)
    return (*(left,) * bool(left), *(3,) * threes, *tail, *(1,) * (not reserved))


@solver(
    "heunpp2", order=1, prediction="eps", reference=ref.K_DIFFUSION, calls=3, plan=heunpp_plan,
    singular_ends="start end", aliases=("heun++",),
)  # fmt: skip
def heunpp2(path: Path, *, var: str | None = None) -> Solution:
    """Heun++: slopes at this level and at the next two boundaries, weighted by their levels. Order 1, 3 evaluations a step.

    From level a to b, with c the boundary after it and a_0 the first level of the run: d1 at a, d2 at b after Euler with d1, d3
    at c after Euler with d2; weights 1 - w2 - w3, w2 = b / 3a_0, w3 = c / 3a_0. Two slopes and w2 = b / 2a_0 where c is the end
    of the run, Euler where b is. var: "rho" or "flow"; default the schedule's.
    """
    form = "flow" if resolve_var(path, var) == "flow" else "eps"
    first = next(n for n in path.nodes if safe_form(form, n) == form)
    rows: list[Row] = []
    groups = []
    last = len(path.groups)
    for k, (calls, s, t) in enumerate(path.steps()):
        count = min(calls, last - k, 1 if safe_form(form, s) != form else 3)
        nodes = [s, *path.nodes[k + 1 : k + count]]
        shares = [_level(form, n) / (count * _level(form, first)) for n in nodes[1:]]
        rows += _slopes(form, [*nodes, t], [1 - sum(shares), *shares])
        groups.append(count)
    return Solution(rows, 1, groups=tuple(groups))


def _level(form: str, node: Node) -> float:
    return node.r if form == "flow" else node.rho


def _slopes(form: str, nodes: list[Node], weights: list[float]) -> list[Row]:
    """Rows of one step from the first node to the last: Euler from node to node, then all slopes from the first again."""
    *stages, end = nodes
    rows = []
    for i, node in enumerate(stages):
        kind = safe_form(form, node)
        if i + 1 < len(stages):
            target = stages[i + 1]
            terms: dict[Any, float] = {INPUT: linear(kind, node, target), 0: euler_weight(kind, node, target)}
            rows.append(Row(node, kind, terms, KEEP if i else {INPUT: 1.0}))
        else:
            b = euler_weight(kind, stages[0], end)
            terms = {i - j: b * w for j, w in enumerate(weights)}
            rows.append(Row(node, kind, {CARRY if i else INPUT: linear(kind, stages[0], end), **terms}))
    return rows
