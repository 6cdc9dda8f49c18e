"""s3: which solver, order, prediction, corrector and grid, among everything that is registered."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fewstep.checks import whole
from fewstep.samplers.building.compiling import build, compile_path
from fewstep.samplers.building.names import checked_options, solver_of
from fewstep.samplers.building.resuming import boundaries
from fewstep.samplers.grids.making import make_grid
from fewstep.samplers.learned.search.evolution import Choice, _Evolution, space
from fewstep.samplers.learned.tasks.learner_entry import learner
from fewstep.samplers.learned.tasks.learner_task import Task, score
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
    names = tuple(_registered(name) for name in _several("solvers", solvers))
    given = (*GRID_NAMES, OWN) if grids is None else _several("grids", grids)
    axes = SWITCHES if switches is None else {k: _several("switches", v) for k, v in switches.items()}
    for name in names:
        if solver_of(name)[0].kind != "tableau":
            raise ValueError(f"`solvers`: {name!r} chooses its steps as it goes and has no table; leave it out")
    whole("evaluations", evaluations, hint="It counts the tables that are run")
    choices, parts = space(names, given, axes), task.some_parts(samples)
    search = _Evolution(choices, np.random.default_rng(seed))
    began, told, reason = time.monotonic(), float("inf"), ""
    while len(search.errors) < min(evaluations, len(choices)):
        for i in search.next(min(evaluations, len(choices)) - len(search.errors)):
            try:
                table = compiled(choices[i], start, task)
                search.errors[i], search.tables[i] = score(task.errors(table, parts, task.loss)), table
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
