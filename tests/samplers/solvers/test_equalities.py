"""What must be equal to rounding: one method under two names, one network under all predictions, one path in lam under
different schedules, and constants, which every row follows exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import FULL, SCHEDULES, close, everywhere, path, run, uneven
from problems import PREDICTIONS, Mixture, output, starts
from torch import Tensor

from fewstep.samplers import SOLVERS, Denoiser, NoiseSchedule, build, sample

ODE = [name for name, entry in SOLVERS.items() if not entry.stochastic and entry.kind == "tableau"]


@everywhere
@pytest.mark.parametrize("p", [1, 2, 3, 4])
def test_tables_that_are_one_table(kind: str, p: int) -> None:
    schedule, times, _ = path(kind)

    def lines(name: str, **options: Any) -> np.ndarray:
        return build(name, schedule, None, times, limiter=False, **options).W[:, 1]

    exact, plain = {"order": p, "weights": "exact", "corrector": False, **FULL}, {"order": p, **FULL}
    pairs: list[tuple[tuple[str, dict[str, Any]], tuple[str, dict[str, Any]]]] = [
        (("abnorsett", {"form": "eps", **plain}), ("deis_log_rho", plain)),
        (("abnorsett", plain), ("unipc", exact)),
        (("abnorsett", plain), ("res_multistep", plain)),
        (("lms", plain), ("ipndm_v", {"variant": "exact", **plain})),
        (("lms", plain), ("deis_rho_ab", plain)),
    ]
    if p == 2:
        pairs += [
            (("unipc", {**exact, "weights": "bh2"}), ("dpmpp_2m", FULL)),
            (("abnorsett", plain), ("dpmpp_2m", {"variant": "exact", **FULL})),
            (("res_2s", {}), ("etd_rk2", {"c2": 0.5})),
            (("dpm_2", {"correction": "taylor"}), ("etd_rk2", {"c2": 0.5, "form": "eps"})),
            (("dpmpp_2s", {"correction": "taylor"}), ("res_2s", {})),
            (("heun", {"alpha": 0.5}), ("deis_rho_rk", {"method": "midpoint"})),
            (("heun", {}), ("deis_rho_rk", {"method": "heun"})),
            (("heun", {"alpha": 2 / 3}), ("deis_rho_rk", {"method": "ralston"})),
        ]
    if p == 3:
        pairs += [
            (("abnorsett", plain), ("dpmpp_3m", FULL)),
            (("dpm_3", {}), ("etd_rk3", {"c2": 1 / 3, "form": "eps"})),
            (("dpmpp_3s", {}), ("etd_rk3", {"c2": 1 / 3})),
        ]
    for (a, of_a), (b, of_b) in pairs:
        close(lines(a, **of_a), lines(b, **of_b))


@everywhere
def test_first_order_methods_are_one(kind: str) -> None:
    ddim = run(kind, "ddim")
    for name, options in {
        "euler": {}, "dpm_1": {}, "deis": {"order": 1}, "cab": {"order": 1}, "ipndm": {"order": 1}, "stork": {"order": 1},
        "unipc": {"order": 1, "corrector": False}, "deis_rho_rk": {"method": "euler"},
    }.items():  # fmt: skip
        close(run(kind, name, **options), ddim)


@pytest.mark.slow
@everywhere
def test_prediction_types_give_one_result(kind: str) -> None:
    for name in ODE:
        want = run(kind, name, "sample")
        for prediction in PREDICTIONS:
            close(run(kind, name, prediction), want, 1e-10)


@pytest.mark.parametrize("name", [n for n in ODE if n not in ("deis", "pndm")])
def test_the_schedule_does_not_matter_where_lam_is_equal(name: str) -> None:
    """Every solver speaks of lam alone, except tAB and the middle points of PNDM, which speak of t."""
    lam = uneven(8, -4.0, 4.5)
    options = {"var": "rho"} if "var" in SOLVERS[name].options else {}
    y0 = starts(NoiseSchedule.edm(), float(np.exp(-lam[0])))
    results = []
    for schedule, _, _ in SCHEDULES.values():
        times = schedule.t_of_lam(lam)
        x = y0 * float(schedule.alpha(times[0]))
        result = sample(Mixture().denoiser(schedule, "sample"), x, name, None, times, limiter=False, **options)
        results.append(result / float(schedule.alpha(times[-1])))
    close(results[1], results[0], 1e-10)
    close(results[2], results[0], 1e-10)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(ODE),
    kind=st.sampled_from(list(SCHEDULES)),
    prediction=st.sampled_from(PREDICTIONS),
    gaps=st.lists(st.floats(0.05, 3.0), min_size=1, max_size=14),
    nfe=st.integers(1, 20),
    to_zero=st.booleans(),
)
def test_a_constant_x0_and_eps_are_followed_exactly(
    name: str, kind: str, prediction: str, gaps: list[float], nfe: int, to_zero: bool
) -> None:
    """Whatever the grid, x = alpha X + sigma E stays on its path, down to sigma = 0 where the prediction allows it."""
    schedule, first, _ = SCHEDULES[kind]
    lam = float(schedule.lam(first)) + np.append(0, np.cumsum(gaps) * min(1.0, 10.0 / sum(gaps)))
    times = schedule.t_of_lam(lam)
    times = np.append(times[:-1], 0.0) if to_zero else times
    generator = torch.Generator().manual_seed(7)
    X, E = torch.randn(2, 3, 5, dtype=torch.float64, generator=generator)

    def fn(x: Tensor, tau: Tensor) -> Tensor:
        t = schedule.time_of_model(float(tau))
        return output(prediction, X, E, float(schedule.alpha(t)), float(schedule.sigma(t)))

    x = float(schedule.alpha(times[0])) * X + float(schedule.sigma(times[0])) * E
    got = sample(Denoiser(fn, schedule, prediction), x, name, nfe, times)
    close(got, float(schedule.alpha(times[-1])) * X + float(schedule.sigma(times[-1])) * E, 1e-8)
