"""Descents one after another, each with parameters of its own, for networks that have gradients.

    x0(knobs) = play(x_T, W(knobs), tau(knobs)),     minimise over seeds  loss(x0(knobs) - x0(teacher))

Knobs at zero are the table that a descent is given, so that descents can follow one another.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from fewstep.samplers.learned.descent.curvature import even
from fewstep.samplers.learned.descent.descent import descend
from fewstep.samplers.learned.descent.objectives import DescentOptions
from fewstep.samplers.learned.parameters.knobs import Knobs
from fewstep.samplers.learned.playing.differentiable import has_gradients
from fewstep.samplers.learned.tasks.learner_task import Task, enough
from fewstep.samplers.table.tableau import Tableau

Rates = float | Mapping[str, float] | None


def follows(task: Task, what: str) -> bool:
    """Whether the network has gradients; a warning where it does not, and the stage is left out."""
    part = task.problem.part(task.train[:1])
    found = has_gradients([part], 0.5 * (task.problem.t_start + task.problem.t_end))
    task.problem.spent += len(part.seeds)
    if not found:
        warnings.warn(
            f"{what} needs gradients of the network, which this one does not have: the stage was left out. Methods without "
            "gradients, such as oss and iia, learn on it",
            stacklevel=3,
        )
    return found


def _learn(
    task: Task,
    start: Tableau,
    stages: Sequence[tuple[tuple[Sequence[str], int, bool], DescentOptions]],
    name: str,
    **how: Any,
) -> Tableau:
    """Descents one after another, each from the table of the one before. Knobs are (free, window, consistent)."""
    if not follows(task, name):
        return start
    until = None if task.seconds is None else time.monotonic() + task.seconds
    for i, (turned, recipe) in enumerate(stages):
        if i and until is not None and time.monotonic() > until:
            break
        knobs = Knobs(start, task.problem.prediction, *turned)
        if not knobs.parameters:
            continue
        enough(knobs.count, task.train, name)
        if recipe.even:
            even(task, knobs, recipe.even)
        found = descend(task, knobs, recipe, tag=f"{name}-{i}", until=until, **how)
        start = start if found is knobs.start else found
    return start
