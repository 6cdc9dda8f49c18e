"""A start that keeps the order: what the second call tells about the first step.

A multistep run begins with one step of Euler's method. Its error, h^2, stays to the end: from pure noise it does not show,
where x0 hardly moves, but from the middle of a path (image to image, a resumed run) and on the even grids of flows every
order above two is two. The second output mends that without a call, by the trapezoid in r = sigma / (alpha + sigma),
where y = x / (alpha + sigma) has no singular end and dy/dr = v = eps - x0:

    y_1 = y_0 + (r_1 - r_0) (v_0 + v_1) / 2

has an error of h^3, v_1 one of h^2: order three. That is done where the first step is short, since over a long one v is no
straight line. For order four the network is asked once more at node 1, from there, and

    y_2 = y_0 + int_0^2 v dr,    v through v_0, v_1 (the second answer), v_2,

corrects two steps at once, with errors of h^4 in the states and h^3 in the outputs. `carry` holds the first state meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fewstep.samplers.building.path import Path
from fewstep.samplers.coefficients.weights import euler_weight, lagrange_row, linear
from fewstep.samplers.schedule.base import Node
from fewstep.samplers.schedule.outputs import Form, form_pair
from fewstep.samplers.solvers.limiter import LONG
from fewstep.samplers.table.row import CARRY, INPUT, KEEP, Row, Terms

Sum = dict[Any, Any]  # {register: coefficient}
PAYS = 48  # evaluations from which on a second question at node 1 is worth its call
SHORT = 1 / 32  # in r, of a first step that is long in lam
NOISY, MOST = 0.7, 2.5  # r at its end, and alpha_2 / alpha_1
STILL = -2.0  # lam below which x0 hardly moves


def asks_again(options: Mapping[str, Any], nfe: int, lam: float) -> bool:
    """Whether a run from a node of this lam asks twice at the next: of order four, on a moving part, with calls enough."""
    order, corrector = options["order"], options.get("corrector", False)
    if not (isinstance(order, int) and isinstance(corrector, int) and options["limiter"]):  # refused later, or a list
        return False
    if options.get("variant") == "public":
        return False
    order = order + corrector if isinstance(corrector, bool) else corrector
    return order > 3 and nfe >= PAYS and (lam > STILL or lam == -np.inf)


@dataclass(frozen=True)
class Start:
    """How a multistep run of an order begins.

    forms: of the output at every node of the path. step: terms of the first step, where it is not that of its form. recalls:
    whether eps at node 0 is told by the first state where alpha = 0, eps = x / sigma, though its output was read as x0.
    """

    path: Path
    forms: Sequence[Form]
    order: int
    step: Terms | None = None
    recalls: bool = False

    @property
    def again(self) -> bool:
        """Whether node 1 is asked twice, as a path with two calls there wants it."""
        return self.path.groups[1:2] == (2,) and self.order > 2 and self.short

    def corrects(self, k: int) -> bool:
        """Whether the state at node k is corrected: not after a first step so long that a straight line of v is none."""
        return self.order > 2 and 0 < k < min(len(self.path.groups), 2 + self.again) and self.short

    @property
    def short(self) -> bool:
        """Whether v is nearly a straight line over the first step, and what corrects its end is not amplified by the next.

        It is over short steps in lam, and where noise is most of the state. Rows of eps carry a change of state on by
        alpha_2 / alpha_1, since their outputs were made before it.
        """
        s, t = self.path.nodes[:2]
        if not self.path.limiter:
            return False
        if s.alpha > 0 and t.lam - s.lam <= LONG:
            return True
        if self.forms[1] == "flow":
            return abs(t.r - s.r) <= SHORT
        return t.r >= NOISY and (self.forms[1] != "eps" or self.path.nodes[2].alpha <= MOST * t.alpha)

    def state(self, k: int) -> Terms:
        """Terms of the state at node k when its last call has been made."""
        if not self.corrects(k) or (k == 1 and self.again):
            return {INPUT: 1.0}
        return self.at_node_1((1, 0), {INPUT: 1.0}) if k == 1 else self.at_node_2()

    def at_node_1(self, outputs: Sequence[int], predicted: Terms) -> Sum:
        """The corrected state at node 1. outputs: registers of m at nodes 0 and 1; predicted: terms of the state there."""
        v = [
            velocity(self.path.nodes[k], self.forms[k], state, outputs[k])
            for k, state in enumerate(({CARRY: 1.0}, predicted))
        ]
        return self._integrated(v)

    def at_node_2(self) -> Sum:
        """The corrected state at node 2, whose outputs are m_2, m_1 (second answer), m_1 (first answer), m_0."""
        s, t = self.path.nodes[:2]
        form = str(self.forms[0])  # of a first step that is not told
        step = self.step or {INPUT: linear(form, s, t), 0: euler_weight(form, s, t)}
        then: dict[Any, Any] = {INPUT: CARRY, 0: 3}  # where its registers are now
        predicted = {then.get(register, register): value for register, value in step.items()}
        states = ({CARRY: 1.0}, self.at_node_1((3, 2), predicted), {INPUT: 1.0})
        places = zip(self.path.nodes, self.forms, states, (3, 1, 0), strict=False)
        return self._integrated([velocity(*place) for place in places])

    def past(self, k: int, p: int) -> tuple[list[Node], Sequence[Terms]]:
        """Nodes k, k - 1, ... whose outputs the step from node k may use, at most p, and the terms of those outputs."""
        terms: Sequence[Terms] = [{j: 1.0} for j in range(min(p, k + 1))]
        if k == 1 and self.recalled:
            terms = [{0: 1.0}, {CARRY: 1 / self.path.nodes[0].sigma}]
        elif k and self.again:  # the second answer at node 1 is register k - 1, the first is of no use any more
            places = [*range(k), k + 1] if k < 3 else range(k)
            terms = [{place: 1.0} for place in places][:p]
        return [self.path.nodes[k - j] for j in range(len(terms))], terms

    @property
    def recalled(self) -> bool:
        """Whether node 0 is recalled so."""
        return self.recalls and self.path.limiter and self.order > 1 and self.path.nodes[0].alpha == 0

    def keeps(self, k: int) -> Terms | None:
        """The carry line of the step from node k: the first state, as long as it may be wanted, whatever nodes follow."""
        first = k == 0 and (self.recalled or (self.order > 2 and self.path.limiter))
        return KEEP if first or (k == 1 and self.again) else None

    def first_answer(self) -> list[Row]:
        """The row of the first of two calls at node 1; none where it is asked once."""
        if not self.again:
            return []
        return [Row(self.path.nodes[1], self.forms[1], self.at_node_1((1, 0), {INPUT: 1.0}), KEEP)]

    def _integrated(self, velocities: Sequence[Terms]) -> Sum:
        """x at the last of so many nodes, from the state at the first in CARRY, with v a polynomial in r through all."""
        nodes = self.path.nodes[: len(velocities)]
        weights = lagrange_row(self.path.schedule, "flow", "G", nodes[0], nodes[-1], nodes)
        return total([(linear("flow", nodes[0], nodes[-1]), {CARRY: 1.0}), *zip(weights, velocities, strict=True)])


def velocity(node: Node, form: Form, state: Terms, output: int) -> Sum:
    """Terms of v = eps - x0 at a node, of its state x = alpha x0 + sigma eps and output m = A x0 + B eps."""
    A, B = form_pair(form)
    det = B * node.alpha - A * node.sigma
    return total([(-(A + B) / det, state), (node.S / det, {output: 1.0})])


def total(parts: Sequence[tuple[Any, Terms]]) -> Sum:
    """Terms of a sum of factors times terms."""
    found: Sum = {}
    for factor, terms in parts:
        for register, value in terms.items():
            found[register] = found.get(register, 0.0) + factor * value
    return found
