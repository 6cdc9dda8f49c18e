"""Choices of every step by themselves, against the best recipe of whole runs, by the guard's own test."""

from __future__ import annotations

import numpy as np
import pytest
from learned_problems import SHAPES, base, ring, sixteen, task

from fewstep.samplers.learned.learning import learn
from fewstep.samplers.learned.search.free_steps import HISTORIES, LIKE, FreeSteps, like
from fewstep.samplers.learned.tasks.learner_entry import METHODS
from fewstep.samplers.learned.tasks.learner_task import score
from fewstep.samplers.solvers.mixed_steps import PER_STEP


@pytest.mark.parametrize("solver", LIKE)
def test_a_candidate_begins_near_the_solver_it_is_like(solver):
    t = task(ring(), (2,), 5, train=32, valid=32, teacher={"nfe": 30})
    known = base(t, solver, **({"lower_order_final": True} if solver.startswith("dpmpp") else {}))
    near, euler = like(known).compiled(known), base(t, "ddim")
    errors = [score(t.errors(table, t.train_parts())) for table in (known, near, euler)]
    assert errors[1] < 2 * errors[0] or errors[1] < errors[2]
    assert like(base(t, "heun")) is None


def test_children_are_new_run_and_stay_between_the_ends():
    t = task(ring(), (2,), 5, train=8, valid=8, teacher={"nfe": 30})
    start = base(t)
    steps = FreeSteps(start, np.random.default_rng(0))
    steps.errors[like(start)] = 1.0
    for _ in range(6):
        for child in steps.next(8):
            assert child not in steps.errors and child.times[0] == start.times[0] and child.times[-1] == start.times[-1]
            assert (np.diff(child.times) < 0).all()
            assert all(one.history in (*HISTORIES, (0, 1, 2)) for one in child.steps)
            assert child.compiled(start).nfe == 5
            steps.errors[child] = float(len(steps.errors))
    assert len(steps.errors) == 49 and steps.next(0) == []


def test_mixed_alone_or_beside_others_runs_no_more_than_told_and_wins_over_its_beginning():
    t = task(ring(), (2,), 5, train=32, valid=32, teacher={"nfe": 30})
    start, ran = base(t), []
    t.tell = ran.append
    found = METHODS.find("s3").fn(t, start, solvers=["dpmpp_2m", "cab", "mixed"], grids=["start"], evaluations=40)
    whole = METHODS.find("s3").fn(t, start, solvers=["dpmpp_2m", "cab"], grids=["start"], evaluations=40)
    assert found.name == "mixed" and set(PER_STEP) <= set(found.options) and max(one.step for one in ran) <= 40
    assert score(t.errors(found, t.train_parts())) < score(t.errors(whole, t.train_parts()))


PLACE = {"batch_size": 512}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ring", "sixteen"])
def test_free_steps_beat_the_best_recipe_of_whole_runs_by_the_guard_s_test(name):
    """With weights in closed form on top; the rival is the best of all solvers on all grids."""
    model = {"ring": ring, "sixteen": sixteen}[name]()
    stages = [("s3", {"evaluations": 800, "samples": 450}), "iia"]
    artefact = learn(
        model, "auto", 5, stages, shape=SHAPES[name], seeds=range(600), cache=False, progress=False, **PLACE
    )
    (one,) = artefact.tables
    assert one.status == "learned" and one.tableau.name == "mixed"
