"""Equal to the diffusers class of the same settings wherever that class is right."""

import contextlib

import numpy as np
import pytest
import torch
from contracted import SD
from contracted import noise as drawn
from late import diffusers
from pipelike import EDMNetwork, Network, distance, run, start
from problems import Mixture, output, starts

import fewstep
from fewstep import NoiseSchedule, sample

STEPS = (5, 10, 16, 25)
V0 = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
DPM, UNIPC, DEIS = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler"
BY = tuple(n for n in STEPS if 1000 % n == 0)  # DDIM's own previous step is t - 1000 // n
# Theirs finds the step of a level (_sigma_to_t) from a float64 number less a float32 array, which numpy takes in float64 since
# release 2 (NEP 50), in float32 before. In float64 the highest level, which comes out of that array, lies an ulp below it, so
# that its step is 998.99..., and set_timesteps cuts that to an integer.
FIRST = 998 if (np.float64(1) - np.ones(1, np.float32)).dtype == np.float64 else 999

# name: (diffusers class, its arguments, our solver and options, step counts at which the class is right)
CASES = {
    "ddim leading": ("DDIMScheduler", {**SD, "clip_sample": False, "steps_offset": 1}, {"solver": "ddim"}, STEPS),
    "ddim alpha_0": ("DDIMScheduler", {**SD, "clip_sample": False, "set_alpha_to_one": False}, {"solver": "ddim"}, STEPS),
    "ddim trailing": ("DDIMScheduler", {"clip_sample": False, "timestep_spacing": "trailing"}, {"solver": "ddim"}, BY),
    "ddim clipped": ("DDIMScheduler", {"clip_sample": True, "clip_sample_range": 1.5}, {"solver": "ddim"}, STEPS),
    "ddim zero snr": ("DDIMScheduler", {**SD, **V0, "clip_sample": False}, {"solver": "ddim"}, BY),
    "euler": ("EulerDiscreteScheduler", SD, {"solver": "euler"}, STEPS),
    "euler leading": ("EulerDiscreteScheduler", {**SD, "timestep_spacing": "leading"}, {"solver": "euler"}, STEPS),
    "euler v": ("EulerDiscreteScheduler", {**V0, "rescale_betas_zero_snr": False}, {"solver": "euler"}, STEPS),
    "euler karras": ("EulerDiscreteScheduler", {**SD, "use_karras_sigmas": True}, {"solver": "euler"}, STEPS),
    "heun": ("HeunDiscreteScheduler", SD, {"solver": "heun"}, STEPS),  # n steps of theirs are 2n - 1 evaluations
    "lms": ("LMSDiscreteScheduler", SD, {"solver": "lms"}, STEPS),
    "2m": (DPM, SD, {"solver": "dpmpp_2m"}, STEPS),
    "2m v": (DPM, {"prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2"}, {"solver": "dpmpp_2m"}, STEPS),
    "2m x0": (DPM, {"prediction_type": "sample"}, {"solver": "dpmpp_2m"}, STEPS),
    "2m karras": (DPM, {**SD, "use_karras_sigmas": True}, {"solver": "dpmpp_2m"}, STEPS),
    "2m lu": (DPM, {**SD, "use_lu_lambdas": True}, {"solver": "dpmpp_2m"}, STEPS),
    "2m zero snr": (DPM, {**SD, **V0}, {"solver": "dpmpp_2m"}, STEPS),
    "2m leading": (DPM, {**SD, "timestep_spacing": "leading", "steps_offset": 1}, {"solver": "dpmpp_2m"}, STEPS),
    "2m sigma_min": (DPM, {**SD, "final_sigmas_type": "sigma_min"}, {"solver": "dpmpp_2m"}, STEPS),
    "2m flow": (DPM, FLOW, {"solver": "dpmpp_2m"}, STEPS),
    "2m thresholded": (DPM, {"thresholding": True, "sample_max_value": 1.5}, {"solver": "dpmpp_2m"}, STEPS),
    "deis 2": (DEIS, SD, {"solver": "deis_log_rho", "order": 2}, STEPS),
    "deis 3": (DEIS, {**SD, "solver_order": 3}, {"solver": "deis_log_rho", "order": 3}, STEPS),
    "unipc 2": (UNIPC, SD, {"solver": "unipc", "order": 2}, STEPS),
    "unipc 3": (UNIPC, {**SD, "solver_order": 3}, {"solver": "unipc", "order": 3}, STEPS),
    "unipc 3 karras": (UNIPC, {**SD, "solver_order": 3, "use_karras_sigmas": True}, {"solver": "unipc", "order": 3}, STEPS),
    "unipc 2 flow": (UNIPC, FLOW, {"solver": "unipc", "order": 2}, STEPS),
    "flow euler": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, {"solver": "euler"}, STEPS),
}  # fmt: skip


def noise():
    return drawn(16, 2, 3, 3)


def difference(theirs, ours, n, network):
    """Relative difference of the two ends from the same start."""
    ends = []
    theirs.set_timesteps(n)
    ours.set_timesteps(len(theirs.timesteps))
    for scheduler in (theirs, ours):
        ends.append(run(scheduler, network, start(scheduler, noise())))
    return distance(ends[1], ends[0])


@pytest.mark.parametrize("name", CASES)
def test_equal_to_the_class(name):
    cls, config, ours, steps = CASES[name]
    theirs = getattr(diffusers, cls)(**config)
    flow = "flow" in name
    prediction = "flow_prediction" if flow else config.get("prediction_type", "epsilon")
    problem = Mixture(means=((1.0,), (-1.2,), (0.2,)))
    network = Network(problem, prediction, None if flow else theirs.alphas_cumprod)
    scheduler = fewstep.Scheduler.from_config(theirs.config, **ours, limiter=False)
    found = {n: difference(theirs, scheduler, n, network) for n in steps}
    assert max(found.values()) < 2e-4, found


EDM = {
    "euler": ("EDMEulerScheduler", {}, "euler"),
    "euler v": ("EDMEulerScheduler", {"prediction_type": "v_prediction", "sigma_data": 1.0}, "euler"),
    "2m": ("EDMDPMSolverMultistepScheduler", {}, "dpmpp_2m"),
}


@pytest.mark.parametrize("name", EDM)
def test_equal_to_the_edm_class(name):
    cls, config, solver = EDM[name]
    theirs = getattr(diffusers, cls)(**config)
    network = EDMNetwork(
        Mixture(means=((1.0,), (-1.2,), (0.2,))), theirs.config.sigma_data, theirs.config.prediction_type
    )
    ours = fewstep.Scheduler.from_config(theirs, solver, limiter=False)
    for n in STEPS:
        ends = []
        for scheduler in (theirs, ours):
            scheduler.set_timesteps(n)
            ends.append(run(scheduler, network, 80 * noise()))
        assert distance(ends[1], ends[0]) < 2e-4


@pytest.mark.parametrize("solver", ["dpm_2", "res_3s", "unipc"])
def test_edm_networks_are_shown_the_labels_of_stages(solver):
    """Stages inside a step have no class to compare with: they must lead to the answer."""
    network = EDMNetwork(Mixture(means=((1.0,), (-1.2,), (0.2,))), 0.5)
    ends = {}
    for name, n in (("dpmpp_3m", 300), (solver, 20), (solver, 80)):
        scheduler = fewstep.Scheduler.from_config(diffusers.EDMEulerScheduler(), name)
        scheduler.set_timesteps(n)
        ends[n] = run(scheduler, network, 80 * noise())
    assert distance(ends[80], ends[300]) < min(5e-3, distance(ends[20], ends[300]) / 8)


def test_equal_to_euler_with_continuous_timesteps():
    """Video models: v-prediction in a VP process labelled by log(sigma) / 4."""
    config = {**SD, "timestep_type": "continuous", "prediction_type": "v_prediction", "use_karras_sigmas": True}
    theirs = diffusers.EulerDiscreteScheduler(**config, sigma_min=0.002, sigma_max=700.0)
    ours = fewstep.Scheduler.from_config(theirs, "euler")
    problem = Mixture(means=((1.0,), (-1.2,), (0.2,)))

    def network(x, t):
        rho = float(torch.exp(4 * t.double()))
        alpha, sigma = (1 + rho**2) ** -0.5, rho * (1 + rho**2) ** -0.5
        return output("v_prediction", *problem.predict(x, alpha, sigma), alpha, sigma)

    for n in STEPS:
        assert difference(theirs, ours, n, network) < 2e-4


# Where ours differs on purpose: which of the two is right.


def pair(cls, config, solver, prediction="epsilon", **options):
    """Their scheduler, ours, and a network for both."""
    theirs = getattr(diffusers, cls)(**config)
    network = Network(Mixture(means=((1.0,), (-1.2,), (0.2,))), prediction, theirs.alphas_cumprod)
    options = {"limiter": False, **options}
    return theirs, fewstep.Scheduler.from_config(theirs.config, solver, **options), network


def ended(scheduler, n, network):
    """The end of a run of n steps."""
    scheduler.set_timesteps(n)
    return run(scheduler, network, start(scheduler, noise()))


@pytest.mark.parametrize("n", [12, 16, 30])
@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_ddim_steps_between_its_own_timesteps(spacing, n):
    """Theirs steps to t - 1000 // n, whatever the next timestep is."""
    config = {**SD, "clip_sample": False, "timestep_spacing": spacing}
    theirs, ours, network = pair("DDIMScheduler", config, "ddim")
    theirs.set_timesteps(n)
    textbook = noise().double()
    times = theirs.timesteps.tolist()
    for t, after in zip(times, [*times[1:], None], strict=True):
        (a, s), (b, e) = network.level(t), (1.0, 0.0) if after is None else network.level(after)
        eps = network(textbook, t)
        textbook = b * (textbook - s * eps) / a + e * eps
    assert distance(ended(ours, n, network), textbook) < 1e-5
    assert distance(run(theirs, network, noise()), textbook) > 1e-3


def test_third_order_weights():
    """Theirs halves the curvature term, which leaves second order: our "public" variant is theirs, "exact" is right."""
    config = {**SD, "solver_order": 3}
    for n in STEPS:
        theirs, public, network = pair(DPM, config, "dpmpp_3m", variant="public")
        assert distance(ended(theirs, n, network), ended(public, n, network)) < 2e-4
    denoiser = Mixture().denoiser(NoiseSchedule.vp_linear())
    x = starts(denoiser.schedule, 1.0)
    grid = {"grid": "logsnr", "t_end": 1e-3}
    best = sample(denoiser, x, "dpmpp_3m", 1500, **grid)
    errors = {
        v: float((sample(denoiser, x, "dpmpp_3m", 200, variant=v, **grid) - best).norm()) for v in ("exact", "public")
    }
    assert errors["exact"] < errors["public"] / 4


def test_unipc_with_bh1_and_no_final_noise():
    """B(h) = h is infinite in a step to sigma = 0."""
    theirs, ours, network = pair(UNIPC, {**SD, "solver_type": "bh1"}, "unipc", order=2, weights="bh1")
    reference = ended(fewstep.Scheduler.from_config(theirs.config, "dpmpp_3m"), 300, network)
    assert ended(theirs, 300, network).isnan().all()
    assert distance(ended(ours, 300, network), reference) < 2e-2


def test_noise_prediction_with_zero_terminal_snr():
    """At alpha = 0 noise says nothing about the sample; the smallest alpha that diffusers uses elsewhere is enough."""
    config = {**SD, **V0, "prediction_type": "epsilon", "clip_sample": False}
    theirs, ours, network = pair("DDIMScheduler", config, "ddim")
    assert ended(theirs, 10, network).isnan().any()
    euler = ended(diffusers.EulerDiscreteScheduler(**{**SD, **V0, "prediction_type": "epsilon"}), 10, network)
    assert distance(ended(ours, 10, network), euler) < 2e-3


def test_repeated_timesteps():
    """Cutting repeats the first timesteps of a cosine table; a search by value then starts one late and runs out."""
    theirs, ours, network = pair(DPM, {"beta_schedule": "squaredcos_cap_v2", "use_karras_sigmas": True}, "dpmpp_2m")
    for n in (10, 25, 50):
        with pytest.raises(IndexError) if FIRST == 998 else contextlib.nullcontext():  # 999 comes once
            ended(theirs, n, network)
        assert theirs.timesteps[:3].tolist() == [FIRST, 998, 998]
    reference = ended(fewstep.Scheduler.from_config({"beta_schedule": "squaredcos_cap_v2"}, "dpmpp_3m"), 999, network)
    errors = [distance(ended(ours, n, network), reference) for n in (25, 50, 100)]
    assert errors[0] < 0.2 and errors[2] < 0.02


@pytest.mark.parametrize("sigma_map", ["use_exponential_sigmas", "use_beta_sigmas"])
def test_first_timestep_of_sigma_maps(sigma_map):
    """The first level is that of training step 999; theirs shows 998, see FIRST."""
    theirs, ours, network = pair(DPM, {**SD, sigma_map: True}, "dpmpp_2m")
    for n in STEPS:
        end = ended(theirs, n, network)
        ours.set_timesteps(n)
        assert float(theirs.sigmas[0]) == pytest.approx(float(ours.sigmas[0]), rel=1e-6)
        assert (int(theirs.timesteps[0]), int(ours.timesteps[0])) == (FIRST, 999)
        ours.set_timesteps(sigmas=theirs.sigmas, timesteps=theirs.timesteps)
        assert distance(run(ours, network, noise()), end) < 2e-4
