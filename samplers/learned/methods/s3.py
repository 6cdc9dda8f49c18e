"""s3: which solver, order, prediction, corrector and grid, for the whole run and then for every step of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from fewstep.checks import whole
from fewstep.samplers.building.compiling import build, compile_path
from fewstep.samplers.building.names import checked_options, solver_of
from fewstep.samplers.building.resuming import boundaries
from fewstep.samplers.grids.making import make_grid
from fewstep.samplers.learned.search.evolution import Choice, _Evolution, space
from fewstep.samplers.learned.search.free_steps import PARENTS, FreeSteps, like
from fewstep.samplers.learned.tasks.learner_entry import learner
from fewstep.samplers.learned.tasks.learner_task import Task, score
from fewstep.samplers.schedule.base import Array
from fewstep.samplers.table.tableau import Tableau

SOLVER_NAMES = ("dpmpp_2m", "dpmpp_3m", "unipc", "deis", "ipndm_v", "cab", "abnorsett", "res_multistep")
TAILS = 2.0  # power of what an rms is larger than that of the best whole run
MIXED = "mixed"  # among the solvers: then each step chooses for itself
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


@learner(
    "s3",
    learns=("grid", "coef"),
    reference="A Unified Sampling Framework for Solver Searching of Diffusion ODEs; Liu et al.; 2023; arXiv:2312.07243",
    paths=False,
)
def s3(
    task: Task,
    start: Tableau,
    *,
    solvers: Sequence[str] = (*SOLVER_NAMES, MIXED),
    grids: Sequence[Any] | None = None,
    switches: Mapping[str, Sequence[Any]] | None = None,
    evaluations: int = 400,
    samples: int = 128,
    seed: int = 0,
) -> Tableau:
    """The best of many solvers on many grids, found by evolution with a learned predictor; may be another solver's table.

    With "mixed" among the solvers three quarters of the evaluations go to free choices at every step: form, order, which
    history, corrector, clock and time of each evolve from what was best for whole runs, where there are three steps or more.
    Network evaluations a sample: `evaluations` x nfe. A space of no more choices than that is looked at completely.

    Args:
        solvers, grids, switches: what may be chosen; grids are names or (name, options), "start" that of the table given;
            an order of unipc may be a list, one a step.
        evaluations: tables that are run. samples: training samples each is run on. seed: of the evolution.

    Raises:
        ValueError: unknown names, or no choice that runs on this schedule with this network.
    """
    names = tuple(_registered(name) for name in _several("solvers", solvers))
    given = (*GRID_NAMES, OWN) if grids is None else _several("grids", grids)
    axes = SWITCHES if switches is None else {k: _several("switches", v) for k, v in switches.items()}
    for name in names:
        if solver_of(name)[0].kind != "tableau":
            raise ValueError(f"`solvers`: {name!r} chooses its steps as it goes and has no table; leave it out")
    whole("evaluations", evaluations, hint="It counts the tables that are run")
    free = MIXED in names and start.nfe > 2 and evaluations > 1
    choices = space([name for name in names if name != MIXED] or SOLVER_NAMES, given, axes)
    first = min(evaluations - evaluations * 3 // 4 * free, len(choices))
    ran = _Ran(task, task.some_parts(samples), evaluations if free else first)
    rng = np.random.default_rng(seed)
    search = _Evolution(choices, rng)
    while len(search.errors) < first and not ran.late:
        for i in search.next(first - len(search.errors)):
            search.errors[i], table = ran.of(partial(compiled, choices[i], start, task))
            if table is not None:
                search.tables[i] = table
        ran.tell()
    if ran.table is None or not np.isfinite(ran.error):
        raise ValueError(f"none of the {len(search.errors)} choices runs here: {ran.reason or 'no result is finite'}")
    if free:
        _free(ran, sorted(search.tables, key=lambda i: (search.errors[i], i)), search, FreeSteps(start, rng))
    return ran.table


def _free(ran: _Ran, ranked: Sequence[int], search: _Evolution, steps: FreeSteps) -> None:
    """Go on with choices of each step, from the best of whole runs."""
    ran.borne = ran.rms
    known = dict.fromkeys(one for i in ranked if (one := like(search.tables[i])) is not None)
    round_ = list(known)[: min(PARENTS, ran.most - ran.count)]
    while round_ and not ran.late:
        for one in round_:
            steps.errors[one], _ = ran.of(partial(one.compiled, steps.start))
        ran.tell()
        round_ = steps.next(ran.most - ran.count)


@dataclass(eq=False)
class _Ran:
    """Tables that were run on some training samples: how many, and the best.

    rms: of the best. borne: what more than this counts against a table: many free choices lower the median at the cost of
    the few samples that switch mode, and the guard will not bear that.
    """

    task: Task
    parts: Sequence[Any]
    most: int
    count: int = 0
    error: float = float("inf")
    told: float = float("inf")
    table: Tableau | None = None
    reason: str = ""
    rms: float = float("inf")
    borne: float = float("inf")
    began: float = field(default_factory=time.monotonic)

    def of(self, make: Callable[[], Tableau]) -> tuple[float, Tableau | None]:
        """Error of the table that is made; infinite where it cannot be: no such order at this end, no eps at alpha = 0."""
        self.count += 1
        try:
            table = make()
            squares = self.task.errors(table, self.parts, self.task.loss)
            rms = float(squares.mean().sqrt())
            error = score(squares) * max(1.0, rms / self.borne) ** TAILS
        except ValueError as refused:
            self.reason = str(refused)
            return float("inf"), None
        if error < self.error or self.table is None:
            self.error, self.table, self.rms = error, table, rms
        return error, table

    def tell(self) -> None:
        """Offer the best, where it is new."""
        if self.error < self.told and self.table is not None:
            self.told = self.error
            self.task.offer(self.table, self.count, self.most)

    @property
    def late(self) -> bool:
        """Whether the time is over."""
        return self.task.seconds is not None and time.monotonic() - self.began > self.task.seconds


def _registered(name: Any) -> str:
    """The registered name of a solver; the name as it is where it binds options."""
    entry, _ = solver_of(name)
    return str(name) if entry.bound else entry.name


def compiled(choice: Choice, start: Tableau, task: Task) -> Tableau:
    """The table of a choice between the ends of `start`, with as many evaluations."""
    ends, options = boundaries(start), dict(choice.options)
    if choice.grid == OWN:
        entry, _ = solver_of(choice.solver)
        return compile_path(entry, start.schedule, ends, (1,) * start.nfe, None, checked_options(entry, options))
    shape = dict(choice.shape)

    def grid(schedule: Any, n: int, t_start: float, t_end: float) -> Array:
        return make_grid(choice.grid, schedule, n, t_start, t_end, **shape)

    first, last = float(ends[0]), float(ends[-1])
    return build(choice.solver, start.schedule, start.nfe, grid, t_start=first, t_end=last, **options)


def _several(option: str, values: Any) -> tuple[Any, ...]:
    """What may be chosen, as a tuple of at least one."""
    if isinstance(values, str) or not isinstance(values, Sequence) or not len(values):
        raise ValueError(f"`{option}` lists what may be chosen, at least one; got {values!r}")
    return tuple(values)
