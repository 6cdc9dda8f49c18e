"""Tables drawn together give what each gives by itself, and ask no more than they must."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from learned_problems import ring

from fewstep.samplers import NoiseSchedule, build
from fewstep.samplers.artefact.corrections import widened
from fewstep.samplers.learned.parameters.knobs import Knobs
from fewstep.samplers.learned.playing.many_tables import drawn_together
from fewstep.samplers.learned.problem.problem import Problem
from fewstep.samplers.learned.problem.recipes import recipes
from fewstep.samplers.table.tableau import Tableau

SEEDS = (3, 4, 5)
SCHEDULES = [NoiseSchedule.vp_linear(), NoiseSchedule.flow()]


def compare(problem: Problem, tables: list[Tableau]) -> float:
    """Network evaluations a sample of all tables together, once their samples are those of each by itself."""
    before = problem.spent
    found = drawn_together(problem, tables, SEEDS)
    asked = problem.spent - before
    for x0, table in zip(found, tables, strict=True):
        torch.testing.assert_close(x0, problem.draw(table, problem.part(SEEDS)), rtol=1e-12, atol=1e-12)
    return asked / len(SEEDS)


@pytest.mark.parametrize("size", [3, 12, 64])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_recipes(schedule: NoiseSchedule, size: int) -> None:
    """Solvers and switches on several grids, the first call for all of them; in batches of one, of four and of all."""
    problem = Problem(ring(schedule), shape=(2,), dtype=torch.float64, batch_size=size)
    tables = [recipe.table for recipe in recipes("auto", schedule, 5, grids=("uniform", "karras"))]
    assert len(tables) > 20
    assert compare(problem, tables) <= 4 * len(tables) + 2


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_knobs(schedule: NoiseSchedule) -> None:
    """A knob is asked for from the first input or time on that it moves; equal tables are drawn once."""
    problem = Problem(ring(schedule), shape=(2,), dtype=torch.float64)
    start = widened(build("deis", schedule, 5), 5)
    knobs = Knobs(start, problem.prediction, ("grid", "coef", "tau", "state"), 5, False)
    turned, least = [start, start], 0
    for unit in np.eye(knobs.size):
        values = torch.from_numpy(1e-3 * unit).split([len(v) for v in knobs.parameters.values()])
        knobs.set(dict(zip(knobs.parameters, values, strict=True)))
        table = knobs.table()
        turned.append(table)
        tau = np.flatnonzero(table.model_times != start.model_times)
        W = np.flatnonzero((table.W != start.W).any((1, 2)))
        least += 5 - min([*tau, *(W + 1), 5])
    assert compare(problem, turned) <= 5 + least
    assert 5 + least < 2.5 * len(turned)


def test_noise_and_unlike_tables() -> None:
    """With noise each is drawn by itself, on the seeds' Brownian paths; two calls a step and one go together."""
    schedule = NoiseSchedule.vp_linear()
    problem = Problem(ring(schedule), shape=(2,), dtype=torch.float64)
    assert compare(problem, [build("ddim", schedule, 4), build("dpmpp_2m_sde", schedule, 4)]) == 8
    assert (
        compare(problem, [build("heun", schedule, 4), build("dpmpp_2m", schedule, 4), build("ddim", schedule, 4)]) <= 11
    )
