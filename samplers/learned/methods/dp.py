"""Grids by dynamic programming over the teacher's nodes, where the cost of a step depends on its two ends alone.

    V_1[i] = c[i, last],      V_k[i] = min_{j > i} c[i, j] + gamma V_{k-1}[j]

is the least cost of going from node i to the last one in exactly k steps: one sweep gives the grids of all numbers of steps.
"""

from __future__ import annotations

from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import torch

from fewstep.samplers.artefact.corrections import boundaries, on_times
from fewstep.samplers.learned.problem.problem import Part, squared_errors
from fewstep.samplers.learned.problem.teacher import Trajectory
from fewstep.samplers.learned.tasks.learner_entry import method
from fewstep.samplers.learned.tasks.task import Task
from fewstep.samplers.schedule.base import Array
from fewstep.samplers.table.tableau import Tableau

Tensor = torch.Tensor
METRICS = ("dev", "l1", "l2")
MOST_GRIDS = 20_000  # that `brute` looks at


def shortest(cost: Array, steps: int, gamma: float = 1.0) -> list[tuple[int, ...]]:
    """Nodes on the cheapest ways from the first to the last in exactly 1, 2, ..., `steps` steps; ties go to earlier nodes.

    cost: (M, M), read above the diagonal. gamma: weight of a step relative to the one before it.
    """
    M = len(cost)
    ahead = np.where(np.triu(np.ones((M, M), bool), 1), cost, np.inf)
    value, onward = ahead[:, -1], [np.full(M, M - 1)]
    paths: list[tuple[int, ...]] = [(0, M - 1)]
    for _ in range(1, steps):
        total = ahead + gamma * value
        onward.append(total.argmin(1))
        value = total.min(1)
        path = [0]
        for choice in reversed(onward):
            path.append(int(choice[path[-1]]))
        paths.append(tuple(path))
    return paths


def teacher_nodes(task: Task, nodes: int, steps: int) -> Array:
    """Indices of at most `nodes` of the teacher's nodes, evenly spread, both ends among them.

    Raises:
        ValueError: they are too few for that many steps.
    """
    have = len(task.teacher.table.times)
    if isinstance(nodes, bool) or not isinstance(nodes, int) or nodes < steps + 1:
        raise ValueError(
            f"`nodes` must be a whole number and at least one more than the {steps} steps of the grid; got {nodes!r}"
        )
    if have < steps + 1:
        raise ValueError(
            f"a teacher of {have - 1} steps has no grid of {steps} steps inside it; give it more, e.g. "
            f"teacher={{'nfe': {10 * steps}}}"
        )
    return np.round(np.linspace(0, have - 1, min(nodes, have))).astype(int)


def some_parts(task: Task, samples: int) -> list[Part]:
    """The first training seeds in batches."""
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise ValueError(f"`samples` must be a whole number of training samples, at least 1; got {samples!r}")
    return task.problem.parts(task.train[:samples])


def step_costs(path: Trajectory, nodes: Array, metric: str) -> Array:
    """(M, M) summed over the samples of a part: what one Euler step from node i to node j gets wrong.

    In y = x / alpha and rho = sigma / alpha, where dy/drho = eps, that is y_i + (rho_j - rho_i) eps_i against y_j; where
    alpha starts at 0, in y = x / (alpha + sigma), r = sigma / (alpha + sigma) and dy/dr = eps - x0: the same step.
    l1, l2: mean distance, in those units. dev: distance to the chord from the first to the last state, against y_j's.
    """
    at = path.schedule.nodes(path.times[nodes])
    whole = bool(np.all(at.alpha > 0)) and path.schedule.kind != "flow"
    unit = at.alpha if whole else at.alpha + at.sigma
    clock, M = at.sigma / unit, len(nodes)
    y = torch.stack([path.state(int(i)).double().flatten(1) / float(u) for i, u in zip(nodes, unit, strict=True)])
    chord = torch.nn.functional.normalize(y[-1] - y[0], dim=1)
    cost = np.zeros((M, M))
    own = _deviation(y - y[0], chord)
    for i in range(M - 1):
        k, ahead = int(nodes[i]), slice(i + 1, M)
        slope = path.velocity(k).double().flatten(1)
        if whole:  # eps = x0 + v
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


@method(
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
    if not 0 < gamma < float("inf"):
        raise ValueError(f"`gamma` must be a number above 0; got {gamma!r}")
    steps = len(boundaries(start)) - 1
    chosen = teacher_nodes(task, nodes, steps)
    parts = some_parts(task, samples)
    key: Any = ("gits", nodes, metric, samples, task.train)
    if key not in task.memo:
        costs = [step_costs(task.teacher.path(part), chosen, metric) for part in parts]
        task.memo[key] = np.sum(costs, 0) / sum(len(part.seeds) for part in parts)
    path = shortest(task.memo[key], steps, gamma)[-1]
    return on_times(start, task.teacher.table.times[chosen[list(path)]])


@method("brute", learns=("grid",), reference="every grid there is")
def brute(task: Task, start: Tableau, *, nodes: int = 16, samples: int = 64) -> Tableau:
    """The best of all grids on the teacher's nodes, each run with the solver itself: for tests and tiny problems.

    Raises:
        ValueError: there are more than 20,000 of them.
    """
    steps = len(boundaries(start)) - 1
    chosen = teacher_nodes(task, nodes, steps)
    count = comb(len(chosen) - 2, steps - 1)
    if count > MOST_GRIDS:
        raise ValueError(
            f"{len(chosen)} nodes have {count} grids of {steps} steps, more than {MOST_GRIDS}: give fewer `nodes`, or use "
            "'oss', which finds a nearly best one"
        )
    return on_times(start, task.teacher.table.times[chosen[ranking(task, start, chosen, samples)[0][1]]])


def ranking(task: Task, start: Tableau, chosen: Array, samples: int) -> list[tuple[float, list[int]]]:
    """(mean square error, path) of every grid on some of the teacher's nodes, best first."""
    parts, times = some_parts(task, samples), task.teacher.table.times
    found = []
    for inner in combinations(range(1, len(chosen) - 1), len(boundaries(start)) - 2):
        path = [0, *inner, len(chosen) - 1]
        table = on_times(start, times[chosen[path]])
        errors = [squared_errors(task.problem.draw(table, part), task.teacher.end(part)) for part in parts]
        found.append((float(torch.cat(errors).mean()), path))
    return sorted(found)
