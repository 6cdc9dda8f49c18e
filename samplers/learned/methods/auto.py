"""The default: what is cheap and certain first, everything in competition.

best fixed recipe --> a grid found with the solver's own states --> weights in closed form on both
                  --> the same on grids that begin later than x_T, from the best of these
                  --> from the best of all these, grid, weights and network times together

A recipe may begin later already (`leading` grids), with x_T at a wrong size and weights made for a whole path: a better
recipe, and a worse start. Then the best that begins at pure noise goes the same way beside it, up to the last stage.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from fewstep.samplers.learned.parameters.knobs import Knobs
from fewstep.samplers.learned.playing.differentiable import has_gradients
from fewstep.samplers.learned.problem.recipes import recipes
from fewstep.samplers.learned.tasks.learner_entry import learner
from fewstep.samplers.learned.tasks.learner_task import Task, TooFew
from fewstep.samplers.learned.tasks.screening import screened
from fewstep.samplers.table.tableau import Tableau

OURS = "ours: switches by trial, oss, iia, late and newton in this order, as they are cited there"
SMALL = 256  # numbers of a sample up to which a network is taken to be cheap
FEW = 6  # evaluations up to which joint may turn all weights: where steps are this long no order is there to be kept
SHARES = (0.5, 0.75, 1.0)  # of a step that late leaves away
RATE = 0.05  # of joint, half of its own: batches are small and steps few
LATER = 0.02  # of the time of pure noise, by which a recipe that begins there may begin later
EVEN = 16  # samples on which joint measures its axes
Freedom = Mapping[str, Any]
ALL: Freedom = {"free": ("grid", "coef", "tau", "state"), "window": None, "consistent": False}
USUAL: Freedom = {"free": ("grid", "coef", "tau"), "window": 3, "consistent": True}
PLACES: Freedom = {**USUAL, "free": ("grid", "tau")}


def refined(options: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The stages that `refine` names. ValueError for others, and for a `remember` that is neither true nor false."""
    if not isinstance(options.get("remember", True), bool):
        raise ValueError(f"auto: `remember` is true or false; got {options['remember']!r}")
    refine = options.get("refine")
    named = (refine,) if isinstance(refine, str) else refine
    for name in named or ():
        if name not in ("newton", "joint"):
            raise ValueError(f'auto: `refine` lists "newton" and "joint"; got {name!r}')
    return None if named is None else tuple(named)


@learner("auto", learns=("grid", "coef", "tau"), reference=OURS, paths=False, check=refined)
def auto(
    task: Task,
    start: Tableau,
    *,
    refine: str | Sequence[str] | None = None,
    samples: int = 64,
    steps: int = 50,
    batch: int = 16,
    remember: bool = True,
    search: int = 12,
    shares: Sequence[float] = SHARES,
    even: int = EVEN,
    twice: bool = True,
) -> Tableau:
    """The best of several ways to a table, judged on the validation seeds.

    refine: in turn, "newton", which needs no gradients of the network, and "joint", which is left out where there are none.
    None takes joint, and newton before it where a sample is small or there are no gradients. Joint keeps a constant x0 and
    eps exact from 7 evaluations up; below, every weight is free. Where there are fewer training samples than numbers, both
    turn fewer, and are left out at last. samples: of newton. steps, batch, remember, even: of joint. search: samples of oss.
    shares: of late; 0 or none leave these out. twice: whether it also begins at pure noise, where `start` does not. On
    stochastic solvers, whose references have no states on the way, only newton and joint are left.

    Raises:
        ValueError: another word in `refine`.
    """
    refine = refined({"refine": refine})
    whole = _from_noise(task, start) if twice else []
    if task.teacher.follows:
        bases = [start, *whole]
        if task.nfe > 1 and search:
            bases.append(task.run("oss", start, nodes=4 + 4 * task.nfe, samples=min(samples, search)))
        made = [_unless_too_few(task, "iia", base) for base in bases]
        assert task.best is not None
        if task.nfe > 1 and shares:
            there = {} if tuple(shares) == SHARES else {"shares": shares}
            first = [min((*whole, made[1]), key=task.judge)] if whole else []
            ends = [_unless_too_few(task, "late", one, samples=samples, **there) for one in (task.best, *first)]
            whole = ends[1:]
    assert task.best is not None
    slopes = has_gradients([task.problem.part(task.valid[:1])], float(start.times[0]))
    if refine is None:
        refine = ("newton", "joint") if task.problem.numbers <= SMALL or not slopes else ("joint",)
    if "newton" in refine and (free := _freest(task, "newton", USUAL, PLACES)):
        task.run("newton", task.best, rounds=6, samples=max(samples, _count(task, free)), **free)
    turned = {} if even == EVEN else {"even": even}
    if "joint" in refine and slopes and (free := _freest(task, "joint", *[ALL] * (task.nfe <= FEW), USUAL, PLACES)):
        for table in {id(table): table for table in (task.best, *whole)}.values():
            task.run("joint", table, steps=steps, batch=batch, lr=RATE, rounds=1, remember=remember, **free, **turned)
    return task.best


def _from_noise(task: Task, start: Tableau) -> list[Tableau]:
    """The best recipe of multistep solvers that begins at pure noise, where `start` begins later than that."""
    problem = task.problem
    first = problem.t_start * (1 - LATER)
    if start.times[0] >= first or start.stochastic:
        return []
    known = recipes("auto", problem.schedule, task.nfe, ends=(problem.t_start, problem.t_end))
    known = screened(task, [recipe for recipe in known if recipe.table.times[0] >= first])
    return [min((recipe.table for recipe in known), key=task.judge)]


def _unless_too_few(task: Task, name: str, start: Tableau, **options: Any) -> Tableau:
    """What a stage makes of `start`; that itself, with a warning, where fewer training samples are than it fits numbers."""
    try:
        return task.run(name, start, **options)
    except TooFew as few:
        warnings.warn(f"auto: {few}. It was left out", stacklevel=3)
        return start


def _count(task: Task, free: Freedom) -> int:
    """Numbers that are turned on the best table so far."""
    assert task.best is not None
    window = task.nfe if free["window"] is None else free["window"]
    return Knobs(task.best, task.problem.prediction, free["free"], window, free["consistent"]).count


def _freest(task: Task, name: str, *ways: Freedom) -> Freedom | None:
    """The first of these that there are training samples for; a warning where there is none."""
    counts = [_count(task, free) for free in ways]
    found = next((free for free, n in zip(ways, counts, strict=True) if n <= len(task.train)), None)
    if found is None:
        warnings.warn(
            f"auto: {name} turns {counts[-1]} numbers at least, and there are {len(task.train)} training samples: it was left "
            f"out. Give more, e.g. seeds=range({8 * counts[-1]})",
            stacklevel=2,
        )
    return found
