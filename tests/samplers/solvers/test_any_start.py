"""The declared order holds wherever a run begins: in the middle of a path, and on the even grid of a flow."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from convergence import MIXTURE, Problem, slopes
from problems import all_slow, in_turn, starts

from fewstep.samplers import SOLVERS, Denoiser, NoiseSchedule, Tableau, build, sample
from fewstep.samplers.building.resuming import boundaries, resume

STARTS: dict[str, tuple[NoiseSchedule, float, float, str]] = {
    "vp from 0.5": (NoiseSchedule.vp_linear(), 0.5, 1e-3, "logsnr"),
    "edm from 2": (NoiseSchedule.edm(), 2.0, 2e-3, "logsnr"),
    "flow": (NoiseSchedule.flow(), 1.0, 0.0, "uniform"),
    "flow from 0.5": (NoiseSchedule.flow(), 0.5, 0.0, "uniform"),
}
MULTISTEP = (
    "deis deis_rho_ab deis_log_rho lms ipndm_v abnorsett dpmpp_2m dpmpp_3m res_multistep cab unipc dpm_solver_v3 stork"
).split()
OTHERS = [
    name
    for name, entry in SOLVERS.items()
    if not entry.stochastic
    and entry.kind == "tableau"
    and entry.order > 1
    and name not in (*MULTISTEP, "edict", "dpm_fast")
]  # edict and a last step of dpm_fast are of lower order in the limit, as their docstrings say


@lru_cache
def problem(start: str) -> Problem:
    """16 states and their ends, by fourth order at many steps."""
    schedule, first, last, _ = STARTS[start]
    denoiser, x, ends = MIXTURE.denoiser(schedule, "sample"), starts(schedule, first), {"t_start": first, "t_end": last}
    if schedule.kind == "flow":
        answer = sample(denoiser, x, "cab", 2000, "uniform", order=4, **ends)
    else:
        answer = sample(denoiser, x, "etd_rk5", 8 * 200, "logsnr", **ends)
    return Problem(denoiser, x, ends, answer)


def tables(denoiser: Denoiser, start: str, name: str, **options: Any) -> list[Tableau]:
    _, first, last, grid = STARTS[start]
    where: dict[str, Any] = {"t_start": first, "t_end": last, **options}
    calls = build(name, denoiser.schedule, 64, grid, **where).groups[-2]
    counts = (64, 128, 256) if SOLVERS[name].order < 5 else (32, 64, 128)  # the answer has 320 steps of order five
    return [build(name, denoiser.schedule, n * calls, grid, **where) for n in counts]


@pytest.mark.parametrize(("name", "start"), [*in_turn(MULTISTEP, STARTS), *all_slow(OTHERS, STARTS)])
@pytest.mark.one_in(3)
def test_order(name: str, start: str) -> None:
    """At least what the table says; on flows, whose ends bring logarithms, a little may be missing at 256 steps."""
    denoiser, x, _, answer = problem(start)
    made = tables(denoiser, start, name)
    assert made[0].order >= (min(SOLVERS[name].order, 2) if start.startswith("flow") else SOLVERS[name].order)
    assert np.median(slopes(denoiser, x, answer, made)) > made[0].order - (0.35 if start.startswith("flow") else 0.25)


@pytest.mark.parametrize("start", STARTS)
def test_order_four_asks_twice_once(start: str) -> None:
    """Exactly nfe calls, two of them at the second node; below that number of evaluations the call is worth more elsewhere."""
    name, options = ("cab", {"order": 4}) if start == "flow" else ("abnorsett", {})
    denoiser = problem(start).denoiser
    _, first, last, grid = STARTS[start]
    many, few = (build(name, denoiser.schedule, n, grid, t_start=first, t_end=last, **options) for n in (64, 20))
    assert many.groups == (1, 2, *[1] * 61) and many.nfe == 64 and many.times[1] == many.times[2]
    assert few.groups == (1,) * 20


@pytest.mark.parametrize("name", ["deis", "lms", "dpmpp_3m", "abnorsett"])
@pytest.mark.parametrize("start", ["vp from 0.5", "edm from 2"])
def test_the_first_step_is_mended_without_a_call(name: str, start: str) -> None:
    """At 16 evaluations from the middle."""
    denoiser, x, ends, answer = problem(start)
    one, other = (
        float((sample(denoiser, x, name, 16, "logsnr", limiter=on, **ends) - answer).square().mean().sqrt())
        for on in (True, False)
    )
    assert one < 0.75 * other


def test_a_run_resumed_in_the_middle_is_mended_too() -> None:
    """As image to image resumes it: the table of the rest is of its own order, not of its first step's."""
    denoiser, x, ends, answer = problem("edm from 2")
    rests = []
    for n in (64, 128, 256):
        inner = build("dpmpp_3m", denoiser.schedule, n, "logsnr", **ends)
        times = [ends["t_start"] * 4, ends["t_start"] * 2, *boundaries(inner)]
        rests.append(resume(build("dpmpp_3m", denoiser.schedule, grid=times), 2))
    assert np.median(slopes(denoiser, x, answer, rests)) > 2.75
