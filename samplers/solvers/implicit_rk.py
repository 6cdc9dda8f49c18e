"""Implicit Runge-Kutta by a fixed number of fixed-point sweeps, which makes a table of it: it plays wherever tables do.

A step begins with the output m_s at its start, which stands for all stages; then the stages are evaluated in turn, sweep after
sweep, each from x_s and the newest output of every stage:

    X_i = (S_i / S_s) x_s + sum_j w_ij m_j,       x_t = (S_t / S_s) x_s + sum_j w_j m_j.

Collocation methods (Gauss, Radau IIA, Lobatto IIIA) have w_ij = S_i int l_j dG by the Lagrange basis on their nodes: with
outputs polynomial in lam, on x0 or eps, that is exponential collocation. The others have w_ij = S_i d a_ij in the form's own
variable G. Every sweep gains one order, from 1, up to that of the method: sweeps are Picard iterations.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from fewstep.samplers.building import options as opt
from fewstep.samplers.building import references as ref
from fewstep.samplers.building.path import Path, Solution
from fewstep.samplers.building.solver_entry import solver
from fewstep.samplers.coefficients.implicit_schemes import (
    DIAGONAL,
    FAMILIES,
    METHODS,
    MOST_STAGES,
    Implicit,
    implicit,
)
from fewstep.samplers.coefficients.weights import euler_weight, lagrange_row, linear, scale
from fewstep.samplers.schedule.base import Node
from fewstep.samplers.solvers.exponential_rk import euler_row
from fewstep.samplers.solvers.multistep import safe_form
from fewstep.samplers.table.row import CARRY, INPUT, KEEP, Row


@lru_cache(maxsize=64)
def _method(method: str, stages: int) -> Implicit:
    return implicit(method, stages)


def _asked(options: Mapping[str, Any]) -> tuple[Implicit, int]:
    """(method, sweeps) of checked options."""
    name = opt.one_of("implicit_rk", "method", options["method"], METHODS)
    least = FAMILIES[name][0] if name in FAMILIES else 2
    stages = opt.whole("implicit_rk", "stages", options["stages"], 2 if name in DIAGONAL else MOST_STAGES, least)
    found = _method(name, stages)
    sweeps = options["iterations"]
    return found, found.order - 1 if sweeps is None else opt.whole("implicit_rk", "iterations", sweeps, 100)


def _turn(found: Implicit) -> list[int]:
    """Stages that a sweep evaluates: not one that is the start of the step."""
    return [i for i in range(len(found.c)) if found.c[i] > 0 or found.a[i].any()]


def _calls(options: Mapping[str, Any]) -> int:
    found, sweeps = _asked(options)
    return 1 + sweeps * len(_turn(found))


@solver(
    "implicit_rk", order=4, prediction="x0", reference=ref.IMPLICIT, calls=_calls, singular_ends="start end",
)  # fmt: skip
def implicit_rk(
    path: Path,
    *,
    method: str = "gauss",
    stages: int = 2,
    iterations: int | None = None,
    form: str | None = None,
) -> Solution:
    """Implicit Runge-Kutta by fixed-point sweeps. Order min(that of the method, iterations + 1).

    1 + iterations x stages evaluations a step (a stage that is the start of the step costs none); default: as many
    iterations as reach the method's order. method: "gauss" (order 2 stages), "radau_ia", "radau_iia" (2 stages - 1),
    "lobatto_iiia", "_iiib", "_iiic", "_iiic_star", "_iiid" (2 stages - 2); "pareschi_russo", "alexander", "qin_zhang" (2),
    "crouzeix" (3), diagonal, of two stages. form: "x0" (default) or "eps" in lam for gauss, radau_iia and lobatto_iiia; "eps"
    in rho for all others (default); "flow" in r for all (default on flows).
    """
    found, sweeps = _asked({"method": method, "stages": stages, "iterations": iterations})
    flow = path.schedule.kind == "flow"
    form = opt.one_of("implicit_rk", "form", form, ("x0", "eps", "flow", None)) or (
        "x0" if found.collocation else "flow" if flow else "eps"
    )
    if form == "x0" and not found.collocation:
        raise ValueError(
            f"implicit_rk: {method} has no exponential form; take form='eps' or 'flow', or gauss or radau_iia"
        )
    rows: list[Row] = []
    for calls, s, t in path.steps():
        rows += _step(path, found, form, calls, s, t)
    return Solution(rows, min(found.order, sweeps + 1))


def _step(path: Path, found: Implicit, form: str, calls: int, s: Node, t: Node) -> list[Row]:
    """The rows of one step of `calls` evaluations."""
    kind = safe_form(form, s)
    if calls == 1 or kind != form or t.sigma == 0 or s.alpha == 0:
        return [euler_row(s, t, kind) if kind != "flow" else _velocity_row(s, t)]
    exponential = found.collocation and form != "flow"
    var = "lam" if exponential else "flow" if form == "flow" else "rho"
    nodes = [path.between(s, t, float(c), var) for c in found.c]
    targets = [*nodes, t]
    if exponential:
        weights = [lagrange_row(path.schedule, form, "lam", s, n, nodes) if n is not s else [] for n in targets]
    else:
        span = euler_weight(form, s, t) / scale(form, t)
        weights = [list(scale(form, n) * span * w) for n, w in zip(targets, [*found.a, found.b], strict=True)]
    turn = _turn(found)
    order = [turn[k % len(turn)] for k in range(calls - 1)]  # the stage of every call after the first
    newest = np.zeros(len(nodes), int)  # call that has the newest output of each stage
    rows = []
    for k in range(calls):
        if k:
            newest[order[k - 1]] = k
        to = order[k] if k < calls - 1 else len(nodes)
        terms: dict[Any, float] = {CARRY if k else INPUT: linear(form, s, targets[to])}
        for j, w in zip(newest, weights[to], strict=True):
            terms[k - int(j)] = terms.get(k - int(j), 0.0) + float(w)
        at = s if k == 0 else nodes[order[k - 1]]
        rows.append(Row(at, form, terms, None if k == calls - 1 else KEEP if k else {INPUT: 1.0}))
    return rows


def _velocity_row(s: Node, t: Node) -> Row:
    return Row(s, "flow", {INPUT: linear("flow", s, t), 0: euler_weight("flow", s, t)})
