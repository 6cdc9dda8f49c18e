"""bespoke: scale-time solvers (`parameters/scale_time.py`), by the error of the result or by a bound on it."""

from __future__ import annotations

import time
from typing import Any

from fewstep.checks import positive
from fewstep.samplers.learned.descent.descent import descend
from fewstep.samplers.learned.descent.local_bound import Bound
from fewstep.samplers.learned.descent.objectives import DescentOptions
from fewstep.samplers.learned.descent.stages import follows
from fewstep.samplers.learned.parameters.scale_time import ScaleTime
from fewstep.samplers.learned.tasks.learner_entry import learner
from fewstep.samplers.learned.tasks.learner_task import Task, enough
from fewstep.samplers.table.tableau import Tableau


@learner(
    "bespoke",
    learns=("grid", "coef"),
    gradients=True,
    reference="Shaul et al., Bespoke Solvers for Generative Flow Models, 2024, arXiv 2310.19075",
)
def bespoke(
    task: Task,
    start: Tableau,
    *,
    order: int = 2,
    loss: Any = "log",
    lipschitz: float = 1.0,
    steps: int = 300,
    batch: int = 32,
    lr: Any = None,
    remember: bool = False,
) -> Tableau:
    """Runge-Kutta of a path that is scaled and re-timed, by the error of the result; begins on the start's grid.

    It replaces the solver: the start itself is returned where that is better on the validation seeds.

    loss: of the result, see `DescentOptions`, or "bound", as published: the error of each step on the teacher's path, times
    how far later steps can carry it where the flow's velocity is `lipschitz` in its state; see `descent/local_bound.py`. That
    needs a reference with states on the way.
    """
    positive("lipschitz", lipschitz, zero=True, hint="It is a constant of the flow")
    local = loss == "bound"
    if local and not task.teacher.follows:
        raise ValueError(
            f"bespoke: loss 'bound' compares states on the way, and {task.teacher.solver!r} gives only ends: take a reference "
            "along the flow, such as dpmpp_3m"
        )
    knobs = ScaleTime(start, task.problem.prediction, order)
    enough(knobs.count, task.train, "bespoke")
    recipe = DescentOptions(loss="log" if local else loss, steps=steps, batch=batch, lr=lr, remember=remember)
    if not follows(task, "bespoke"):
        return start
    task.offer(start, 0, steps)
    until = None if task.seconds is None else time.monotonic() + task.seconds
    how: dict[str, Any] = {"tag": "bespoke"}
    if local:
        bound = Bound(knobs, task.teacher, float(lipschitz))
        how = {"tag": f"bespoke-bound-{lipschitz!r}", "objective": bound.objective, "player": bound.play}
    found = descend(task, knobs, recipe, until=until, **how)
    return min((start, found), key=task.judge)
