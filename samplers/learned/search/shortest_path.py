"""The cheapest way over nodes in a given number of steps, by dynamic programming, and the teacher's nodes to choose from.

    V_1[i] = c[i, last],      V_k[i] = min_{j > i} c[i, j] + gamma V_{k-1}[j]

is the least cost of going from node i to the last one in exactly k steps: one sweep gives the grids of all numbers of steps.
"""

from __future__ import annotations

import numpy as np

from fewstep.checks import whole
from fewstep.samplers.learned.tasks.learner_task import Task
from fewstep.samplers.schedule.base import Array


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
    enough_nodes(nodes, steps)
    have = len(task.teacher.table.times)
    if have < steps + 1:
        raise ValueError(
            f"a teacher of {have - 1} steps has no grid of {steps} steps inside it; give it more, e.g. "
            f"teacher={{'nfe': {10 * steps}}}"
        )
    return np.round(np.linspace(0, have - 1, min(nodes, have))).astype(int)


def enough_nodes(nodes: int, steps: int) -> None:
    """ValueError where a grid of that many steps cannot lie on so many nodes."""
    whole("nodes", nodes, steps + 1, hint=f"A grid of {steps} steps lies on {steps + 1} nodes at least")
