"""Stochastic classes of diffusers: the same generator, the same settings, the same image wherever the class is right."""

import pytest
import torch
from contracted import SD, noise
from late import diffusers
from pipelike import Network, distance, run, start
from problems import Gaussian, Mixture

import fewstep

DPM = "DPMSolverMultistepScheduler"
SDE, SDE_EPS = (
    {**SD, "algorithm_type": "sde-dpmsolver++"},
    {**SD, "algorithm_type": "sde-dpmsolver", "solver_type": "heun"},
)
TRAILING = {**SD, "timestep_spacing": "trailing"}
DDPM = {**SD, "clip_sample": False}
STEPS = (5, 10, 16, 25)
BY = tuple(n for n in STEPS if 1000 % n == 0)

CASES = {
    "euler a": ("EulerAncestralDiscreteScheduler", SD, {"solver": "euler_ancestral"}, STEPS),
    "euler a trailing": ("EulerAncestralDiscreteScheduler", TRAILING, {"solver": "ddim", "eta": 1.0}, STEPS),
    "ddpm small": ("DDPMScheduler", DDPM, {"solver": "ddpm"}, BY),
    "ddpm large": ("DDPMScheduler", {**DDPM, "variance_type": "fixed_large"}, {"solver": "ddpm", "variance": "large"}, BY),
    "2m sde": (DPM, SDE, {"solver": "dpmpp_2m_sde"}, STEPS),
    "2m sde karras": (DPM, {**SDE, "use_karras_sigmas": True}, {"solver": "dpmpp_2m_sde"}, STEPS),
    "2m sde heun": (DPM, {**SDE, "solver_type": "heun"}, {"solver": "dpmpp_2m_sde", "variant": "heun"}, STEPS),
    "sde on eps": (DPM, {**SDE_EPS, "final_sigmas_type": "sigma_min"}, {"solver": "sde_dpm"}, STEPS),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_equal_to_the_class(name):
    cls, config, ours, steps = CASES[name]
    theirs = getattr(diffusers, cls)(**config)
    network = Network(Mixture(means=((1.0,), (-1.2,), (0.2,))), "epsilon", theirs.alphas_cumprod)
    scheduler = fewstep.Scheduler.from_config(theirs.config, **ours, limiter=False)
    for n in steps:
        ends = []
        for one in (theirs, scheduler):
            one.set_timesteps(n)
            x = start(one, noise(16, 2, 3, 3))
            ends.append(run(one, network, x, generator=torch.Generator().manual_seed(n)))
        assert distance(ends[1], ends[0]) < 3e-4, n


@pytest.mark.slow
def test_third_order_of_the_class_is_first_order_and_ours_is_not():
    """The class has the curvature weight with a wrong sign: its deviation on Gaussian data is off by far more than ours."""
    off = {}
    for solver in ("theirs", "dpmpp_2m_sde", "dpmpp_3m_sde"):
        config = {**SDE, "solver_order": 3, "timestep_spacing": "trailing"}
        theirs = diffusers.DPMSolverMultistepScheduler(**config, lower_order_final=False, use_lu_lambdas=True)
        one = theirs if solver == "theirs" else fewstep.Scheduler.from_config(theirs.config, solver)
        problem = Gaussian(0.0, 0.5)
        one.set_timesteps(50)
        x = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        end = run(
            one, Network(problem, "epsilon", theirs.alphas_cumprod), x, generator=torch.Generator().manual_seed(1)
        )
        off[solver] = abs(float(end.std()) - 0.5)
    assert off["theirs"] > 3 * max(off["dpmpp_2m_sde"], off["dpmpp_3m_sde"], 1e-3), off
