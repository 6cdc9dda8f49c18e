"""epd: where parallel directions are asked and with which weights they are averaged, down the gradient through the sampler.

A step of `epd` asks K inputs at once, so that none may read an output of its own step; all else is free: the steps' ends, the
weights of all outputs so far on every input, of the state, and the K averaging weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fewstep.checks import whole
from fewstep.samplers.learned.descent.objectives import DescentOptions
from fewstep.samplers.learned.descent.stages import Rates, _learn
from fewstep.samplers.artefact.corrections import on_times
from fewstep.samplers.learned.methods.late import LEAST, later, room
from fewstep.samplers.learned.tasks.learner_entry import learner
from fewstep.samplers.learned.tasks.learner_task import Task
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
    shares: Sequence[float] = (0.0, 0.5, 1.0),
    trial: int = 20,
) -> Tableau:
    """Grid, weights and network times of a table with parallel directions: the calls of a step stay one call.

    free, window, loss, steps, batch, lr, even, remember: as in `joint`; window None: all outputs. shares: how much of the
    first step is left away, in parts of the `room` there is (see `late`): each is learned for `trial` steps, the best goes on.

    Raises:
        ValueError: a table whose rows all need the one before them.
    """
    whole("steps", steps)
    if max(together(start)) == 1:
        raise ValueError(
            f"epd learns how a step averages parallel directions, and {start.name!r} has none: learn(model, 'epd', nfe, 'epd')"
        )
    how: dict[str, Any] = {"loss": loss, "batch": batch, "lr": lr, "remember": remember, "even": even}
    turned = (free, start.nfe if window is None else window, False)
    there = room(start) if len(start.groups) > 1 else 0.0
    begun = [on_times(start, later(start, there * share)) if share * there >= LEAST else start for share in shares]
    begun = list({table.times.tobytes(): table for table in begun}.values())
    if len(begun) > 1:
        first = DescentOptions(steps=trial, **how)
        begun = [_learn(task, table, [(turned, first)], f"epd-{i}") for i, table in enumerate(begun)]
    best = min(begun, key=task.judge)
    return _learn(task, best, [(turned, DescentOptions(steps=steps, **how))], "epd")
