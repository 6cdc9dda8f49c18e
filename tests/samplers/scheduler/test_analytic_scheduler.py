"""afs=True in a Scheduler: n network calls from the second node on, the free step taken by init_noise_sigma."""

import pytest
import torch
from pipelike import EDMNetwork, Network, distance, run
from pipelines import PIPELINES, generate
from problems import Mixture

import fewstep
from fewstep import Denoiser, sample

pytestmark = pytest.mark.usefixtures("quiet")

PROBLEM = Mixture([[1.0, -0.5], [-1.0, 0.3]], [0.3, 0.4], [0.6, 0.4])
SD = {"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
      "timestep_spacing": "trailing", "clip_sample": False}  # fmt: skip
EDM = {"_class_name": "EDMEulerScheduler", "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5}


def network_of(scheduler, config):
    return EDMNetwork(PROBLEM, 0.5) if config is EDM else Network(PROBLEM, "epsilon", scheduler.alphas_cumprod)


@pytest.mark.parametrize("config", [SD, EDM], ids=["vp", "edm"])
@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "deis", "unipc", "heun"])
def test_as_if_the_first_answer_were_the_mean(config, solver):
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    short, long = (fewstep.Scheduler.from_config(config, solver, afs=afs) for afs in (True, False))
    short.set_timesteps(7)
    assert short.num_inference_steps == len(short.timesteps) == 7
    got = run(short, network_of(short, config), x * short.init_noise_sigma)
    long.set_timesteps(8)
    assert torch.equal(short.timesteps, long.timesteps[1:])
    exact, calls = network_of(long, config), []

    def network(seen, t):
        calls.append(float(t))
        if len(calls) > 1:
            return exact(seen, t)
        if config is SD:  # eps = x / sigma there
            return seen / long._table.tableau.nodes.sigma[0]
        c = (80.0**2 + 0.25) ** 0.5  # D = 0: F = -c_skip x / c_out
        return -(0.25 / c**2) * seen * c / (80.0 * 0.5 / c)

    want = run(long, network, x * long.init_noise_sigma)
    assert len(calls) == 8 and distance(got, want) < 1e-5


def test_a_pipeline_saves_a_call():
    pipe, call = PIPELINES["sd"].make()
    pipe.scheduler = fewstep.Scheduler.from_config(pipe.scheduler, "dpmpp_2m", timestep_spacing="trailing", afs=True)
    calls = []
    pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    _, latents = generate(pipe, call, 5)
    assert len(calls) == 5 and "afs" in pipe.scheduler.config.solver_options
    table = pipe.scheduler._table.tableau
    denoiser = Denoiser.from_pipeline(pipe, **call)
    x = denoiser.initial_noise(torch.Generator().manual_seed(0))
    end = sample(denoiser, x * pipe.scheduler.init_noise_sigma, table)
    assert 0.9 < pipe.scheduler.init_noise_sigma < 1 and distance(end, latents) < 1e-4
    with pytest.raises(ValueError, match="must be one of False, True|must be one of True, False"):
        fewstep.Scheduler.from_config(pipe.scheduler.config, "ddim", afs="yes")


def test_who_does_not_take_the_free_step_is_told():
    pipe, call = PIPELINES["sd3"].make()
    pipe.scheduler = fewstep.Scheduler.from_config(pipe.scheduler, "deis", afs=True)
    with pytest.raises(ValueError, match="init_noise_sigma, which nobody asked for"):
        generate(pipe, call, 4)


def test_image_to_image_begins_below_and_needs_none():
    ends = []
    for afs in (True, False):
        pipe, call = PIPELINES["sd_img2img"].make()
        pipe.scheduler = fewstep.Scheduler.from_config(pipe.scheduler, "dpmpp_2m", timestep_spacing="trailing", afs=afs)
        ends.append(generate(pipe, call, 5)[1])
    assert all(torch.isfinite(end).all() for end in ends)
