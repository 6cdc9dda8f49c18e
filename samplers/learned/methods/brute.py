"""brute: every grid on some of the teacher's nodes, run with the solver itself; for tests and tiny problems."""

from __future__ import annotations

from itertools import combinations
from math import comb

from fewstep.samplers.artefact.corrections import on_times
from fewstep.samplers.building.resuming import boundaries
from fewstep.samplers.learned.search.shortest_path import teacher_nodes
from fewstep.samplers.learned.tasks.learner_entry import learner
from fewstep.samplers.learned.tasks.learner_task import Task
from fewstep.samplers.schedule.base import Array
from fewstep.samplers.table.tableau import Tableau

MOST_GRIDS = 20_000  # that `brute` looks at


@learner("brute", learns=("grid",), reference="every grid there is")
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
    parts, times = task.some_parts(samples), task.teacher.table.times
    found = []
    for inner in combinations(range(1, len(chosen) - 1), len(boundaries(start)) - 2):
        path = [0, *inner, len(chosen) - 1]
        table = on_times(start, times[chosen[path]])
        found.append((float(task.errors(table, parts, task.loss).mean()), path))
    return sorted(found)
