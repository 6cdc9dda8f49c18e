"""s4s: weights of the last outputs, and grid and network times, in turn."""

from __future__ import annotations

from typing import Any

from fewstep.samplers.learned.descent.objectives import DescentOptions
from fewstep.samplers.learned.descent.stages import Rates, _learn
from fewstep.samplers.learned.tasks.learner_entry import learner
from fewstep.samplers.learned.tasks.learner_task import Task
from fewstep.samplers.table.tableau import Tableau


@learner(
    "s4s",
    learns=("grid", "coef", "tau"),
    gradients=True,
    reference="Frankel et al., S4S: Solving for a Diffusion Model Solver, 2025, arXiv 2502.17423",
)
def s4s(
    task: Task,
    start: Tableau,
    *,
    alternating: bool = True,
    rounds: int = 2,
    window: int = 3,
    consistent: bool = False,
    loss: Any = "log",
    steps: int = 300,
    batch: int = 32,
    lr: Rates = None,
    ball: float = 0.0,
    remember: bool = False,
) -> Tableau:
    """Weights of the last `window` outputs on the given grid; `alternating` with grid and network times, `rounds` times.

    steps: in all. ball: as in `ld3`. consistent: only corrections that leave a constant x0 and eps exact.
    """
    count = 2 * rounds if alternating else 1
    how: dict[str, Any] = {"loss": loss, "steps": max(1, steps // count), "batch": batch, "lr": lr, "ball": ball}
    recipe = DescentOptions(remember=remember, ball_lr=12 / task.nfe, **how)
    weights, places = (("coef",), window, consistent), (("grid", "tau"), 1, True)
    turns = [(weights, recipe), (places, recipe)] * rounds if alternating else [(weights, recipe)]
    return _learn(task, start, turns, "s4s")
