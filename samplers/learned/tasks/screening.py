"""The best fixed recipe, by successive halving: all grids with a few solvers, the best grids with all solvers, fewer on more
seeds. Tables on one grid are drawn together.

The error of a recipe is nearly a product of what its grid does and of what its solver does, so that the best of all pairs is
among the best grids of some solvers with the best solvers on these grids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fewstep.samplers.learned.playing.many_tables import drawn_together
from fewstep.samplers.learned.problem.recipes import SHORTLIST, STARTS, Recipe, recipes, rivals
from fewstep.samplers.learned.tasks.learner_task import Task, score
from fewstep.samplers.table.tableau import Tableau

FIRST = 4  # seeds on which all are looked at
ROUNDS = ((FIRST, 24), (8, 8))  # seeds to look at, and how many recipes go on
BEST_GRIDS = 4  # on which every solver is tried
LIKELY = ("flow", "quadratic", "polyexponential", "uniform", "normal", "laplace")  # grids that are looked at first
JUDGED = 4  # recipes that a small budget pays on all validation seeds
MANY, FEW_SOLVERS = 60, 8  # recipes from which on FIRST seeds are looked at, and that a grid is worth
SEEN = 32  # samples that recipes are ranked by, at least, where there are as many
OWN = 2  # recipes that may be learned on, at least, among the last


@dataclass(frozen=True)
class Known:
    """Recipes that are worth all validation seeds. own: what may be learned on; others: what is only compared with."""

    own: list[Recipe]
    others: list[Recipe]


def sought(task: Task, solver: str, options: dict[str, object], everyone: bool, most: int | None = None) -> Known:
    """The recipes of `solver` ("auto": whichever may be learned on), and of every other solver where `everyone`.

    most: network evaluations for it, those on all validation seeds too; None: as many as it takes.
    """
    problem = task.problem
    ends = (problem.t_start, problem.t_end)
    own = recipes(solver, problem.schedule, task.nfe, ends=ends, options=options)
    if most is not None:
        return Known(_frugal(task, own, most), [])
    others: list[Recipe] = []
    if everyone and not own[0].table.stochastic:
        ranked = nearest(task, own, FIRST)
        grids = list(dict.fromkeys(recipe.grid for recipe in ranked))[:BEST_GRIDS]
        without = SHORTLIST if solver == "auto" else (own[0].table.name,)
        others = rivals(problem.schedule, task.nfe, grids, ends, without)
    if solver == "auto":
        startable = [recipe for recipe in others if recipe.table.name in STARTS]
        own, others = own + startable, [recipe for recipe in others if recipe.table.name not in STARTS]
    kept, ids = screened(task, [*own, *others]), {id(recipe) for recipe in own}
    mine = [recipe for recipe in kept if id(recipe) in ids]
    if len(mine) < OWN:
        mine = screened(task, own)[:OWN]
    return Known(mine, [recipe for recipe in kept if id(recipe) not in ids])


def _frugal(task: Task, own: Sequence[Recipe], most: int) -> list[Recipe]:
    """At most JUDGED recipes: of one solver on many grids, then of all on the best of these, until `most` is spent."""
    order = {name: i for i, name in enumerate(LIKELY)}
    own = sorted(own, key=lambda r: (r.table.name != own[0].table.name, order.get(r.grid, len(order))))
    left = most - JUDGED * len(task.valid) * task.nfe
    seeds = min(FIRST if left >= FIRST * MANY * task.nfe else FIRST // 2, len(task.valid))
    looks = left // (seeds * task.nfe)
    plain = list({r.grid: r for r in own if r.table.name == own[0].table.name}.values())
    if looks <= JUDGED:
        return plain[:JUDGED]
    first = nearest(task, plain[: max(JUDGED, looks // 2)], seeds)
    grids = [r.grid for r in first[: max(1, (looks - len(first)) // FEW_SOLVERS)]]
    others = [r for r in own if r.grid in grids and not any(r is one for one in first)]
    spread = others[:: max(1, -(-len(others) // max(1, looks - len(first))))]
    return nearest(task, [*first, *spread], seeds)[:JUDGED]


def screened(task: Task, known: Sequence[Recipe]) -> list[Recipe]:
    """The recipes worth all validation seeds: of many, those that are best on the first few."""
    if len(known) <= 2 * ROUNDS[-1][1]:
        return list(known)
    for seeds, kept in ROUNDS:
        known = nearest(task, known, seeds)[:kept]
    return list(known)


def nearest(task: Task, known: Sequence[Recipe], seeds: int) -> list[Recipe]:
    """The recipes in the order of their scores on so many validation seeds, each looked at once."""
    if len(known) < 2:
        return list(known)
    few = seen(task)[:seeds]
    new = [r for r in known if ("first look", id(r.table), few) not in task.memo]
    for recipe, found in zip(new, _scores(task, [recipe.table for recipe in new], few), strict=True):
        task.memo["first look", id(recipe.table), few] = found, recipe.table  # the table is held: its id stays its own
    scores = [task.memo["first look", id(recipe.table), few][0] for recipe in known]
    return [known[i] for i in sorted(range(len(known)), key=scores.__getitem__)]


def seen(task: Task) -> tuple[int, ...]:
    """Seeds that recipes are ranked by: those to choose on, and where these are few some to learn on. Their reference is made.

    Nothing is fitted to them, so that both serve; of hundreds of recipes the best on four samples is the luckiest.
    """
    more = 0 if task.problem.limit is not None else max(0, SEEN - len(task.valid))
    task.teacher.prepare(
        [*task.valid_parts(), *(task.problem.parts(task.train) if more else ())]
    )  # in their own batches
    return (*task.valid, *task.train[:more])


def _scores(task: Task, tables: Sequence[Tableau], seeds: tuple[int, ...]) -> list[float]:
    """Score of each table on the same seeds."""
    problem, part = task.problem, task.problem.part(seeds)
    truth, found = task.teacher.end(part), [0.0] * len(tables)
    alike: dict[bytes, list[int]] = {}
    for i, table in enumerate(tables):
        alike.setdefault(table.model_times.tobytes(), []).append(i)
    most = max(1, task.problem.batch_size // len(seeds))
    for group in alike.values():
        for few in (group[i : i + most] for i in range(0, len(group), most)):
            drawn = drawn_together(task.problem, [tables[i] for i in few], seeds)
            for i, x0 in zip(few, drawn, strict=True):
                found[i] = score(task.judged.judged(problem, part, x0, truth))
    return found
