"""Every scheduler class that diffusers exports: equal to it, a rule of its own tested against textbook values, or refused."""

import numpy as np
import pytest
import torch
from contracted import SD, noise
from late import diffusers
from pipelike import EDMNetwork, Network, distance
from problems import Mixture, output

import fewstep
from fewstep import NoiseSchedule, build
from fewstep.samplers.config.config_grid import grid_from_config
from fewstep.samplers.config.known_classes import KNOWN, REFUSED
from fewstep.samplers.config.reading import reading, schedule_from_config

PROBLEM = Mixture(means=((1.0,), (-1.2,), (0.2,)))
COS = {"beta_schedule": "squaredcos_cap_v2"}
FLOW = "FlowMatchEulerDiscreteScheduler"
SHIFTED = {"shift": 3.0}
STEPS = (2, 5, 10)
EVEN = (4, 5, 10)

# class: [(its arguments, our solver and options, step counts at which the class is right)]
EQUAL = {
    "DDIMScheduler": [({**SD, "clip_sample": False}, {"solver": "ddim"}, STEPS)],
    "DDIMParallelScheduler": [({**SD, "clip_sample": False}, {"solver": "ddim"}, STEPS)],
    "DDPMScheduler": [({**SD, "clip_sample": False}, {"solver": "ddpm"}, EVEN)],
    "DDPMParallelScheduler": [({**SD, "clip_sample": False}, {"solver": "ddpm"}, EVEN)],
    "LMSDiscreteScheduler": [(SD, {"solver": "lms"}, STEPS)],
    "EulerDiscreteScheduler": [
        (SD, {"solver": "euler"}, STEPS),
        ({**SD, "prediction_type": "original_sample"}, {"solver": "euler"}, STEPS),
    ],
    "EulerAncestralDiscreteScheduler": [(SD, {"solver": "euler_ancestral"}, STEPS)],
    "HeunDiscreteScheduler": [(SD, {"solver": "heun"}, STEPS), ({}, {"solver": "heun"}, (5,))],
    "DPMSolverMultistepScheduler": [(SD, {"solver": "dpmpp_2m"}, STEPS)],
    "DEISMultistepScheduler": [(SD, {"solver": "deis_log_rho", "order": 2}, (5, 10))],
    "UniPCMultistepScheduler": [(SD, {"solver": "unipc", "order": 2}, STEPS)],
    "CogVideoXDDIMScheduler": [
        ({"prediction_type": "v_prediction", "timestep_spacing": "trailing"}, {"solver": "ddim"}, EVEN),
        (
            {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "snr_shift_scale": 1.0,
             "timestep_spacing": "trailing"},
            {"solver": "ddim"}, EVEN,
        ),
    ],
    "LCMScheduler": [({}, {}, (1, 2, 4, 7)), ({"original_inference_steps": 100}, {}, (3,))],
    "TCDScheduler": [({}, {}, (1, 2, 4, 7)), ({"timestep_spacing": "leading", "steps_offset": 1}, {}, (2,))],
    "UnCLIPScheduler": [({"clip_sample_range": 1.5, "prediction_type": "sample"}, {"solver": "ddpm"}, (5, 10))],
    FLOW: [
        (SHIFTED, {"solver": "euler"}, STEPS),
        ({**SHIFTED, "stochastic_sampling": True}, {}, STEPS),
    ],
    "FlowMatchLCMScheduler": [(SHIFTED, {}, STEPS)],
    "LTXEulerAncestralRFScheduler": [({}, {"solver": "rf_ancestral"}, STEPS), ({"eta": 0.5, "s_noise": 0.9}, {}, STEPS)],
    "FlowMapEulerDiscreteScheduler": [({"shift": 5.0}, {}, STEPS)],
    "MiniMaxH3Scheduler": [({}, {"solver": "euler"}, STEPS), ({"shift": 3.0}, {"solver": "euler"}, (5,))],
    "EDMEulerScheduler": [({}, {"solver": "euler"}, STEPS)],
    "EDMDPMSolverMultistepScheduler": [({}, {"solver": "dpmpp_2m"}, STEPS)],
    "CMStochasticIterativeScheduler": [
        ({"clip_denoised": False}, {}, (1, 2, 4)), ({"num_train_timesteps": 201}, {}, (3,)),
    ],
    "SCMScheduler": [({}, {}, (2, 4)), ({"sigma_data": 1.0}, {}, (3,))],
}  # fmt: skip
OWN = {  # class: the test that compares our rule with textbook values
    "CogVideoXDPMScheduler": "test_cogvideox_dpm_is_2m_sde",
    "DDPMWuerstchenScheduler": "test_wuerstchen",
    "IPNDMScheduler": "test_ipndm_begins_at_pure_noise",
    "ScoreSdeVeScheduler": "test_score_sde_ve",
    "CosineDPMSolverMultistepScheduler": "test_stable_audio",
    "FlowMatchHeunDiscreteScheduler": "test_models_of_classes_with_other_steps",
    "KDPM2DiscreteScheduler": "test_models_of_classes_with_other_steps",
    "PNDMScheduler": "test_models_of_classes_with_other_steps",
    "DPMSolverSinglestepScheduler": "test_models_of_classes_with_other_steps",
    "KDPM2AncestralDiscreteScheduler": "test_models_of_classes_with_other_steps",
    "DPMSolverSDEScheduler": "test_models_of_classes_with_other_steps",
    "SASolverScheduler": "test_models_of_classes_with_other_steps",
}


pytestmark = pytest.mark.usefixtures("quiet")


def exported():
    """Of torch; diffusers before 0.40 names those of another library, too."""
    return [name for name in dir(diffusers) if name.endswith("Scheduler") and not name.startswith("Flax")]


def test_every_exported_class_has_its_place():
    places = [*EQUAL, *OWN, *REFUSED]
    assert len(places) == len(set(places))
    assert set(exported()) - {"SchedulerMixin"} <= set(places)
    newer = {"MiniMaxH3Scheduler", "PiflowScheduler", "RFD4ProteinaScheduler"}  # than 0.39
    assert set(places) - set(exported()) <= {"SchedulerMixin", "ConsistencyDecoderScheduler", *newer}
    assert set(EQUAL) | set(OWN) == set(KNOWN) - {"ScoreSdeVpScheduler"}
    assert all(test in globals() for test in OWN.values())


class Angles:
    """The exact network of x = cos t x0 + s sin t eps, dx/dt, told t."""

    def __init__(self, sigma_data):
        self.scale = sigma_data

    def __call__(self, x, t):
        a, s = np.cos(min(float(t), np.pi / 2)), self.scale * np.sin(float(t))
        x0, eps = PROBLEM.predict(x, a, s)
        return self.scale * a * eps - s / self.scale * x0


class Labelled(EDMNetwork):
    """The raw EDM network, told its level in another way; of a consistency model with the boundary at sigma_min."""

    def __init__(self, level, sigma_data, prediction="epsilon", least=0.0):
        super().__init__(PROBLEM, sigma_data, prediction)
        self.level, self.least = level, least

    def __call__(self, seen, t):
        sigma = self.level(float(t))
        d, c = self.sigma_data, np.hypot(sigma, self.sigma_data)
        above = sigma - self.least
        x0, _ = PROBLEM.predict(seen * c, 1.0, sigma)
        skip, out = d**2 / (above**2 + d**2), max(above, 1e-9) * d / c
        return self.sign * (x0 - skip * seen * c) / out


def network_of(name, scheduler):
    """What a pipeline of this class would ask, exact for the mixture."""
    config = scheduler.config
    prediction = config.get("prediction_type", "epsilon")
    if name == "SCMScheduler":
        return Angles(config.sigma_data)
    if name.startswith("EDM"):
        return EDMNetwork(PROBLEM, config.sigma_data)
    if name.startswith("CM"):
        return Labelled(lambda t: np.exp(t / 250), 0.5, least=config.sigma_min)
    if name == "MiniMaxH3Scheduler":
        return lambda x, t: -output("flow_prediction", *PROBLEM.predict(x, float(t), 1 - float(t)), 0, 0)
    if "Flow" in name or name.startswith("LTX"):
        return Network(PROBLEM, "flow_prediction")
    network = Network(PROBLEM, "sample" if prediction == "original_sample" else prediction, scheduler.alphas_cumprod)
    return network


def drive(scheduler, name, network, x, seed):
    """The loop of a pipeline, with what the pipelines of this class pass besides."""
    times = scheduler.timesteps[:-1] if name == "SCMScheduler" else scheduler.timesteps
    stock = type(scheduler) is getattr(diffusers, name)
    generator = torch.Generator().manual_seed(seed)
    for i, t in enumerate(times):
        seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        how = {} if name in NO_GENERATOR and stock else {"generator": generator}
        if name == "UnCLIPScheduler" and stock:
            how["prev_timestep"] = times[i + 1] if i + 1 < len(times) else None
        if name == "TCDScheduler" and stock:
            how["eta"] = 0.3
        x = scheduler.step(network(seen, t), t, x, return_dict=False, **how)[0]
    return x


NO_GENERATOR = (
    "LMSDiscreteScheduler", "FlowMapEulerDiscreteScheduler", "MiniMaxH3Scheduler", "DEISMultistepScheduler",
    "UniPCMultistepScheduler", "HeunDiscreteScheduler",
)  # fmt: skip


def begun(scheduler, name):
    """A first state in the scheduler's own space."""
    x = noise(16, 2, 3, 3)
    if name == "SCMScheduler":
        return x * scheduler.config.sigma_data
    if name.startswith(("EDM", "CM")):
        return x * float(scheduler.config.sigma_max)
    wide = float(getattr(scheduler, "init_noise_sigma", 1)) > 1
    return x * (1 + float(scheduler.sigmas[0]) ** 2) ** 0.5 if wide else x


@pytest.mark.parametrize("name", EQUAL)
def test_equal_to_the_class(name):
    for config, asked, counts in EQUAL[name]:
        theirs = getattr(diffusers, name)(**config)
        ours = fewstep.Scheduler.from_config(theirs, **asked, limiter=False)
        network = network_of(name, theirs)
        for n in counts:
            own = {"intermediate_timesteps": None} if name == "SCMScheduler" and n != 2 else {}
            theirs.set_timesteps(n + (name == "MiniMaxH3Scheduler"), **own)
            ours.set_timesteps(n if name == "SCMScheduler" else len(theirs.timesteps))
            if name != "HeunDiscreteScheduler":
                shown = ours.timesteps.double()[: len(theirs.timesteps)]
                np.testing.assert_allclose(shown, theirs.timesteps.double()[: len(shown)], rtol=1e-4, atol=5e-3)
            ends = [drive(one, name, network, begun(one, name), n) for one in (theirs, ours)]
            # cosine tables of float32 keep three digits of 1 - beta at their end
            limit = 1e-3 if name == "UnCLIPScheduler" else 2e-4
            assert distance(ends[1], ends[0]) < limit, (config, n)


@pytest.mark.parametrize("n", EVEN)
def test_cogvideox_dpm_is_2m_sde(n, monkeypatch):
    theirs = diffusers.CogVideoXDPMScheduler(prediction_type="v_prediction", timestep_spacing="trailing")
    ours = fewstep.Scheduler.from_config(theirs, "dpmpp_2m_sde", limiter=False)
    network = Network(PROBLEM, "v_prediction", theirs.alphas_cumprod)
    theirs.set_timesteps(n)
    ours.set_timesteps(n)
    np.testing.assert_array_equal(ours.timesteps, theirs.timesteps)
    x = y = noise(16, 2, 3, 3)
    old = None
    for i, t in enumerate(theirs.timesteps):
        z = noise(16, 2, 3, 3, seed=i)
        monkeypatch.setattr(diffusers.schedulers.scheduling_dpm_cogvideox, "randn_tensor", lambda *a, z=z, **k: z)
        back = theirs.timesteps[i - 1] if i else None
        x, old = theirs.step(network(x, t), old, t, back, x, return_dict=False)
        y = ours.step(network(y, t), t, y, variance_noise=z, return_dict=False)[0]
    assert distance(y, x) < 2e-4


def test_wuerstchen():
    """cos^2 of the share r of noise time; whole thousandths of it are the steps of a table, as Stable Cascade asks."""
    theirs = diffusers.DDPMWuerstchenScheduler()
    schedule = schedule_from_config(theirs)
    r = torch.arange(1, 1001) / 1000
    np.testing.assert_allclose(schedule.alphas_cumprod, theirs._alpha_cumprod(r, "cpu"), rtol=2e-6, atol=1e-6)
    ours = fewstep.Scheduler.from_config(theirs, "ddpm")
    for n in (4, 10, 20):
        theirs.set_timesteps(n)
        ours.set_timesteps(n)
        np.testing.assert_allclose((ours.timesteps + 1) / 1000, theirs.timesteps[:-1], atol=1e-6)
        network = Network(PROBLEM, "epsilon", ours.alphas_cumprod)
        x = y = noise(16, 2, 3, 3)
        drawn = [torch.Generator().manual_seed(n) for _ in range(2)]
        for t, step in zip(theirs.timesteps[:-1], ours.timesteps, strict=True):
            x = theirs.step(network(x, step), t.expand(16), x, generator=drawn[0]).prev_sample
            y = ours.step(network(y, step), step, y, generator=drawn[1]).prev_sample
        assert (
            distance(y, x) < 2e-2
        )  # theirs leaves the noise of the last step away, of deviation 0.01 sqrt(1 - e^(-2h))
    assert schedule_from_config({"_class_name": "DDPMWuerstchenScheduler"}) == schedule


def test_ipndm_begins_at_pure_noise():
    """sin t = sin(pi k / 2n)^2; where alpha = 0 the class divides 0 by 1e-8 and takes x0 for 0, and v says x0 = -v."""
    theirs = diffusers.IPNDMScheduler()
    schedule = schedule_from_config(theirs)
    assert schedule_from_config(dict(theirs.config)) == schedule and reading(theirs).prediction == "v_prediction"
    for n in (4, 10):
        theirs.set_timesteps(n)
        grid = grid_from_config(theirs, schedule, n)
        np.testing.assert_allclose(grid.model_times, theirs.timesteps, atol=1e-6)
        np.testing.assert_allclose(schedule.sigma(grid.times), theirs.betas, atol=1e-6)
        np.testing.assert_allclose(schedule.alpha(grid.times), theirs.alphas, atol=1e-3)
    ours = fewstep.Scheduler.from_config(theirs, "ipndm", limiter=False)
    off = []
    for scheduler, n in ((theirs, 20), (ours, 20), (ours, 400)):
        scheduler.set_timesteps(n)
        x = 0.3 * noise(16, 2, 3, 3)  # near the mean, where the flow is told by x0
        for t in scheduler.timesteps:
            a, s = np.cos(float(t) * np.pi / 2), np.sin(float(t) * np.pi / 2)
            x = scheduler.step(output("v_prediction", *ONE.predict(x, a, s), a, s), t, x, return_dict=False)[0]
        off.append(x)
    assert distance(off[1], off[2]) < 0.3 * distance(off[0], off[2])


ONE = Mixture([[2.0]], [0.5], [1.0])


def test_score_sde_ve():
    theirs = diffusers.ScoreSdeVeScheduler()
    assert schedule_from_config({"_class_name": "ScoreSdeVeScheduler"}) == schedule_from_config(theirs)
    theirs.set_timesteps(9)
    theirs.set_sigmas(9)
    grid = grid_from_config(theirs, schedule_from_config(theirs), 9)
    np.testing.assert_allclose(grid.model_times, theirs.discrete_sigmas.flip(0), rtol=1e-5)


def test_stable_audio():
    """v prediction at x = x0 + sigma eps behind c_in, told 2 arctan(sigma) / pi; `rho` does not make it another model."""
    config = {"_class_name": "CosineDPMSolverMultistepScheduler", "sigma_max": 500, "sigma_min": 0.3, "rho": 7.0}
    ours = fewstep.Scheduler.from_config(config, "dpmpp_2m", limiter=False)
    ours.set_timesteps(8)
    levels = np.exp(np.linspace(np.log(500), np.log(0.3), 8))
    np.testing.assert_allclose(ours.timesteps, np.arctan(levels) * 2 / np.pi, rtol=1e-6)
    assert 0.9987 < float(ours.timesteps[0]) < 0.9988 and 0.18 < float(ours.timesteps[-1]) < 0.19
    network = Labelled(lambda t: np.tan(t * np.pi / 2), 1.0, "v_prediction")
    x = 500 * noise(16, 2, 3, 3)
    end = x
    for t in ours.timesteps:
        end = ours.step(network(ours.scale_model_input(end, t), t), t, end, return_dict=False)[0]
    edm = NoiseSchedule.edm(0.3, 500.0, 1.0)
    right = fewstep.sample(
        PROBLEM.denoiser(edm, "sample"), x, build("dpmpp_2m", edm, grid=np.append(levels, 0.0), limiter=False)
    )
    assert distance(end, right) < 1e-3  # arctan in float32 keeps three digits of sigma = 500


@pytest.mark.parametrize("name", [name for name, test in OWN.items() if "other_steps" in test])
def test_models_of_classes_with_other_steps(name):
    """Their steps differ from ours on purpose or need a package; their models and their levels do not."""
    if name == "DPMSolverSDEScheduler":
        alike = schedule_from_config({"_class_name": "HeunDiscreteScheduler"})
        assert schedule_from_config({"_class_name": name}) == alike
        return
    config = SHIFTED if name.startswith("Flow") else SD
    theirs = getattr(diffusers, name)(**config)
    theirs.set_timesteps(10)
    schedule = schedule_from_config(theirs)
    levels = np.exp(-schedule.lam(grid_from_config(theirs, schedule, 10).times[:-1]))
    if name.startswith("PNDM"):
        np.testing.assert_allclose(schedule.alphas_cumprod, theirs.alphas_cumprod, rtol=1e-5)
        return
    sigmas = np.unique(theirs.sigmas.double())[::-1][:-1]
    want = sigmas / (1 - sigmas) if name.startswith("Flow") else sigmas
    if name.startswith("Flow"):
        levels, want = levels[1:], want[1:]
    kept = np.array([np.abs(want / level - 1).min() for level in levels])
    assert (kept < 1e-4).all()


def test_latent_upscaler_levels():
    """Its pipeline makes x0 out of x / alpha and `scheduler.sigmas`: the state is in that scale, the network's input is not."""
    config = {**SD, "prediction_type": "original_sample", "interpolation_type": "log_linear"}
    theirs = diffusers.EulerDiscreteScheduler(**config)
    ours = fewstep.Scheduler.from_config(theirs, "euler")
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(5)
    np.testing.assert_allclose(ours.sigmas, theirs.sigmas[:6], rtol=1e-4)
    x = noise()
    for i, t in enumerate(zip(ours.timesteps, theirs.timesteps, strict=True)):
        seen = [one.scale_model_input(x, tau) for one, tau in zip((ours, theirs), t, strict=True)]
        torch.testing.assert_close(*seen, rtol=1e-4, atol=1e-5)
        x0 = x / (1 + i)
        after = [one.step(x0, tau, x).prev_sample for one, tau in zip((ours, theirs), t, strict=True)]
        torch.testing.assert_close(*after, rtol=1e-4, atol=1e-4)
        x = after[0]
