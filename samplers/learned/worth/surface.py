"""Whether tables between two guidance scales hold: asked of the network, at the middle, when they are learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch

from fewstep.samplers.artefact.corrections import between
from fewstep.samplers.artefact.learned_table import Learned
from fewstep.samplers.learned.problem.problem import Part, Problem, squared_errors
from fewstep.samplers.learned.problem.teacher import Teacher
from fewstep.samplers.table.tableau import Tableau

SEEDS = 32  # of those that tables are chosen by
SLACK = 1.05  # of an error: so much worse than the nearest table holds still


def tested_between(
    tables: Sequence[Learned], problem: Problem, seeds: Sequence[int], teacher: Mapping[str, Any], cache: Any
) -> list[dict[str, Any]]:
    """For each nfe and each two neighbouring scales: the rms at the middle of the table between and of the two, and a verdict.

    It holds where it errs no more than the nearest of the two would. Costs a reference run of 32 samples at each middle.
    """
    found: list[dict[str, Any]] = []
    scales = sorted({t.guidance for t in tables if t.guidance is not None})
    for low, high in pairwise(scales):
        middle = 0.5 * (low + high)
        there = problem.under(middle)
        reference = Teacher(there, cache=cache, **teacher)
        parts = there.parts(list(seeds)[:SEEDS])
        for nfe in sorted({t.nfe for t in tables}):
            own = {t.guidance: t.tableau for t in tables if t.nfe == nfe}
            if low in own and high in own:
                told = {"nfe": nfe, "guidance": [low, high], "at": middle}
                found.append({**told, **_judged(own[low], own[high], there, reference, parts)})
    return found


def _judged(low: Tableau, high: Tableau, problem: Problem, reference: Teacher, parts: Sequence[Part]) -> dict[str, Any]:
    def rms(table: Tableau) -> float:
        errors = [squared_errors(problem.draw(table, part), reference.end(part)) for part in parts]
        return float(torch.cat(errors).mean().sqrt())

    nearest = min(rms(low), rms(high))
    try:
        error = rms(between(low, high, 0.5))
    except ValueError as cannot:  # two solvers, or numbers of steps
        return {"nearest": nearest, "holds": False, "why": str(cannot)}
    return {"interpolated": error, "nearest": nearest, "holds": error <= SLACK * nearest}
