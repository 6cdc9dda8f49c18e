"""Reversible solvers: the pair (carry, input) after a step gives back the pair before it, by the same network calls.

In the variables of `weights.py`, u = x / S(t) and du = m dG, with d = G_t - G_s of the step s -> t (c: before it):

    bdia              x_t = gamma (x_c - DDIM(x_s, to c)) + DDIM(x_s, to t)
    o_belm            u_t = k^2 u_c + (1 - k^2) u_s + d (1 + k) m(u_s),   k = d / d_c
    alf               u' = u + v d/2,   v+ = v + 2 eta (m(u') - v),   u+ = u' + v+ d/2
    reversible_heun   z+ = 2 w - z,   w+ = w + m(z+) (d + d+)/2
    edict             a = u + d m(v),   b = v + d m(a),   u+ = p a + (1-p) b,   v+ = p b + (1-p) u+
    rex               u+ = zeta u + (1 - zeta) w + Psi(w; s -> t),   w+ = w - Psi(u+; t -> s)

Psi is the increment of any Runge-Kutta method. Which form is taken is an option of the pair: "eps" (G = sigma/alpha), "x0"
(alpha/sigma) or "flow" (r = sigma/(alpha+sigma)), finite at both ends and therefore used where one of the others is not.
How far rounding grows on the way back is another matter: see `fewstep.adjoint.reversing.amplification`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import hypot, inf, sqrt
from typing import Any

import numpy as np

from ..registry import Path, Solution, scalar_node, solver
from ..schedule import Node
from ..tableau import CARRY, INPUT, KEEP, Row, noise
from ..weights import FORMS, euler_weight, linear, noise_weight, scale
from . import options as opt
from . import references as ref
from .rho_rk import BUTCHER
from .sde_dpm import TAU_MOST

SWAP = {INPUT: 1.0}  # the carry line of rows that remember where they were
Butcher = Sequence[Sequence[float]]


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
    return scalar_node(path.schedule, path.schedule.t_of_lam(lam))


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
    every form, with x in the scale of a VP process: gamma sqrt(alpha^2 + sigma^2) at i + 1 over that at i - 1. The first
    step is DDIM. gamma: in (0, 1]; the way back multiplies rounding by 1/gamma a step.
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

    The first step is DDIM. form: "eps" (published), "x0" or "flow".
    """
    n = path.nodes
    opt.one_of("o_belm", "form", form, FORMS)
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


# Two copies --------------------------------------------------------------------------------------------------------


def _coupled(path: Path, name: str, form: str, step: Callable[[int, Node, Node], list[Row]]) -> list[Row]:
    """Rows of a method on two copies of the state; steps of one call are left for the end.

    There the copies part: the first such step takes one of them on by the output at the other, then follow the two-step
    rows of O-BELM, so that the way back is still exact. Before a step of two copies (a run resumed inside a step) both
    take the same plain step.
    """
    n, rows = path.nodes, list[Row]()
    last = max((i for i, calls in enumerate(path.groups) if calls > 1), default=-1)
    for i, (calls, s, t) in enumerate(path.steps()):
        if calls > 1:
            rows += step(calls, s, t)
        elif i > last + 1 and n[i - 1].lam != s.lam:
            rows.append(belm_row(name, form, n[i - 1], s, t))
        else:
            safe = finite_form(name, form, s, t)
            a, b = linear(safe, s, t), euler_weight(safe, s, t)
            both = i < last
            rows.append(Row(s, safe, {INPUT if both else CARRY: a, 0: b}, {CARRY: a, 0: b} if both else SWAP))
    return rows


@solver("edict", order=2, prediction="flow", reference=ref.EDICT, calls=2, singular_ends="end")
def edict(path: Path, *, p: float = 0.93, alternate: bool = True, form: str = "flow") -> Solution:
    """EDICT: two copies take DDIM steps by each other's output and are mixed. Order 2, 2 evaluations a step.

    a = u + d m(v),  b = v + d m(a),  u+ = p a + (1-p) b,  v+ = p b + (1-p) u+. In the limit of order 1, but with (1-p)^2 / 2 of
    DDIM's error only. p: in (0, 1]; the way back multiplies rounding by p^-2 a step. alternate: the copy that went first
    goes second in the next step. b's call is shown the time of a, where the paper shows that of the step's start. form:
    "eps" (published), "x0" or "flow". An odd rest and the step into sigma = 0 take one copy on with one evaluation.
    """
    p = opt.fraction("edict", "p", p)
    opt.one_of("edict", "alternate", alternate, (True, False))

    def step(calls: int, s: Node, t: Node) -> list[Row]:
        safe = finite_form("edict", form, s, t)
        a, b = linear(safe, s, t), euler_weight(safe, s, t)
        first = {INPUT: p, CARRY: (1 - p) * a, 0: (1 - p) * b}
        second = {INPUT: (1 - p) * p, CARRY: (p + (1 - p) ** 2) * a, 0: (p + (1 - p) ** 2) * b}
        pair = (first, second) if alternate else (second, first)
        return [Row(s, safe, {CARRY: a, 0: b}, SWAP), Row(t, safe, *pair)]

    return Solution(_coupled(path, "edict", form, step), 2 if p >= 0.9 else 1)


_FEWER = {1: "euler", 2: "midpoint", 3: "kutta3", 4: "rk4"}


def _stages(options: Mapping[str, Any]) -> int:
    return 2 * len(BUTCHER.get(options["rk"], (0, [[1]]))[1])


def _even(nfe: int, calls: int, reserved: bool) -> tuple[int, ...]:
    """Full steps, one of fewer calls, and one call if they are odd."""
    full, rest = divmod(nfe, calls)
    return (*[calls] * full, *[rest // 2 * 2] * (rest > 1), *[1] * (rest % 2))


def _half(path: Path, form: str, s: Node, t: Node, rk: Butcher, zeta: float, back: bool) -> list[Row]:
    """One copy as it is and the other moved by Psi, from s to t by its outputs at s, or (`back`) by those at t.

    The copy at rest is in carry until the last row, where the other, known by its stage and the outputs so far, takes
    its place.
    """
    begin, end = (t, s) if back else (s, t)
    d, S = gap(form, begin, end), scale(form, t)
    stages = [begin, *(between(path, form, begin, end, sum(a)) for a in rk[:-1])]
    now: list[float] = []
    rows = []
    for i, (node, then) in enumerate(zip(stages, rk, strict=True)):
        past = {i - j: -d * w for j, w in enumerate(now) if w}
        if i + 1 < len(stages):
            here = scale(form, stages[i + 1])
            terms: dict[Any, float] = {INPUT: here / scale(form, node)}
            for j, w in enumerate(then):
                terms[i - j] = here * (past.get(i - j, 0.0) + d * w)
            rows.append(Row(node, form, terms, KEEP))
            now = list(then)
    base: dict[Any, float] = {INPUT: 1 / scale(form, node), **past}
    moved: dict[Any, float] = {register: S * (1 - zeta) * w for register, w in base.items()}
    moved[CARRY] = zeta * S / scale(form, s)
    for j, w in enumerate(then):
        moved[i - j] = moved.get(i - j, 0.0) + (-1 if back else 1) * S * d * w
    home = scale(form, begin)
    return [*rows, Row(node, form, moved, {register: home * w for register, w in base.items()})]


@solver("rex", order=2, prediction="flow", reference=ref.REX, calls=_stages, plan=_even, singular_ends="end")
def rex(path: Path, *, zeta: float = 0.999, rk: str = "midpoint", form: str = "flow") -> Solution:
    """Rex: two copies moved in turn by the increments Psi of a Runge-Kutta method. Order of the method, 2 x its stages a step.

    u+ = zeta u + (1 - zeta) w + Psi(w; s -> t),  w+ = w - Psi(u+; t -> s). zeta: in (0, 1]; the way back multiplies rounding
    by 1/zeta a step. rk: "euler", "midpoint", "heun", "kutta3", "rk4", ... (those of `deis_rho_rk`). form: "flow" comes back in
    float32; "x0" (published) loses three digits or more, but is the one for few steps of "euler"; "eps". A rest is spent on
    a smaller method; one evaluation, at an odd rest or into sigma = 0, takes one copy on by Euler.
    """
    zeta = opt.fraction("rex", "zeta", zeta)
    order, full = BUTCHER[opt.one_of("rex", "rk", rk, BUTCHER)]

    def scheme(stages: int) -> Butcher:
        return full if stages == len(full) else BUTCHER[_FEWER[opt.one_of("rex", "stages", stages, _FEWER)]][1]

    def step(calls: int, s: Node, t: Node) -> list[Row]:
        safe = finite_form("rex", form, s, t)
        there = _half(path, safe, s, t, scheme(calls - calls // 2), zeta, back=False)
        return there + _half(path, safe, s, t, scheme(calls // 2), 1.0, back=True)

    return Solution(_coupled(path, "rex", form, step), order)


@solver("rex_sde", order=2, prediction="x0", stochastic=True, reference=ref.REX, calls=2, singular_ends="end")
def rex_sde(path: Path, *, zeta: float = 1.0, tau: float = 1.0) -> Solution:
    """Rex for the reverse SDE, Euler-Maruyama on x0 with exact linear part: weak order 2, 2 evaluations a step.

    x+ = a (zeta x + (1 - zeta) w) + b m(w) + c z,  w+ = a w + b m(x+) + c z: one Brownian increment moves both copies, and
    the way back needs the same. a, b, c: those of `dpmpp_2m_sde` at order 1. zeta: in (0, 1]; below 1, as published (0.999),
    the copies lose their symmetry and the method is of order 1. tau: the way back undoes the decay e^(-tau^2 h) of every
    step, which costs digits. A step out of alpha = 0 and steps of one evaluation have no noise.
    """
    zeta = opt.fraction("rex_sde", "zeta", zeta)
    tau = opt.number("rex_sde", "tau", tau, TAU_MOST)

    def step(calls: int, s: Node, t: Node) -> list[Row]:
        h = t.lam - s.lam
        noisy = 0.0 if h == inf else min(tau, sqrt(20 / h))  # beyond, the old state would vanish
        a, b, c = (f("x0", s, t, noisy) for f in (linear, euler_weight, noise_weight))
        z = {noise(s, t): c} if c else {}
        moved: dict[Any, float] = {CARRY: zeta * a, INPUT: (1 - zeta) * a, 0: b, **z}
        return [Row(s, "x0", moved, {INPUT: a, **z}), Row(t, "x0", {CARRY: 1.0, 0: b}, SWAP)]

    return Solution(_coupled(path, "rex_sde", "x0", step), 2 if zeta == 1 else 1)
