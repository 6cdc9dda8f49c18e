"""Free choices at every step: form, order, which history, corrector and the variable of the polynomial, each a list a step.

A step s -> t in a form (x0, eps or flow velocity) is the Lagrange row of `weights.py` through the outputs that it names,

    x_t = (S_t / S_s) x_s + sum_j b_j m_j,

and the call at t may correct it, as UniC does, with m at t as one more node. Outputs of earlier steps are there in the
forms of these steps. One in another form is told by the state that the network was shown there,

    x_j = alpha_j x0_j + sigma_j eps_j,      m_j = p x0_j + q eps_j,

and x_j, though no register holds it, is a sum of the present state and of outputs: with every state written out over x_T and
outputs, x_j = r x_k + sum_i D_i m_i, where r makes the x_T on both sides one. So a mixture of forms is a table like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fewstep.samplers.building import options as opt
from fewstep.samplers.building import references as ref
from fewstep.samplers.building.path import Path, Solution
from fewstep.samplers.building.solver_entry import solver
from fewstep.samplers.coefficients.weights import FORMS, lagrange_row, linear
from fewstep.samplers.schedule.base import Array, Node
from fewstep.samplers.schedule.outputs import form_pair
from fewstep.samplers.solvers.limiter import limited, usable
from fewstep.samplers.solvers.multistep import safe_form
from fewstep.samplers.solvers.starting import total
from fewstep.samplers.solvers.unipc import uni_weights
from fewstep.samplers.table.row import CARRY, INPUT, Row, Terms

CLOCKS, WEIGHTS, MOST = ("lam", "t", "G"), ("exact", "bh1", "bh2"), 4
PER_STEP = ("form", "order", "history", "corrector", "clock", "weights")
NOTHING = 1e-13  # of the largest, of a weight that is rounding


@dataclass(frozen=True)
class Step:
    """One step's choices. history: lags of the outputs, newest first. corrector: its order, 0 for none."""

    form: str = "x0"
    order: int = 2
    history: tuple[int, ...] = (0, 1)
    corrector: int = 0
    clock: str = "lam"
    weights: str = "exact"


@solver("mixed", order=2, prediction="x0", per_step=PER_STEP, reference=ref.USF)
def mixed(
    path: Path,
    *,
    form: str | Sequence[str] = "x0",
    order: int | Sequence[int] = 2,
    history: Sequence[int] | Sequence[Sequence[int]] | None = None,
    corrector: int | Sequence[int] = 0,
    clock: str | Sequence[str] = "lam",
    weights: str | Sequence[str] = "exact",
) -> Solution:
    """A multistep method whose every step is chosen by itself; each option for all steps, or a list a step. 1 call a step.

    x_t = (S_t/S_s) x_s + sum_j b_j m_j, through the outputs that are named, in the form that is named.

    form: "x0", "eps" or "flow". order: 1..4, how many outputs, as far as there are so many. history: which, as lags, (0, 1)
    the newest two; one list of lags for each step, None for the newest. corrector: order of the correction of a step by the
    call at its end, 0 none, True that of the step. clock: variable of the polynomial, "lam", "t" or "G", the form's own.
    weights: "exact", or "bh1", "bh2" of UniPC beside two outputs in lam.
    """
    rows = _Rows(path, choices(path, form, order, history, corrector, clock, weights))
    inner = [min(step.order + bool(step.corrector), 2) for step in rows.steps[1:-1]]
    return Solution([rows.row(k) for k in range(len(rows.steps))], min(inner, default=1))


def choices(path: Path, *given: Any) -> list[Step]:
    """The choices of each step, checked: values in the order of PER_STEP, one for all or a list a step."""
    n, options = len(path.groups), dict(zip(PER_STEP, given, strict=True))
    lists = {name: _each(name, value, n) for name, value in options.items()}
    found = []
    for k in range(n):
        own = {name: values[k] for name, values in lists.items()}
        p, lags = opt.whole("mixed", "order", own["order"], MOST), own["history"]
        lags = tuple(range(p)) if lags is None else tuple(opt.whole("mixed", "history", j, n, least=0) for j in lags)
        if not lags or lags[0] != 0 or any(a >= b for a, b in zip(lags, lags[1:], strict=False)):
            raise ValueError(
                f"mixed: `history` lists lags from the newest output, 0, to older ones, such as (0, 1, 3); got {lags}"
            )
        mended = (
            p if own["corrector"] is True else opt.whole("mixed", "corrector", int(own["corrector"]), MOST, least=0)
        )
        step = Step(
            opt.one_of("mixed", "form", own["form"], FORMS), p, lags[:p], mended,
            opt.one_of("mixed", "clock", own["clock"], CLOCKS), opt.one_of("mixed", "weights", own["weights"], WEIGHTS),
        )  # fmt: skip
        if step.weights != "exact" and (step.clock != "lam" or step.form == "flow"):
            raise ValueError(
                f"mixed: weights {step.weights!r} are of polynomials in lam of x0 or eps; got clock {step.clock!r}, form "
                f"{step.form!r}: take weights 'exact' there"
            )
        found.append(step)
    return found


def _each(name: str, value: Any, n: int) -> list[Any]:
    """One value a step."""
    many = isinstance(value, Sequence) and not isinstance(value, str)
    if name == "history" and many and all(isinstance(j, int) for j in value):
        many = False
    if not many:
        return [value] * n
    if len(value) != n:
        raise ValueError(f"mixed: `{name}` is one for all steps or a list with one a step, {n}; got {len(value)}")
    return list(value)


@dataclass
class _Rows:
    """Rows one after the other, with every state as a sum over (x_T, m_0, m_1, ...)."""

    path: Path
    steps: list[Step]
    shown: list[Array] = field(default_factory=list)  # what the network sees at each node
    started: list[Array] = field(default_factory=list)  # from where each step goes: that, or the corrected state

    def __post_init__(self) -> None:
        nodes = self.path.nodes
        self.kinds = [safe_form(step.form, node) for step, node in zip(self.steps, nodes, strict=False)]
        self.shown.append(np.eye(len(self.steps) + 1)[0])

    def row(self, k: int) -> Row:
        """The row after call k."""
        nodes, kind, step = self.path.nodes, self.kinds[k], self.steps[k]
        anchor: Terms = {INPUT: 1.0}
        if k and self.steps[k - 1].corrector and nodes[k - 1].alpha > 0:
            anchor = self._corrected(k)
        lags, clock = self._lags(k, step, kind), step.clock
        past = [nodes[k - j] for j in lags]

        def weigh(u: Node, past: Sequence[Node]) -> list[float]:
            return self._weights(step, kind, past[0], u, past)

        found = limited(self.path, weigh, (kind, clock, 0.0), nodes[k + 1], past)
        outputs = [self._output(k, k - j, kind) for j in lags]
        terms = total([(linear(kind, nodes[k], nodes[k + 1]), anchor), *zip(found, outputs, strict=False)])
        self.started.append(self._written(k, anchor))
        self.shown.append(self._written(k, terms))
        return Row(nodes[k], kind, terms, anchor if step.corrector else None)

    def _lags(self, k: int, step: Step, kind: str) -> list[int]:
        """The outputs that a step goes through: of those it names, those there are and that have a place on its clock."""
        nodes = self.path.nodes
        there = [j for j in step.history if j <= k and (j == 0 or self._usable(nodes[k - j], kind, step.clock))]
        if nodes[k].alpha == 0 and (kind != "flow" or step.clock == "lam"):
            return there[:1]
        if nodes[k + 1].sigma == 0 and step.clock == "lam":
            return there[: 2 if self.path.limiter else 1]
        return there

    @staticmethod
    def _usable(node: Node, kind: str, clock: str) -> bool:
        """Nothing at alpha = 0 but velocities has a history: there is no eps, and lam is infinite."""
        return node.alpha > 0 or (kind == "flow" and clock != "lam")

    def _weights(self, step: Step, kind: str, s: Node, t: Node, nodes: Sequence[Node]) -> list[float]:
        if step.weights != "exact" and np.isfinite(t.lam):
            return uni_weights(self.path, kind, step.weights, s, t, nodes)
        return lagrange_row(self.path.schedule, kind, step.clock, s, t, nodes)

    def _corrected(self, k: int) -> Terms:
        """The state at node k by UniC over the step before: through its ends and as many older outputs as its order."""
        nodes, step, kind = self.path.nodes, self.steps[k - 1], self.kinds[k - 1]
        s, t = nodes[k - 1], nodes[k]
        older = self._lags(k - 1, step, kind)[1 : step.corrector]
        p = usable(self.path, kind, step.clock, [t, s, *(nodes[k - 1 - j] for j in older)]) - 1
        older = older[: max(0, p - 1)]
        values = self._weights(step, kind, s, t, [s, t, *(nodes[k - 1 - j] for j in older)])
        outputs = [self._output(k, i, kind) for i in (k - 1, k, *(k - 1 - j for j in older))]
        return total([(linear(kind, s, t), {CARRY: 1.0}), *zip(values, outputs, strict=True)])

    def _output(self, k: int, j: int, kind: str) -> Terms:
        """The output at node j in a form, over the registers of row k.

        With x = alpha x0 + sigma eps and m = p x0 + q eps:  x0 = (q x - sigma m) / d,  eps = (alpha m - p x) / d,
        d = alpha q - sigma p.
        """
        if self.kinds[j] == kind:
            return {k - j: 1.0}
        node = self.path.nodes[j]
        p, q = (float(part) for part in form_pair(self.kinds[j]))
        a, b = (float(part) for part in form_pair(kind))
        d = node.alpha * q - node.sigma * p
        of_state, of_output = (a * q - b * p) / d, (b * node.alpha - a * node.sigma) / d
        return total([(of_state, self._state(k, j)), (of_output, {k - j: 1.0})])

    def _state(self, k: int, j: int) -> Terms:
        """The state shown at node j, over the registers of row k: x_j = r x_k + sum_i D_i m_i."""
        if j == k:
            return {INPUT: 1.0}
        r = self.shown[j][0] / self.shown[k][0]
        D = (self.shown[j] - r * self.shown[k])[1 : k + 1]
        large = np.abs(D) > NOTHING * np.abs(D).max()
        return {INPUT: float(r), **{k - i: float(D[i]) for i in np.flatnonzero(large).tolist()}}

    def _written(self, k: int, terms: Mapping[Any, Any]) -> Array:
        """Terms over the registers of row k as a sum over (x_T, m_0, ...)."""
        made = np.zeros_like(self.shown[0])
        for register, weight in terms.items():
            if register == INPUT:
                made += weight * self.shown[k]
            elif register == CARRY:
                made += weight * self.started[k - 1]
            else:
                made[1 + k - register] += weight
        return made
