"""Reversible solvers of two copies of the state, each moved by the network's outputs at the other.

In the variables of `weights.py`, u = x / S(t) and du = m dG, with d = G_t - G_s of the step s -> t:

    edict   a = u + d m(v),   b = v + d m(a),   u+ = p a + (1-p) b,   v+ = p b + (1-p) u+
    rex     u+ = zeta u + (1 - zeta) w + Psi(w; s -> t),   w+ = w - Psi(u+; t -> s)

Psi is the increment of any Runge-Kutta method, whose stages the rows of the table are, or of Euler-Maruyama. The form is an
option, as in `reversible_pairs.py`. input is the copy whose output comes next and, in the end, the result; carry is the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf, sqrt
from typing import Any

from fewstep.samplers.building import options as opt
from fewstep.samplers.building import references as ref
from fewstep.samplers.building.path import Path, Solution
from fewstep.samplers.building.solver_entry import solver
from fewstep.samplers.coefficients.butcher import BUTCHER, Butcher
from fewstep.samplers.coefficients.weights import euler_weight, linear, noise_weight, scale
from fewstep.samplers.schedule.base import Node
from fewstep.samplers.solvers.reversible_pairs import SWAP, belm_row, between, finite_form, gap
from fewstep.samplers.solvers.sde_dpm import TAU_MOST
from fewstep.samplers.table.row import CARRY, INPUT, KEEP, Row, noise


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
    return 2 * BUTCHER.get(options["rk"], BUTCHER["euler"]).stages


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
    stages = [begin, *(between(path, form, begin, end, c) for c in rk.c[1:])]
    now: list[float] = []
    rows = []
    for i, (node, then) in enumerate(zip(stages, rk.lines, strict=True)):
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
    full = BUTCHER[opt.one_of("rex", "rk", rk, BUTCHER)]

    def scheme(stages: int) -> Butcher:
        return full if stages == full.stages else BUTCHER[_FEWER[opt.one_of("rex", "stages", stages, _FEWER)]]

    def step(calls: int, s: Node, t: Node) -> list[Row]:
        safe = finite_form("rex", form, s, t)
        there = _half(path, safe, s, t, scheme(calls - calls // 2), zeta, back=False)
        return there + _half(path, safe, s, t, scheme(calls // 2), 1.0, back=True)

    return Solution(_coupled(path, "rex", form, step), full.order)


def _x0_sde(s: Node, t: Node, tau: float) -> tuple[float, float, float]:
    """a, b, c of a step of the reverse SDE on x0: those of `weights.py`."""
    return linear("x0", s, t, tau), euler_weight("x0", s, t, tau), noise_weight("x0", s, t, tau)


def _flow_sde(s: Node, t: Node, tau: float) -> tuple[float, float, float]:
    """a, b, c of a step on m = eps - x0: with q = alpha/(alpha+sigma), k = tau^2, x = S y and dy = m dG + noise,

    S = (alpha+sigma) q^-k,  G = -q^(1+k),  c^2 = S_t^2 [N(q_t) - N(q_s)],  N = q^2k (1 - 2k q / (1 + 2k)).
    """
    k, S, S_t = tau**2, s.S, t.S
    q, q_t = s.alpha / S, t.alpha / S_t
    if not k:
        return S_t / S, S_t * (q - q_t), 0.0
    before, after = ((u / q_t) ** (2 * k) * (1 - 2 * k * u / (1 + 2 * k)) for u in (q, q_t))
    a = (q / q_t) ** k
    return a * S_t / S, S_t * (a * q - q_t), S_t * sqrt(after - before)


@solver("rex_sde", order=2, prediction="x0", stochastic=True, reference=ref.REX, calls=2, singular_ends="end")
def rex_sde(path: Path, *, zeta: float = 1.0, tau: float = 1.0, form: str = "x0") -> Solution:
    """Rex for the reverse SDE, Euler-Maruyama beside an exact linear part: weak order 2 (1 on flow), 2 evaluations a step.

    x+ = a (zeta x + (1 - zeta) w) + b m(w) + c z,  w+ = a w + b m(x+) + c z: one Brownian increment moves both copies, and
    the way back needs the same. zeta: in (0, 1]; below 1 (0.999 published) the copies lose their symmetry and the method an
    order. form: "x0" (published) decays by e^(-(1 + tau^2) h) a step, which the way back has to undo: more than float64
    holds but over a part of the path. "flow" forgets no more than the process itself and comes back in float32. A step out
    of alpha = 0 and steps of one evaluation have no noise.
    """
    zeta = opt.fraction("rex_sde", "zeta", zeta)
    tau = opt.number("rex_sde", "tau", tau, TAU_MOST)
    opt.one_of("rex_sde", "form", form, ("flow", "x0"))

    def step(calls: int, s: Node, t: Node) -> list[Row]:
        h = t.lam - s.lam
        noisy = 0.0 if h == inf else min(tau, sqrt(20 / h))  # beyond, the old state would vanish
        a, b, c = _flow_sde(s, t, noisy) if form == "flow" else _x0_sde(s, t, noisy)
        z = {noise(s, t): c} if c else {}
        moved: dict[Any, float] = {CARRY: zeta * a, INPUT: (1 - zeta) * a, 0: b, **z}
        return [Row(s, form, moved, {INPUT: a, **z}), Row(t, form, {CARRY: 1.0, 0: b}, SWAP)]

    rows, exact = _coupled(path, "rex_sde", form, step), form == "x0"
    return Solution(rows, 2 if exact and zeta == 1 else 1, conserves="x0 eps" if exact or not tau else "x0")
