"""tta: the times shown to the network, each by the error of the state after its own call."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from fewstep.samplers.learned.descent.descent import Objective, descend
from fewstep.samplers.learned.descent.objectives import DescentOptions, _squares
from fewstep.samplers.learned.descent.stages import Rates, follows
from fewstep.samplers.learned.parameters.knobs import Knobs
from fewstep.samplers.learned.problem.problem import Part
from fewstep.samplers.learned.problem.teacher import Teacher
from fewstep.samplers.learned.tasks.learner_entry import learner
from fewstep.samplers.learned.tasks.learner_task import Task, enough
from fewstep.samplers.table.tableau import Tableau


@learner(
    "tta",
    learns=("tau",),
    gradients=True,
    reference="Xia et al., Towards More Accurate Diffusion Model Acceleration with A Timestep Aligner, 2023, arXiv 2310.09469",
)
def tta(
    task: Task,
    start: Tableau,
    *,
    mode: str = "parallel",
    steps: int = 150,
    batch: int = 32,
    lr: Rates = None,
    remember: bool = True,
) -> Tableau:
    """The times shown to the network: each call's brings the next state to the teacher's, through that call alone.

        tau_k = argmin E log |x_{k+1}(tau_k) - teacher(t_{k+1})|^2      on states x_k of the sampler itself

    mode: "parallel" turns all at once, "sequential" one after another (`steps` are divided among them). The reference
    must have states on the way.
    """
    if mode not in ("parallel", "sequential"):
        raise ValueError(f'`mode` must be "parallel" or "sequential"; got {mode!r}')
    calls = range(1, start.nfe)
    groups = [tuple(calls)] if mode == "parallel" else [(k,) for k in calls]
    if not follows(task, "tta") or not groups:
        return start
    until = None if task.seconds is None else time.monotonic() + task.seconds
    recipe = DescentOptions(steps=max(1, steps // len(groups)), batch=batch, lr=lr, remember=remember)
    for i, group in enumerate(groups):
        knobs = Knobs(start, task.problem.prediction, ("tau",), 1)
        enough(knobs.count, task.train, "tta")
        found = descend(task, knobs, recipe, tag=f"tta-{i}", objective=_aligned(group), cut=True, until=until)
        start = start if found is knobs.start else found
    return start


def _aligned(calls: tuple[int, ...]) -> Objective:
    """Mean log error of the states after these calls, against the teacher at their times."""

    def objective(states: list[Tensor], part: Part, teacher: Teacher, knobs: Knobs) -> Tensor:
        errors = [_squares(states[k + 1], teacher.path(part).at(float(knobs.start.times[k + 1]))) for k in calls]
        return torch.stack([e.log().mean() for e in errors]).mean()

    return objective
