"""Searches over what solvers are made of, grids of least divergence, and knobs turned one at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from learned_problems import SHAPES, Axes, base, ring, sixteen, task
from problems import in_turn

from fewstep.samplers import Denoiser, NoiseSchedule
from fewstep.samplers.building.resuming import boundaries
from fewstep.samplers.grids.coordinate import Coordinate
from fewstep.samplers.grids.grid_entry import GRIDS
from fewstep.samplers.learned.methods.ays import _costs
from fewstep.samplers.learned.methods.s3 import compiled
from fewstep.samplers.learned.search.evolution import space
from fewstep.samplers.learned.search.shortest_path import shortest
from fewstep.samplers.learned.tasks.learner_entry import METHODS
from fewstep.samplers.learned.tasks.learner_task import Task, score
from fewstep.samplers.table.tableau import Tableau

MIXTURES = {"ring": ring, "sixteen": sixteen}
SMALL: dict[str, Any] = {
    "solvers": ("dpmpp_2m", "unipc", "deis", "cab"),
    "grids": ("uniform", "quadratic", "logsnr", ("karras", {"rho": 3.0}), "start"),
    "switches": {"order": (1, 2, 3), "form": ("x0", "eps"), "lower_order_final": (True, False)},
}
SCHEDULES = {
    "edm": NoiseSchedule.edm,
    "flow": NoiseSchedule.flow,
    "discrete": lambda: NoiseSchedule.from_config({"beta_schedule": "scaled_linear"}),
    "zero_snr": lambda: NoiseSchedule.from_config({"beta_schedule": "linear", "rescale_betas_zero_snr": True}),
}


def learnable(name: str, nfe: int, **how: Any) -> Task:
    return task(MIXTURES[name](), SHAPES[name], nfe, **{"train": 64, "valid": 64, "teacher": {"nfe": 30}, **how})


def train_score(t: Task, table: Tableau) -> float:
    return score(t.errors(table, t.train_parts()))


def one(variance: float, schedule: NoiseSchedule | None = None) -> Denoiser:
    """One isotropic Gaussian of four dimensions."""
    return Axes(torch.zeros(1, 4), torch.full((1, 4), variance**0.5), torch.ones(1)).denoiser(schedule)


class TestS3:
    @pytest.mark.slow
    @pytest.mark.parametrize("name", MIXTURES)
    def test_a_budget_of_the_whole_space_is_an_enumeration(self, name):
        t = learnable(name, 5)
        start = base(t)
        choices = space(SMALL["solvers"], SMALL["grids"], SMALL["switches"])
        assert len(choices) == len(set(choices)) == 160
        there = [
            c for c in choices if (c.solver, dict(c.options).get("form")) != ("deis", "x0")
        ]  # a form that it has not
        every = [train_score(t, compiled(choice, start, t)) for choice in there]
        found = METHODS.find("s3").fn(t, start, **SMALL, evaluations=1000)
        assert train_score(t, found) == min(every)

    @pytest.mark.parametrize("name", MIXTURES)
    def test_a_third_of_it_finds_the_best_three(self, name):
        t = learnable(name, 5)
        start = base(t)
        choices = [c for c in space(*SMALL.values()) if (c.solver, dict(c.options).get("form")) != ("deis", "x0")]
        every = sorted(train_score(t, compiled(c, start, t)) for c in choices)  # without those that no solver has
        assert train_score(t, METHODS.find("s3").fn(t, start, **SMALL, evaluations=44)) <= every[2]

    def test_runs_no_more_than_the_budget(self):
        t = learnable("ring", 5)
        t.teacher.prepare([*t.train_parts(), *t.valid_parts()])
        before, judged = t.problem.spent, []
        t.tell = judged.append
        METHODS.find("s3").fn(t, base(t), evaluations=40, samples=16)
        assert t.problem.spent - before <= 40 * 16 * 5 + len(judged) * 64 * 5

    def test_twice_the_same(self):
        a, b = (learnable("sixteen", 5) for _ in range(2))
        tables = [METHODS.find("s3").fn(t, base(t), evaluations=40) for t in (a, b)]
        assert tables[0].name == tables[1].name and np.array_equal(tables[0].W, tables[1].W)

    def test_orders_step_by_step(self):
        t = learnable("ring", 5)
        orders = [[1, 2, 2, 2, 1], [1, 2, 3, 2, 1], [1, 1, 1, 1, 1]]
        options = {"solvers": ["unipc"], "grids": ["quadratic"], "switches": {"order": orders}}
        found = METHODS.find("s3").fn(t, base(t), **options)
        every = [train_score(t, base(t, "unipc", order=order)) for order in orders]
        assert train_score(t, found) == min(every)

    @pytest.mark.slow
    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_every_schedule(self, schedule):
        """Choices that cannot run there, such as eps where alpha = 0, lose; the start's own grid is among the others."""
        t = task(ring(SCHEDULES[schedule]()), (2,), 5, train=32, valid=32, teacher={"nfe": 30})
        start = base(t, grid="uniform")
        found = METHODS.find("s3").fn(t, start, **SMALL)
        assert train_score(t, found) <= train_score(t, start)
        assert boundaries(found)[0] == t.problem.t_start and boundaries(found)[-1] == t.problem.t_end

    def test_a_network_that_fails_everywhere(self):
        t = learnable("ring", 5)
        options = {"solvers": ["dpmpp_2m"], "grids": ["quadratic"], "switches": {"variant": ["spherical"]}}
        with pytest.raises(ValueError, match="none of the 1 choices.*spherical"):
            METHODS.find("s3").fn(t, base(t), **options)

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"solvers": ["dpmpp_9m"]}, "dpmpp_9m"),
            ({"solvers": []}, "solvers"),
            ({"solvers": "dpmpp_2m"}, "solvers"),
            ({"solvers": ["rk45"]}, "no table"),
            ({"grids": []}, "grids"),
            ({"grids": ["zigzag"]}, "zigzag"),
            ({"grids": [("karras", {"rh": 3})]}, "rh"),
            ({"evaluations": 0}, "evaluations"),
        ],
    )
    def test_bad_input(self, options, said):
        t = learnable("ring", 5)
        with pytest.raises(ValueError, match=said):
            METHODS.find("s3").fn(t, base(t), **options)
        assert t.problem.spent == 0


class TestAYS:
    @pytest.mark.parametrize(
        ("schedule", "variance"), in_turn([NoiseSchedule.vp_linear, NoiseSchedule.edm], [0.05, 1.0])
    )
    def test_closed_form_of_a_gaussian(self, variance, schedule):
        """log(1 + v / rho^2) of the best grid is equidistant."""
        t = task(one(variance, schedule()), (4,), 6, train=1024, teacher={"nfe": 30})
        start = base(t, "ddim", "uniform")
        times = boundaries(METHODS.find("ays").fn(t, start, nodes=241, samples=1024))
        times[-1] = max(times[-1], t.problem.schedule.t_min)  # what the last step is counted to
        rho = t.problem.schedule.sigma(times) / t.problem.schedule.alpha(times)
        u = np.log1p(variance / rho**2)
        np.testing.assert_allclose(u, np.linspace(u[0], u[-1], 7), atol=0.12 * (u[-1] - u[0]) / 6)

    @pytest.mark.parametrize("steps", [2, 5, 8])
    def test_closed_form_without_sampling(self, steps):
        """The integral itself in place of its estimate: the optimum is exact up to the distance of the nodes."""
        v, rho = 0.3, np.geomspace(80, 0.01, 600)
        known, g = v**2 / (v + rho**2), 0.5 / rho**2
        total = v * g - 0.5 * np.log1p(2 * v * g)  # integral of v^2 / (v + rho^2) over g = 1 / (2 rho^2)
        cost = total[None] - total[:, None] - known[:, None] * (g[None] - g[:, None])
        path = list(shortest(cost, steps)[-1])
        u = np.log1p(v / rho**2)
        assert np.abs(u[path] - np.linspace(u[0], u[-1], steps + 1)).max() < 1.5 * np.diff(u).max()

    def test_cost_of_a_gaussian(self):
        """E |D_i - D_j|^2 = v^2 / (v + rho_j^2) - v^2 / (v + rho_i^2), D being a martingale along the noising path."""
        v, schedule = 0.3, NoiseSchedule.vp_linear()
        t = task(one(v), (4,), 5, train=256, teacher={"nfe": 60})
        times = Coordinate(schedule, 1.0, 1e-3).dense(40)
        cost = _costs(t, t.train_parts()[0], times) / (256 * 4)
        rho = schedule.sigma(times) / schedule.alpha(times)
        known, g = v**2 / (v + rho**2), 0.5 / rho**2
        for i in (0, 10, 30):
            gap = known[i:] - known[i]
            expected = np.cumsum(0.5 * (gap[1:] + gap[:-1]) * np.diff(g[i:]))
            np.testing.assert_allclose(cost[i, i + 1 :], expected, rtol=0.12)

    def test_published_tables(self):
        t = learnable("ring", 10)
        table = METHODS.find("ays").fn(t, base(t), mode="table", table="sd15")
        assert np.array_equal(boundaries(table), GRIDS["ays"].fn(t.problem.schedule, 10, 1.0, 1e-3, table="sd15"))
        assert t.problem.spent == 0

    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_every_schedule_and_number_of_steps(self, schedule):
        t = task(ring(SCHEDULES[schedule]()), (2,), 8, train=32, valid=8, teacher={"nfe": 30})
        start = base(t, grid="uniform")
        eight = boundaries(METHODS.find("ays").fn(t, start, nodes=40))
        assert (np.diff(eight) < 0).all() and np.array_equal(eight[[0, -1]], boundaries(start)[[0, -1]])
        spent = t.problem.spent
        t.nfe = 4
        assert METHODS.find("ays").fn(t, base(t, grid="uniform"), nodes=40).nfe == 4
        assert t.problem.spent == spent

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"mode": "guess"}, "mode"),
            ({"nodes": 5}, "nodes"),
            ({"table": "sd15"}, "table"),
            ({"mode": "table", "table": "sd9"}, "sd9"),
            ({"samples": 0}, "samples"),
        ],
    )
    def test_bad_input(self, options, said):
        t = learnable("ring", 5)
        with pytest.raises(ValueError, match=said):
            METHODS.find("ays").fn(t, base(t), **options)
        assert t.problem.spent == 0


class TestPolish:
    def test_no_evaluations_left_is_the_start(self):
        t = learnable("ring", 5)
        start = base(t)
        assert METHODS.find("polish").fn(t, start, evaluations=1) is start

    @pytest.mark.parametrize("measure", ["mse", "score", "log"])
    def test_what_it_measures_falls(self, measure):
        t = learnable("ring", 5)
        start = base(t)
        table = METHODS.find("polish").fn(t, start, evaluations=60, measure=measure)
        parts = t.problem.parts(t.train)
        before, after = t.errors(start, parts), t.errors(table, parts)
        worth = {"mse": lambda e: float(e.mean()), "score": score, "log": lambda e: float(e.log().mean())}[measure]
        assert worth(after) < worth(before) - 0.2 * abs(worth(before)) * (measure != "log") - 0.2 * (measure == "log")

    def test_no_gradients_are_asked_for(self):
        plain = ring()

        def fn(x: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(plain.fn(x, tau).numpy())

        t = task(Denoiser(fn, plain.schedule, "sample"), (2,), 5, train=32, valid=32, teacher={"nfe": 30})
        start = base(t)
        table = METHODS.find("polish").fn(t, start, evaluations=60, measure="score")
        assert train_score(t, table) < 0.8 * train_score(t, start)

    @pytest.mark.slow
    def test_solvers_with_noise(self):
        t = learnable("ring", 4, train=16, valid=8, teacher={"solver": "dpmpp_2m_sde", "nfe": 40})
        start = base(t, "dpmpp_2m_sde")
        table = METHODS.find("polish").fn(t, start, evaluations=20, free=("grid",))
        errors = [float(t.errors(x, t.train_parts()).mean()) for x in (start, table)]
        assert errors[1] < errors[0]

    def test_a_correction_is_kept(self):
        t = learnable("ring", 5)
        first = METHODS.find("polish").fn(t, base(t), evaluations=40, free=("coef",))
        second = METHODS.find("polish").fn(t, first, evaluations=2, free=("grid",))
        assert train_score(t, second) <= train_score(t, first) * (1 + 1e-12)

    @pytest.mark.parametrize(
        ("options", "said"),
        [({"measure": "fid"}, "measure"), ({"evaluations": 0}, "evaluations"), ({"samples": 4}, "training samples")],
    )
    def test_bad_input(self, options, said):
        t = learnable("ring", 5)
        with pytest.raises(ValueError, match=said):
            METHODS.find("polish").fn(t, base(t), **options)
        assert t.problem.spent == 0

    @pytest.mark.slow
    @pytest.mark.parametrize("name", MIXTURES)
    @pytest.mark.parametrize("nfe", [5, 8])
    def test_grid_and_polish_beat_every_fixed_recipe(self, name, nfe):
        t = learnable(name, nfe, train=192, teacher={"nfe": 60})
        fixed = [base(t, grid=g, lower_order_final=f) for g in FIXED for f in (True, False)]
        test = t.problem.parts(range(50_000, 51_500))
        rms = [float(t.errors(f, test).mean().sqrt()) for f in fixed]
        table = METHODS.find("polish").fn(t, METHODS.find("oss").fn(t, base(t)), samples=192)
        assert float(t.errors(table, test).mean().sqrt()) <= 0.7 * min(rms)


FIXED = ("uniform", "quadratic", "logsnr", "karras")
