"""DPM-Solver-v3: multistep rows on N = sigma eps - l x, with l, s, b measured on the model, one of each per element.

With f = N / alpha, integrals from lam_s, L = int l, S = int s and B = int e^-S b, the probability flow is

    x_t = alpha_t e^-L(t) [x_s / alpha_s - int e^L f dlam],       f = e^S (g + B),

and g, which the statistics make nearly constant, is a polynomial through g_j = e^-S(j) N_j / alpha_j - B(j):

    x_t = (alpha_t / alpha_s) e^-L(t) x_s - alpha_t (sum_j w_j g_j + int E B),
    E = e^(L + S - L(t)),   w_j = int E l_j,  l_j the Lagrange basis in lam.

The corrector has the output at t among its nodes, and the next prediction starts at its result; N stays as it was
evaluated. (l, s, b) = (1, 0, 0) makes these the rows of DPM-Solver++ and UniPC, (0, -1, 0) those of DPM-Solver.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.polynomial import legendre

from fewstep.samplers.building import options as opt
from fewstep.samplers.building import references as ref
from fewstep.samplers.building.path import Path, Solution
from fewstep.samplers.building.solver_entry import solver
from fewstep.samplers.coefficients.weights import euler_weight, lagrange_basis, linear
from fewstep.samplers.schedule.base import Array, Node
from fewstep.samplers.schedule.outputs import Form
from fewstep.samplers.solvers.limiter import LINE, supported, usable
from fewstep.samplers.solvers.multistep import orders
from fewstep.samplers.solvers.starting import Start, asks_again, total
from fewstep.samplers.table.row import CARRY, CONST, INPUT, Row, Terms
from fewstep.samplers.table.statistics import Statistics

POINTS, MOST = 20, 4
_X, _W = ((v + 1) / 2 if i == 0 else v / 2 for i, v in enumerate(legendre.leggauss(POINTS)))  # Gauss on [0, 1]
# (n, n): values at the Gauss points -> integrals from 0 to each of them of the polynomial through the values
_RUNNING = (
    legendre.legvander(2 * _X - 1, POINTS)
    @ legendre.legint(np.linalg.inv(legendre.legvander(2 * _X - 1, POINTS - 1)), lbnd=-1)
    / 2
)
Sum = dict[Any, Any]  # {register: coefficient}


@dataclass(frozen=True)
class Interval:
    """The integrals of a step s -> t: decay = e^-L(t), moments[k] = int E u^k dlam with u = (lam - lam_s) / h, and int E B."""

    s: Node
    t: Node
    decay: Array
    moments: Array
    bias: Array


def interval(statistics: Statistics, s: Node, t: Node) -> Interval:
    """Gauss quadrature with the splines of the statistics, every element at once."""
    h = t.lam - s.lam
    lam = s.lam + h * _X
    L = statistics.integral("l", s.lam, [*lam, t.lam])
    S = statistics.integral("s", s.lam, lam)
    E = np.exp(L[:-1] + S - L[-1])
    B = h * np.tensordot(_RUNNING, np.exp(-S) * statistics.value("b", lam), 1)
    moments = np.tensordot(h * _W * np.vander(_X, MOST, increasing=True).T, E, 1)
    return Interval(s, t, np.exp(-L[-1]), moments, np.tensordot(h * _W, E * B, 1))


def _flattened(statistics: Statistics, s: Node, at: Node) -> tuple[Array, Array]:
    """(e^-S, B) at a node, seen from s."""
    h = at.lam - s.lam
    lam = s.lam + h * _X
    S = statistics.integral("s", s.lam, [*lam, at.lam])
    B = np.tensordot(h * _W, np.exp(-S[:-1]) * statistics.value("b", lam), 1)
    return np.exp(-S[-1]), B


def newton_basis(u: Array) -> Array:
    """p[j, k] with l_j = sum_k p[j, k] u^k where the k-th derivative is k! times a divided difference of the first k + 1.

    The pseudo-order: Newton's polynomial with u^k in place of (u - u_0) ... (u - u_{k-1}). Second order at most.
    """
    gaps = u[:, None] - u + np.eye(len(u))
    return np.stack([[1 / gaps[j, : k + 1].prod() if j <= k else 0.0 for k in range(len(u))] for j in range(len(u))])


def weights(
    statistics: Statistics, step: Interval, at: dict[int, Node], first: Any, pseudo: bool, reach: Interval | None = None
) -> Sum:
    """Terms of the state at t: `first` is the register of the state at s, `at` the nodes of the outputs m_{k-j}, s first.

    reach: the part of the step over which the polynomial is followed, where that is not all (solvers/limiter.py).
    """
    s, t, over = step.s, step.t, reach or step
    u = np.array([(node.lam - s.lam) / (over.t.lam - s.lam) for node in at.values()])
    p = newton_basis(u) if pseudo else lagrange_basis(u)
    w = np.tensordot(p, over.moments[: len(u)], 1) * (step.moments[0] / over.moments[0])
    terms: Sum = {first: t.alpha / s.alpha * step.decay}
    constant = -t.alpha * step.bias
    for (register, node), weight in zip(at.items(), w, strict=True):
        gain, shift = _flattened(statistics, s, node)
        terms[register] = -t.alpha * weight * gain / node.alpha * _factor(statistics, node)
        constant = constant + t.alpha * weight * shift
    return {**terms, CONST: constant} if statistics.biased else terms


def _factor(statistics: Statistics, node: Node) -> float:
    """N in units of the row's m: x0, eps or N itself."""
    return {"x0": -node.alpha, "eps": node.sigma, None: 1.0}[statistics.form]


def _form(statistics: Statistics, node: Node) -> Form:
    """What m is: x0 where alpha = 0 leaves nothing else, or N = -l alpha X + sigma (1 - l) E."""
    if statistics.form or node.alpha == 0:
        return "x0" if node.alpha == 0 else str(statistics.form)
    slope = statistics.value("l", node.lam)[()]
    return -slope * node.alpha, (1 - slope) * node.sigma


def _to_data(statistics: Statistics, s: Node, t: Node) -> Sum:
    """The step into sigma = 0: x_t = alpha_t x0 with x0 = ((1 - l) x - N) / alpha."""
    slope = statistics.value("l", s.lam)[()]
    return {INPUT: t.alpha / s.alpha * (1 - slope), 0: -t.alpha / s.alpha * _factor(statistics, s)}


def rows(
    path: Path, statistics: Statistics, order: int, corrector: int, pseudo: tuple[bool, bool], taper: Any
) -> list[Row]:
    """One row a step: corrected state in `carry`, prediction in `input`."""
    plan, made, step = orders(path, order, taper, "x0", "lam"), [], None
    start = Start(path, [_form(statistics, node) for node in path.nodes[:-1]], corrector or order)
    for k, (p, s, t) in enumerate(zip(plan, path.nodes[:-1], path.nodes[1:], strict=True)):
        anchor: Terms = {INPUT: 1.0}
        carry = None
        if start.again or not corrector:
            anchor, carry = start.state(k), start.keeps(k)
        if corrector and step is not None and k > 2 * start.again:
            most = usable(path, "x0", "lam", [s, *path.nodes[k - 1 :: -1]])
            earlier = {
                j: path.nodes[k - j] for j in range(2, min(corrector, plan[k - 1] + 1, k + 1 - start.again, most))
            }
            anchor = weights(statistics, step, {1: step.s, 0: s, **earlier}, CARRY, pseudo[1])
        step = interval(statistics, s, t) if s.alpha > 0 and t.sigma > 0 else None
        if step is not None:
            past, outputs = start.past(k, p)
            past = past[: usable(path, "x0", "lam", past)]
            u = supported(path, "x0", "lam", t, past)
            reach = None if u is t else interval(statistics, s, u)
            registers = [register for terms in outputs for register in terms]
            at = dict(zip(registers, past if u is t else past[:LINE], strict=False))
            after = weights(statistics, step, at, INPUT, pseudo[0], reach)
        elif s.alpha > 0:
            after = _to_data(statistics, s, t)
        else:
            after = {INPUT: linear("x0", s, t), 0: euler_weight("x0", s, t)}
        if k == 0:
            start = replace(start, step=dict(after))
        if k == 1:
            made += start.first_answer()
        line = total([(after.pop(INPUT), anchor), (1.0, after)])
        made.append(Row(s, _form(statistics, s), line, carry or anchor))
    return made


@solver(
    "dpm_solver_v3",
    order=4,
    prediction="eps - l x",
    again=asks_again,
    reference=ref.DPM_V3,
    aliases=("dpm_v3", "DPM-Solver-v3"),
)
def dpm_solver_v3(
    path: Path,
    *,
    statistics: Statistics | str | None = None,
    order: int = 3,
    corrector: bool | int = True,
    pseudo_predictor: bool = False,
    pseudo_corrector: bool = False,
    lower_order_final: bool | str = "zero",
) -> Solution:
    """DPM-Solver-v3: predictor of order p, corrector of order c <= p + 1, order min(c, p + 1) at 1 evaluation a step.

    statistics: Statistics, or the path of a file of them; None means (l, s, b) = (1, 0, 0), which needs no file and is
    DPM-Solver++ with UniPC's corrector. order: p = 1..3. corrector: True (c = p + 1), 2..p + 1, or False. pseudo_predictor,
    pseudo_corrector: derivatives from the newest divided differences, for very few steps; second order at most.
    Times outside the statistics' range of lam are refused, but for alpha = 0 and sigma = 0.
    """
    order = opt.whole("dpm_solver_v3", "order", order, 3)
    c = _corrector(corrector, order)
    pseudo = tuple(
        bool(opt.one_of("dpm_solver_v3", name, value, (True, False)))
        for name, value in (("pseudo_predictor", pseudo_predictor), ("pseudo_corrector", pseudo_corrector))
    )
    found = _statistics(statistics)
    _check_place(path, found)
    made = rows(path, found, order, c, (pseudo[0], pseudo[1]), lower_order_final)
    predicted, corrected = (min(q, 2) if cut else q for q, cut in zip((order, c), pseudo, strict=True))
    claim = "x0 eps" if found.form else ""
    return Solution(made, min(corrected, predicted + 1) if c else predicted, conserves=claim)


def _corrector(value: Any, order: int) -> int:
    """The corrector's order, 0 for none."""
    if isinstance(value, bool):
        return order + 1 if value else 0
    return opt.whole("dpm_solver_v3", "corrector", value, order + 1, least=2)


def _statistics(given: Any) -> Statistics:
    if given is None:
        return Statistics.data_prediction()
    if isinstance(given, (str, os.PathLike)):
        return Statistics.load(given)
    if isinstance(given, Statistics):
        return given
    raise ValueError(
        f"dpm_solver_v3: `statistics` must be Statistics or the path of a file of them; got {type(given).__name__}"
    )


def _check_place(path: Path, statistics: Statistics) -> None:
    """ValueError where the path leaves the statistics' range, or both want the const register."""
    lam = np.array([node.lam for node in path.nodes if np.isfinite(node.lam)])
    if lam.size and not statistics.inside(lam):
        low, high = statistics.lam[[0, -1]]
        first, last = (float(path.schedule.t_of_lam(v)) for v in (low, high))
        raise ValueError(
            f"dpm_solver_v3: the grid runs over lam = {lam.min():.4g}..{lam.max():.4g}, the statistics over "
            f"{low:.4g}..{high:.4g}: keep the grid between t_start={first:.6g} and t_end={last:.6g}, or estimate them there"
        )
    if statistics.biased and path.schedule.has_mean:
        raise ValueError("dpm_solver_v3: on a mean-reverting schedule the statistics must have b = 0")
