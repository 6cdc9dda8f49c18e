"""ld3: the grid, then grid and network times, down the gradient of the error; the training noise may move a little."""

from __future__ import annotations

from typing import Any

from fewstep.samplers.learned.descent.objectives import DescentOptions
from fewstep.samplers.learned.descent.stages import Rates, _learn
from fewstep.samplers.learned.tasks.learner_entry import learner
from fewstep.samplers.learned.tasks.learner_task import Task
from fewstep.samplers.table.tableau import Tableau


@learner(
    "ld3",
    learns=("grid", "tau"),
    gradients=True,
    reference="Tong et al., Learning to Discretize Denoising Diffusion ODEs, 2025, arXiv 2405.15506",
)
def ld3(
    task: Task,
    start: Tableau,
    *,
    ball: float | str = 0.0,
    decoupled: bool = True,
    loss: Any = "mse",
    steps: tuple[int, int] = (100, 200),
    batch: int = 32,
    lr: Rates = None,
    optimizer: str = "adam",
    remember: bool = False,
) -> Tableau:
    """The grid, then grid and network times (`decoupled`), by the error of the result.

    ball: |x_T' - x_T| <= ball, within which the training noise may move to where the student agrees with the teacher; a
    move is kept only if the error of its sample falls. "card" takes 0.001 * (numbers of a sample) / nfe^2, which was
    published for images. Validation is always with the noise where it is. steps: of the two phases. Others: see
    `DescentOptions`.
    """
    size = task.problem.part(task.train[:1]).x_T.numel()
    radius = 0.001 * size / task.nfe**2 if ball == "card" else _number(ball, "ball")
    how: dict[str, Any] = {"loss": loss, "batch": batch, "lr": lr, "optimizer": optimizer, "remember": remember}
    how |= {"ball": radius, "ball_lr": 12 / task.nfe}
    stages: list[Any] = [((("grid",), 1, True), DescentOptions(steps=steps[0], **how))]
    if decoupled:
        stages.append(((("grid", "tau"), 1, True), DescentOptions(steps=steps[1], **how)))
    return _learn(task, start, stages, "ld3")


def _number(value: Any, name: str) -> float:
    if isinstance(value, (int, float)):
        return float(value)
    raise ValueError(f'`{name}` must be a radius or "card"; got {value!r}')
