"""Noise schedules: known values, exact inverses, monotone lam, accurate ends, smooth curves through tables."""

import pickle

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fewstep.samplers.config.betas import BETAS, betas, zero_terminal_snr
from fewstep.samplers.schedule.base import NoiseSchedule

LATENT = (0.00085, 0.012)
TABLES = {name: np.cumprod(1 - betas(name, *(LATENT if name == "scaled_linear" else (1e-4, 0.02)))) for name in BETAS}
CONTINUOUS = {
    "vp_linear": NoiseSchedule.vp_linear(),
    "vp_cosine": NoiseSchedule.vp_cosine(),
    "ve": NoiseSchedule.ve(0.01, 50.0),
    "edm": NoiseSchedule.edm(),
    "flow": NoiseSchedule.flow(3.0),
}
SCHEDULES = {
    **CONTINUOUS,
    **{name: NoiseSchedule.discrete(table) for name, table in TABLES.items()},
    **{f"{name} log_sigma": NoiseSchedule.discrete(table, "log_sigma") for name, table in TABLES.items()},
    **{f"{name} zero": NoiseSchedule.discrete(zero_terminal_snr(table)) for name, table in TABLES.items()},
    **{f"{name} almost": NoiseSchedule.discrete(zero_terminal_snr(table, 2**-24)) for name, table in TABLES.items()},
    "zero log_sigma": NoiseSchedule.discrete(zero_terminal_snr(TABLES["linear"]), "log_sigma"),
}


def times_of(schedule, n=997):
    spaced = np.geomspace if schedule.kind == "ve" else np.linspace
    return spaced(schedule.t_min, schedule.t_max, n)


@pytest.mark.parametrize("name", SCHEDULES)
def test_lam_is_inverted_and_strictly_decreasing(name):
    schedule = SCHEDULES[name]
    t = times_of(schedule)
    lam = schedule.lam(t)
    assert np.all(lam[1:] < lam[:-1])
    np.testing.assert_allclose(schedule.t_of_lam(lam), t, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_alpha_sigma_and_lam_agree(name):
    schedule = SCHEDULES[name]
    nodes = schedule.nodes(times_of(schedule)[:-1])
    np.testing.assert_allclose(nodes.lam, np.log(nodes.alpha) - np.log(nodes.sigma), rtol=1e-9, atol=1e-12)
    total = {"vp": nodes.alpha**2 + nodes.sigma**2, "ve": nodes.alpha, "flow": nodes.alpha + nodes.sigma}[schedule.kind]
    np.testing.assert_allclose(total, 1.0, atol=1e-14)


@pytest.mark.parametrize("name", SCHEDULES)
def test_ends_are_infinite_where_a_level_is_zero(name):
    schedule = SCHEDULES[name]
    for t in (schedule.t_max, schedule.t_min, schedule.t_end):
        lam = schedule.lam(t)
        assert lam == np.inf if schedule.sigma(t) == 0 else np.isfinite(lam) or lam == -np.inf
        assert (lam == -np.inf) == (schedule.alpha(t) == 0)
        assert schedule.t_of_lam(lam) == pytest.approx(t, abs=1e-12)
    assert schedule.t_of_lam(np.inf) == 0
    assert not np.isnan(schedule.t_of_lam(-np.inf))


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_values(name):
    schedule = SCHEDULES[name]
    schedule.lam(0.5 * schedule.t_max)
    copy = pickle.loads(pickle.dumps(schedule))
    assert copy == schedule and hash(copy) == hash(schedule) and len(repr(schedule)) < 80
    assert copy.lam(0.3) == schedule.lam(0.3)
    assert all(schedule != other for key, other in SCHEDULES.items() if key != name)
    with pytest.raises(AttributeError):
        schedule.shift = 2.0


@pytest.mark.parametrize("t, lam", [(1.0, -5.02498), (1e-3, 4.55771), (1e-4, 5.75151)])
def test_vp_linear_known_values(t, lam):
    assert CONTINUOUS["vp_linear"].lam(t) == pytest.approx(lam, abs=5e-6)


@pytest.mark.parametrize(
    "name, low, high",
    [("linear", 0.0100, 157.407), ("scaled_linear", 0.02917, 14.6146), ("squaredcos_cap_v2", None, None)],
)
def test_published_tables_have_their_known_range(name, low, high):
    schedule = SCHEDULES[name]
    if low is None:
        assert schedule.lam(1.0) == pytest.approx(-9.918, abs=1e-3)
    else:
        np.testing.assert_allclose(np.exp(-schedule.lam([schedule.t_min, 1.0])), [low, high], rtol=2e-4)


@pytest.mark.parametrize("interpolation", ["cubic", "log_sigma"])
@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_met_at_its_nodes(name, interpolation):
    schedule = NoiseSchedule.discrete(TABLES[name], interpolation)
    t = schedule.time_of_model(np.arange(1000))
    np.testing.assert_allclose(schedule.alpha(t) ** 2, TABLES[name], rtol=1e-10)
    np.testing.assert_allclose(schedule.sigma(t) ** 2, 1 - TABLES[name], rtol=1e-10)
    np.testing.assert_allclose(schedule.model_time(t), np.arange(1000), atol=1e-9)


def test_log_sigma_mode_is_linear_in_log_sigma_between_nodes():
    schedule = NoiseSchedule.discrete(TABLES["linear"], "log_sigma")
    index = np.linspace(0, 999, 3457)
    rho = np.sqrt(1 / TABLES["linear"] - 1)
    expected = np.interp(index, np.arange(1000), np.log(rho))
    np.testing.assert_allclose(-schedule.lam(schedule.time_of_model(index)), expected, atol=1e-9)


def sampled(n):
    """The VP linear process known only at n training steps."""
    return np.asarray(CONTINUOUS["vp_linear"].alpha(np.arange(1, n + 1) / n)) ** 2


def test_cubic_interpolation_recovers_a_smooth_process_to_fourth_order():
    lam = np.linspace(-4.5, 2.0, 301)
    exact = CONTINUOUS["vp_linear"].t_of_lam(lam)
    errors = [np.abs(NoiseSchedule.discrete(sampled(n)).t_of_lam(lam) - exact).max() for n in (50, 100, 200)]
    assert np.log2(errors[0] / errors[1]) > 3.5 and np.log2(errors[1] / errors[2]) > 3.5
    piecewise = NoiseSchedule.discrete(sampled(200), "log_sigma").t_of_lam(lam)
    assert np.abs(piecewise - exact).max() > 100 * errors[2]


def test_second_differences_stay_bounded_at_a_node_only_without_kinks():
    def curvature(interpolation, h):
        schedule = NoiseSchedule.discrete(TABLES["linear"], interpolation)
        lam = schedule.lam(0.2)  # a training step
        t = schedule.t_of_lam(lam + h * np.array([-1, 0, 1]))
        return abs(t[0] - 2 * t[1] + t[2]) / h**2

    assert curvature("cubic", 2e-4) == pytest.approx(curvature("cubic", 2e-3), rel=0.05)
    assert curvature("log_sigma", 2e-4) > 5 * curvature("log_sigma", 2e-3)


@pytest.mark.parametrize("floor", [0.0, 2.0**-24])
@pytest.mark.parametrize("name", TABLES)
def test_zero_terminal_snr_changes_the_end_and_keeps_the_start(name, floor):
    table = zero_terminal_snr(TABLES[name], floor)
    assert table[-1] == pytest.approx(floor, rel=1e-12) and table[0] == pytest.approx(TABLES[name][0])
    assert (np.diff(table) < 0).all()


@given(
    st.lists(st.floats(1e-5, 0.3), min_size=2, max_size=30), st.lists(st.floats(0.001, 1.0), min_size=1, max_size=20)
)
@example([0.25, 0.0625, 0.1171875, 0.03125, 0.0078125, 1e-5], [1.0])  # flat at its end: t is known to sqrt(eps) only
@settings(max_examples=60, deadline=None)
def test_any_table_becomes_a_monotone_invertible_curve(beta, times):
    schedule = NoiseSchedule.discrete(np.cumprod(1 - np.array(beta)))
    fine = np.linspace(0, 1, 301)
    assert (np.diff(schedule.sigma(fine)) >= 0).all() and (np.diff(schedule.lam(fine[1:])) < 0).all()
    lam = schedule.lam(times)
    found = schedule.t_of_lam(lam)
    np.testing.assert_allclose(schedule.lam(found), lam, rtol=1e-11, atol=1e-11)
    steepness = np.abs(schedule.lam(np.clip(found - 1e-5, 0, 1)) - lam) / 1e-5  # of lam at t
    np.testing.assert_allclose(found, times, atol=1e-5)
    np.testing.assert_array_less(np.abs(found - times)[steepness > 1e-2], 1e-8)


@given(st.floats(-40, 40))
@settings(max_examples=80, deadline=None)
def test_closed_forms_hold_far_outside_the_sampling_range(lam):
    flow = CONTINUOUS["flow"]
    assert flow.t_of_lam(lam) == pytest.approx(1 / (1 + np.exp(lam)), rel=1e-12)
    for name in ("vp_linear", "edm"):
        schedule = CONTINUOUS[name]
        assert schedule.lam(schedule.t_of_lam(lam)) == pytest.approx(lam, rel=1e-10, abs=1e-10)


def test_functions_are_vectorised_float64():
    for schedule in SCHEDULES.values():
        out = schedule.lam(np.full((2, 3), 0.5, np.float32))
        assert out.shape == (2, 3) and out.dtype == np.float64
        assert isinstance(float(schedule.lam(0.5)), float) and np.ndim(schedule.t_of_lam(0.0)) == 0


def test_initial_noise_has_the_marginal_of_t_max_and_follows_its_generators():
    import torch

    edm, vp = CONTINUOUS["edm"], CONTINUOUS["vp_linear"]
    a = edm.initial_noise((2, 3, 8), torch.Generator().manual_seed(1))
    b = vp.initial_noise((2, 3, 8), torch.Generator().manual_seed(1))
    torch.testing.assert_close(a, 80 * b)
    each = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    pair = vp.initial_noise((2, 4), each, dtype=torch.float64)
    alone = vp.initial_noise((1, 4), torch.Generator().manual_seed(6), dtype=torch.float64)
    assert pair.dtype == torch.float64 and torch.equal(pair[1:], alone)
    with pytest.raises(ValueError, match="one a sample"):
        vp.initial_noise((3, 4), each)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: NoiseSchedule.discrete([0.5, 0.6]), "must decrease"),
        (lambda: NoiseSchedule.discrete([1.0, 0.5]), "must lie in"),
        (lambda: NoiseSchedule.discrete([0.5]), "at least 2"),
        (lambda: NoiseSchedule.discrete([0.5, np.nan]), "must lie in"),
        (lambda: NoiseSchedule.discrete([0.9, 0.5], "cubik"), "cubic"),
        (lambda: NoiseSchedule.vp_linear(20.0, 0.1), "must exceed"),
        (lambda: NoiseSchedule.ve(5.0, 1.0), "must exceed"),
        (lambda: NoiseSchedule.edm(sigma_min=0.0), "positive"),
        (lambda: NoiseSchedule.flow(float("nan")), "positive"),
        (lambda: betas("scaled_liner"), "scaled_linear"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
