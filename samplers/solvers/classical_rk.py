"""Classical Runge-Kutta where the equation has no linear part: dy/dG = m.

    var "rho":  y = x/alpha,          G = sigma/alpha,           m = eps         (EDM Heun, DEIS rho-RK)
    var "flow": y = x/(alpha+sigma),  G = sigma/(alpha+sigma),   m = eps - x0    (Heun in t of flow models; no singular end)

Stage i sits at G_i = G_s + c_i (G_t - G_s) with y_i = y_s + (G_t - G_s) sum_j a_ij m_j.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fewstep.samplers.building import options as opt
from fewstep.samplers.building import references as ref
from fewstep.samplers.building.path import Path, Solution
from fewstep.samplers.building.solver_entry import solver
from fewstep.samplers.coefficients.butcher import BUTCHER, Butcher
from fewstep.samplers.coefficients.exponential_schemes import Scheme, etd2, ho3, krogstad
from fewstep.samplers.coefficients.weights import euler_weight, linear, scale
from fewstep.samplers.schedule.base import Node
from fewstep.samplers.solvers.exponential_rk import step_rows
from fewstep.samplers.solvers.limiter import too_long
from fewstep.samplers.solvers.multistep import safe_form
from fewstep.samplers.table.row import CARRY, INPUT, KEEP, Row

# in place of the classical methods on steps that are too long for eps
_EXPONENTIAL: Mapping[int, Callable[[Butcher], Callable[[float], Scheme]]] = {
    2: lambda method: lambda z: etd2(z, float(method.c[1])),
    3: lambda method: lambda z: ho3(z, 0.5),
    4: lambda method: krogstad,
}
_SMALLER = {1: "euler", 2: "heun", 3: "kutta3", 4: "rk4"}


def rk_rows(path: Path, s: Node, t: Node, var: str, method: Butcher) -> list[Row]:
    """The rows of one classical Runge-Kutta step s -> t in the given variable."""
    if var == "rho" and method.stages > 1 and too_long(path, s, t):
        return step_rows(path, s, t, "x0", _EXPONENTIAL[method.stages](method))
    form = safe_form("eps" if var == "rho" else "flow", s)
    if form == "x0" or method.stages == 1:
        return [Row(s, form, {INPUT: linear(form, s, t), 0: euler_weight(form, s, t)})]
    nodes = [s, *(path.between(s, t, c, var) for c in method.c[1:])]
    span = euler_weight(form, s, t) / scale(form, t)
    rows = []
    for i, (node, weights) in enumerate(zip(nodes, method.lines, strict=True)):
        target = nodes[i + 1] if i + 1 < len(nodes) else t
        size = span * scale(form, target)
        terms: dict[Any, float] = {i - j: size * w for j, w in enumerate(weights)}
        terms[CARRY if i else INPUT] = linear(form, s, target)
        keep = None if i + 1 == len(nodes) else (KEEP if i else {INPUT: 1.0})
        rows.append(Row(node, form, terms, keep))
    return rows


def runge_kutta(path: Path, method: Butcher, var: str | None) -> Solution:
    """Full steps with `method`, steps of fewer calls with a smaller one."""
    var = resolve_var(path, var)
    rows: list[Row] = []
    for calls, s, t in path.steps():
        full = calls == method.stages and (var == "flow" or t.sigma > 0 or calls == 1)
        rows += rk_rows(path, s, t, var, method if full else BUTCHER[_SMALLER[calls]])
    return Solution(rows, method.order)


def resolve_var(path: Path, var: str | None) -> str:
    """The variable asked for, or flow time for flow schedules and rho otherwise."""
    opt.one_of("Runge-Kutta", "var", var, ("rho", "flow", None))
    return var or ("flow" if path.schedule.kind == "flow" else "rho")


@solver(
    "heun",
    order=2,
    prediction="eps",
    reference=ref.EDM,
    calls=2,
    singular_ends="start end",
    aliases=("HeunDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "edm_heun"),
)
def heun(path: Path, *, alpha: float = 1.0, var: str | None = None) -> Solution:
    """Heun's method on dy/drho = eps (for flows on dx/dt = v): order 2, 2 evaluations a step, the last step Euler.

    The one-parameter family: stage at G_s + alpha (G_t - G_s), weights 1 - 1/(2 alpha) and 1/(2 alpha); alpha = 1/2 is
    the midpoint rule, 2/3 Ralston's.
    """
    alpha = opt.fraction("heun", "alpha", alpha)
    return runge_kutta(path, Butcher.of(2, [[alpha], [1 - 0.5 / alpha, 0.5 / alpha]]), var)


def _calls(options: Mapping[str, Any]) -> int:
    return BUTCHER.get(options["method"], BUTCHER["euler"]).stages


@solver("deis_rho_rk", order=3, prediction="eps", reference=ref.DEIS, calls=_calls, singular_ends="start end")
def deis_rho_rk(path: Path, *, method: str = "kutta3", var: str | None = None) -> Solution:
    """DEIS rho-RK: a classical Runge-Kutta method on dy/drho = eps. Order and evaluations a step are the method's.

    method: heun, midpoint, ralston (order 2), kutta3, heun3, ralston3, houwen3, ssprk3 (3), rk4 (4).
    """
    return runge_kutta(path, BUTCHER[opt.one_of("deis_rho_rk", "method", method, BUTCHER)], var)
