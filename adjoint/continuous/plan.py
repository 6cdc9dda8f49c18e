"""The way back of a continuous adjoint as a table: where the network is called, and the weights of what it says.

Along the flow dy/drho = eps of y = x/alpha over rho = sigma/alpha, the gradient p = dL/dy to the state, and that to a leaf c,

    dp/drho = -G,     G = alpha (d eps/dx)^T p,          dL/dc = int (d eps/dc)^T p d(-rho),

so that (eps, G) is the slope of (y, -p), and one rule goes back from the clean node t to the noisy s for both. With
K = rho_t - rho_s < 0, h = lam_s - lam_t < 0, and r the node before t on the way back,

    euler (order 1)    p_s = p_t + K G_t
    midpoint, rk4      the classical rules in rho, from t to s
    order 2 "phi"      p_s = p_t + K G_t + rho_s h^2 phi_2(h) (G_t - G_r) / (lam_t - lam_r)
    order 2 "half"     p_s = p_t + K G_t + K (G_t - G_r) h / (2 (lam_t - lam_r))
    order "2s"         p_s = p_t + K G_m,   m half way in lam, reached by euler

Noise that does not depend on the state is constant for the gradient: a reverse SDE with the share eta^2 of noise has the
same equations with 1 + eta^2 on the slopes, and eta^2 of every step is read off the noise in its rows. A step into sigma = 0
or out of alpha = 0 has no rho; it is the exact transposed step of first order, x_t = A x_s + B x0(x_s, s).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, expm1

from fewstep.adjoint.continuous.noise_shares import Terms, boundaries, diffusion, rho_gap
from fewstep.samplers.building.path import Path
from fewstep.samplers.coefficients.butcher import BUTCHER, Butcher
from fewstep.samplers.coefficients.phi import phi
from fewstep.samplers.schedule.base import Node
from fewstep.samplers.table.tableau import Tableau

RULES = ("euler", "midpoint", "rk4")


@dataclass(frozen=True)
class Rule:
    """How to go back. kind: "euler", "midpoint", "rk4", "2s", "phi" or "half"; stored: whether every node's state is kept."""

    kind: str
    stored: bool = True

    def table(self, t: Node, s: Node) -> Butcher:
        """The rule within a step, by its Runge-Kutta table over rho."""
        if self.kind == "2s":  # rho is geometric between nodes in lam
            return Butcher(2, (0.0, 0.5), ((), (1 / (1 + exp(0.5 * (t.lam - s.lam))),)), (0.0, 1.0))
        return BUTCHER[self.kind if self.kind in RULES else "euler"]


@dataclass(frozen=True)
class Call:
    """One network call on the way back, at `node`.

    form: what the output is converted to. row: whose random numbers it draws. weights: of the slopes, newest first, in what
    the next call sees, beside the state at the last boundary that was reached. leaf: weight of this call's gradients to
    leaves. noise: what is taken from y beside. reached: the boundary where this leads, None for a stage.
    """

    node: Node
    row: int
    weights: tuple[float, ...]
    leaf: float
    noise: Terms = ()
    reached: int | None = None
    form: str = "eps"


@dataclass(frozen=True)
class Plan:
    """nodes: boundaries of the steps, noise first. calls: between those that have a rho, last step first. into, out: the
    steps into sigma = 0 and out of alpha = 0, whose weights are (A, B). keeps: boundaries whose states must be kept, by the
    rows before which they are (nfe is the sample)."""

    nodes: tuple[Node, ...]
    calls: tuple[Call, ...]
    keeps: Mapping[int, int]
    into: Call | None = None
    out: Call | None = None

    @property
    def points(self) -> list[Call]:
        """All network calls in their order."""
        return [*([self.into] if self.into else []), *self.calls, *([self.out] if self.out else [])]


def make_plan(rule: Rule, tableau: Tableau) -> Plan:
    """The way back over the steps of a table."""
    starts = boundaries(tableau)
    nodes = tuple(Node(*(float(v[i]) for v in tableau.nodes)) for i in starts)
    shares, noises = diffusion(tableau, nodes)
    n = len(nodes) - 1
    last = n - (nodes[n].sigma == 0)
    first = min(int(nodes[0].alpha == 0), last)
    into = _end(nodes, last, starts, shares) if last < n else None
    out = _end(nodes, 0, starts, shares) if first and nodes[0].alpha == 0 else None
    steps = _Steps(rule, tableau, nodes, starts, shares, noises, last)
    calls = [call for k in reversed(range(first, last)) for call in steps.calls(k)]
    keeps = {last} | (set(range(first + 1, last)) if rule.stored else set()) | ({0} if out else set())
    return Plan(nodes, tuple(calls), {starts[k]: k for k in sorted(keeps)}, into, out)


def _end(nodes: Sequence[Node], k: int, starts: Sequence[int], shares: Sequence[float]) -> Call:
    """x_t = A x_s + B x0(x_s, s) out of boundary k, into sigma = 0 or out of alpha = 0: all old noise, or all new."""
    s, t = nodes[k], nodes[k + 1]
    kept = 0.0 if t.sigma == 0 or shares[k] else t.sigma / s.sigma
    return Call(s, int(starts[k]), (kept, t.alpha), t.alpha, reached=k, form="x0")


@dataclass(frozen=True, eq=False)
class _Steps:
    """The steps of a table between its boundaries; `last` is where the way back begins."""

    rule: Rule
    tableau: Tableau
    nodes: Sequence[Node]
    starts: Sequence[int]
    shares: Sequence[float]
    noises: Sequence[Terms]
    last: int

    def calls(self, k: int) -> list[Call]:
        """Those from boundary k + 1 back to k."""
        rule, nodes, shares, noise = self.rule, self.nodes, self.shares, self.noises[k]
        row = int(min(self.starts[k + 1], self.tableau.nfe - 1))
        s, t, scale = nodes[k], nodes[k + 1], 1 + shares[k]
        K, table, path = scale * rho_gap(t, s), rule.table(t, s), Path(self.tableau.schedule, (), ())
        if rule.kind in ("phi", "half"):
            extra = scale * _bend(rule.kind, nodes, k) if k + 1 < self.last else 0.0
            before = (1 + shares[k - 1]) * _bend(rule.kind, nodes, k - 1) if k > 0 and nodes[k - 1].alpha > 0 else 0.0
            pair = (K + extra, -extra) if extra else (K,)
            return [Call(t, row, pair, K + extra - before, () if rule.stored else noise, k)]
        at = [path.between(t, s, c, "lam" if rule.kind == "2s" else "rho") for c in table.c]
        calls = []
        for i, (line, end) in enumerate(zip(table.lines, [*at[1:], s], strict=True)):
            arrives = i == len(at) - 1
            part = 0.0 if arrives and rule.stored else _part(t, s, end)
            terms = tuple((draw, part * w) for draw, w in noise) if part else ()
            weights = tuple(K * a for a in reversed(line))
            calls.append(Call(at[i], row, weights, K * table.b[i], terms, k if arrives else None))
        return calls


def _bend(kind: str, nodes: Sequence[Node], k: int) -> float:
    """Weight of G_t - G_r in the step from boundary k + 1 back to k."""
    s, t, r = nodes[k : k + 3]
    h = s.lam - t.lam
    if kind == "half":
        return rho_gap(t, s) * h / (2 * (t.lam - r.lam))
    return s.rho * h**2 * phi(2, h) / (t.lam - r.lam)


def _part(t: Node, s: Node, m: Node) -> float:
    """The part of a step's noise in y that is expected between t and m: that of its variance."""
    return expm1(2 * (t.lam - m.lam)) / expm1(2 * (t.lam - s.lam))
