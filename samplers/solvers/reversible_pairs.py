"""Reversible solvers of one state: the pair (carry, input) after a step gives back the pair before it.

In the variables of `weights.py`, u = x / S(t) and du = m dG, with d = G_t - G_s of the step s -> t (c: before it):

    bdia              x_t = gamma (x_c - DDIM(x_s, to c)) + DDIM(x_s, to t)
    o_belm            u_t = k^2 u_c + (1 - k^2) u_s + d (1 + k) m(u_s),   k = d / d_c
    alf               u' = u + v d/2,   v+ = v + 2 eta (m(u') - v),   u+ = u' + v+ d/2
    reversible_heun   z+ = 2 w - z,   w+ = w + m(z+) (d + d+)/2

carry is the state before, the velocity v, or w. The form is an option: "eps" (G = sigma/alpha), "x0" (alpha/sigma) or "flow"
(r = sigma/(alpha+sigma)), finite at both ends and therefore used where one of the others is not. How far rounding grows on
the way back is another matter: see `fewstep.adjoint.reversing.amplification`. Two copies of the state: `coupled_states.py`.
"""

from __future__ import annotations

from math import hypot
from typing import Any

import numpy as np

from fewstep.samplers.building import options as opt
from fewstep.samplers.building import references as ref
from fewstep.samplers.building.path import Path, Solution
from fewstep.samplers.building.solver_entry import solver
from fewstep.samplers.coefficients.weights import FORMS, euler_weight, linear, scale
from fewstep.samplers.schedule.base import Node
from fewstep.samplers.table.row import CARRY, INPUT, Row

SWAP = {INPUT: 1.0}  # the carry line of rows that remember where they were


def finite_form(solver: str, form: Any, *nodes: Node) -> str:
    """The form asked for, or flow where it is infinite: eps at alpha = 0, x0 at sigma = 0."""
    opt.one_of(solver, "form", form, FORMS)
    singular = any({"eps": n.alpha, "x0": n.sigma}.get(form, 1.0) == 0 for n in nodes)
    return "flow" if singular else str(form)


def between(path: Path, form: str, s: Node, t: Node, c: float) -> Node:
    """The node a fraction c of the way from s to t in the form's own G."""
    if form != "x0" or c in (0.0, 1.0):
        return path.between(s, t, c, "rho" if form == "eps" else form)
    lam = np.log((1 - c) * np.exp(s.lam) + c * np.exp(t.lam))
    return path.schedule.node(path.schedule.t_of_lam(lam))


def ddim_terms(s: Node, t: Node) -> dict[Any, float]:
    """The first-order step."""
    return {INPUT: linear("x0", s, t), 0: euler_weight("x0", s, t)}


def _first_row(path: Path) -> Row:
    """DDIM; carry remembers the start."""
    s, t = path.nodes[:2]
    return Row(s, "x0", ddim_terms(s, t), SWAP)


def gap(form: str, s: Node, t: Node) -> float:
    """d = G_t - G_s."""
    return euler_weight(form, s, t) / scale(form, t)


# Two nodes: carry holds the state before ---------------------------------------------------------------------------


@solver("bdia", order=2, prediction="x0", reference=ref.BDIA)
def bdia(path: Path, *, gamma: float = 1.0) -> Solution:
    """BDIA: the DDIM step there, less gamma times the DDIM step back. Order 2 (gamma = 1), 1 evaluation a step.

    x_{i+1} = gamma x_{i-1} + (A - gamma A') x_i + (B - gamma B') m_i, A, B of DDIM to i + 1 and A', B' to i - 1, the same in
    every form; x in the scale of a VP process, as published for these: gamma times sqrt(alpha^2 + sigma^2) at i + 1 over that
    at i - 1. The first step is DDIM. gamma: in (0, 1]; the way back multiplies rounding by 1/gamma a step.
    """
    gamma = opt.fraction("bdia", "gamma", gamma)
    rows, n = [_first_row(path)], path.nodes
    for before, s, t in zip(n, n[1:], n[2:], strict=False):
        there, back = ddim_terms(s, t), ddim_terms(s, before)
        g = gamma * hypot(t.alpha, t.sigma) / hypot(before.alpha, before.sigma)
        rows.append(Row(s, "x0", {CARRY: g, **{j: there[j] - g * back[j] for j in there}}, SWAP))
    return Solution(rows, 2 if gamma == 1 else 1)


def belm_row(name: str, form: str, before: Node, s: Node, t: Node) -> Row:
    """The two-step row of least local error that has no earlier output."""
    form = finite_form(name, form, before, s, t)
    d = gap(form, s, t)
    k, S = d / gap(form, before, s), scale(form, t)
    terms = {CARRY: k**2 * S / scale(form, before), INPUT: (1 - k**2) * S / scale(form, s), 0: S * d * (1 + k)}
    return Row(s, form, terms, SWAP)


@solver("o_belm", order=2, prediction="eps", reference=ref.BELM)
def o_belm(path: Path, *, form: str = "eps") -> Solution:
    """O-BELM: u_{i+1} = k^2 u_{i-1} + (1 - k^2) u_i + d_i (1 + k) m_i, k = d_i / d_{i-1}. Order 2, 1 evaluation a step.

    The first step is DDIM. form: "eps" (published), the same as the leapfrog `reversible_heun` on x0; or "flow", better where
    the flow contracts, worse where it expands.
    """
    n = path.nodes
    opt.one_of("o_belm", "form", form, ("eps", "flow"))
    rows = [_first_row(path)]
    return Solution([*rows, *(belm_row("o_belm", form, *three) for three in zip(n, n[1:], n[2:], strict=False))], 2)


# State and velocity ------------------------------------------------------------------------------------------------


def _first_call_apart(nfe: int, calls: int, reserved: bool) -> tuple[int, ...]:
    """nfe - 1 steps: the first also pays for the velocity at the start."""
    return (2, *[1] * (nfe - 2)) if nfe > 1 else (1,)


@solver("alf", order=2, prediction="flow", reference=ref.ALF, plan=_first_call_apart)
def alf(path: Path, *, eta: float = 1.0, form: str = "flow") -> Solution:
    """Asynchronous leapfrog of state and velocity: order 2 (eta = 1), N evaluations for N - 1 steps.

    u' = u + v d/2,  v+ = v + 2 eta (m(u') - v),  u+ = u' + v+ d/2: the network is asked half-way only, and once at the start
    for v; carry is v. eta: in (0, 1] but not 1/2; below 1 it damps, and the way back multiplies rounding by 1/|1 - 2 eta| a
    step. form: "eps" (published), "x0" or "flow".
    """
    eta = opt.fraction("alf", "eta", eta)
    form = finite_form("alf", form, path.nodes[0], path.nodes[-1])
    steps = list(path.steps())
    halves = [between(path, form, s, t, 0.5) for _, s, t in steps[path.groups[0] == 1 :]]
    calls = [path.nodes[0], *halves]
    rows, new = [], {0: 1.0}
    for s, t in zip(calls, [*halves, path.nodes[-1]], strict=True):
        on = euler_weight(form, s, t)
        rows.append(Row(s, form, {INPUT: linear(form, s, t), **{j: on * w for j, w in new.items()}}, new))
        new = {CARRY: 1 - 2 * eta, 0: 2 * eta}  # type: ignore[dict-item]
    return Solution(rows, 2 if eta == 1 else 1)


@solver("reversible_heun", order=2, prediction="flow", reference=ref.REVERSIBLE_HEUN)
def reversible_heun(path: Path, *, form: str = "flow") -> Solution:
    """Reversible Heun, z+ = 2 w - z, w+ = w + m(z+) (d + d+)/2, where w = u + m(z) d/2. Order 2, 1 evaluation a step.

    The result is z, whose network call at the end, which would make the published u, is spared. Stable for oscillations
    only: a leapfrog. form: "eps" (published), "x0" or "flow".
    """
    form = finite_form("reversible_heun", form, path.nodes[0], path.nodes[-1])
    rows: list[Row] = []
    last = 0.0
    for _, s, t in path.steps():
        S, ratio, d = scale(form, t), linear(form, s, t), gap(form, s, t)
        w = {CARRY if rows else INPUT: ratio, 0: S * 0.5 * (last + d)}
        z = {register: 2 * weight for register, weight in w.items()}
        rows.append(Row(s, form, {**z, INPUT: z.get(INPUT, 0.0) - ratio}, w))
        last = d
    return Solution(rows, 2)
