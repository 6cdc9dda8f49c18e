"""States of a solver on its way over chosen nodes, each with its whole history: dynamic programming over them.

    best state at node j after k + 1 steps = the nearest to the teacher's at j of: one step from the best at i after k, i < j

The rows are those of the solver itself, compiled for the way that led to i and on to j, so that a multistep formula sees the
outputs and gaps it would see. Exactly k steps lead to every state of stage k; the stages serve all longer grids. Rows that
depend on what follows, such as a lowered order of the last steps, are played again from where they differ before a way to
the end is judged: what is compared there is the error of the table that comes back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import torch
from torch import Tensor

from fewstep.samplers.building.path import Path
from fewstep.samplers.building.solver_entry import SOLVERS
from fewstep.samplers.learned.problem.problem import Part
from fewstep.samplers.learned.tasks.learner_task import Task
from fewstep.samplers.schedule.base import Array, Node
from fewstep.samplers.schedule.outputs import Form
from fewstep.samplers.table.row import CARRY, INPUT, Row
from fewstep.samplers.table.tableau import Tableau

Batch = list[Tensor]  # one tensor a part
TAPER = "lower_order_final"
MEMORY = 2**31  # bytes of states that are kept, at most


@dataclass(eq=False)
class State:
    """All samples after some steps, with what the solver remembers.

    path: nodes visited. rows: that led here. outputs: newest first. cost: mean square distance to the teacher.
    greedy: the best way here from states that are themselves the best at their nodes.
    """

    path: tuple[int, ...]
    rows: tuple[Row, ...]
    carry: Batch
    input: Batch
    outputs: tuple[Batch, ...]
    _: KW_ONLY
    before: State | None = None
    cost: float = 0.0
    greedy: bool = True
    called: dict[Form, Batch] = field(default_factory=dict)


class Search:
    """The stages of one solver on chosen nodes of the teacher, made when needed.

    Args:
        task: gives samples, teacher and network. start: names the solver. chosen: indices of the teacher's nodes.
        samples: how many to look at, fewer where their states would not fit into 2 GiB. beam: states kept at a node.
    """

    def __init__(self, task: Task, start: Tableau, chosen: Array, samples: int, beam: int):
        self.problem, self.entry, self.beam = task.problem, SOLVERS[start.name], beam
        self.schedule, self.times = start.schedule, task.teacher.table.times[chosen]
        self.nodes = tuple(Node(*map(float, row)) for row in zip(*self.schedule.nodes(self.times), strict=True))
        one = task.problem.part(task.train[:1]).x_T
        each = one.numel() * one.element_size() * len(chosen) * (3 * beam * start.nfe + 1)
        few = task.some_parts(max(1, min(samples, MEMORY // each)))
        self.parts: list[Part] = [piece for part in few for piece in task.problem.pieces(part)]
        paths = [task.teacher.path(part) for part in self.parts]
        self.targets: list[Batch] = [[path.state(int(i)) for path in paths] for i in chosen]
        self.count = sum(target.numel() for target in self.targets[0])
        begin = [part.x_T for part in self.parts]
        self.stages: dict[tuple[int, ...], list[State]] = {(): [State((0,), (), begin, begin, ())]}

    def stage(self, groups: tuple[int, ...], options: Mapping[str, Any]) -> list[State]:
        """The states after len(groups) steps of so many network calls each, by node; not at the last one."""
        if groups not in self.stages:
            kept: dict[int, list[State]] = {}
            for state in self.stage(groups[:-1], options):
                ahead = range(state.path[-1] + 1, len(self.nodes) - 1)
                ways = [self._rows((*state.path, j), groups, options) for j in ahead]
                found = [self._onward(state, rows, j) for j, rows in zip(ahead, ways, strict=True)]
                for child in self._judged(found):
                    kept[child.path[-1]] = self._best([*kept.get(child.path[-1], []), child])
            for states in kept.values():
                for state in states[1:]:
                    state.greedy = False
            self.stages[groups] = [state for j in sorted(kept) for state in kept[j]]
        return self.stages[groups]

    def ways(self, groups: tuple[int, ...], options: Mapping[str, Any]) -> list[State]:
        """Every kept way to the end with the full table's rows, best first."""
        found, last = [], len(self.nodes) - 1
        for state in self.stage(groups[:-1], _open(options)):
            path = (*state.path, last)
            rows = self._rows(path, groups, options)
            while state.rows != rows[: len(state.rows)]:  # rows that knew the end was near
                assert state.before is not None
                state = state.before
            for j in path[len(state.path) :]:
                steps = len(state.path)
                upto = sum(groups[:steps])
                state = self._onward(state, rows[:upto], j)
            found.append(state)
        found = self._judged(found)
        if not found:
            raise ValueError(f"{self.entry.name}: no grid on these nodes gives finite samples")
        return sorted(found, key=lambda state: state.cost)

    def _rows(self, path: Sequence[int], groups: tuple[int, ...], options: Mapping[str, Any]) -> tuple[Row, ...]:
        """The solver's rows along nodes."""
        way = Path(self.schedule, tuple(self.nodes[i] for i in path), groups)
        if isinstance(options.get("order"), (list, tuple)):
            options = {**options, "order": list(options["order"])[: len(groups)]}
        return tuple(self.entry.solution(way, options).rows)

    def _onward(self, state: State, rows: tuple[Row, ...], j: int) -> State:
        """One step on, to node j, by the rows that this state has not yet played."""
        carry, now, outputs = state.carry, state.input, state.outputs
        for i, row in enumerate(rows[len(state.rows) :]):
            m = self._called(state, row) if i == 0 else self._call(row, now)
            outputs = (m, *outputs)
            registers: dict[Any, Batch] = {CARRY: carry, INPUT: now, **dict(enumerate(outputs))}
            carry, now = (_sum(row.input if terms is None else terms, registers) for terms in (row.carry, row.input))
            if row.carry is None:
                carry = now
        return State((*state.path, j), rows, carry, now, outputs, before=state, greedy=state.greedy)

    def _called(self, state: State, row: Row) -> Batch:
        """The network's output at a state: the same for every step from there, so called once."""
        if row.form not in state.called:
            state.called[row.form] = self._call(row, state.input)
        return state.called[row.form]

    def _call(self, row: Row, x: Batch) -> Batch:
        self.problem.spent += sum(len(part.seeds) for part in self.parts)

        def ask(i: int) -> Tensor:
            return self.parts[i].denoiser.predict(str(row.form), x[i], row.at.t)

        return self.problem.threads.map(ask, range(len(self.parts)))

    def _judged(self, states: list[State]) -> list[State]:
        """The states with their costs, without those that are not finite: one look at the device for all."""
        if not states:
            return []
        sums = [
            sum((x - y).double().square().sum() for x, y in zip(s.input, self.targets[s.path[-1]], strict=True))
            for s in states
        ]
        for state, cost in zip(states, torch.stack(sums).tolist(), strict=True):  # type: ignore[arg-type]
            state.cost = cost / self.count
        return [state for state in states if state.cost < float("inf")]

    def _best(self, states: list[State]) -> list[State]:
        """At most `beam` states, the best of the greedy ones first: a wider beam then never ends worse than a beam of one."""
        ranked = sorted(states, key=lambda state: state.cost)
        first = next((state for state in ranked if state.greedy), ranked[0])
        return [first, *(state for state in ranked if state is not first)][: self.beam]


def _sum(terms: Mapping[Any, float], registers: Mapping[Any, Batch]) -> Batch:
    """sum of weight times register, part by part."""
    (key, w), *rest = terms.items()
    out = [w * x for x in registers[key]]
    for key, w in rest:
        for x, y in zip(out, registers[key], strict=True):
            x.add_(y, alpha=float(w))
    return out


def _open(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of steps after which more follow."""
    return {**options, **({TAPER: False} if TAPER in options else {})}
