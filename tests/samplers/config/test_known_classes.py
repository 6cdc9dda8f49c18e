"""A config is read by its class: published configs, old words, refusals by name, contradictions, and the shift said once."""

import json
import logging
import warnings

import numpy as np
import pytest
import torch
from late import diffusers
from places import TESTS

import fewstep
from fewstep import NoiseSchedule, build
from fewstep.samplers.config.config_grid import grid_from_config
from fewstep.samplers.config.flows import _tell
from fewstep.samplers.config.known_classes import KNOWN, REFUSED
from fewstep.samplers.config.reading import reading, schedule_from_config

HUB = json.loads((TESTS / "fixtures" / "hub_configs.json").read_text())
READ = {name: config for name, config in HUB.items() if config["_class_name"] not in REFUSED}
# classes whose own times are no network's: a repeated call, times without levels, one step fewer, or no package
OWN_TIMES = ("PNDMScheduler", "DDPMWuerstchenScheduler", "ScoreSdeVeScheduler", "MiniMaxH3Scheduler",
             "CosineDPMSolverMultistepScheduler", "GaussianDDPMScheduler")  # fmt: skip
OWN_CONFIGS = {  # what their class makes of them is no run: times that contradict their levels, or are all the same
    "cosmos3-distilled fixed_step keys",
    "sd-x2-latent-upscaler Euler log_linear",
    "omnigen inverted num_train 1",
    "minimax-music3 inverted num_train 1",
    "ace-step num_train 1",
    "stable-audio-3 base num_train 1",
}
KARRAS = (80 ** (1 / 7) + 20 / 39 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7  # of place 20 of 40
NOBODY = {"_class_name": "NobodyKnowsScheduler", "num_train_timesteps": 1000}
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.WARNING)
    diffusers.utils.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def given(config):
    return {"mu": 0.8} if config.get("use_dynamic_shifting") else {}


def test_the_published_configs_are_many():
    assert len(HUB) > 100 and len({config["_class_name"] for config in HUB.values()}) > 24


def test_published_configs_make_runs():
    """Every one of them, with entries of other classes and without some of their own."""
    for i, (name, config) in enumerate(READ.items()):
        schedule, said = schedule_from_config(config), reading(config)
        for n in (4,) if "fixed_step_sampler_config" in config else (9,):
            grid = grid_from_config(config, schedule, n, **given(config))
            assert len(grid.times) == n + 1 and (np.diff(grid.times) < 0).all(), name
            assert np.isfinite(grid.model_times).all() and said.prediction, name
        if i % 4:  # one in four as a whole
            continue
        ours = fewstep.Scheduler.from_config(config, "euler")
        ours.set_timesteps(4, **given(config))
        assert ours.num_inference_steps == 4 and ours._model.schedule.kind == schedule.kind, name


@pytest.mark.parametrize("n", [4, 10])
def test_published_configs_have_the_times_of_their_class(n):
    for name, config in READ.items():
        if config["_class_name"] in OWN_TIMES or name in OWN_CONFIGS or not diffusers.has(config["_class_name"]):
            continue
        live = getattr(diffusers, config["_class_name"]).from_config(config)
        angles = {"intermediate_timesteps": None} if config["_class_name"] == "SCMScheduler" else {}
        live.set_timesteps(n, **given(config), **angles)
        want = live.timesteps.double().numpy()
        want = np.append(want[:1], want[1::2]) if len(want) == 2 * n - 1 else want[:n]
        schedule = schedule_from_config(config)
        grid = grid_from_config(config, schedule, n, **given(config))
        np.testing.assert_allclose(grid.model_times, want, rtol=1e-3, atol=1.5e-3 * abs(want).max(), err_msg=name)
        if hasattr(live, "sigmas"):
            sigmas = live.sigmas.double().numpy()
            levels = np.exp(-schedule.lam(grid.times)) if schedule.kind == "vp" else grid.times
            levels = 1 - levels if config.get("invert_sigmas") else levels
            sigmas = np.append(sigmas[:1], sigmas[1::2]) if len(sigmas) == 2 * n else sigmas
            np.testing.assert_allclose(levels, sigmas, rtol=1e-3, atol=1e-3 * sigmas.max(), err_msg=name)


def test_configs_survive_entries_that_are_missing():
    """The name of a class alone describes its model: what is left out is what the class fills in."""
    for name in KNOWN:
        cls = getattr(diffusers, name) if diffusers.has(name) else None
        schedule = schedule_from_config({"_class_name": name})
        grid = grid_from_config({"_class_name": name}, schedule, 4)
        assert (np.diff(grid.times) < 0).all(), name
        try:
            live = cls()
        except Exception:  # of a package that is not installed
            continue
        assert schedule_from_config(live) == schedule, name
        np.testing.assert_allclose(grid_from_config(live, schedule, 4).model_times, grid.model_times, err_msg=name)


def test_fixed_times_of_a_distilled_model():
    config = HUB["cosmos3-distilled fixed_step keys"]
    ours = fewstep.Scheduler.from_config(config)
    ours.set_timesteps(4)
    np.testing.assert_allclose(ours.sigmas, [1.0, 0.9375, 5 / 6, 0.625, 0.0])
    assert ours.config["solver"] == "renoise"
    with pytest.raises(ValueError, match="distilled at 4 times"):
        ours.set_timesteps(5)
    ours.set_timesteps(sigmas=[1.0, 0.5])
    assert ours.num_inference_steps == 2


@pytest.mark.parametrize(
    "config, solver, first",
    [
        ({"_class_name": "LCMScheduler"}, "renoise", [999, 499]),
        ({"_class_name": "TCDScheduler", "timestep_spacing": "leading"}, "tcd", [999, 499]),
        ({"_class_name": "CMStochasticIterativeScheduler"}, "consistency", [250 * np.log(80), 250 * np.log(KARRAS)]),
        ({"_class_name": "SCMScheduler"}, "renoise", [1.5708, 1.3]),
        ({"_class_name": "FlowMatchLCMScheduler"}, "renoise", [1000, 1]),
        ({**FLOW, "shift": 1.0, "stochastic_sampling": True}, "renoise", [1000, 1]),
    ],
    ids=str,
)
def test_distilled_models_are_played_as_they_were_distilled(config, solver, first):
    ours = fewstep.Scheduler.from_config(config)
    assert ours.config["solver"] == solver
    ours.set_timesteps(2)
    np.testing.assert_allclose(ours.timesteps[:2], first, rtol=1e-6)
    assert fewstep.Scheduler.from_config(config, "ddim").config["solver"] == "ddim"
    again = fewstep.Scheduler.from_config(ours.config)
    again.set_timesteps(2)
    np.testing.assert_array_equal(again.timesteps, ours.timesteps)


def test_arguments_of_distilled_schedulers():
    lcm = fewstep.Scheduler.from_config({"_class_name": "LCMScheduler"})
    lcm.set_timesteps(2, original_inference_steps=100)
    assert lcm.timesteps.tolist() == [999, 499]
    lcm.set_timesteps(3, original_inference_steps=100)
    live = diffusers.LCMScheduler()
    live.set_timesteps(3, original_inference_steps=100)
    assert lcm.timesteps.tolist() == live.timesteps.tolist()
    scm = fewstep.Scheduler.from_config({"_class_name": "SCMScheduler"})
    scm.set_timesteps(2, max_timesteps=1.5, intermediate_timesteps=1.0)
    np.testing.assert_allclose(scm.timesteps, [1.5, 1.0, 0.0])
    scm.set_timesteps(timesteps=[1.57080, 1.0, 0])
    np.testing.assert_allclose(scm.timesteps, [1.5708, 1.0, 0.0])
    cm = fewstep.Scheduler.from_config({"_class_name": "CMStochasticIterativeScheduler"})
    live = diffusers.CMStochasticIterativeScheduler()
    for one in (cm, live):
        one.set_timesteps(timesteps=[22, 0])
    np.testing.assert_allclose(cm.timesteps, live.timesteps, rtol=1e-6)


def test_renoising_does_not_spend_its_last_call_at_the_smallest_level():
    edm = NoiseSchedule.edm()
    for solver in ("renoise", "consistency", "tcd"):
        assert build(solver, edm, 4).times[3] > 0.1 and build(solver, edm, 4).times[0] == 80
    assert build("ddim", edm, 4).times[3] == pytest.approx(0.002)
    ours = fewstep.Scheduler.from_config({"_class_name": "EDMEulerScheduler"}, "renoise")
    ours.set_timesteps(4)
    assert ours.sigmas[3] > 0.1


@pytest.mark.parametrize("name", [*REFUSED, "NobodyKnowsScheduler", "DDIMShceduler"])
def test_other_classes_are_refused_by_name(name):
    with pytest.raises(ValueError, match=name) as error:
        fewstep.Scheduler.from_config({**NOBODY, **SD, "_class_name": name})
    assert len(str(error.value)) > 60
    if name == "DDIMShceduler":
        assert "'DDIMScheduler'" in str(error.value)


def test_old_words_and_subclasses():
    old = {"_class_name": "GaussianDDPMScheduler", "timesteps": 500, "variance_type": "fixed_large"}
    assert schedule_from_config(old) == schedule_from_config(
        {"_class_name": "DDPMScheduler", "num_train_timesteps": 500}
    )
    assert schedule_from_config({**SD, "_class_name": "FlaxPNDMScheduler"}) == schedule_from_config(SD)

    class Logged(diffusers.DDIMScheduler):
        pass

    assert schedule_from_config(Logged(**SD)) == schedule_from_config(SD)

    class Ours(fewstep.Scheduler):
        pass

    assert schedule_from_config(Ours.from_config({**SD, "num_train_timesteps": 1000}).config) == schedule_from_config(
        SD
    )


@pytest.mark.parametrize(
    "config, told",
    [
        ({**FLOW, "flow_shift": 5.0}, "shift of its flow twice: shift=3.0, flow_shift=5.0"),
        ({"_class_name": "EDMEulerScheduler", "sigma_schedule": "exponential", "use_karras_sigmas": True}, "twice"),
        ({**SD, "use_karras_sigmas": True, "use_beta_sigmas": True}, "one sigma map"),
        ({**FLOW, "shift": "twice"}, "`shift` must be a number; got 'twice'"),
        ({"_class_name": "LCMScheduler", "original_inference_steps": 2000}, "`original_inference_steps`"),
        ({"_class_name": "FlowMatchLCMScheduler", "scale_factors": [0.5]}, "scale_factors"),
        ({"_class_name": "IPNDMScheduler", "trained_betas": [0.1, 0.2]}, "trained_betas"),
    ],
)
def test_contradictions_are_named(config, told):
    with pytest.raises(ValueError, match=told):
        fewstep.Scheduler.from_config(config, "ddim").set_timesteps(4)


def test_leftovers_are_no_contradiction():
    for more in ({"flow_shift": 1.0}, {"flow_shift": 3.0}, {"use_karras_sigmas": False, "beta_start": 0.1}):
        assert schedule_from_config({**FLOW, **more}) == schedule_from_config(FLOW)


def test_two_spacings_are_named():
    with pytest.raises(ValueError, match="timestep_spacing"):
        fewstep.Scheduler.from_config(SD, "ddim", "karras", timestep_spacing="trailing")


def test_a_flow_map_in_its_pipelines_has_first_order_steps_only():
    config = {"_class_name": "FlowMapEulerDiscreteScheduler", "shift": 5.0}
    assert fewstep.Scheduler.from_config(config).config["solver"] == "euler"
    x = torch.zeros(1, 2)
    for solver, options in (("unipc", {}), ("heun", {}), ("dpmpp_2m", {}), ("flow_map", {"gamma": 0.5})):
        scheduler = fewstep.Scheduler.from_config(config, solver, **options)
        scheduler.set_timesteps(4)
        with pytest.raises(ValueError, match="averages the velocity"):
            scheduler.step(x, scheduler.timesteps[0], x)
        scheduler.step(x, scheduler.timesteps[0], x, r_timestep=scheduler.r_timesteps[0])


def test_the_double_shift_is_told_once_and_has_a_way_out():
    _tell.cache_clear()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for n in (3, 4):
            grid_from_config(FLOW, schedule_from_config(FLOW), n)
    assert len(told) == 1 and "twice" in str(told[0].message) and 'shift="once"' in str(told[0].message)
    live = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    live.set_timesteps(4)
    twice, once = (fewstep.Scheduler.from_config(FLOW, "euler", **how) for how in ({}, {"shift": "once"}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for scheduler in (twice, once):
            scheduler.set_timesteps(4)
    np.testing.assert_allclose(twice.sigmas, live.sigmas, atol=1e-6)
    s = np.linspace(1, 0.001, 4)
    np.testing.assert_allclose(once.sigmas[:-1], 3 * s / (1 + 2 * s), rtol=1e-5)
    again = fewstep.Scheduler.from_config(once.config, "ddim")
    again.set_timesteps(4)
    np.testing.assert_array_equal(again.sigmas, once.sigmas)
    with pytest.raises(ValueError, match="for flow models"):
        fewstep.Scheduler.from_config(SD, shift="once")
    quietly = fewstep.Scheduler.from_config(FLOW, "euler", shift=1.0)
    quietly.set_timesteps(4)
    np.testing.assert_allclose(quietly.sigmas[:-1], s, rtol=1e-5)


def test_explicit_times_of_a_flow_can_be_pairs():
    _tell.cache_clear()
    ours = fewstep.Scheduler.from_config(FLOW)
    with pytest.warns(UserWarning, match="do not belong together"):
        ours.set_timesteps(timesteps=[900.0, 500.0, 100.0])
    np.testing.assert_allclose(ours.sigmas, [2.7 / 2.8, 0.75, 0.25, 0.0], rtol=1e-6)
    pairs = fewstep.Scheduler.from_config(FLOW, shift="once")
    pairs.set_timesteps(timesteps=[900.0, 500.0, 100.0])
    np.testing.assert_allclose(pairs.sigmas, [0.9, 0.5, 0.1, 0.0], rtol=1e-6)
    np.testing.assert_allclose(pairs.timesteps, [900.0, 500.0, 100.0])
