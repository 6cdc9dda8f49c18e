"""Many recipes, looked at on a few seeds first; those on one grid are drawn together."""

from __future__ import annotations

from collections.abc import Sequence

from fewstep.samplers.learned.playing.many_tables import drawn_together
from fewstep.samplers.learned.problem.problem import squared_errors
from fewstep.samplers.learned.problem.recipes import Recipe
from fewstep.samplers.learned.tasks.learner_task import Task, score
from fewstep.samplers.table.tableau import Tableau

ROUNDS = ((4, 24), (8, 8))  # seeds to look at, and how many recipes go on


def screened(task: Task, known: Sequence[Recipe]) -> list[Recipe]:
    """The recipes worth all validation seeds: of many, those that are best on the first few."""
    if len(known) <= 2 * ROUNDS[-1][1]:
        return list(known)
    task.teacher.prepare(task.valid_parts())
    for seeds, kept in ROUNDS:
        scores = _scores(task, [recipe.table for recipe in known], task.valid[:seeds])
        known = [known[i] for i in sorted(range(len(known)), key=scores.__getitem__)[:kept]]
    return list(known)


def _scores(task: Task, tables: Sequence[Tableau], seeds: tuple[int, ...]) -> list[float]:
    """Score of each table on the same seeds."""
    part = task.problem.part(seeds)
    truth, found = task.teacher.end(part), [0.0] * len(tables)
    alike: dict[bytes, list[int]] = {}
    for i, table in enumerate(tables):
        alike.setdefault(table.model_times.tobytes(), []).append(i)
    most = max(1, task.problem.batch_size // len(seeds))
    for group in alike.values():
        for few in (group[i : i + most] for i in range(0, len(group), most)):
            drawn = drawn_together(task.problem, [tables[i] for i in few], seeds)
            for i, x0 in zip(few, drawn, strict=True):
                found[i] = score(squared_errors(x0, truth))
    return found
