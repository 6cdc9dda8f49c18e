"""Noise inside a pipeline: generators, Brownian paths, eta, and solvers that a pipeline cannot follow."""

import copy
import pickle

import pytest
import torch
from contracted import SD, TABLES, flow, network, noise, seeded, vp
from late import diffusers
from pipelike import run

import fewstep
from fewstep.samplers import SOLVERS

STOCHASTIC = [name for name in TABLES if SOLVERS[name].stochastic]
DRIVERS = [name for name, entry in SOLVERS.items() if entry.kind == "driver"]


@pytest.mark.parametrize("name", STOCHASTIC)
@pytest.mark.parametrize("kind", ["independent", "brownian"])
@pytest.mark.one_in(3)
def test_a_list_of_generators_gives_every_sample_what_it_gets_alone(name, kind):
    for scheduler in (vp(name, noise=kind), flow(name, noise=kind)):
        prediction = "flow_prediction" if scheduler._model.schedule.kind == "flow" else "epsilon"
        model, x = network(scheduler, prediction), noise(3, 2)
        ends = []
        for states, seeds in ((x, (1, 2, 3)), (x[1:2], (2,)), (x, (1, 2, 3)), (x, (4, 5, 6))):
            scheduler.set_timesteps(10)
            ends.append(run(scheduler, model, states, generator=seeded(*seeds)))
        assert torch.isfinite(ends[0]).all() and torch.equal(ends[0], ends[2])
        torch.testing.assert_close(ends[1], ends[0][1:2], rtol=1e-5, atol=1e-5)
        assert float((ends[0] - ends[3]).abs().max()) > 1e-3


def test_brownian_paths_give_the_same_image_at_any_number_of_steps():
    ends = {}
    for kind in ("independent", "brownian"):
        scheduler = vp("dpmpp_2m_sde", noise=kind, grid="logsnr")
        model, x = network(scheduler), noise(8, 2)
        for n in (40, 160):
            scheduler.set_timesteps(n)
            ends[kind, n] = run(scheduler, model, x, generator=seeded(*range(8)))
    apart = {kind: float((ends[kind, 40] - ends[kind, 160]).abs().mean()) for kind in ("independent", "brownian")}
    assert apart["brownian"] < 0.25 * apart["independent"]


def test_eta_of_a_pipeline_is_that_of_the_solver():
    plain, said = vp("ddim"), vp("ddim", eta=1.0)
    model, x = network(plain), noise(3, 2)
    ends = []
    for scheduler, eta in ((plain, 1.0), (said, 0.0), (said, 1.0), (plain, 0.0)):
        scheduler.set_timesteps(10)
        ends.append(run(scheduler, model, x, eta=eta, generator=seeded(7)[0]))
    assert torch.equal(ends[0], ends[1]) and torch.equal(ends[0], ends[2])
    assert float((ends[0] - ends[3]).abs().max()) > 1e-2


def test_eta_equals_ddim_of_diffusers():
    """The same draws in the same order: the same image."""
    theirs = diffusers.DDIMScheduler(**SD, clip_sample=False, set_alpha_to_one=False, timestep_spacing="trailing")
    ours = fewstep.Scheduler.from_config(theirs.config, "ddim")
    for eta in (0.3, 1.0):
        ends = []
        for scheduler in (theirs, ours):
            scheduler.set_timesteps(10)
            model, x = network(ours), noise(2, 3, 4, 4)
            ends.append(run(scheduler, model, x, eta=eta, generator=seeded(3)[0]))
        torch.testing.assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["euler_ancestral", "dpmpp_2s_ancestral"])
def test_a_run_can_be_copied_and_pickled_midway(name):
    told = {"eta": 0.5} if name == "euler_ancestral" else {}  # stages lie where noise begins, and cannot be moved later
    scheduler = vp(name) if told else vp(name, eta=0.5)
    model, x = network(scheduler), noise(2, 2)
    scheduler.set_timesteps(8)
    for t in scheduler.timesteps[:3]:
        x = scheduler.step(model(x, t), t, x, **told, generator=seeded(1)[0], return_dict=False)[0]
    ends = []
    for one in (scheduler, copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))):
        y, generator = x, seeded(5)[0]
        for t in scheduler.timesteps[3:]:
            y = one.step(model(y, t), t, y, **told, generator=generator, return_dict=False)[0]
        ends.append(y)
    torch.testing.assert_close(ends[1], ends[0])
    torch.testing.assert_close(ends[2], ends[0])


@pytest.mark.parametrize("name", DRIVERS)
def test_drivers_are_refused_with_the_reason(name):
    with pytest.raises(ValueError, match=f"{name}' chooses its steps as it goes and has no table.*call sample"):
        fewstep.Scheduler.from_config(SD, name)


def test_kinds_of_noise_are_named():
    with pytest.raises(ValueError, match='"independent" or "brownian"; got \'pink\''):
        vp("ddim", noise="pink")
