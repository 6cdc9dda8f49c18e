"""Grids: every name, schedule and number of steps gives strictly decreasing times with the right ends."""

import numpy as np
import pytest

from fewstep.samplers.config.betas import betas, zero_terminal_snr
from fewstep.samplers.grids.flow_shift import shift_time
from fewstep.samplers.grids.grid_entry import GRIDS, sigmas_to_times
from fewstep.samplers.grids.making import ALIASES, find, make_grid
from fewstep.samplers.schedule.base import NoiseSchedule

SD = np.cumprod(1 - betas("scaled_linear", 0.00085, 0.012))
SCHEDULES = {
    "vp": NoiseSchedule.vp_linear(),
    "cosine": NoiseSchedule.vp_cosine(),
    "sd": NoiseSchedule.discrete(SD),
    "zero_snr": NoiseSchedule.discrete(zero_terminal_snr(SD)),
    "two_steps": NoiseSchedule.discrete([0.9, 0.6]),
    "ve": NoiseSchedule.ve(0.01, 50.0),
    "edm": NoiseSchedule.edm(),
    "flow": NoiseSchedule.flow(3.0),
}


def rho(name, times):
    return np.exp(-SCHEDULES[name].lam(times))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("grid", GRIDS)
def test_every_grid_decreases_between_its_ends(grid, schedule):
    s = SCHEDULES[schedule]
    for n in (*range(1, 31), 200, 1000):
        for t_start in (None, 0.3 * s.t_max):
            times = make_grid(grid, s, n, t_start)
            start = s.t_max if t_start is None else t_start
            assert times.dtype == np.float64 and len(times) == n + 1
            assert (np.diff(times) < 0).all() and (np.diff(s.lam(times)) > 0).all()
            assert times[-1] == s.t_end
            assert times[0] == start or (grid in ("leading", "ddim_uniform") and times[0] < start)


@pytest.mark.parametrize("grid", GRIDS)
def test_one_step_goes_from_end_to_end(grid):
    for schedule in SCHEDULES.values():
        np.testing.assert_array_equal(make_grid(grid, schedule, 1), [schedule.t_max, schedule.t_end])


def test_grids_in_training_steps():
    sd = SCHEDULES["sd"]
    steps = {name: sd.model_time(make_grid(name, sd, 10)) for name in ("trailing", "leading", "linspace")}
    np.testing.assert_allclose(steps["trailing"], [999, 899, 799, 699, 599, 499, 399, 299, 199, 99, -1], atol=1e-9)
    np.testing.assert_allclose(steps["leading"], [901, 801, 701, 601, 501, 401, 301, 201, 101, 1, -1], atol=1e-9)
    np.testing.assert_allclose(steps["linspace"], [999, 899, 799, 699, 599, 500, 400, 300, 200, 100, -1], atol=1e-9)


def test_karras_is_linear_in_the_rootth_power():
    levels = rho("edm", make_grid("karras", SCHEDULES["edm"], 18))[:-1]
    expected = (80 ** (1 / 7) + np.arange(18) / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(levels, expected, rtol=1e-12)


def test_karras_contains_its_neighbours():
    sd = SCHEDULES["sd"]
    straight = rho("sd", make_grid("karras", sd, 8, rho=1.0))[:-1]
    np.testing.assert_allclose(np.diff(straight, 2), 0, atol=1e-12)
    np.testing.assert_allclose(make_grid("karras", sd, 8, rho=1e6), make_grid("exponential", sd, 8), atol=1e-5)


@pytest.mark.parametrize("name", ["logsnr", "exponential", "lu", "polyexponential"])
def test_uniform_lam_grids(name):
    lam = SCHEDULES["vp"].lam(make_grid(name, SCHEDULES["vp"], 9))
    np.testing.assert_allclose(np.diff(lam, 2), 0, atol=1e-12)


def test_polyexponential_power_moves_points_towards_the_data():
    lam = SCHEDULES["vp"].lam(make_grid("polyexponential", SCHEDULES["vp"], 8, power=2.0))
    u = np.linspace(1, 0, 9) ** 2
    np.testing.assert_allclose((lam - lam[-1]) / (lam[0] - lam[-1]), u, atol=1e-12)


def test_quadratic_is_uniform_in_the_square_root():
    times = make_grid("quadratic", SCHEDULES["vp"], 7)
    np.testing.assert_allclose(np.diff(np.sqrt(times), 2), 0, atol=1e-12)


def test_both_readings_of_the_beta_grid():
    from scipy.stats import beta

    u = beta.ppf(1 - np.arange(8) / 8, 0.6, 0.6)
    vp = SCHEDULES["vp"]
    np.testing.assert_allclose(make_grid("beta", vp, 8)[:-1], vp.t_end + (1 - vp.t_end) * u, atol=1e-12)
    np.testing.assert_allclose(SCHEDULES["sd"].model_time(make_grid("beta", SCHEDULES["sd"], 8)[:-1]), np.rint(999 * u))
    levels = rho("sd", make_grid("beta_sigma", SCHEDULES["sd"], 8))[:-1]
    u = beta.ppf(1 - np.linspace(0, 1, 8), 0.6, 0.6)
    np.testing.assert_allclose(levels, levels[-1] + u * (levels[0] - levels[-1]), rtol=1e-10)


@pytest.mark.parametrize("table, schedule", [("sd15", "sd"), ("sdxl", "sd"), ("svd", "edm")])
def test_ays_reproduces_its_published_steps(table, schedule):
    s = SCHEDULES[schedule] if schedule == "sd" else NoiseSchedule.edm(0.002, 700.0)
    levels = np.exp(-s.lam(make_grid("ays", s, 10, table=table)))
    published = {
        "sd15": [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0],
        "sdxl": [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0],
        "svd": [700, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0],
    }[table]
    np.testing.assert_allclose(levels, published, rtol=2e-3)
    if table == "sd15":
        assert s.model_time(make_grid("ays", s, 10))[1:4] == pytest.approx([850, 736, 645], abs=1)


def test_ays_takes_the_table_of_the_nearest_range():
    for s, table in ((SCHEDULES["sd"], "sd15"), (NoiseSchedule.edm(0.002, 700.0), "svd")):
        np.testing.assert_array_equal(make_grid("ays", s, 7), make_grid("ays", s, 7, table=table))


def test_flow_shift_is_a_translation_of_lam():
    flow = NoiseSchedule.flow()
    plain, shifted = (make_grid("flow", flow, 8, shift=s) for s in (1.0, 3.0))
    np.testing.assert_allclose(shifted, shift_time(plain, 3.0), atol=1e-15)
    np.testing.assert_allclose(flow.lam(shifted[1:-1]), flow.lam(plain[1:-1]) - np.log(3), atol=1e-12)
    np.testing.assert_array_equal(make_grid(None, NoiseSchedule.flow(3.0), 8), shifted)
    np.testing.assert_allclose(make_grid("flow", flow, 8, mu=np.log(3)), shifted, atol=1e-15)
    np.testing.assert_allclose(make_grid("flow", flow, 8, mu=3.0, shift_type="linear"), shifted, atol=1e-15)


def test_flow_terminal_stretch_sets_the_last_positive_time():
    times = make_grid("flow", NoiseSchedule.flow(3.0), 8, shift_terminal=0.1)
    assert times[-2] == pytest.approx(0.1) and times[0] == 1 and times[-1] == 0


def test_a_shortened_flow_is_part_of_the_unshifted_line():
    times = make_grid("flow", NoiseSchedule.flow(3.0), 6, t_start=0.7)
    np.testing.assert_allclose(np.diff(shift_time(times, 1 / 3), 2), 0, atol=1e-12)


def test_explicit_times_are_kept_and_resampled():
    flow = NoiseSchedule.flow()
    given = [1.0, 0.7, 0.4, 0.1, 0.0]
    np.testing.assert_array_equal(make_grid(given, flow, 4), given)
    finer = make_grid(given, flow, 8)
    np.testing.assert_allclose(finer[::2], given, atol=1e-15)
    assert flow.lam(finer[3]) == pytest.approx((flow.lam(0.7) + flow.lam(0.4)) / 2)
    assert finer[1] == pytest.approx(0.85) and finer[-2] == pytest.approx(0.05)


def test_a_function_is_a_grid():
    times = make_grid(lambda s, n, a, b, bend=1.0: a + (b - a) * np.linspace(0, 1, n + 1) ** bend, SCHEDULES["flow"], 4)
    np.testing.assert_allclose(times, [1, 0.75, 0.5, 0.25, 0])


def test_sigmas_become_times():
    np.testing.assert_allclose(rho("sd", sigmas_to_times(SCHEDULES["sd"], [14.0, 1.0, 0.1])), [14.0, 1.0, 0.1])
    np.testing.assert_array_equal(sigmas_to_times(SCHEDULES["flow"], [0.9, 0.0]), [0.9, 0.0])
    assert sigmas_to_times(SCHEDULES["sd"], [0.0])[0] == 0


@pytest.mark.parametrize("alias", ALIASES)
def test_folk_names_name_grids(alias):
    entry, options = find(alias)
    assert entry.name in GRIDS and set(options) <= set(entry.options)
    assert len(make_grid(alias, SCHEDULES["sd"], 5)) == 6


def test_entries_describe_themselves():
    for name, entry in GRIDS.items():
        assert entry.name == name and entry.summary.endswith(".") and "arXiv" in entry.reference


@pytest.mark.parametrize(
    "call, message",
    [
        (dict(grid="karas"), "Did you mean 'karras'"),
        (dict(grid="karras", rh=3.0), "Did you mean 'rho'"),
        (dict(grid="uniform", rho=3.0), "it has none"),
        (dict(grid="karras", rho=-1.0), "positive"),
        (dict(grid="ays", table="sd16"), "sd15"),
        (dict(grid="uniform", n=0), "at least 1"),
        (dict(grid="uniform", n=2.5), "whole number"),
        (dict(grid="uniform", t_start=0.1, t_end=0.2), "larger to a smaller"),
        (dict(grid="uniform", t_start=1.5), "larger to a smaller"),
        (dict(grid=[0.0, 0.5, 1.0]), "Did you pass ascending times"),
        (dict(grid=[1.0, 0.5, 0.5]), "must decrease"),
        (dict(grid=[1.0, np.nan, 0.0]), "finite"),
        (dict(grid=[999.0, 500.0, 0.0]), "training indices"),
        (dict(grid=[1.0]), "at least 2"),
        (dict(grid=[1.0, 0.0], t_start=0.5), "contradicts"),
        (dict(grid=[1.0, 0.0], shift=3.0), "no options"),
        (dict(grid=lambda s, n, a, b: np.array([a, b])), "expected 4"),
    ],
)
def test_bad_input_is_named(call, message):
    call = {"n": 3, **call}
    with pytest.raises(ValueError, match=message):
        make_grid(call.pop("grid"), SCHEDULES["flow" if "t_start" in call else "sd"], call.pop("n"), **call)
