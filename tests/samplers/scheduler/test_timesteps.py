"""What pipelines demand of `set_timesteps`, one rule a test."""

import numpy as np
import pytest
import torch
from contracted import FLOW, SD, SEVERAL, TABLES, flow, network, noise, vp
from parts import flow_euler
from pipelike import run

import fewstep


@pytest.mark.parametrize("make", [vp, flow])
@pytest.mark.parametrize("name", TABLES)
@pytest.mark.one_in(3)
def test_n_evaluations_whatever_the_solver(name, make):
    scheduler = make(name)
    for n in (1, 2, 3, 5, 8, 13):
        scheduler.set_timesteps(n)
        assert len(scheduler.timesteps) == n == scheduler.num_inference_steps and len(scheduler.sigmas) == n + 1
        assert scheduler.sigmas.device.type == "cpu" and scheduler.timesteps.ndim == 1
        assert scheduler.timesteps[0].expand(3).shape == (3,)


def test_timesteps_are_whole_for_discrete_networks_and_float32_for_others():
    for scheduler, dtype in ((vp(), torch.int64), (vp("heun"), torch.float32), (flow(), torch.float32)):
        scheduler.set_timesteps(5)
        assert scheduler.timesteps.dtype == dtype


def test_set_timesteps_forgets_the_previous_run():
    scheduler, x = vp("unipc"), noise()
    scheduler.set_timesteps(5)
    first = run(scheduler, network(scheduler), x)
    scheduler.set_begin_index(2)
    scheduler.set_timesteps(5)
    assert scheduler.step_index is scheduler.begin_index is None
    for t in scheduler.timesteps[:3]:
        scheduler.step(noise(seed=3), t, noise(seed=4))
    scheduler.set_timesteps(5)
    assert torch.equal(run(scheduler, network(scheduler), x), first)


def test_writing_into_what_was_handed_out_changes_no_other_run():
    a, b = vp(), vp()
    a.set_timesteps(5)
    a.sigmas[-1] = 7.0
    a.timesteps[0] = 7
    for scheduler in (a, b):
        scheduler.set_timesteps(5)
        assert scheduler.sigmas[-1] == 0 and scheduler.timesteps[0] == 999


@pytest.mark.parametrize(
    "kwargs", [{}, {"shift_terminal": 0.1}, {"time_shift_type": "linear"}, {"use_karras_sigmas": True}]
)
def test_flow_levels_equal_the_class(kwargs):
    given = np.linspace(1.0, 1 / 8, 8)
    for dynamic in (False, True):
        theirs = flow_euler(shift=3.0, use_dynamic_shifting=dynamic, **kwargs)
        ours = fewstep.Scheduler.from_config(theirs, "euler")
        for call in (
            {"num_inference_steps": 8},
            {"sigmas": given},
            {"sigmas": list(given)},
            {"sigmas": given, "timesteps": given * 900},
        ):
            theirs.set_timesteps(**call, mu=0.9)
            ours.set_timesteps(**call, mu=0.9)
            torch.testing.assert_close(ours.sigmas, theirs.sigmas.float(), rtol=1e-5, atol=1e-6)
            shown = torch.tensor(call.get("timesteps", theirs.timesteps.numpy()), dtype=torch.float32)
            torch.testing.assert_close(ours.timesteps, shown, rtol=1e-5, atol=1e-3)


def test_timesteps_alone_are_shown_as_given():
    scheduler = vp()
    scheduler.set_timesteps(timesteps=[900, 500, 77])
    assert scheduler.timesteps.tolist() == [900, 500, 77] and scheduler.num_inference_steps == 3
    table = scheduler.alphas_cumprod.double()[[900, 500, 77]]
    torch.testing.assert_close(scheduler.sigmas[:3].double(), ((1 - table) / table).sqrt(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", SEVERAL)
def test_explicit_curves_cost_their_length(name):
    for scheduler, sigmas in (
        (flow(name, shift=1.0), np.linspace(1.0, 0.1, 7)),
        (vp(name), np.geomspace(14.0, 0.03, 7)),
    ):
        scheduler.set_timesteps(sigmas=sigmas)
        assert len(scheduler.timesteps) == 7 and float(scheduler.sigmas[0]) == pytest.approx(sigmas[0], rel=1e-3)
        assert scheduler.sigmas[-1] == 0
    scheduler.set_timesteps(timesteps=[990, 800, 600, 400, 200, 100, 10])
    assert len(scheduler.timesteps) == 7 and scheduler.timesteps[0] == 990


@pytest.mark.parametrize(
    "call, words",
    [
        ({"num_inference_steps": 0}, "at least 1"),
        ({"num_inference_steps": 2.5}, "whole number"),
        ({}, "number of steps"),
        ({"sigmas": [1.0, 0.5, 0.6]}, "decrease"),
        ({"sigmas": [1.0, float("nan")]}, "finite"),
        ({"sigmas": [1.0, 0.5], "timesteps": [900]}, "lengths differ"),
        ({"num_inference_steps": 3, "sigmas": [1.0, 0.5]}, "lengths differ"),
        ({"timesteps": [10, 500]}, "decrease"),
    ],
)
@pytest.mark.parametrize("make", [vp, flow])
def test_bad_timesteps(make, call, words):
    with pytest.raises(ValueError, match=words):
        make().set_timesteps(**call)


def test_mu_is_ignored_or_required():
    scheduler = flow()
    scheduler.set_timesteps(5)
    plain = scheduler.sigmas
    scheduler.set_timesteps(5, mu=3.0)
    assert torch.equal(scheduler.sigmas, plain)
    for grid in (None, "flow"):
        dynamic = fewstep.Scheduler.from_config(flow_euler(use_dynamic_shifting=True), grid=grid)
        with pytest.raises(ValueError, match="mu"):
            dynamic.set_timesteps(5)
        dynamic.set_timesteps(5, mu=1.0)
        few = dynamic.sigmas
        dynamic.set_timesteps(5, mu=2.0)
        assert (dynamic.sigmas[1:-1] > few[1:-1]).all()


def singles():
    """One option at a time, on every kind of config."""
    spacings = [{"timestep_spacing": s} for s in ("linspace", "leading", "trailing")]
    maps = [{f"use_{m}": True} for m in ("karras_sigmas", "exponential_sigmas", "beta_sigmas", "lu_lambdas")]
    rest = [{"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}, {"final_sigmas_type": "sigma_min"}]
    more = [{"beta_schedule": b} for b in ("linear", "squaredcos_cap_v2")] + [
        {"steps_offset": 1, "set_alpha_to_one": False}
    ]
    yield from ({**SD, **option} for option in spacings + maps + rest + more)
    for option in (
        {},
        {"shift": 3.0},
        {"shift_terminal": 0.1},
        {"use_dynamic_shifting": True},
        {"use_karras_sigmas": True},
    ):
        yield {"_class_name": FLOW, "num_train_timesteps": 1000, "shift": 1.0, **option}
    yield {**SD, "use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.one_in(3)
def test_one_step_with_every_option(name):
    for config in singles():
        scheduler = fewstep.Scheduler.from_config(config, name)
        for n in (1, 2):
            scheduler.set_timesteps(n, mu=1.0)
            x = noise(1, 2, 2, 2)
            for t in scheduler.timesteps:
                x = scheduler.step(0.5 * x, t, x, return_dict=False)[0]
            assert x.isfinite().all(), config
