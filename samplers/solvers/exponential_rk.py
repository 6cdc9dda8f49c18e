"""Exponential Runge-Kutta: single-step solvers in lam whose coefficients are phi functions.

With z = -h and x0 outputs, or z = +h and eps outputs (h = lam_t - lam_s), stage i and the step itself read

    X_i = A_i x + B_i sum_{j<i} a_ij(z) m_j,      x_t = A x + B sum_j b_j(z) m_j,
    x0: A_i = sigma_i / sigma_s, B_i = alpha_i h;     eps: A_i = alpha_i / alpha_s, B_i = -sigma_i h.

A scheme gives the nodes c and, for columns j >= 2, a_ij and b_j; the first column follows from consistency,
a_i1 = c_i phi_1(c_i z) - sum_{j>=2} a_ij. Calls that do not fill a full step are spent on a scheme with fewer stages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import sqrt
from typing import Any

from fewstep.samplers.building import options as opt
from fewstep.samplers.building import references as ref
from fewstep.samplers.building.path import Path, Solution
from fewstep.samplers.building.solver_entry import solver
from fewstep.samplers.coefficients.exponential_schemes import (
    Scheme,
    cox_matthews,
    dpm3_taylor,
    etd2,
    exp_euler,
    exprk5s8,
    ho3,
    ho5,
    krogstad,
    res3,
)
from fewstep.samplers.coefficients.phi import phi
from fewstep.samplers.coefficients.weights import euler_weight, linear, noise_weight
from fewstep.samplers.schedule.base import Node
from fewstep.samplers.solvers.limiter import too_long
from fewstep.samplers.solvers.multistep import safe_form
from fewstep.samplers.table.row import CARRY, INPUT, Row, noise

# what a step with fewer calls than the solver's own uses
_SMALLER: Mapping[int, Callable[[float], Scheme]] = {1: exp_euler, 2: etd2, 3: res3, 4: krogstad, 5: ho5}


def euler_row(s: Node, t: Node, form: str, tau: float = 0.0) -> Row:
    """The first-order exponential step s -> t, with its noise where tau > 0."""
    terms: dict[Any, float] = {INPUT: linear(form, s, t, tau), 0: euler_weight(form, s, t, tau)}
    if c := noise_weight(form, s, t, tau):
        terms[noise(s, t)] = c
    return Row(s, form, terms)


def step_rows(
    path: Path, s: Node, t: Node, form: str, scheme: Callable[[float], Scheme], tau: float = 0.0
) -> list[Row]:
    """The rows of one step s -> t: one a stage, the state kept in carry until the last.

    With tau > 0, (1 + tau^2) h stands for h (x0), or the weights are 1 + tau^2 times as large (eps). Noise is drawn from
    stage to stage, along one path; carry holds all of it so far, taken back to s by 1 / a. Beyond tau^2 h = 20, where all
    noise is new and a would vanish, a smaller tau does the same.
    """
    form = "x0" if form == "eps" and too_long(path, s, t) else safe_form(form, s)
    if not all(map(_finite, (s, t))):
        return [euler_row(s, t, "x0" if tau else form, tau)]
    h = t.lam - s.lam
    if tau**2 * h > 20:
        tau = sqrt(20 / h)
    gain = 1 + tau**2
    z = -gain * h if form == "x0" else h
    c, a, b = scheme(z)
    stages = [*(path.between(s, t, ci) for ci in c), t]
    rows = []
    for i, (node, target) in enumerate(zip(stages[:-1], stages[1:], strict=True)):
        ci, later = (c[i + 1], a[i - 1] if i else []) if i + 1 < len(c) else (1.0, b)
        first = ci * phi(1, ci * z) - sum(later)
        size = (target.alpha if form == "x0" else -target.sigma) * gain * h
        # output of stage j is m_{k-(i-j)} at the row of stage i
        terms: dict[Any, float] = {i - j: size * w for j, w in enumerate([first, *later])}
        state = CARRY if i else INPUT
        terms[state] = linear(form, s, target, tau)
        carry: dict[Any, float] = {state: 1.0}
        if tau and target != node:  # a stage at the end has drawn all of it
            terms[noise(node, target)] = noise_weight(form, node, target, tau)
            carry[noise(node, target)] = terms[noise(node, target)] / terms[state]
        rows.append(Row(node, form, terms, carry if i + 1 < len(c) else None))
    return rows


def _finite(node: Node) -> bool:
    return node.sigma > 0 and node.alpha > 0


def singlestep(path: Path, order: int, form: str, scheme: Callable[[float], Scheme], stages: int) -> Solution:
    """Full steps with `scheme`, steps of fewer calls with the best smaller one."""
    rows: list[Row] = []
    for calls, s, t in path.steps():
        rows += step_rows(path, s, t, form, scheme if calls == stages else _SMALLER[calls])
    return Solution(rows, order)


_ENDS = {"singular_ends": "start end"}


def _dpm(path: Path, name: str, stages: int, form: str, correction: str, c2: float) -> Solution:
    """DPM-Solver-2 and -3 of either form."""
    weak = opt.one_of(name, "correction", correction, ("dpmsolver", "taylor")) == "dpmsolver"
    c2 = opt.fraction(name, "c2", c2, 1.0 if stages == 2 else 0.66)
    two = lambda z: etd2(z, c2, weak) if stages == 2 else etd2(z, 0.5, weak)  # noqa: E731
    three = lambda z: ho3(z, c2) if weak else dpm3_taylor(z, c2)  # noqa: E731
    table = {1: exp_euler, 2: two, 3: three}
    rows: list[Row] = []
    for calls, s, t in path.steps():
        rows += step_rows(path, s, t, form, table[calls])
    return Solution(rows, stages)


@solver("dpm_1", order=1, prediction="eps", reference=ref.DPM)
def dpm_1(path: Path) -> Solution:
    """DPM-Solver-1, x_t = (alpha_t/alpha_s) x - sigma_t (e^h - 1) eps: equal to `ddim`. Order 1."""
    return singlestep(path, 1, "eps", exp_euler, 1)


@solver(
    "dpm_2", order=2, prediction="eps", reference=ref.DPM, calls=2, aliases=("DPMSolverSinglestepScheduler",), **_ENDS
)
def dpm_2(path: Path, *, correction: str = "dpmsolver", c2: float = 0.5) -> Solution:
    """DPM-Solver-2, singlestep on eps, 2 evaluations a step, order 2. correction: "dpmsolver" (weak) or "taylor" (phi_2)."""
    return _dpm(path, "dpm_2", 2, "eps", correction, c2)


@solver("dpm_3", order=3, prediction="eps", reference=ref.DPM, calls=3, **_ENDS)
def dpm_3(path: Path, *, correction: str = "dpmsolver", c2: float = 1 / 3) -> Solution:
    """DPM-Solver-3, singlestep on eps, 3 evaluations a step, order 3 with its third node at 2/3 (other nodes lose an order)."""
    return _dpm(path, "dpm_3", 3, "eps", correction, c2)


def fast_plan(nfe: int, calls: int, reserved: bool) -> tuple[int, ...]:
    """DPM-Solver-fast: threes, then (2, 1), (1) or (2), so that the counts sum to nfe; `reserved`: a 1 follows anyway."""
    if reserved or nfe < 3:
        return (3,) * (nfe // 3) + ((nfe % 3,) if nfe % 3 else ())
    return (3,) * (nfe // 3 - 1) + (2, 1) if nfe % 3 == 0 else (3,) * (nfe // 3) + (nfe % 3,)


@solver("dpm_fast", order=3, prediction="eps", reference=ref.DPM, calls=3, plan=fast_plan, **_ENDS)
def dpm_fast(path: Path, *, correction: str = "dpmsolver") -> Solution:
    """DPM-Solver-fast: steps of DPM-Solver-3 and, last, a 2 and/or a 1, spending any number of evaluations.

    Order 3, as long as a last step of one call is short: it alone is of order two.
    """
    return _dpm(path, "dpm_fast", 3, "eps", correction, 1 / 3)


@solver("dpmpp_2s", order=2, prediction="x0", reference=ref.DPMPP, calls=2, aliases=("DPM++ 2S",), **_ENDS)
def dpmpp_2s(path: Path, *, correction: str = "dpmsolver", c2: float = 0.5) -> Solution:
    """DPM-Solver++(2S), singlestep on x0, 2 evaluations a step, order 2. correction: "dpmsolver" (weak) or "taylor"."""
    return _dpm(path, "dpmpp_2s", 2, "x0", correction, c2)


@solver("dpmpp_3s", order=3, prediction="x0", reference=ref.DPMPP, calls=3, **_ENDS)
def dpmpp_3s(path: Path, *, correction: str = "dpmsolver", c2: float = 1 / 3) -> Solution:
    """DPM-Solver++(3S), singlestep on x0, 3 evaluations a step, order 3."""
    return _dpm(path, "dpmpp_3s", 3, "x0", correction, c2)


@solver("etd_rk2", order=2, prediction="x0", reference=ref.HOCHBRUCK, calls=2, **_ENDS)
def etd_rk2(path: Path, *, c2: float = 1.0, form: str = "x0") -> Solution:
    """Exponential Runge-Kutta of order 2, 2 evaluations a step; c2 = 1 is Cox-Matthews' ETD2RK."""
    c2 = opt.fraction("etd_rk2", "c2", c2)
    return singlestep(path, 2, opt.form("etd_rk2", form), lambda z: etd2(z, c2), 2)


@solver("etd_rk3", order=3, prediction="x0", reference=ref.HOCHBRUCK, calls=3, **_ENDS)
def etd_rk3(path: Path, *, c2: float = 0.5, form: str = "x0") -> Solution:
    """Exponential Runge-Kutta of order 3 with c3 = 2/3, 3 evaluations a step; c2 = 1/3 on eps is DPM-Solver-3."""
    c2 = opt.fraction("etd_rk3", "c2", c2)
    return singlestep(path, 3, opt.form("etd_rk3", form), lambda z: ho3(z, c2), 3)


@solver("etd_rk4", order=4, prediction="x0", calls=4, **_ENDS, reference=ref.KROGSTAD)
def etd_rk4(path: Path, *, variant: str = "krogstad", form: str = "x0") -> Solution:
    """Exponential Runge-Kutta of order 4, 4 evaluations a step. variant: "krogstad" or "cox_matthews"."""
    schemes = {"krogstad": krogstad, "cox_matthews": cox_matthews}
    scheme = schemes[opt.one_of("etd_rk4", "variant", variant, schemes)]
    return singlestep(path, 4, opt.form("etd_rk4", form), scheme, 4)


@solver("etd_rk4_5s", order=4, prediction="x0", reference=ref.HOCHBRUCK, calls=5, **_ENDS)
def etd_rk4_5s(path: Path, *, form: str = "x0") -> Solution:
    """Hochbruck-Ostermann exponential Runge-Kutta, 5 evaluations a step, stiff order 4."""
    return singlestep(path, 4, opt.form("etd_rk4_5s", form), ho5, 5)


@solver("etd_rk5", order=5, prediction="x0", calls=8, **_ENDS, reference=ref.LUAN)
def etd_rk5(path: Path, *, form: str = "x0") -> Solution:
    """Exponential Runge-Kutta EXPRK5S8, 8 evaluations a step, stiff order 5: for references rather than for few steps."""
    return singlestep(path, 5, opt.form("etd_rk5", form), exprk5s8, 8)


@solver("res_2s", order=2, prediction="x0", reference=ref.RES, calls=2, **_ENDS)
def res_2s(path: Path, *, c2: float = 0.5) -> Solution:
    """Refined exponential solver, 2 stages: ETD2RK on x0 with c2 = 1/2. Order 2."""
    c2 = opt.fraction("res_2s", "c2", c2)
    return singlestep(path, 2, "x0", lambda z: etd2(z, c2), 2)


@solver("res_3s", order=3, prediction="x0", reference=ref.RES, calls=3, **_ENDS)
def res_3s(path: Path, *, c2: float = 0.5, c3: float = 1.0) -> Solution:
    """Refined exponential solver, 3 stages, order 3 for any nodes c2 != 2/3, c3."""
    c2, c3 = opt.fraction("res_3s", "c2", c2), opt.fraction("res_3s", "c3", c3)
    if abs(c2 - 2 / 3) < 1e-6 or abs(3 * c3 - 2) < 1e-6:
        raise ValueError(f"res_3s: nodes 2/3 are singular; got c2 = {c2!r}, c3 = {c3!r}. Use etd_rk3, whose c3 is 2/3")
    return singlestep(path, 3, "x0", lambda z: res3(z, c2, c3), 3)
