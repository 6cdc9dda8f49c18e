"""What a solver family is given, where to go, and what it returns: `f(path, *, options) -> Solution`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fewstep.samplers.schedule.base import Node, NoiseSchedule
from fewstep.samplers.table.row import Row


@dataclass(frozen=True)
class Path:
    """Where a solver goes: group boundaries of the grid and how many network calls each group may spend.

    landings: {group: node} for groups that end elsewhere than at the next boundary, from where noise takes the state
    up to it (see solvers/ancestral.py); None where the solver may choose. nfe: of the whole run, where more than the groups'.
    limiter: whether rows extrapolate no farther than their history supports, see solvers/limiter.py.
    """

    schedule: NoiseSchedule
    nodes: tuple[Node, ...]
    groups: tuple[int, ...]
    landings: Mapping[int, Node] | None = None
    nfe: int | None = None
    limiter: bool = True

    def steps(self) -> Iterator[tuple[int, Node, Node]]:
        """(calls, s, t) of each group."""
        return zip(self.groups, self.nodes[:-1], self.nodes[1:], strict=True)

    def between(self, s: Node, t: Node, c: float, var: str = "lam") -> Node:
        """The node a fraction c of the way from s to t in lam, t, rho = sigma/alpha or r = sigma/(alpha+sigma)."""
        if c == 0.0 or c == 1.0:
            return t if c else s
        if var == "t":
            return self.schedule.node(s.t + c * (t.t - s.t))
        if var == "lam":
            lam = s.lam + c * (t.lam - s.lam)
        elif var == "rho":
            lam = -np.log((1 - c) * np.exp(-s.lam) + c * np.exp(-t.lam))
        else:
            r = (1 - c) / (1 + np.exp(s.lam)) + c / (1 + np.exp(t.lam))
            lam = np.log1p(-r) - np.log(r)
        return self.schedule.node(self.schedule.t_of_lam(lam))


@dataclass(frozen=True)
class Solution:
    """What a family returns: rows, their order, what they conserve, and where they went if not along the path.

    groups and jumps: calls of each step, and landings, where they differ from the path's. smooth: ends at which the order
    holds though lam is infinite there, of "start end". See Tableau for the words.
    """

    rows: Sequence[Row]
    order: int
    conserves: str = "x0 eps"
    groups: tuple[int, ...] | None = None
    jumps: Mapping[int, Node] = field(default_factory=dict)
    smooth: str = ""

    def order_on(self, schedule: NoiseSchedule, nodes: Sequence[Node]) -> int:
        """The order on a path: two at most on flows from pure noise or into data, but for solvers that are smooth there.

        However fine its grid, a flow has the same few first and last steps in lam: log 2, log 3/2, ..., and steps of several
        calls have one call there.
        """
        rough = (nodes[0].alpha == 0 and "start" not in self.smooth) or (
            nodes[-1].sigma == 0 and "end" not in self.smooth
        )
        return min(self.order, 2) if rough and schedule.kind == "flow" else self.order
