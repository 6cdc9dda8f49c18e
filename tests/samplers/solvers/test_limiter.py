"""Rows extrapolate no farther than their history supports: right on grids that grow, published where steps are even."""

from __future__ import annotations

import numpy as np
import pytest
from problems import in_turn
from real_grids import CONFIGS, DATA, distinct, error, table

from fewstep import NoiseSchedule, build
from fewstep.samplers import SOLVERS
from fewstep.samplers.building.resuming import boundaries, resume

SD3 = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
EDM = NoiseSchedule.edm()
IN_LAM = ("dpmpp_2m", "dpmpp_3m", "unipc", "deis_log_rho", "abnorsett", "res_multistep", "dpm_solver_v3", "sa_solver")
OTHERS = ("deis", "deis_rho_ab", "lms", "cab", "stork")
RUNGE_KUTTA = ("heun", "dpm_2", "dpm_3", "deis_rho_rk", "dpm_fast")


def shares(row: np.ndarray) -> np.ndarray:
    """w_j of an input line: its output weights over their sum."""
    return np.asarray(row[2:] / row[2:].sum())


@pytest.mark.parametrize("solver", ["dpmpp_2m", "unipc", "dpmpp_3m"])
def test_no_worse_than_euler_on_sd3s_own_times(solver: str) -> None:
    own = table(SD3, "ddim", 8)
    limited, published = (build(solver, own.schedule, 8, own.times, limiter=on) for on in (True, False))
    for data in ("narrow", "wide"):
        assert error(limited, data) < min(1.1 * error(own, data), error(published, data))


def test_flow_configs_leave_the_last_training_step_to_euler() -> None:
    """1, 1 - 1/n, ..., 1/n, shifted once, where a solver of higher order and a number of steps are asked for."""
    even = 1 - np.arange(9) / 8
    for shift in (1.0, 3.0):
        config = {**SD3, "shift": shift}
        for solver in ("deis", "unipc"):
            np.testing.assert_allclose(
                table(config, solver, 8).times, shift * even / (1 + (shift - 1) * even), atol=1e-12
            )
    own = table({**SD3, "shift": 1.0}, "ddim", 8)
    for solver in ("deis", "unipc", "dpmpp_2m", "cab"):
        on_own, on_even = build(solver, own.schedule, 8, own.times), table({**SD3, "shift": 1.0}, solver, 8)
        assert all(error(on_even, data) < error(on_own, data) for data in DATA)


def test_history_beyond_a_step_that_grew_is_left_out() -> None:
    """Outputs whose steps are 1 : 6 in the form's own variable, before a step that is no longer: a straight line."""
    flow = NoiseSchedule.flow()
    uneven = build("cab", flow, 4, [0.95, 0.9, 0.6, 0.25, 0.1], order=3).W
    line = build("cab", flow, 4, [0.95, 0.9, 0.6, 0.25, 0.1], order=2).W
    np.testing.assert_allclose(uneven[2, :, :4], line[2, :, :4], atol=1e-12)
    assert uneven[3, 1, 4] != 0  # later steps are even again


def test_the_change_foretold_is_that_of_an_even_step() -> None:
    """A last step of six times the one before: c is that of a step of equal length, or of half a unit of lam."""
    full = {"lower_order_final": False}
    for h in (0.3, 1.0):
        sigmas = np.exp(-np.array([-2.0, -2.0 + h, -2.0 + 2 * h, -2.0 + 8 * h]))
        like = np.exp(-np.array([-2.0, -2.0 + h, -2.0 + 2 * h, -2.0 + 2 * h + max(h, 0.5)]))
        rows = [
            build("dpmpp_2m", EDM, 3, grid, **full, limiter=on).W[2, 1]
            for grid, on in ((sigmas, True), (like, False), (sigmas, False))
        ]
        assert shares(rows[0]) == pytest.approx(shares(rows[1]), abs=1e-9)
        assert shares(rows[2])[1] == pytest.approx(-3.0)


@pytest.mark.parametrize("solver", [*IN_LAM, *OTHERS])
def test_published_rows_where_steps_do_not_grow(solver: str) -> None:
    schedule, grid, end = EDM, "logsnr" if solver in IN_LAM else "karras", 2e-3  # even in lam; falling in sigma
    if solver in ("cab", "stork"):
        schedule, grid, end = NoiseSchedule.flow(), "uniform", 0.0
    one, other = (build(solver, schedule, 12, grid, t_end=end, limiter=on) for on in (True, False))
    begun = 2 if one.order > 2 else 0  # rows in which the first step is corrected
    np.testing.assert_allclose(one.W[begun:], other.W[begun:], rtol=1e-9, atol=1e-12)


def test_a_step_into_zero_is_second_order() -> None:
    """x0 extrapolated by half of its last change, as on an even step, where the published row takes the last x0."""
    sigmas = [4.0, 2.0, 1.0, 0.5, 0.0]
    row = build("dpmpp_2m", EDM, 4, sigmas).W[3, 1]
    assert row[1] == 0 and row[2:4] == pytest.approx([1.5, -0.5])
    assert build("dpmpp_2m", EDM, 4, sigmas, limiter=False).W[3, 1][2:4] == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize("solver", RUNGE_KUTTA)
def test_long_steps_of_eps_solvers_are_taken_on_x0(solver: str) -> None:
    assert set(build(solver, EDM, 7).forms[:-1]) == {"x0"}
    assert "eps" in build(solver, EDM, 150, "logsnr", t_end=0.01).forms
    assert "eps" in build(solver, EDM, 7, limiter=False).forms


@pytest.mark.parametrize(("solver", "n"), [("plms", 8), ("pndm", 26)])
def test_two_eps_of_a_long_first_step_are_not_told_apart(solver: str, n: int) -> None:
    """On a cosine table alpha grows 2,000 times in the first step; published rows carry a difference of eps as far on."""
    config = {"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"}
    for data in DATA:
        assert error(table(config, solver, n), data) < error(table(config, "ddim", n), data)
    if solver == "plms":
        assert error(table(config, solver, n, limiter=False), "wide") > 100 * error(table(config, "ddim", n), "wide")
    else:
        with pytest.raises(ValueError, match="pndm amplifies rounding"):
            table(config, solver, n, limiter=False)


def test_an_option_of_every_table_that_saved_pipelines_keep() -> None:
    assert all(("limiter" in entry.options) == (entry.kind == "tableau") for entry in SOLVERS.values())
    with pytest.raises(ValueError, match="dpmpp_2m: `limiter` must be one of True, False; got 'off'"):
        build("dpmpp_2m", EDM, 4, limiter="off")
    from fewstep import Scheduler

    scheduler = Scheduler.from_config(SD3, solver="dpmpp_2m", limiter=False)
    assert Scheduler.from_config(scheduler.config).config["solver_options"] == {"limiter": False}


@pytest.mark.parametrize("limiter", [True, False])
def test_a_run_from_the_middle_keeps_it(limiter: bool) -> None:
    whole = build("dpmpp_2m", NoiseSchedule.flow(), 8, "trailing", limiter=limiter)
    rest = build("dpmpp_2m", NoiseSchedule.flow(), 5, boundaries(whole)[3:], limiter=limiter)
    np.testing.assert_array_equal(resume(whole, 3).W, rest.W)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "n"), in_turn((*IN_LAM[:-1], *OTHERS, *RUNGE_KUTTA, "pndm", "plms"), (4, 5, 6, 8, 10, 13, 20, 30))
)
def test_on_published_configs(solver: str, n: int) -> None:
    """Solvers of one call a step are mostly nearer than ddim; those of several, which make fewer and longer steps, are not.

    Nowhere above 3.3 times its error, but for PNDM's four calls on the 40 levels of a consistency model (7.6).
    """
    ratios = [
        error(table(config, solver, n), data) / error(table(config, "ddim", n), data)
        for config in distinct().values()
        for data in DATA
    ]
    assert len(CONFIGS) > 100 and len(ratios) > 100
    several = max(build(solver, EDM, n).groups) > 1
    assert max(ratios) < (8 if solver == "pndm" else 3.3) and np.median(ratios) < (1.6 if several else 1.1)
