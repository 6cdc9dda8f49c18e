"""ems: DPM-Solver-v3 with statistics measured on this very model."""

from __future__ import annotations

from typing import Any

from fewstep.samplers.building.compiling import build
from fewstep.samplers.building.references import DPM_V3
from fewstep.samplers.building.resuming import boundaries
from fewstep.samplers.learned.fitting.model_statistics import estimate
from fewstep.samplers.learned.tasks.learner_entry import learner
from fewstep.samplers.learned.tasks.learner_task import Task, enough
from fewstep.samplers.table.tableau import Tableau


@learner("ems", learns=("coef",), reference=DPM_V3)
def ems(
    task: Task,
    start: Tableau,
    *,
    nodes: int = 64,
    per: str = "channel",
    samples: int = 64,
    order: int = 2,
    corrector: bool | int = True,
    derivative: str = "auto",
) -> Tableau:
    """DPM-Solver-v3 on the start's grid, with statistics measured on this model: one estimate serves every grid and nfe.

    Args:
        task: Task. start: its step boundaries are kept, its solver is not. nodes, per, derivative: of `estimate`. samples:
            how many training seeds are used. order, corrector: of dpm_solver_v3.

    Raises:
        ValueError: an option outside its range, fewer than 3 samples, samples of several shapes, a teacher with noise.

    Reference: DPM-Solver-v3: Improved Diffusion ODE Solver with Empirical Model Statistics; Zheng, Lu, Chen, Zhu; 2023;
    arXiv:2310.13268. Statistics as `estimate` measures them.
    """
    seeds = task.train[:samples]
    enough(3, seeds, "ems")
    if len(shapes := {tuple(part.x_T.shape[1:]) for part in task.problem.parts(seeds)}) > 1:
        raise ValueError(
            f"ems has statistics for every element, of one shape; the samples have {sorted(shapes)}: learn each alone"
        )
    times = boundaries(start)
    options: dict[str, Any] = {"order": order, "corrector": corrector}
    build("dpm_solver_v3", start.schedule, start.nfe, times, **options)  # refuses what is wrong before the first call
    key = ("ems", nodes, per, seeds, derivative)
    if key not in task.memo:
        task.memo[key] = estimate(task.teacher, task.problem.parts(seeds), nodes, per, derivative)
    table = build("dpm_solver_v3", start.schedule, start.nfe, times, statistics=task.memo[key], **options)
    task.offer(table)
    return table
