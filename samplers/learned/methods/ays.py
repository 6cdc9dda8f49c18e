"""ays: grids that bound the Kullback-Leibler divergence of a first-order sampler with noise, and the published ones.

Freezing predicted x0 D over each step of the reverse SDE costs at most, in rho = sigma / alpha,

    sum_i int over step i of E |D(x_rho, rho) - D(x_i, rho_i)|^2 d rho / rho^3,

which is a sum of terms that depend on the two ends of a step alone: the outputs at all nodes, along one noising path a sample,
give every term, and dynamic programming the grid of least total. For data N(0, v) that grid has log(1 + v / rho^2) equidistant.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.samplers.artefact.corrections import on_times
from fewstep.samplers.building.resuming import boundaries
from fewstep.samplers.grids.coordinate import Coordinate
from fewstep.samplers.grids.grid_entry import GRIDS
from fewstep.samplers.learned.problem.problem import Part
from fewstep.samplers.learned.search.shortest_path import enough_nodes, shortest
from fewstep.samplers.learned.tasks.learner_entry import learner
from fewstep.samplers.learned.tasks.learner_task import Task
from fewstep.samplers.schedule.base import Array
from fewstep.samplers.table.tableau import Tableau

MODES = ("optimise", "table")


@learner(
    "ays",
    learns=("grid",),
    reference="Align Your Steps: Optimizing Sampling Schedules in Diffusion Models; Sabour et al.; 2024; arXiv:2404.14507",
    paths=False,
)
@torch.no_grad()
def ays(
    task: Task, start: Tableau, *, mode: str = "optimise", nodes: int = 80, samples: int = 64, table: str | None = None
) -> Tableau:
    """The grid of least divergence for this network, over its own samples noised again; or a published one.

    The bound is that of a first-order solver with noise, whatever solver the table has. Where the schedule ends in
    sigma = 0, which is infinitely far, the last step is counted down to the schedule's smallest level.

    Args:
        mode: "optimise" takes `nodes` network evaluations a sample; "table" none: a published grid of ten steps, log sigma
            interpolated to any number. nodes: times to choose from. samples: training samples. table: which published
            grid, "sd15", "sdxl" or "svd"; None the nearest in range.
    """
    if mode not in MODES:
        raise ValueError(f"`mode` must be one of {', '.join(MODES)}; got {mode!r}")
    ends = boundaries(start)
    steps = len(ends) - 1
    if mode == "table":
        return on_times(start, GRIDS["ays"].fn(start.schedule, steps, float(ends[0]), float(ends[-1]), table=table))
    if table is not None:
        raise ValueError(f"`table` names a published grid, for mode='table'; got {table!r} beside mode={mode!r}")
    enough_nodes(nodes, steps)
    times = Coordinate(start.schedule, float(ends[0]), _last(start, ends)).dense(nodes - 1)
    parts = task.some_parts(samples)
    key: Any = ("ays", times.tobytes(), samples, task.train)
    if key not in task.memo:
        task.memo[key] = np.sum([_costs(task, part, times) for part in parts], 0)
    path = list(shortest(task.memo[key], steps)[-1])
    return on_times(start, np.append(times[path[:-1]], ends[-1]))


def _last(start: Tableau, ends: Array) -> float:
    """The last time of positive sigma."""
    schedule, last = start.schedule, float(ends[-1])
    return min(float(schedule.t_min), 0.5 * float(ends[0])) if float(schedule.sigma(last)) == 0 else last


def _costs(task: Task, part: Part, times: Array) -> Array:
    """(M, M) summed over samples and elements: what freezing the output at node i costs up to node j, by trapezia."""
    at = task.problem.schedule.nodes(times)
    outputs = torch.stack(_outputs(task, part, times))
    rate = 0.5 * (at.alpha / at.sigma) ** 2  # d(rate) = -d rho / rho^3
    M = len(times)
    cost = np.zeros((M, M))
    for i in range(M - 1):
        gap = (outputs[i:] - outputs[i]).double().square().flatten(1).sum(1).cpu().numpy()
        cost[i, i + 1 :] = np.cumsum(0.5 * (gap[1:] + gap[:-1]) * np.diff(rate[i:]))
    return cost


def _outputs(task: Task, part: Part, times: Array) -> list[Tensor]:
    """Predicted x0 (B, *shape) at every node, along x0 + W(rho^2) for the part's reference samples."""
    x0 = task.teacher.end(part)
    at = task.problem.schedule.nodes(times)
    generators = [np.random.default_rng((abs(seed), len(times))) for seed in part.seeds]

    def drawn() -> Tensor:
        z = np.stack([g.standard_normal(tuple(x0.shape[1:])) for g in generators])
        return torch.as_tensor(z).to(x0.device, x0.dtype)

    variance = np.append((at.sigma / np.where(at.alpha > 0, at.alpha, np.inf)) ** 2, 0.0)
    found, y = [], x0.clone()
    for m in range(len(times) - 1, -1, -1):
        alpha, sigma = float(at.alpha[m]), float(at.sigma[m])
        if alpha > 0:
            y = y + float(variance[m] - variance[m + 1]) ** 0.5 * drawn()
        x = alpha * y if alpha > 0 else sigma * drawn()
        found.append(part.denoiser.x0(x, float(times[m])))
        task.problem.spent += len(part.seeds)
    return found[::-1]
