"""Grids without network calls: the bound falls, the grid is one, and it beats the grid uniform in log-SNR."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from learned_problems import SHAPES, ring, sixteen, task

from fewstep.samplers import Denoiser, NoiseSchedule, build, sample
from fewstep.samplers.building.resuming import boundaries
from fewstep.samplers.learned.methods.dmn import bound, predicted_weights
from fewstep.samplers.learned.tasks.learner_entry import METHODS
from fewstep.samplers.learned.tasks.learner_task import Task
from fewstep.samplers.table.tableau import Tableau

MIXTURES = {"ring": ring, "sixteen": sixteen}
SCHEDULES = {
    "vp": NoiseSchedule.vp_linear,
    "edm": NoiseSchedule.edm,
    "flow": NoiseSchedule.flow,
    "zero_snr": lambda: NoiseSchedule.from_config({"beta_schedule": "linear", "rescale_betas_zero_snr": True}),
}


def of(schedule: Any, nfe: int, solver: str = "dpmpp_2m", **options: Any) -> tuple[Task, Tableau]:
    t = task(ring(schedule), (2,), nfe, train=8, valid=8)
    return t, build(solver, schedule, nfe, "uniform", t_start=t.problem.t_start, t_end=t.problem.t_end, **options)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("solver", ["dpmpp_2m", "unipc", "deis", "dpmpp_2m_sde"])
def test_bound_falls_on_every_schedule_without_network_calls(schedule, solver):
    t, start = of(SCHEDULES[schedule](), 4, solver)
    table = METHODS.find("dmn").fn(t, start)
    assert t.problem.spent == 0 and t.problem.model.nfe == 0
    assert bound(table, 2.0) < 0.9 * bound(start, 2.0)
    times = boundaries(table)
    assert (np.diff(times) < 0).all() and np.array_equal(times[[0, -1]], boundaries(start)[[0, -1]])


@pytest.mark.parametrize("solver", ["heun", "dpmpp_2s"])
def test_several_calls_a_step(solver):
    t, start = of(NoiseSchedule.vp_linear(), 6, solver)
    table = METHODS.find("dmn").fn(t, start)
    assert table.nfe == 6 and bound(table, 2.0) <= bound(start, 2.0)


@pytest.mark.parametrize(
    ("solver", "options"), [("dpmpp_2m", {}), ("deis", {}), ("cab", {}), ("unipc", {}), ("abnorsett", {"form": "eps"})]
)
def test_weights_of_predicted_x0_are_those_of_the_samples(solver, options):
    """A network whose x0 is off by one at a single call moves the result by that call's weight, whatever is combined."""
    schedule = NoiseSchedule.vp_linear()
    table = build(solver, schedule, 5, "logsnr", **options)
    x = torch.zeros(1, 1, dtype=torch.float64)
    for k, weight in enumerate(predicted_weights(table)):
        shown = table.model_times[k]

        def fn(x: torch.Tensor, tau: torch.Tensor, shown: float = shown) -> torch.Tensor:
            return torch.ones_like(x) * float(abs(float(tau) - shown) < 1e-12)

        moved = sample(Denoiser(fn, schedule, "sample"), x, table, check="none")
        assert float(moved) == pytest.approx(weight, rel=1e-6, abs=1e-9)


def test_first_order_does_not_depend_on_what_is_combined():
    """DDIM is the same map in x0 and in eps, so its bound is the same."""
    schedule = NoiseSchedule.vp_linear()
    tables = [build("abnorsett", schedule, 6, "logsnr", order=1, form=f) for f in ("x0", "eps")]
    assert bound(tables[1], 1.5) == pytest.approx(bound(tables[0], 1.5), rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize(("nfe", "taper"), [(5, True), (5, False), pytest.param(8, True, marks=pytest.mark.slow)])
def test_better_than_uniform_in_log_snr(name, nfe, taper):
    t = task(MIXTURES[name](), SHAPES[name], nfe, train=8, valid=256)
    ends = {"t_start": t.problem.t_start, "t_end": t.problem.t_end}
    start = build("dpmpp_2m", t.problem.schedule, nfe, "logsnr", lower_order_final=taper, **ends)
    assert t.judge(METHODS.find("dmn").fn(t, start)) < 0.95 * t.judge(start)


def test_one_step_has_no_grid():
    t, start = of(NoiseSchedule.vp_linear(), 1)
    assert np.array_equal(METHODS.find("dmn").fn(t, start).W, start.W)


@pytest.mark.parametrize(("options", "said"), [({"power": -1.0}, "power"), ({"steps": 0}, "steps")])
def test_bad_input(options, said):
    t, start = of(NoiseSchedule.vp_linear(), 5)
    with pytest.raises(ValueError, match=said):
        METHODS.find("dmn").fn(t, start, **options)
