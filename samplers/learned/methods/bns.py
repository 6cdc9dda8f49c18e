"""bns: every weight and the grid, tied to nothing, by the error of the end."""

from __future__ import annotations

from typing import Any

from fewstep.samplers.learned.descent.objectives import DescentOptions
from fewstep.samplers.learned.descent.stages import Rates, _learn
from fewstep.samplers.learned.tasks.learner_entry import learner
from fewstep.samplers.learned.tasks.learner_task import Task
from fewstep.samplers.table.tableau import Tableau


@learner(
    "bns",
    learns=("grid", "coef"),
    gradients=True,
    reference="Shaul et al., Bespoke Non-Stationary Solvers for Fast Sampling of Diffusion and Flow Models, 2024, "
    "arXiv 2403.01329",
)
def bns(
    task: Task,
    start: Tableau,
    *,
    loss: Any = "log",
    steps: int = 300,
    batch: int = 32,
    lr: Rates = None,
    remember: bool = False,
) -> Tableau:
    """Every weight and the grid, tied to nothing: x_{k+1} = a_k x_k + sum_j b_kj m_j, by the log of the final error.

    N (N + 5) / 2 + 1 numbers with the two ends of the grid, which stay. Earlier states add nothing to it, see
    `playing/arithmetic.py`.
    """
    recipe = DescentOptions(loss=loss, steps=steps, batch=batch, lr=lr, remember=remember)
    return _learn(task, start, [((("grid", "coef", "state"), start.nfe, False), recipe)], "bns")
