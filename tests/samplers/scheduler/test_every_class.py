"""Every scheduler class that diffusers exports: equal to it, a rule of its own tested against textbook values, or refused."""

import logging
import warnings

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
    "PNDMScheduler": [({**SD, "skip_prk_steps": True, "steps_offset": 1}, {"solver": "plms"}, (10, 20))],
    "LMSDiscreteScheduler": [(SD, {"solver": "lms"}, STEPS)],
    "EulerDiscreteScheduler": [
        (SD, {"solver": "euler"}, STEPS),
        ({**SD, "prediction_type": "original_sample"}, {"solver": "euler"}, STEPS),
        ({**SD, "prediction_type": "original_sample", "interpolation_type": "log_linear"}, {"solver": "euler"}, (5,)),
    ],
    "EulerAncestralDiscreteScheduler": [(SD, {"solver": "euler_ancestral"}, STEPS)],
    "HeunDiscreteScheduler": [(SD, {"solver": "heun"}, STEPS), ({}, {"solver": "heun"}, (5,))],
    "KDPM2DiscreteScheduler": [(SD, {"solver": "dpm_2"}, (5, 10))],
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
    "FlowMatchHeunDiscreteScheduler": [(SHIFTED, {"solver": "heun"}, STEPS)],
    "FlowMatchLCMScheduler": [(SHIFTED, {}, STEPS)],
    "LTXEulerAncestralRFScheduler": [({}, {"solver": "rf_ancestral"}, STEPS)],
    "FlowMapEulerDiscreteScheduler": [({"shift": 5.0}, {}, STEPS)],
    "MiniMaxH3Scheduler": [({}, {"solver": "euler"}, STEPS), ({"shift": 3.0}, {"solver": "euler"}, (5,))],
    "EDMEulerScheduler": [({}, {"solver": "euler"}, STEPS)],
    "EDMDPMSolverMultistepScheduler": [({}, {"solver": "dpmpp_2m"}, STEPS)],
    "CosineDPMSolverMultistepScheduler": [({}, {"solver": "dpmpp_2m_sde"}, (2, 5, 10))],
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
    "DPMSolverSinglestepScheduler": "test_models_of_classes_with_other_steps",
    "KDPM2AncestralDiscreteScheduler": "test_models_of_classes_with_other_steps",
    "DPMSolverSDEScheduler": "test_models_of_classes_with_other_steps",
    "SASolverScheduler": "test_models_of_classes_with_other_steps",
}


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def exported():
    return [name for name in dir(diffusers) if name.endswith("Scheduler")]


def test_every_exported_class_has_its_place():
    places = [*EQUAL, *OWN, *REFUSED]
    assert len(places) == len(set(places))
    assert set(exported()) - {"SchedulerMixin"} == set(places) - {"SchedulerMixin", "ConsistencyDecoderScheduler"}
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
    if name.startswith("Cosine"):
        return Labelled(lambda t: np.tan(t * np.pi / 2), 1.0, "v_prediction")
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


NO_GENERATOR = ("PNDMScheduler", "LMSDiscreteScheduler", "FlowMapEulerDiscreteScheduler", "MiniMaxH3Scheduler",
                "DEISMultistepScheduler", "UniPCMultistepScheduler", "KDPM2DiscreteScheduler", "HeunDiscreteScheduler",
                )  # fmt: skip


def begun(scheduler, name):
    """A first state in the scheduler's own space."""
    x = noise(16, 2, 3, 3)
    if name == "SCMScheduler":
        return x * scheduler.config.sigma_data
    if name.startswith(("EDM", "CM", "Cosine")):
        return x * float(scheduler.config.sigma_max)
    wide = float(getattr(scheduler, "init_noise_sigma", 1)) > 1
    return x * (1 + float(scheduler.sigmas[0]) ** 2) ** 0.5 if wide else x


@pytest.mark.parametrize("name", EQUAL)
def test_equal_to_the_class(name):
    for config, asked, counts in EQUAL[name]:
        theirs = getattr(diffusers, name)(**config)
        ours = fewstep.Scheduler.from_config(theirs.config, **asked)
        network = network_of(name, theirs)
        for n in counts:
            own = {"intermediate_timesteps": None} if name == "SCMScheduler" and n != 2 else {}
            theirs.set_timesteps(n + (name == "MiniMaxH3Scheduler"), **own)
            plms = name == "PNDMScheduler"  # asks twice at its second time
            if name == "SCMScheduler":
                ours.set_timesteps(n)
            else:
                ours.set_timesteps(n if plms else len(theirs.timesteps))
            if not plms and not name.startswith(("KDPM2", "Heun", "FlowMatchHeun")):
                shown = ours.timesteps.double()[: len(theirs.timesteps)]
                np.testing.assert_allclose(shown, theirs.timesteps.double()[: len(shown)], rtol=1e-4, atol=5e-3)
            ends = [drive(one, name, network, begun(one, name), n) for one in (theirs, ours)]
            # a sampler that works in sigma ends in x0 itself, ours at the level of the last row: all end at data here
            assert distance(ends[1], ends[0]) < (2e-4 if not plms else 2e-2), (config, n, distance(ends[1], ends[0]))
