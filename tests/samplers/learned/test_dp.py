"""Grids by dynamic programming: additive costs, the solver's own state, and every grid there is."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from learned_problems import SHAPES, Axes, base, ring, sixteen, task

from fewstep.samplers import NoiseSchedule
from fewstep.samplers.artefact.corrections import on_times
from fewstep.samplers.building.resuming import boundaries
from fewstep.samplers.learned.methods.brute import ranking
from fewstep.samplers.learned.methods.gits import step_costs
from fewstep.samplers.learned.problem.problem import squared_errors
from fewstep.samplers.learned.search.shortest_path import shortest, teacher_nodes
from fewstep.samplers.learned.search.solver_states import Search
from fewstep.samplers.learned.tasks.learner_entry import METHODS
from fewstep.samplers.learned.tasks.learner_task import Task
from fewstep.samplers.table.tableau import Tableau

MIXTURES = {"ring": ring, "sixteen": sixteen}
SHORT = {"nfe": 30}  # steps of the teacher: enough to tell grids apart


def learnable(name: str, nfe: int, **how: Any) -> Task:
    return task(MIXTURES[name](), SHAPES[name], nfe, **{"train": 32, "valid": 32, "teacher": SHORT, **how})


def bell(schedule: NoiseSchedule | None = None) -> Any:
    """One Gaussian, wide along one axis."""
    return Axes(torch.tensor([[0.5, -0.2]]), torch.tensor([[0.7, 0.1]]), torch.ones(1)).denoiser(schedule)


def train_error(t: Task, table: Tableau) -> float:
    errors = [squared_errors(t.problem.draw(table, p), t.teacher.end(p)) for p in t.train_parts()]
    return float(torch.cat(errors).mean())


class TestAdditive:
    @pytest.mark.parametrize("gamma", [0.8, 1.0, 1.15])
    def test_equals_every_way_there_is(self, gamma):
        for seed in range(20):
            cost = np.random.default_rng(seed).random((13, 13))
            for n, path in enumerate(shortest(cost, 4, gamma), 1):
                ways = [(0, *inner, 12) for inner in combinations(range(1, 12), n - 1)]

                def worth(way: tuple[int, ...], cost: Any = cost) -> float:
                    return sum(gamma**k * cost[a, b] for k, (a, b) in enumerate(zip(way[:-1], way[1:], strict=True)))

                assert abs(worth(path) - min(map(worth, ways))) < 1e-12

    def test_ties_go_to_the_earliest_nodes(self):
        assert shortest(np.ones((6, 6)), 3) == [(0, 5), (0, 1, 5), (0, 1, 2, 5)]

    @pytest.mark.parametrize("metric", ["dev", "l1", "l2"])
    def test_a_step_costs_less_where_the_teacher_has_more_nodes(self, metric):
        gaps = []
        for steps in (20, 80):
            t = task(ring(), (2,), 5, train=16, teacher={"nfe": steps})
            path = t.teacher.path(t.train_parts()[0])
            cost = step_costs(path, np.arange(steps + 1), metric)
            assert np.isfinite(cost).all() and (cost >= 0).all()
            gaps.append(np.diag(cost, 1).max())
        assert gaps[1] < 0.15 * gaps[0]  # one Euler step errs by the square of its length

    def test_the_euler_step_is_the_one_of_sigma_on_variance_exploding_schedules(self):
        t = task(ring(NoiseSchedule.edm()), (2,), 5, train=16, teacher={"nfe": 12})
        path = t.teacher.path(t.train_parts()[0])
        i, j = 3, 7
        x, sigma = path.state(i), path.times
        eps = (x - path.x0(i)) / sigma[i]
        landed = x + (sigma[j] - sigma[i]) * eps
        expected = (landed - path.state(j)).square().mean(1).sqrt().sum()
        np.testing.assert_allclose(step_costs(path, np.arange(13), "l2")[i, j], float(expected), rtol=1e-9)

    def test_all_numbers_of_steps_from_one_table_of_costs(self):
        t = learnable("ring", 5)
        METHODS.find("gits").fn(t, base(t))
        spent = t.problem.spent
        t.nfe = 8
        table = METHODS.find("gits").fn(t, base(t))
        assert t.problem.spent == spent and table.nfe == 8

    def test_as_many_steps_as_the_teacher_is_the_teachers_grid(self):
        t = learnable("ring", 30)
        times = boundaries(METHODS.find("gits").fn(t, base(t, "ddim")))
        assert np.array_equal(times, t.teacher.table.times)


@pytest.mark.one_in(3)
class TestState:
    """DP over the solver's own state."""

    @pytest.mark.slow
    @pytest.mark.parametrize("name", MIXTURES)
    @pytest.mark.parametrize("nfe", [4, pytest.param(5, marks=pytest.mark.slow)])
    @pytest.mark.parametrize("taper", [True, False])
    def test_among_the_best_of_all_grids(self, name, nfe, taper):
        """One state a node is no exact search: of 364 and 1,001 grids, the best twenty; with eight, the best three."""
        t = learnable(name, nfe, train=64)
        start = base(t, lower_order_final=taper)
        every = ranking(t, start, teacher_nodes(t, 16, nfe), 64)
        assert len(every) == {4: 364, 5: 1001}[nfe]
        for beam, rank in ((1, 20), (8, 2)):
            found = train_error(t, METHODS.find("oss").fn(t, start, nodes=16, beam=beam))
            assert sum(cost < found * (1 - 1e-9) for cost, _ in every) <= rank

    @pytest.mark.parametrize("nfe", [3, 4])
    def test_is_the_best_of_all_on_one_gaussian(self, nfe):
        t = task(bell(), (2,), nfe, train=32, teacher=SHORT)
        start = base(t, "ddim")
        assert np.array_equal(
            boundaries(METHODS.find("oss").fn(t, start, nodes=14)),
            boundaries(METHODS.find("brute").fn(t, start, nodes=14)),
        )

    @pytest.mark.parametrize("solver", ["dpmpp_2m", "dpmpp_3m", "unipc", "deis", "cab", "heun", "dpmpp_2s"])
    def test_cost_is_the_error_of_the_table(self, solver):
        t = learnable("ring", 6)
        start = base(t, solver)
        search = Search(t, start, teacher_nodes(t, 12, 6), 32, 1)
        for way in search.ways(start.groups, start.options)[:3]:
            times = search.times[list(way.path)]
            assert train_error(t, on_times(start, times)) == pytest.approx(way.cost, rel=1e-9)

    @pytest.mark.parametrize("solver", ["dpmpp_2m", "unipc", "heun"])
    def test_grid_ends_where_it_should_and_has_exactly_so_many_steps(self, solver):
        t = learnable("ring", 6)
        start = base(t, solver)
        times = boundaries(METHODS.find("oss").fn(t, start, nodes=14))
        assert len(times) == len(start.groups) + 1 and (np.diff(times) < 0).all()
        assert times[0] == t.problem.t_start and times[-1] == t.problem.t_end

    def test_shorter_grids_come_for_free(self):
        t = learnable("ring", 6)
        METHODS.find("oss").fn(t, base(t), nodes=20)
        spent = t.problem.spent
        t.nfe = 4
        free = METHODS.find("oss").fn(t, base(t), nodes=20)
        assert t.problem.spent - spent <= 32  # from the last node but one, which longer ways do not use as early
        alone = learnable("ring", 4)
        assert np.array_equal(boundaries(METHODS.find("oss").fn(alone, base(alone), nodes=20)), boundaries(free))

    def test_network_evaluations_are_nodes_times_steps(self):
        t = learnable("ring", 5)
        t.teacher.path(t.train_parts()[0])
        spent = t.problem.spent
        METHODS.find("oss").fn(t, base(t), nodes=20)
        assert t.problem.spent - spent == 32 * (1 + 17 + 16 + 15 + 15)  # node j is not reached in more than j steps

    def test_twice_the_same(self):
        a, b = (learnable("sixteen", 5) for _ in range(2))
        assert np.array_equal(METHODS.find("oss").fn(a, base(a)).W, METHODS.find("oss").fn(b, base(b)).W)

    @pytest.mark.parametrize("name", MIXTURES)
    def test_a_wider_beam_is_never_worse(self, name):
        t = learnable(name, 5)
        errors = [train_error(t, METHODS.find("oss").fn(t, base(t), nodes=16, beam=beam)) for beam in (1, 3)]
        assert errors[1] <= errors[0] * (1 + 1e-12)

    def test_a_full_beam_is_the_best_of_all(self):
        t = learnable("ring", 4)
        start = base(t)
        found = METHODS.find("oss").fn(t, start, nodes=9, beam=100)
        assert np.array_equal(boundaries(found), boundaries(METHODS.find("brute").fn(t, start, nodes=9, samples=32)))

    def test_all_nodes_give_the_teachers_grid(self):
        t = learnable("ring", 30)
        assert np.array_equal(boundaries(METHODS.find("oss").fn(t, base(t), nodes=31)), t.teacher.table.times)

    def test_as_good_as_the_best_fixed_grid(self):
        t = learnable("ring", 5, train=128, teacher={"nfe": 60})
        test = t.problem.parts(range(50_000, 50_512))
        table = METHODS.find("oss").fn(t, base(t), samples=128)
        fixed = [base(t, grid=g, lower_order_final=f) for g in GRIDS for f in (True, False)]
        best = min(float(t.errors(f, test).mean()) for f in fixed)
        assert float(t.errors(table, test).mean()) < best

    def test_variants_are_chosen_on_validation(self):
        t = learnable("sixteen", 5)
        start = base(t, lower_order_final=False)
        one, both = (METHODS.find("oss").fn(t, start, nodes=20, variants=v) for v in (False, True))
        assert t.judge(both) <= t.judge(one)
        assert both.options["lower_order_final"] is True  # worth a factor there

    @pytest.mark.slow
    @pytest.mark.parametrize("schedule", ["edm", "flow", "vp_scaled", "zero_snr"])
    @pytest.mark.parametrize("solver", ["dpmpp_2m", "unipc", "heun"])
    def test_a_full_beam_is_the_best_of_all_on_every_schedule(self, schedule, solver):
        t = task(bell(SCHEDULES[schedule]()), (2,), 4, train=16, teacher={"nfe": 24})
        start = base(t, solver, grid="uniform")
        table, best = METHODS.find("oss").fn(t, start, nodes=8, beam=60), METHODS.find("brute").fn(t, start, nodes=8)
        assert np.array_equal(boundaries(table), boundaries(best))
        assert (np.diff(boundaries(METHODS.find("gits").fn(t, start, nodes=12))) < 0).all()


GRIDS = ("uniform", "quadratic", "logsnr", "karras")
SCHEDULES = {
    "edm": NoiseSchedule.edm,
    "flow": NoiseSchedule.flow,
    "vp_scaled": lambda: NoiseSchedule.from_config({"beta_schedule": "scaled_linear"}),
    "zero_snr": lambda: NoiseSchedule.from_config({"beta_schedule": "linear", "rescale_betas_zero_snr": True}),
}


class TestBadInput:
    @pytest.mark.parametrize(
        ("method", "options", "said"),
        [
            ("gits", {"metric": "lpips"}, "metric"),
            ("gits", {"gamma": 0.0}, "gamma"),
            ("gits", {"nodes": 5}, "nodes"),
            ("gits", {"samples": 0}, "samples"),
            ("oss", {"nodes": 5}, "nodes"),
            ("oss", {"beam": 0}, "beam"),
            ("oss", {"samples": 1.5}, "samples"),
            ("brute", {"nodes": 31}, "20000"),
        ],
    )
    def test_is_named_before_any_network_call(self, method, options, said):
        t = learnable("ring", 6)
        with pytest.raises(ValueError, match=said):
            METHODS.find(method).fn(t, base(t), **options)
        assert t.problem.spent == 0

    def test_solvers_with_noise_have_no_path(self):
        t = learnable("ring", 5)
        with pytest.raises(ValueError, match="draws noise"):
            METHODS.find("oss").fn(t, base(t, "dpmpp_2m_sde"))

    def test_more_steps_than_the_teacher(self):
        t = learnable("ring", 31)
        with pytest.raises(ValueError, match="teacher"):
            METHODS.find("oss").fn(t, base(t))
