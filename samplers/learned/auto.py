"""The default: what is cheap and certain first, gradients last, everything in competition.

two best fixed recipes --> a grid found with the solver's own states --> weights in closed form on each of the three
                       --> from the best of all these, grid, weights and network times together by gradients
"""

from __future__ import annotations

from collections.abc import Sequence

from ..tableau import Tableau
from .method import method
from .task import Task

OURS = "Search over switches, dynamic programming with the state of the solver, least squares and gradients, in this order."


@method("auto", learns=("grid", "coef", "tau"), reference=OURS, paths=False)
def auto(
    task: Task, start: Tableau, *, windows: Sequence[int | None] = (2, None), gradients: bool = True, steps: int = 150
) -> Tableau:
    """The best of several ways to a table, judged on the validation seeds.

    windows: outputs that closed-form weights may use, each tried. gradients: whether to descend from the best, in `steps`
    steps; a network without gradients leaves that out. On stochastic solvers, whose references have no states on the way,
    only gradients are left.
    """
    if task.teacher.follows:
        bases = [recipe.table for recipe in task.fixed[:2]] or [start]
        if task.nfe > 1:
            bases.append(task.run("oss", bases[0]))
        for base in bases:
            for window in windows:
                task.run("iia", base, window=window)
    if gradients and task.nfe > 1:
        assert task.best is not None
        task.run("joint", task.best, steps=steps)
    assert task.best is not None
    return task.best
