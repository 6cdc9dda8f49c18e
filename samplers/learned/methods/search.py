"""s3: which solver, order, prediction, corrector and grid, among everything that is registered.

A choice is one value on each axis. What was run teaches a cheap predictor (ridge regression of the logarithm of the error on
values and pairs of values); children of the best so far are ranked by it, and only the promising ones are run. Nothing is run
twice, so that a budget as large as the space is a complete enumeration.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np

from fewstep.samplers.artefact.corrections import boundaries
from fewstep.samplers.building.compiling import build, compile_path
from fewstep.samplers.building.solver_entry import SOLVERS, checked_options, resolve
from fewstep.samplers.learned.methods.dp import some_parts
from fewstep.samplers.learned.tasks.learner_entry import method
from fewstep.samplers.learned.tasks.task import Task, score
from fewstep.samplers.schedule.base import Array
from fewstep.samplers.table.tableau import Tableau

SOLVER_NAMES = ("dpmpp_2m", "dpmpp_3m", "unipc", "deis", "ipndm_v", "cab", "abnorsett", "res_multistep")
GRID_NAMES: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("uniform", {}),
    ("quadratic", {}),
    ("quadratic", {"power": 1.5}),
    ("quadratic", {"power": 3.0}),
    ("logsnr", {}),
    ("karras", {"rho": 3.0}),
    ("karras", {"rho": 7.0}),
    ("beta", {}),
    ("ays", {}),
)
SWITCHES: dict[str, tuple[Any, ...]] = {
    "order": (1, 2, 3, 4),
    "form": ("x0", "eps"),
    "corrector": (True, False),
    "weights": ("bh1", "bh2"),
    "lower_order_final": (True, False),
}
OWN = "start"  # the grid of the table that the search began with
FIRST, CHILDREN, RUNS, RIDGE = 24, 64, 8, 0.3


@dataclass(frozen=True)
class Choice:
    """A solver, its options and a grid with options, as sorted pairs."""

    solver: str
    options: tuple[tuple[str, Any], ...]
    grid: str
    shape: tuple[tuple[str, Any], ...] = ()

    def words(self) -> tuple[tuple[str, Any], ...]:
        """(axis, value) of every decision."""
        return (("solver", self.solver), *self.options, ("grid", (self.grid, self.shape)))


def space(solvers: Sequence[str], grids: Sequence[Any], switches: Mapping[str, Sequence[Any]]) -> list[Choice]:
    """Every choice, in a fixed order: of the switches, a solver takes those that are options of it."""
    found: dict[Choice, None] = {}
    for name in solvers:
        own = {switch: values for switch, values in switches.items() if switch in SOLVERS[name].options}
        own = {switch: [tuple(v) if isinstance(v, list) else v for v in values] for switch, values in own.items()}
        for values in product(*own.values()):
            for grid in grids:
                kind, shape = (grid, {}) if isinstance(grid, str) else grid
                options = tuple(zip(own, values, strict=True))
                found[Choice(name, options, kind, tuple(sorted(shape.items())))] = None
    return list(found)


@method(
    "s3",
    learns=("grid", "coef"),
    reference="A Unified Sampling Framework for Solver Searching of Diffusion ODEs; Liu et al.; 2023; arXiv:2312.07243",
    paths=False,
)
def s3(
    task: Task,
    start: Tableau,
    *,
    solvers: Sequence[str] = SOLVER_NAMES,
    grids: Sequence[Any] | None = None,
    switches: Mapping[str, Sequence[Any]] | None = None,
    evaluations: int = 200,
    samples: int = 64,
    seed: int = 0,
) -> Tableau:
    """The best of many solvers on many grids, found by evolution with a learned predictor; may be another solver's table.

    Network evaluations a sample: `evaluations` x nfe. A space of no more choices than that is looked at completely.

    Args:
        solvers, grids, switches: what may be chosen; grids are names or (name, options), "start" that of the table given;
            an order of unipc may be a list, one a step.
        evaluations: tables that are run. samples: training samples each is run on. seed: of the evolution.

    Raises:
        ValueError: unknown names, or no choice that runs on this schedule with this network.
    """
    names = tuple(resolve(name)[0] for name in _several("solvers", solvers))
    given = (*GRID_NAMES, OWN) if grids is None else _several("grids", grids)
    axes = SWITCHES if switches is None else {k: _several("switches", v) for k, v in switches.items()}
    for name in names:
        if SOLVERS[name].kind != "tableau":
            raise ValueError(f"`solvers`: {name!r} chooses its steps as it goes and has no table; leave it out")
    if isinstance(evaluations, bool) or not isinstance(evaluations, int) or evaluations < 1:
        raise ValueError(f"`evaluations` must be a whole number of tables to run, at least 1; got {evaluations!r}")
    choices, parts = space(names, given, axes), some_parts(task, samples)
    search = _Evolution(choices, np.random.default_rng(seed))
    began, told, reason = time.monotonic(), float("inf"), ""
    while len(search.errors) < min(evaluations, len(choices)):
        for i in search.next(min(evaluations, len(choices)) - len(search.errors)):
            try:
                table = compiled(choices[i], start, task)
                search.errors[i], search.tables[i] = score(task.errors(table, parts)), table
            except (
                ValueError
            ) as error:  # no such order at this end, no eps at alpha = 0, options that exclude each other
                search.errors[i], reason = float("inf"), str(error)
        best = search.best
        if search.errors[best] < told:
            told = search.errors[best]
            task.offer(search.tables[best], len(search.errors), min(evaluations, len(choices)))
        if task.seconds is not None and time.monotonic() - began > task.seconds:
            break
    if not np.isfinite(search.errors[search.best]):
        raise ValueError(f"none of the {len(search.errors)} choices runs here: {reason or 'no result is finite'}")
    return search.tables[search.best]


def compiled(choice: Choice, start: Tableau, task: Task) -> Tableau:
    """The table of a choice between the ends of `start`, with as many evaluations."""
    ends, options = boundaries(start), dict(choice.options)
    if choice.grid == OWN:
        entry = SOLVERS[choice.solver]
        return compile_path(entry, start.schedule, ends, (1,) * start.nfe, None, checked_options(entry, options))
    shape = dict(choice.shape)

    def grid(schedule: Any, n: int, t_start: float, t_end: float) -> Array:
        from fewstep.samplers.grids.making import make_grid

        return make_grid(choice.grid, schedule, n, t_start, t_end, **shape)

    first, last = float(ends[0]), float(ends[-1])
    return build(choice.solver, start.schedule, start.nfe, grid, t_start=first, t_end=last, **options)


def _several(option: str, values: Any) -> tuple[Any, ...]:
    """What may be chosen, as a tuple of at least one."""
    if isinstance(values, str) or not isinstance(values, Sequence) or not len(values):
        raise ValueError(f"`{option}` lists what may be chosen, at least one; got {values!r}")
    return tuple(values)


class _Evolution:
    """Which choices to run next, given what those before were worth."""

    def __init__(self, choices: list[Choice], rng: np.random.Generator):
        self.choices, self.rng = choices, rng
        self.place = {choice: i for i, choice in enumerate(choices)}
        self.errors: dict[int, float] = {}
        self.tables: dict[int, Tableau] = {}
        words = list(dict.fromkeys(word for choice in choices for word in _features(choice)))
        column = {word: j for j, word in enumerate(words)}
        self.features = [[column[word] for word in _features(choice)] for choice in choices]
        self.width = len(words)

    @property
    def best(self) -> int:
        """The choice of least error; the first of equal ones."""
        return min(self.errors, key=lambda i: (self.errors[i], i))

    def next(self, most: int) -> list[int]:
        """A few choices that were not run: spread at first, then children of the best that the predictor likes."""
        open_ones = [i for i in range(len(self.choices)) if i not in self.errors]
        if not self.errors:
            return sorted(self.rng.permutation(open_ones)[: min(FIRST, most)].tolist())
        children = dict.fromkeys(i for i in self._children() if i not in self.errors)
        fresh = self.rng.permutation(open_ones)[:RUNS].tolist()
        pool = list(dict.fromkeys([*children, *fresh]))
        predicted = self._predictor()
        ranked = sorted(pool, key=lambda i: (predicted[self.features[i]].sum(), i))
        picked = ranked[: max(1, RUNS - 2)]  # and two that no prediction speaks for
        return list(dict.fromkeys([*picked, *fresh[:2]]))[:most]

    def _children(self) -> Iterator[int]:
        """Crossings of two of the best, one value changed by a random choice's: only those that exist."""
        best = sorted(self.errors, key=lambda i: (self.errors[i], i))[:12]
        for _ in range(CHILDREN):
            a, b = (self.choices[best[int(k)]] for k in self.rng.integers(0, len(best), 2))
            other = self.choices[int(self.rng.integers(len(self.choices)))]
            grid = (a, b, other)[int(self.rng.integers(3))]
            options = dict(a.options)
            for name, value in (b if self.rng.random() < 0.5 else other).options:
                if name in options and self.rng.random() < 0.5:
                    options[name] = value
            child = Choice(a.solver, tuple(options.items()), grid.grid, grid.shape)
            if self.rng.random() < 0.3:
                child = Choice(other.solver, other.options, child.grid, child.shape)
            if child in self.place:
                yield self.place[child]

    def _predictor(self) -> Array:
        """Weights of the features: ridge regression of log errors on all that was run."""
        ran = [i for i in self.errors if np.isfinite(self.errors[i])]
        weights = np.zeros(self.width)
        if not ran:
            return weights
        X = np.zeros((len(ran), self.width))
        for row, i in enumerate(ran):
            X[row, self.features[i]] = 1.0
        y = np.log([max(self.errors[i], 1e-300) for i in ran])
        gram = X @ X.T + RIDGE * np.eye(len(ran))  # as many unknowns as were run
        return np.asarray(X.T @ np.linalg.solve(gram, y - y.mean()))


def _features(choice: Choice) -> list[Any]:
    """Decisions and pairs of decisions."""
    words = choice.words()
    return [*words, *combinations(words, 2)]
