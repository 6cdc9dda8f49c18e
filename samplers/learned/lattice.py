"""Dynamic compensation over evaluations x guidance: ratios learned at every place, one smooth function through all of them.

    ratios(i / nfe, guidance, nfe) = cubic x quadratic x quadratic        (cascade polynomial regression of DC-Solver)

All places begin with one solver on one grid, so that their ratios are of one kind. A place within the lattice is left out,
foretold from the others and compared with what is learned there: that is what the function is worth where nothing was learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import exp, log
from typing import Any

import numpy as np

from fewstep.samplers.building.compiling import build
from fewstep.samplers.learned.methods.dc import learned_ratios
from fewstep.samplers.learned.planning import Plan
from fewstep.samplers.learned.problem.problem import Problem
from fewstep.samplers.learned.problem.recipes import recipes
from fewstep.samplers.learned.problem.teacher import Teacher
from fewstep.samplers.learned.tasks.learner_task import Task
from fewstep.samplers.learned.tasks.screening import LIKELY
from fewstep.samplers.learned.yardsticks.yardstick import judge_of
from fewstep.samplers.ratios.cascade import cascade
from fewstep.samplers.ratios.compensation import compensated
from fewstep.samplers.schedule.base import Array
from fewstep.samplers.table.tableau import Tableau

SOLVER = "unipc"  # that the published ratios are of, where none is named
SLACK = 1.1  # of an error: so much more than what is learned at a place itself is told as holding
Place = tuple[int, float]


@dataclass(eq=False)
class Lattice:
    """Ratios at every (nfe, guidance), and the tasks that they were learned and are judged in."""

    plan: Plan
    options: Mapping[str, Any]
    base: dict[str, Any] = field(default_factory=dict)
    ratios: dict[Place, Array] = field(default_factory=dict)
    tasks: dict[Place, Task] = field(default_factory=dict)

    @classmethod
    def asked(cls, plan: Plan) -> Lattice | None:
        """The lattice of a plan with dc(cascade=True); None for another.

        Raises:
            ValueError: a single place, or fewer than three evaluations everywhere.
        """
        stages = [options for name, options in plan.stages if name == "dc" and options.get("cascade") is True]
        if not stages:
            return None
        if max(plan.nfes) < 3 or len(plan.nfes) * len(plan.guidances) < 2:
            raise ValueError(
                "dc: a cascade is fitted over several places, of three evaluations and more: give lists, such as "
                f"nfe=[5, 8, 10], guidance=[1.0, 4.0, 7.5]; got nfe {list(plan.nfes)}, guidance {list(plan.guidances)}"
            )
        return cls(plan, stages[0])

    @property
    def time(self) -> str:
        return str(self.options.get("time", "t"))

    def learn(self, problem: Problem, teacher: Teacher, memo: dict[Any, Any]) -> None:
        """Ratios under one guidance, for every number of evaluations."""
        plan = self.plan
        judged = judge_of(plan.loss, plan.judge)
        guidance = 0.0 if problem.guidance is None else float(problem.guidance)
        for n in plan.nfes:
            task = Task(problem, teacher, n, plan.train, plan.valid, loss=plan.loss, judged=judged, memo=memo)
            self.tasks[n, guidance] = task
        if not self.base:
            self.base = self._begun(guidance)
        low, high = self.options.get("bounds", (0.5, 1.5))
        for n in plan.nfes:
            task = self.tasks[n, guidance]
            self.ratios[n, guidance] = learned_ratios(task, self._table(n), self.time, (float(low), float(high)))

    def _begun(self, guidance: float) -> dict[str, Any]:
        """The solver, and the grid of a few on which it errs least over all numbers of evaluations."""
        plan, problem = self.plan, next(iter(self.tasks.values())).problem
        solver = SOLVER if plan.solver == "auto" else plan.solver
        ends, options = (problem.t_start, problem.t_end), dict(plan.options)
        scores: dict[str, float] = {}
        for grid in LIKELY:
            how = {"solver": solver, "options": options, "grid": grid, "ends": list(ends), "time": self.time}
            try:
                tables = {n: self._made(how, n) for n in plan.nfes}
            except ValueError:  # a grid that this schedule has not
                continue
            found = [self.tasks[n, guidance].judge(table) for n, table in tables.items()]
            scores[grid] = sum(map(log, found))
        if not scores:
            recipes(solver, problem.schedule, plan.nfes[0], grids=LIKELY, ends=ends, options=options)  # says why
            raise ValueError(f"dc: {solver} runs on none of the grids {', '.join(LIKELY)} for all of nfe {plan.nfes}")
        best = min(scores, key=scores.__getitem__)
        return {"solver": solver, "options": options, "grid": best, "ends": list(ends), "time": self.time}

    def _table(self, nfe: int) -> Tableau:
        return self._made(self.base, nfe)

    def _made(self, base: Mapping[str, Any], nfe: int) -> Tableau:
        schedule = next(iter(self.tasks.values())).problem.schedule
        t_start, t_end = base["ends"]
        return build(base["solver"], schedule, nfe, base["grid"], t_start=t_start, t_end=t_end, **base["options"])

    def told(self) -> dict[str, Any]:
        """As the artefact keeps it: the function, what it moves, and what it was worth at places that were left out.

        It holds unless tables foretold at the places left out are, in the mean, no better than their base.
        """
        tested = [one for place in self.ratios if (one := self._left_out(place)) is not None]
        gain = [log(one["foretold"] / one["base"]) for one in tested]
        return {
            "cascade": cascade(self.ratios).content(),
            "base": self.base,
            "guided": self.plan.guidances != (None,),
            "tested": tested,
            "holds": not gain or exp(float(np.mean(gain))) < 1,
        }

    def _left_out(self, place: Place) -> dict[str, Any] | None:
        """Errors on validation seeds at a place, foretold from the others; None where they do not reach as far."""
        others = {key: value for key, value in self.ratios.items() if key != place}
        n, guidance = place
        axes = list(zip(place, zip(*others, strict=True), strict=True))
        within = all(min(values) <= mine <= max(values) for mine, values in axes)
        inner = any(min(values) < mine < max(values) for mine, values in axes)
        if not (within and inner) or n < 3 or max(m for m, _ in others) < 3:
            return None
        base, known = self._table(n), cascade(others)
        judge, direct = self.tasks[place].judge, compensated(base, self.ratios[place], self.time)
        errors = {
            "foretold": judge(compensated(base, known.ratios(n, guidance), self.time)),
            "learned": judge(direct),
            "base": judge(base),
        }
        where = {"nfe": n, **({} if self.plan.guidances == (None,) else {"guidance": guidance})}
        return {**where, **errors, "holds": errors["foretold"] <= SLACK * errors["learned"]}
