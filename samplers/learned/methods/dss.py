"""dss: grid and weights of all outputs, by the error of the states on the way and of the end."""

from __future__ import annotations

import torch
from torch import Tensor

from fewstep.samplers.learned.descent.objectives import DescentOptions, _squares
from fewstep.samplers.learned.descent.stages import Rates, _learn
from fewstep.samplers.learned.parameters.knobs import Knobs
from fewstep.samplers.learned.problem.problem import Part
from fewstep.samplers.learned.problem.teacher import Teacher
from fewstep.samplers.learned.tasks.learner_entry import learner
from fewstep.samplers.learned.tasks.learner_task import Task
from fewstep.samplers.learned.yardsticks.yardstick import LATENT
from fewstep.samplers.table.tableau import Tableau

_0 = torch.zeros((), dtype=torch.float64)


@learner(
    "dss",
    learns=("grid", "coef"),
    gradients=True,
    reference="Wang et al., Differentiable Solver Search for Fast Diffusion Sampling, 2025, arXiv 2505.21114",
)
def dss(
    task: Task,
    start: Tableau,
    *,
    nodes: float = 1.0,
    huber: float = 1e-3,
    end: float = 1000.0,
    optimizer: str = "lion",
    steps: int = 300,
    batch: int = 32,
    lr: Rates = 0.01,
    remember: bool = False,
) -> Tableau:
    """The grid and weights of all outputs that keep a constant velocity exact, by the states on the way and the end.

        loss = nodes sum_k |x_k - teacher(t_k)|^2 + end Huber_huber(x0 - teacher)

    In velocities v = eps - x0 these are x += dr_i sum_j C_ij v_j with rows of C that sum to one: N (N + 1) / 2 numbers, one
    of them idle. The teacher's times are those of the nodes at each step, held fixed in the derivative. A task's own loss
    takes the place of Huber's.
    """

    def objective(states: list[Tensor], part: Part, teacher: Teacher, knobs: Knobs) -> Tensor:
        times = knobs.table().times
        on_way = sum(
            (_squares(states[k], teacher.path(part).at(float(times[k]))).mean() for k in range(1, len(states) - 1)), _0
        )
        if task.loss is not LATENT:
            return nodes * on_way + end * task.loss.of(task.problem, part, states[-1], teacher.end(part)).mean()
        gap = (states[-1] - teacher.end(part)).double()
        small = gap.abs() <= huber
        final = torch.where(small, 0.5 * gap.square(), huber * (gap.abs() - 0.5 * huber)).mean()
        return nodes * on_way + end * final

    recipe = DescentOptions(steps=steps, batch=batch, lr=lr, optimizer=optimizer, remember=remember)
    return _learn(task, start, [((("grid", "coef"), start.nfe, True), recipe)], "dss", objective=objective)
