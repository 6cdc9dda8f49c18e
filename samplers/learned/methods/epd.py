"""epd: where parallel directions are asked and with which weights they are averaged, down the gradient through the sampler.

A step of `epd` asks K inputs at once, so that none may read an output of its own step; all else is free: the steps' ends, the
weights of all outputs so far on every input, of the state, and the K averaging weights.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

from fewstep.checks import whole
from fewstep.samplers.learned.descent.objectives import DescentOptions
from fewstep.samplers.learned.descent.stages import Rates, _learn
from fewstep.samplers.learned.playing.directions import with_directions
from fewstep.samplers.learned.problem.recipes import recipes
from fewstep.samplers.learned.tasks.learner_entry import learner
from fewstep.samplers.learned.tasks.learner_task import Task
from fewstep.samplers.learned.tasks.screening import screened
from fewstep.samplers.table.tableau import Tableau
from fewstep.samplers.table.together import together


@learner(
    "epd",
    learns=("grid", "coef", "tau"),
    gradients=True,
    reference="Distilling Parallel Gradients for Fast ODE Solvers of Diffusion Models; Zhu, Wang, Zhao, Zhang, Zhang; 2025; "
    "arXiv:2507.14797; with multistep weights in place of its first call",
)
def epd(
    task: Task,
    start: Tableau,
    *,
    free: tuple[str, ...] = ("grid", "coef", "tau", "state"),
    window: int | None = None,
    loss: Any = "mixed",
    steps: int = 200,
    batch: int = 16,
    lr: Rates = 0.05,
    even: int = 16,
    remember: bool = True,
    first: str | None = "auto",
) -> Tableau:
    """Grid, weights and network times of a table with parallel directions: the calls of a step stay one call.

    It begins from what is best with one direction a step: of the fixed recipes of as many calls, and of what method `first`
    makes of the best of them; further directions have no weight at first, so that they can only gain.

    first: a method, or None: from `start` itself. free, window, loss, steps, batch, lr, even, remember: as in `joint`; window
    None: all outputs.

    Raises:
        ValueError: a table whose rows all need the one before them.
    """
    whole("steps", steps)
    sizes = together(start)
    if max(sizes) == 1:
        raise ValueError(
            f"epd learns how a step averages parallel directions, and {start.name!r} has none: learn(model, 'epd', nfe, 'epd')"
        )
    if first is not None and min(sizes) == max(sizes):
        single = _of_calls(task, len(sizes), first)
        begun = with_directions(single, sizes[0])
        start = begun if task.offer(begun) < task.judge(start) else start
    recipe = DescentOptions(loss=loss, steps=steps, batch=batch, lr=lr, remember=remember, even=even)
    turned = (free, start.nfe if window is None else window, False)
    return _learn(task, start, [(turned, recipe)], "epd")


def _of_calls(task: Task, calls: int, method: str) -> Tableau:
    """The best table of so many calls with one direction each."""
    ends = (task.problem.t_start, task.problem.t_end)
    inner = replace(task, nfe=calls, best=None, best_score=inf, base_score=inf, fixed=[], done=[])
    known = screened(inner, recipes("auto", task.problem.schedule, calls, ends=ends))
    for recipe in known:
        inner.offer(recipe.table)
    assert inner.best is not None
    inner.run(method, inner.best)
    task.done += inner.done
    return inner.best
