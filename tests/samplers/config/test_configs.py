"""Configs: the schedule and the grid of a diffusers scheduler, compared with the live classes wherever they are right."""

import itertools
import logging

import numpy as np
import pytest
from late import diffusers

from fewstep.samplers.config.config_grid import grid_from_config
from fewstep.samplers.config.reading import reading, schedule_from_config
from fewstep.samplers.schedule.base import NoiseSchedule

BETAS = {
    "linear": {"beta_schedule": "linear"},
    "latent": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}
MAPS = (None, "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
STEPS = (5, 10, 16, 25)
OPTIONS = {  # class -> (sigma maps, has final_sigmas_type)
    "DPMSolverMultistepScheduler": (MAPS, True),
    "DPMSolverSinglestepScheduler": (MAPS[:4], True),
    "DEISMultistepScheduler": (MAPS[:4], False),
    "UniPCMultistepScheduler": (MAPS[:4], True),
    "SASolverScheduler": (MAPS[:4], False),
    "EulerDiscreteScheduler": (MAPS[:4], True),
    "HeunDiscreteScheduler": (MAPS[:4], False),
    "LMSDiscreteScheduler": (MAPS[:4], False),
    "KDPM2DiscreteScheduler": (MAPS[1:2], False),
    "EulerAncestralDiscreteScheduler": (MAPS[:1], False),
    "DDIMScheduler": (MAPS[:1], False),
    "DDPMScheduler": (MAPS[:1], False),
}
WHOLE_TABLE = [name for name in OPTIONS if name.startswith(("DPM", "DEIS", "UniPC", "SA"))]
TWO_CALLS = ("HeunDiscreteScheduler", "KDPM2DiscreteScheduler")


@pytest.fixture(autouse=True)
def quiet():
    diffusers.utils.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def ours(config, n, solver, **given):
    """(levels, network times): sigma / alpha, or t itself for flow, VE and EDM."""
    schedule = schedule_from_config(config, solver)
    grid = grid_from_config(config, schedule, n, solver, **given)
    assert len(grid.times) == len(grid.model_times) + 1
    assert (np.diff(grid.times) < 0).all() and np.isfinite(grid.model_times).all()
    return np.exp(-schedule.lam(grid.times)) if schedule.kind == "vp" else grid.times, grid.model_times


def theirs(scheduler, n, **given):
    """The same of a live diffusers scheduler, one entry a nominal step."""
    name = type(scheduler).__name__
    scheduler.set_timesteps(**({"num_inference_steps": n} if n else {}), **given)
    t = scheduler.timesteps.double().numpy()
    if name in ("DDIMScheduler", "DDPMScheduler"):
        abar = scheduler.alphas_cumprod.double().numpy()[t.astype(int)]
        return np.append(np.sqrt((1 - abar) / np.maximum(abar, 1e-300)), 0.0), t
    sigmas = scheduler.sigmas.double().numpy()
    if name in TWO_CALLS:
        return np.append(sigmas[:1], sigmas[1:-1:2] if name[0] == "K" else sigmas[1::2]), np.append(t[:1], t[1:][1::2])
    return sigmas, t


def cases():
    counter = itertools.count()
    for name, (maps, ends) in OPTIONS.items():
        for beta, sigma_map, spacing in itertools.product(BETAS, maps, ("linspace", "leading", "trailing")):
            if sigma_map and name in WHOLE_TABLE and spacing != "trailing":
                continue  # spacing has no say there
            i = next(counter)
            config = {**BETAS[beta], "timestep_spacing": spacing, "steps_offset": i % 2}
            if name == "DPMSolverSinglestepScheduler":
                del config["timestep_spacing"], config["steps_offset"]
            if sigma_map:
                config[sigma_map] = True
            if ends:
                config["final_sigmas_type"] = ("zero", "sigma_min")[i // 2 % 2]
            yield pytest.param(name, config, STEPS[i % 4], id=f"{name}-{beta}-{sigma_map}-{spacing}-{STEPS[i % 4]}")


@pytest.mark.parametrize("name, config, n", cases())
@pytest.mark.one_in(3)
def test_grid_equals_the_live_class(name, config, n):
    scheduler = getattr(diffusers, name)(**config)
    levels, shown = ours(scheduler.config, n, name)
    their_levels, their_shown = theirs(scheduler, n)
    # The classes tabulate alpha^2 in float32: 1 - alpha^2 keeps 4 digits at the first step of linear betas (1e-4), and
    # 1 - beta as many at the last one of cosine betas (0.999). Sigma maps spread that error over all levels.
    exact = config["beta_schedule"] == "scaled_linear"
    np.testing.assert_allclose(levels, their_levels, rtol=1e-5 if exact else 2e-4, atol=1e-5)
    whole = np.array_equal(their_shown, np.round(their_shown))
    # Truncation makes their first time 998 or 999 by the last bit of a float32; ours is the truth, 999.
    mapped = any(config.get(key) for key in MAPS if key)
    np.testing.assert_allclose(shown, their_shown, atol=1.0 if whole and mapped else 0.005 if exact else 0.1)
    if whole:
        assert np.mean(shown != their_shown) <= 1 / 5


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler"])
def test_zero_terminal_snr_equals_the_live_class(name, spacing):
    config = {**BETAS["latent"], "rescale_betas_zero_snr": True, "timestep_spacing": spacing}
    scheduler = getattr(diffusers, name)(prediction_type="v_prediction", **config)
    for n in STEPS:
        for a, b in zip(ours(scheduler.config, n, name), theirs(scheduler, n), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_zero_terminal_snr_is_literal_for_ddim_unless_the_network_predicts_noise():
    config = {**BETAS["latent"], "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    exact = schedule_from_config({**config, "prediction_type": "v_prediction"}, "ddim")
    assert exact.alpha(1.0) == 0 and exact.lam(1.0) == -np.inf
    grid = grid_from_config(config, exact, 10, "ddim")
    assert grid.times[0] == 1.0 and (np.diff(grid.times) < 0).all()
    for schedule in (schedule_from_config(config, "ddim"), schedule_from_config(config)):
        assert schedule.alpha(1.0) == pytest.approx(2.0**-12)


def test_zero_terminal_snr_of_linear_betas_decreases_where_the_live_table_does_not():
    config = {"rescale_betas_zero_snr": True, "beta_schedule": "linear"}
    live = diffusers.DPMSolverMultistepScheduler(**config).alphas_cumprod
    assert not (live[1:] < live[:-1]).all()
    schedule = schedule_from_config(config)
    assert (np.diff(schedule.lam(np.linspace(0.9, 1, 1001))) < 0).all()
    np.testing.assert_allclose(np.sqrt(live[[500, 990, 999]]), schedule.alpha(np.array([0.501, 0.991, 1.0])), rtol=1e-4)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("sigma_map", MAPS)
@pytest.mark.parametrize("name", [*OPTIONS, "PNDMScheduler"])
def test_levels_decrease_for_every_number_of_steps(name, sigma_map, spacing):
    config = {"_class_name": name, "timestep_spacing": spacing, "steps_offset": 1, "set_alpha_to_one": False}
    config = {**config, **BETAS["latent"], **({sigma_map: True} if sigma_map else {})}
    schedule = schedule_from_config(config)
    for n in (*range(1, 51, 3), 333, 999, 1000):
        grid = grid_from_config(config, schedule, n)
        assert len(grid.times) == n + 1 and (np.diff(grid.times) < 0).all()
        assert (np.diff(grid.model_times) <= 0).all() and grid.model_times[0] <= 999
        assert n < 2 or grid.model_times[0] > 600


def test_lambda_clipping_starts_later_without_renumbering():
    config = {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1}
    scheduler = diffusers.DPMSolverMultistepScheduler(**config)
    for a, b in zip(ours(scheduler.config, 10, "dpmpp_2m"), theirs(scheduler, 10), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)
    assert ours(scheduler.config, 10, "dpmpp_2m")[1][0] == 995


FLOWS = [
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0, "shift_terminal": 0.1}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 2.0, "use_karras_sigmas": True}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 2.0, "use_exponential_sigmas": True}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 2.0, "use_beta_sigmas": True}),
    ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True, "shift_terminal": 0.1}),
    ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True, "time_shift_type": "linear"}),
    *((name, {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"})
      for name in ("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler")),
    ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True, "use_dynamic_shifting": True}),
    ("UniPCMultistepScheduler", {"use_flow_sigmas": True, "use_karras_sigmas": True}),
    ("UniPCMultistepScheduler", {"use_flow_sigmas": True, "shift_terminal": 0.1, "use_dynamic_shifting": True}),
]  # fmt: skip


@pytest.mark.parametrize("config", [{"shift": 3.0}, {"use_dynamic_shifting": True, "shift_terminal": 0.1}])
def test_inverted_flow_equals_the_live_class(config):
    """Levels that solvers see fall as ever; the network's times and the public sigmas rise, as Mochi wants them."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**config, invert_sigmas=True)
    given = {"mu": 0.8} if config.get("use_dynamic_shifting") else {}
    for how in ({"n": 7}, {"n": None, "sigmas": list(np.linspace(1, 1 / 8, 8))}):
        levels, shown = ours(scheduler.config, solver="euler", **how, **given)
        their_levels, their_shown = theirs(scheduler, how["n"], **given, **{k: v for k, v in how.items() if k != "n"})
        np.testing.assert_allclose(levels, 1 - their_levels, atol=1e-6)
        np.testing.assert_allclose(shown, their_shown, atol=1e-3)
    schedule = schedule_from_config(scheduler)
    assert schedule.time_of_model(250.0) == 0.75 and schedule != schedule_from_config({"shift": 3.0})
    assert reading(scheduler).prediction == "inverted_flow_prediction"
    plain = {"invert_sigmas": True, "shift": 1.0}
    grid = grid_from_config(plain, schedule_from_config(plain), None, timesteps=[100.0, 600.0])
    np.testing.assert_allclose(grid.times, [0.9, 0.4, 0.0])
    np.testing.assert_array_equal(grid.model_times, [100.0, 600.0])


@pytest.mark.parametrize("name, config", FLOWS)
def test_flow_grids_equal_the_live_class(name, config):
    scheduler = getattr(diffusers, name)(**config)
    given = {"mu": 0.8} if config.get("use_dynamic_shifting") else {}
    for n in (2, 5, 10, 25):
        levels, shown = ours(scheduler.config, n, name, **given)
        their_levels, their_shown = theirs(scheduler, n, **given)
        np.testing.assert_allclose(levels, their_levels, atol=1e-5)
        np.testing.assert_allclose(shown, their_shown, atol=1e-3)


@pytest.mark.parametrize("config", [c for name, c in FLOWS if name.startswith("FlowMatch")])
def test_explicit_flow_sigmas_are_shifted_once_and_get_their_zero(config):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**config)
    given = {"sigmas": list(np.linspace(1, 1 / 8, 8)), **({"mu": 0.8} if config.get("use_dynamic_shifting") else {})}
    for a, b in zip(ours(scheduler.config, None, "dpmpp_2m", **given), theirs(scheduler, None, **given), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)
    if config == {"shift": 3.0}:
        s = np.linspace(1, 1 / 8, 8)
        once = ours(config, 8, "euler", sigmas=np.append(s, 0.0))[0]
        np.testing.assert_allclose(once, np.append(3 * s / (1 + 2 * s), 0.0), atol=1e-12)


def test_flow_timesteps_go_to_the_network_unchanged():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    times, sigmas = [900.0, 500.0, 100.0], [1.0, 0.6, 0.2]
    for given in ({"timesteps": times}, {"timesteps": times, "sigmas": sigmas}):
        levels, shown = ours(scheduler.config, 3, "euler", **given)
        np.testing.assert_allclose(levels, theirs(scheduler, None, **given)[0], atol=1e-4)
        np.testing.assert_array_equal(shown, times)


def test_flows_that_their_class_leaves_noisy_reach_the_data():
    scheduler = diffusers.DEISMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    assert theirs(scheduler, 5)[0][-1] > 0.1
    levels, shown = ours(scheduler.config, 5, "deis")
    assert levels[-1] == 0
    np.testing.assert_allclose(levels[:-1], theirs(scheduler, 5)[0][:-1], atol=1e-6)
    np.testing.assert_array_equal(shown, theirs(scheduler, 5)[1])


@pytest.mark.parametrize("name", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
@pytest.mark.parametrize("config", [{}, {"rho": 5.0, "sigma_max": 60.0}, {"sigma_schedule": "exponential"}])
def test_edm_grids_equal_the_live_class(name, config):
    scheduler = getattr(diffusers, name)(**config)
    assert schedule_from_config(scheduler) == NoiseSchedule.edm(0.002, config.get("sigma_max", 80.0))
    for n in (2, 5, 18):
        for a, b in zip(ours(scheduler.config, n, "heun"), theirs(scheduler, n), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_network_labelled_by_log_sigma_gets_its_own_schedule():
    config = {"timestep_type": "continuous", "prediction_type": "v_prediction", "sigma_min": 0.002, "sigma_max": 700.0}
    scheduler = diffusers.EulerDiscreteScheduler(**config, use_karras_sigmas=True)
    for a, b in zip(ours(scheduler.config, 10, "euler"), theirs(scheduler, 10), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    schedule = schedule_from_config(scheduler)
    assert schedule.kind == "vp" and schedule.model_time(700.0) == pytest.approx(0.25 * np.log(700))


def test_ve_levels_are_geometric_and_end_at_zero():
    scheduler = diffusers.ScoreSdeVeScheduler()
    levels, shown = ours(scheduler, 12, None)
    scheduler.set_sigmas(12)
    np.testing.assert_allclose(levels[:-1], scheduler.discrete_sigmas.flip(0), rtol=1e-5)
    np.testing.assert_allclose(shown, levels[:-1], rtol=1e-15)
    assert levels[-1] == 0


def test_explicit_timesteps_and_sigmas_of_discrete_models():
    scheduler = diffusers.EulerDiscreteScheduler(**BETAS["latent"])
    for given in ({"timesteps": [900, 500, 20]}, {"sigmas": [14.0, 2.0, 0.1, 0.0]}):
        for a, b in zip(ours(scheduler.config, None, "euler", **given), theirs(scheduler, None, **given), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-3)


def test_class_defaults_give_way_to_the_requested_class_and_choices_stay():
    untouched = diffusers.DDIMScheduler(**BETAS["latent"]).config  # leading is its default
    chosen = diffusers.DDIMScheduler(**BETAS["latent"], timestep_spacing="leading").config
    for config in (untouched, chosen):
        live = diffusers.DPMSolverMultistepScheduler.from_config(config)
        for a, b in zip(ours(config, 10, "dpmpp_2m"), theirs(live, 10), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    assert ours(untouched, 10, "dpmpp_2m")[1][0] == 999 and ours(chosen, 10, "dpmpp_2m")[1][0] == 900


def test_set_alpha_to_one_decides_where_ddim_ends():
    schedule = NoiseSchedule.from_config(BETAS["latent"])
    for to_one, level in ((True, 0.0), (False, np.exp(-schedule.lam(schedule.t_min)))):
        levels, _ = ours({**BETAS["latent"], "set_alpha_to_one": to_one, "steps_offset": 1}, 10, "ddim")
        assert levels[-1] == pytest.approx(level)


def test_trained_betas_and_short_tables():
    scheduler = diffusers.DDIMScheduler(trained_betas=np.array([0.1, 0.3]))
    schedule = schedule_from_config(scheduler)
    np.testing.assert_allclose(schedule.alphas_cumprod, [0.9, 0.63])
    for n in range(1, 30):
        for solver in ("ddim", "dpmpp_2m", "euler"):
            ours(scheduler.config, n, solver)


def test_what_the_network_predicts():
    ddim = diffusers.DDIMScheduler().config
    assert reading(ddim, "ddim").clip_sample and not reading(ddim, "dpmpp_2m").clip_sample
    assert not reading({**BETAS["latent"], "clip_sample": False}, "ddim").clip_sample
    assert reading({**BETAS["linear"], "thresholding": True}, "dpmpp_2m").thresholding
    assert reading({**BETAS["linear"], "thresholding": True}, "euler").thresholding  # a need of the model
    assert reading({**BETAS["linear"], "variance_type": "learned_range"}).learned_variance
    assert not reading(diffusers.DDPMScheduler()).learned_variance
    assert reading(diffusers.FlowMatchEulerDiscreteScheduler()).prediction == "flow_prediction"
    assert reading({**BETAS["linear"], "prediction_type": "v_prediction"}).prediction == "v_prediction"
    assert reading(diffusers.EDMEulerScheduler(sigma_data=0.7)).sigma_data == 0.7
    assert reading(diffusers.UniPCMultistepScheduler(use_flow_sigmas=True)).prediction == "epsilon"


DYNAMIC = {"use_dynamic_shifting": True, "shift": 1.0}


@pytest.mark.parametrize(
    "config, given, message",
    [
        ({"foo": 1}, {}, "no noise schedule; its entries are: foo"),
        ([1], {}, "got list"),
        ({"trained_betas": [0.1, 2.0]}, {}, "trained_betas"),
        ({"beta_schedule": "scaled-linear"}, {}, "scaled_linear"),
        ({**BETAS["linear"], "timestep_spacing": "trail"}, {}, "trailing"),
        ({**BETAS["linear"], "final_sigmas_type": "sigma"}, {}, "sigma_min"),
        ({**BETAS["linear"], "use_karras_sigmas": True, "use_beta_sigmas": True}, {}, "one sigma map"),
        (DYNAMIC, {}, "pass `mu`"),
        ({"shift": 3.0, "shift_terminal": 1.5}, {}, "shift_terminal"),
        (BETAS["linear"], {"n": 0}, "at least 1"),
        (BETAS["linear"], {"n": 2.5}, "whole number"),
        (BETAS["linear"], {"n": None}, "number of steps"),
        (BETAS["linear"], {"timesteps": [10, 900, 5]}, "ascending"),
        (BETAS["linear"], {"timesteps": [900, np.nan, 5]}, "finite"),
        (BETAS["linear"], {"timesteps": [900, 5]}, "lengths differ"),
        ({"shift": 3.0}, {"sigmas": [1.0, 0.5, 0.2, 0.1]}, "lengths differ"),
        ({"shift": 3.0}, {"sigmas": [0.2, 0.5, 0.9]}, "ascending"),
    ],
)
def test_bad_input_is_named(config, given, message):
    with pytest.raises(ValueError, match=message):
        schedule = schedule_from_config(config)
        grid_from_config(config, schedule, **{"n": 3, "solver": "dpmpp_2m", **given})


def test_an_unused_mu_is_ignored():
    config = {"shift": 3.0}
    np.testing.assert_array_equal(ours(config, 5, "euler", mu=0.7)[0], ours(config, 5, "euler")[0])


@pytest.mark.parametrize(
    "config",
    [
        {"_class_name": "EDMEulerScheduler", "sigma_data": 0.5, "sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0},
        {"_class_name": "CosineDPMSolverMultistepScheduler", "sigma_data": 1.0, "sigma_min": 0.3, "sigma_max": 500.0},
        {"_class_name": "ScoreSdeVpScheduler", "beta_min": 0.1, "beta_max": 20.0},
    ],
    ids=lambda config: config["_class_name"],
)
def test_explicit_times_of_the_network_mean_their_levels(config: dict) -> None:
    schedule = schedule_from_config(config)
    usual = grid_from_config(config, schedule, 8)
    chosen = usual.model_times[[0, 2, 3, 6]]
    told = grid_from_config(config, schedule, None, timesteps=chosen)
    assert np.allclose(told.times[:-1], usual.times[[0, 2, 3, 6]], rtol=1e-9)
    assert np.array_equal(told.model_times, chosen)
    levels = np.exp(-schedule.lam(usual.times[[0, 2, 3, 6]]))
    assert np.allclose(grid_from_config(config, schedule, None, sigmas=levels).times[:-1], usual.times[[0, 2, 3, 6]])
