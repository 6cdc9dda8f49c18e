"""The full product of options that diffusers classes accept by signature, against a Gaussian whose answer is known.

None may raise, none may end in NaN, and from ten evaluations on none may end more than 25 % away.
"""

import inspect
import itertools
import random
import warnings
from collections import Counter

import pytest
import torch
from late import diffusers
from pipelike import Network, run
from problems import Gaussian

import fewstep

PROBLEM = Gaussian(1.0, 0.2)  # the mean dominates: a coarse grid may lose the spread and still be near
COUNTS = (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50)
OPTIONS = {
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "prediction_type": ("epsilon", "sample", "v_prediction"),
    "timestep_spacing": ("linspace", "leading", "trailing"),
    "sigma_map": (None, "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"),
    "rescale_betas_zero_snr": (False, True),
    "solver_order": (1, 2, 3),
}
SOLVERS = {
    "DPMSolverMultistepScheduler": {1: ("ddim", {}), 2: ("dpmpp_2m", {}), 3: ("dpmpp_3m", {})},
    "DEISMultistepScheduler": {p: ("deis_log_rho", {"order": p}) for p in (1, 2, 3)},
    "UniPCMultistepScheduler": {p: ("unipc", {"order": p}) for p in (1, 2, 3)},
    "EulerDiscreteScheduler": {None: ("euler", {})},
    "DDIMScheduler": {None: ("ddim", {})},
}


def configs(cls):
    """Every combination of the options in a class's signature."""
    accepted = inspect.signature(getattr(diffusers, cls)).parameters
    choices = {}
    for key, values in OPTIONS.items():
        if key == "sigma_map":
            choices[key] = [v for v in values if v is None or v in accepted]
        elif key in accepted:
            choices[key] = values
    for values in itertools.product(*choices.values()):
        config = dict(zip(choices, values, strict=True))
        sigma_map = config.pop("sigma_map", None)
        config |= {sigma_map: True} if sigma_map else {}
        yield config | ({"clip_sample": False} if "clip_sample" in accepted else {})


def product():
    return [(cls, config, n) for cls in SOLVERS for config in configs(cls) for n in COUNTS]


def ends(scheduler, network):
    """(alpha, sigma) of the first state and of the last."""
    if not hasattr(scheduler, "sigmas"):  # the classes without levels start at their first timestep and end at data
        return network.level(scheduler.timesteps[0]), (1.0, 0.0)
    rhos = (float(scheduler.sigmas[i]) for i in (0, -1))
    return [(1 / (1 + rho**2) ** 0.5, rho / (1 + rho**2) ** 0.5) for rho in rhos]


def outcome(make, n):
    """What becomes of one run: "raised ...", "nan", "far" or "fine"."""
    try:
        scheduler = make()
        scheduler.set_timesteps(n)
        network = Network(PROBLEM, scheduler.config.prediction_type, scheduler.alphas_cumprod)
        (a, s), (b, e) = ends(scheduler, network)
        x = torch.randn(64, 1, generator=torch.Generator().manual_seed(0))
        wide = float(scheduler.init_noise_sigma) > 1
        end = run(scheduler, network, x / a if wide else x) * (b if wide else 1)
    except Exception as error:
        return f"raised {type(error).__name__}: {error}"
    if not torch.isfinite(end).all():
        return "nan"
    ratio = ((b**2 * PROBLEM.std**2 + e**2) / (a**2 * PROBLEM.std**2 + s**2)) ** 0.5
    exact = b * PROBLEM.mean + (x - a * PROBLEM.mean) * ratio
    return "far" if n >= 10 and float((end - exact).norm() / exact.norm()) > 0.25 else "fine"


def ours(cls, config, n):
    solver, options = SOLVERS[cls][config.get("solver_order")]
    return outcome(lambda: fewstep.Scheduler.from_config({"num_train_timesteps": 1000, **config}, solver, **options), n)


def theirs(cls, config, n):
    return outcome(lambda: getattr(diffusers, cls)(**config), n)


def judged(cases, by):
    """Counts of outcomes, and the runs that are not fine."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = [(by(*case), case) for case in cases]
    return Counter(result.split()[0] for result, _ in results), [r for r in results if r[0] != "fine"]


@pytest.mark.slow
def test_one_percent_of_the_product():
    cases = product()
    assert len(cases) > 20_000
    counts, bad = judged(random.Random(2).sample(cases, len(cases) // 100), ours)
    assert set(counts) == {"fine"}, (counts, bad[:5])


@pytest.mark.slow
@pytest.mark.parametrize("cls", SOLVERS)
def test_the_whole_product(cls):
    counts, bad = judged([case for case in product() if case[0] == cls], ours)
    assert set(counts) == {"fine"}, (counts, bad[:5])


def test_the_judge_condemns_wrong_answers():
    """Half the network output, an unknown solver: the judge sees both."""

    class Wrong(fewstep.Scheduler):
        def step(self, model_output, timestep, sample, **kwargs):
            return super().step(0.5 * model_output, timestep, sample, **kwargs)

    assert outcome(lambda: fewstep.Scheduler(solver="ddim"), 20) == "fine"
    assert outcome(lambda: Wrong(solver="ddim"), 20) == "far"
    assert outcome(lambda: fewstep.Scheduler(solver="nothing"), 20).startswith("raised ValueError")
