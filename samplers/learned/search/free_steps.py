"""Evolution of choices of each step: the solver `mixed` on times of its own.

A candidate is one choice a step (form, order, which history, corrector, clock, weights) and where the steps end. What is best
so far has children, by crossing two of them at a step and by changing a few decisions or moving a few times; those that are
better take the places of the worst. Nothing is run twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fewstep.samplers.building.compiling import compile_path
from fewstep.samplers.building.resuming import boundaries
from fewstep.samplers.building.solver_entry import SOLVERS
from fewstep.samplers.grids.coordinate import Coordinate
from fewstep.samplers.schedule.base import Array
from fewstep.samplers.solvers.mixed_steps import PER_STEP, WEIGHTS, Step
from fewstep.samplers.table.tableau import Tableau

PARENTS, ROUND = 8, 8  # the best that have children, and how many of these are run at once
CROSSED, MOVED = 0.4, 0.5  # shares of children of two parents, and of changes that move a time
FAR = 0.25  # of the room between its neighbours, by which a time is moved
HISTORIES = ((0,), (0, 1), (0, 2), (0, 1, 2), (0, 1, 3), (0, 1, 2, 3))
AXES: dict[str, tuple[Any, ...]] = {
    "form": ("x0", "eps", "flow"),
    "history": HISTORIES,
    "corrector": (0, 1, 2, 3),
    "clock": ("lam", "t", "G"),
    "weights": WEIGHTS,
}
# How solvers of one choice for all steps begin as mixed ones; what their formulas have beside that is found again or not.
LIKE: dict[str, Mapping[str, Any]] = {
    "dpmpp_2m": {"weights": "bh2"},
    "dpmpp_3m": {"order": 3},
    "res_multistep": {},
    "unipc": {"order": 3, "corrector": True, "weights": "bh2"},
    "deis": {"order": 3, "form": "eps", "clock": "t"},
    "deis_log_rho": {"order": 3, "form": "eps"},
    "ipndm_v": {"order": 4, "form": "eps", "clock": "G"},
    "lms": {"order": 4, "form": "eps", "clock": "G"},
    "cab": {"order": 3, "form": "flow", "clock": "G"},
    "abnorsett": {"order": 3, "form": "eps"},
}


@dataclass(frozen=True)
class Candidate:
    """A choice for each step, and the steps' ends."""

    steps: tuple[Step, ...]
    times: tuple[float, ...]

    def options(self) -> dict[str, list[Any]]:
        """Of the solver `mixed`, each a list as JSON has it."""
        columns = {name: [getattr(step, name) for step in self.steps] for name in PER_STEP}
        return {**columns, "history": [list(lags) for lags in columns["history"]]}

    def compiled(self, start: Tableau) -> Tableau:
        """Its table on the schedule of another."""
        entry = SOLVERS["mixed"]
        options = {**entry.options, **self.options()}
        return compile_path(
            entry, start.schedule, np.array(self.times), (1,) * len(self.steps), None, options, nfe=len(self.steps)
        )


def like(table: Tableau) -> Candidate | None:
    """The mixed candidate that does nearly what a table of one solver does; None for a solver that has none."""
    told = LIKE.get(table.name)
    if told is None or max(table.groups) > 1:
        return None
    own = dict(table.options)
    n, order = table.nfe, own.get("order", told.get("order", 2))
    orders = list(order) if isinstance(order, list | tuple) else [int(order)] * n
    taper = own.get("lower_order_final", False)
    if taper is True or (taper and table.nodes.sigma[-1] == 0):
        orders = [min(p, n - k) for k, p in enumerate(orders)]
    form, clock = str(own.get("form", told.get("form", "x0"))), str(told.get("clock", "lam"))
    weights = str(own.get("weights", told.get("weights", "exact")))
    mends = bool(own.get("corrector", told.get("corrector", False)))
    made = Step(form, clock=clock, weights=weights if clock == "lam" else "exact")
    steps = [replace(made, order=p, history=tuple(range(p)), corrector=p * mends) for p in orders]
    return Candidate(tuple(steps), tuple(map(float, boundaries(table))))


class FreeSteps:
    """Which candidates to run next, given what those before were worth."""

    def __init__(self, start: Tableau, rng: np.random.Generator):
        times = boundaries(start)
        self.start, self.rng = start, rng
        self.place = Coordinate(start.schedule, float(times[0]), float(times[-1]))
        self.errors: dict[Candidate, float] = {}

    @property
    def best(self) -> list[Candidate]:
        """The parents, best first."""
        return sorted(self.errors, key=lambda one: self.errors[one])[:PARENTS]

    def next(self, most: int) -> list[Candidate]:
        """A few children that were not run."""
        found: dict[Candidate, None] = {}
        for child in self._children(50 * ROUND):
            if len(found) >= min(ROUND, most):
                break
            if child not in self.errors:
                found[child] = None
        return list(found)

    def _children(self, tries: int) -> Iterator[Candidate]:
        parents = self.best
        for _ in range(tries):
            a, b = (parents[int(len(parents) * self.rng.random() ** 2)] for _ in range(2))
            child = self._crossed(a, b) if self.rng.random() < CROSSED else a
            for _ in range(1 + self.rng.geometric(0.5)):
                child = self._moved(child) if self.rng.random() < MOVED else self._changed(child)
            yield child

    def _crossed(self, a: Candidate, b: Candidate) -> Candidate:
        """The first steps of one and the last of another, on times between theirs or those of one."""
        cut = int(self.rng.integers(1, len(a.steps))) if len(a.steps) > 1 else 0
        share = float(self.rng.choice([0.0, 0.5, 1.0]))
        c = (1 - share) * self.place.c(a.times) + share * self.place.c(b.times)
        return Candidate((*a.steps[:cut], *b.steps[cut:]), self._times(c, a) if share else a.times)

    def _moved(self, one: Candidate) -> Candidate:
        """An inner time nearer to one of its neighbours."""
        if len(one.times) < 3:
            return one
        k, c = int(self.rng.integers(1, len(one.times) - 1)), self.place.c(one.times)
        room = c[k + 1] - c[k - 1]
        c[k] = np.clip(c[k] + FAR * room * self.rng.normal() / 2, c[k - 1] + 0.05 * room, c[k + 1] - 0.05 * room)
        return Candidate(one.steps, self._times(c, one))

    def _times(self, c: Array, one: Candidate) -> tuple[float, ...]:
        return (one.times[0], *map(float, self.place.t(c[1:-1])), one.times[-1])

    def _changed(self, one: Candidate) -> Candidate:
        """One decision of one step, to another value."""
        k = int(self.rng.integers(len(one.steps)))
        axis = list(AXES)[int(self.rng.integers(len(AXES)))]
        step, values = one.steps[k], AXES[axis]
        if axis == "history":
            values = tuple(lags for lags in values if lags[-1] <= k)
        value = values[int(self.rng.integers(len(values)))]
        step = replace(step, history=value, order=len(value)) if axis == "history" else replace(step, **{axis: value})
        if step.clock != "lam" or step.form == "flow":
            step = replace(step, weights="exact")
        return replace(one, steps=(*one.steps[:k], step, *one.steps[k + 1 :]))
