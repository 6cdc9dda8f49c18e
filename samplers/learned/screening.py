"""Many recipes on a few seeds: those that ask the network at the same times are drawn as one batch.

Calls on four samples cost nearly as much as calls on thirty, and recipes differ by solver and switches more than by grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..denoiser import clock
from ..lowering import lower
from ..player import first_state
from ..tableau import Tableau
from .playing import no_noise
from .problem import Problem, squared_errors
from .recipes import Recipe
from .task import Task, score

Tensor = torch.Tensor
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
    if any(table.stochastic for table in tables):
        return [score(task.errors(table, [part])) for table in tables]
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


@torch.no_grad()
def drawn_together(problem: Problem, tables: Sequence[Tableau], seeds: tuple[int, ...]) -> list[Tensor]:
    """x0 (B, *shape) of the same seeds by each of several tables without noise that show the network the same times."""
    part = problem.part(seeds * len(tables))
    x = part.x_T[: len(seeds)].to(torch.promote_types(part.x_T.dtype, torch.float32))
    rows = zip(*(lower(table, problem.prediction, x.device, x.dtype) for table in tables), strict=True)
    states = [first_state(table, x, no_noise) for table in tables]
    for row in rows:
        inputs = torch.cat([state.input for state in states]).to(part.x_T.dtype)
        outputs = problem.ask(part, inputs, row[0].model_time.to(clock(inputs.dtype))).chunk(len(tables))
        states = [step(state, output) for step, state, output in zip(row, states, outputs, strict=True)]
    return [state.input for state in states]
