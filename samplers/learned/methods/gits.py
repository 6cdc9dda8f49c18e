"""gits: a grid over the teacher's nodes by dynamic programming, where the cost of a step depends on its two ends alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.checks import positive
from fewstep.samplers.artefact.corrections import on_times
from fewstep.samplers.building.resuming import boundaries
from fewstep.samplers.learned.problem.trajectory import Trajectory
from fewstep.samplers.learned.search.shortest_path import shortest, teacher_nodes
from fewstep.samplers.learned.tasks.learner_entry import learner
from fewstep.samplers.learned.tasks.learner_task import Task
from fewstep.samplers.schedule.base import Array
from fewstep.samplers.table.tableau import Tableau

METRICS = ("dev", "l1", "l2")


def step_costs(path: Trajectory, nodes: Array, metric: str) -> Array:
    """(M, M) summed over the samples of a part: what one Euler step from node i to node j gets wrong.

    In y = x / alpha and rho = sigma / alpha, where dy/drho = eps, that is y_i + (rho_j - rho_i) eps_i against y_j; where
    alpha starts at 0, in y = x / (alpha + sigma), r = sigma / (alpha + sigma) and dy/dr = eps - x0: the same step.
    l1, l2: mean distance, in those units. dev: distance to the chord from the first to the last state, against y_j's.
    """
    at = path.schedule.nodes(path.times[nodes])
    everywhere = bool(np.all(at.alpha > 0)) and path.schedule.kind != "flow"
    unit = at.alpha if everywhere else at.S
    clock, M = at.sigma / unit, len(nodes)
    y = torch.stack([path.state(int(i)).double().flatten(1) / float(u) for i, u in zip(nodes, unit, strict=True)])
    chord = torch.nn.functional.normalize(y[-1] - y[0], dim=1)
    cost = np.zeros((M, M))
    own = _deviation(y - y[0], chord)
    for i in range(M - 1):
        k, ahead = int(nodes[i]), slice(i + 1, M)
        slope = path.velocity(k).double().flatten(1)
        if everywhere:  # eps = x0 + v
            slope = slope + path.x0(k).double().flatten(1)
        lengths = torch.as_tensor(clock[ahead] - clock[i], device=y.device).view(-1, 1, 1)
        landed = y[i] + lengths * slope
        if metric == "dev":
            wrong = (_deviation(landed - y[0], chord) - own[ahead]).abs()
        else:
            gap = landed - y[ahead]
            wrong = gap.abs().mean(-1) if metric == "l1" else gap.square().mean(-1).sqrt()
        cost[i, ahead] = wrong.sum(-1).cpu().numpy()
    return cost


def _deviation(y: Tensor, chord: Tensor) -> Tensor:
    """Distance of points (n, B, D) to the lines along unit vectors (B, D)."""
    along = (y * chord).sum(-1, keepdim=True)
    return (y - along * chord).norm(dim=-1)


@learner(
    "gits",
    learns=("grid",),
    reference="On the Trajectory Regularity of ODE-based Diffusion Sampling; Chen et al.; 2024; arXiv:2405.11326",
)
def gits(
    task: Task, start: Tableau, *, nodes: int = 61, metric: str = "dev", gamma: float = 1.15, samples: int = 256
) -> Tableau:
    """The grid on which single Euler steps from the teacher's states err least, by additive dynamic programming.

    The cost knows nothing of the solver that will run there, nor of errors carried on, for which gamma stands in.

    Args:
        nodes: of the teacher to choose from. metric: "dev", "l1" or "l2", see `step_costs`. gamma: weight of a step
            relative to the one before it. samples: training samples.
    """
    if metric not in METRICS:
        raise ValueError(f"`metric` must be one of {', '.join(METRICS)}; got {metric!r}")
    positive("gamma", gamma)
    steps = len(boundaries(start)) - 1
    chosen = teacher_nodes(task, nodes, steps)
    parts = task.some_parts(samples)
    key: Any = ("gits", nodes, metric, samples, task.train)
    if key not in task.memo:
        costs = [step_costs(task.teacher.path(part), chosen, metric) for part in parts]
        task.memo[key] = np.sum(costs, 0) / sum(len(part.seeds) for part in parts)
    path = shortest(task.memo[key], steps, gamma)[-1]
    return on_times(start, task.teacher.table.times[chosen[list(path)]])
