"""Pipelines whose networks have two times: as a denoiser, as the pipeline itself, and with our Scheduler in it."""

import flow_map_pipelines
import pytest
import torch

import fewstep
from fewstep import Denoiser, sample

pytestmark = pytest.mark.usefixtures("quiet")

STEPS, SECOND = 4, {"anyflow": "r_timestep", "hunyuan_image": "timestep_r"}


def watched(name):
    """(pipeline, call, list of the pairs of times that its network is shown)."""
    pipe, call = getattr(flow_map_pipelines, name)()
    pairs = []

    def note(_, __, told):
        pairs.append(tuple(float(told[key].flatten()[0]) for key in ("timestep", SECOND[name])))

    pipe.transformer.register_forward_pre_hook(note, with_kwargs=True)
    return pipe, call, pairs


def drawn(pipe, call):
    with torch.no_grad():
        return pipe(**call, num_inference_steps=STEPS, generator=torch.Generator().manual_seed(0), return_dict=False)[0]


def distance(a, b):
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("name", SECOND)
def test_a_denoiser_shows_both_times(name, monkeypatch):
    pipe, call, pairs = watched(name)
    want = drawn(pipe, call)
    asked, times = list(pairs), [pair[0] / 1000 for pair in pairs]
    denoiser = Denoiser.from_pipeline(pipe, **call)
    x = denoiser.initial_noise(torch.Generator().manual_seed(0))
    assert denoiser.two_times
    for solver in ("flow_map", "euler"):
        pairs.clear()
        end = sample(denoiser, x, solver, grid=[*times, 0.0], nfe=STEPS)
        assert pairs[-STEPS:] == [pytest.approx(pair, rel=1e-5) for pair in asked]
        assert distance(torch.as_tensor(denoiser.decode(end)), want) < 2e-4
    pairs.clear()
    sample(denoiser, x, "dpmpp_2m", STEPS)  # leads nowhere: a little below, where AnyFlow would leave a turn out
    assert len(pairs) == STEPS + 1 and all(0.9999 * t <= r <= t for t, r in pairs[1:])
    pairs.clear()
    monkeypatch.setattr("fewstep.samplers.pipeline.as_denoiser.TURNS", 6)
    short = Denoiser.from_pipeline(pipe, **call)
    assert distance(sample(short, x, "flow_map", 9), sample(denoiser, x, "flow_map", 9)) < 1e-6  # a second loop begins
    assert all(r < t for t, r in pairs)


def test_anyflow_of_one_time_is_a_plain_network():
    pipe, call, pairs = watched("anyflow")
    denoiser = Denoiser.from_pipeline(pipe, **call, use_mean_velocity=False)
    assert not denoiser.two_times
    end = sample(denoiser, denoiser.initial_noise(torch.Generator().manual_seed(0)), "unipc", STEPS)
    assert torch.isfinite(end).all() and all(r == t for t, r in pairs)


@pytest.mark.parametrize("name", SECOND)
def test_our_scheduler_in_the_pipeline(name):
    pipe, call, pairs = watched(name)
    want, stock = drawn(pipe, call), pipe.scheduler
    asked = list(pairs)
    for solver in ("euler", "ddim", "flow_map"):
        pairs.clear()
        pipe.scheduler = fewstep.Scheduler.from_config(stock, solver)
        assert distance(drawn(pipe, call), want) < 2e-4
        assert pairs == [pytest.approx(pair, rel=1e-5) for pair in asked]
    if name == "anyflow":
        pipe.scheduler = fewstep.Scheduler.from_config(stock, "dpmpp_2m")
        with pytest.raises(ValueError, match="averages the velocity"):
            drawn(pipe, call)
