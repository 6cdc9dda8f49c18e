"""What a pipeline passes as `eta` is the share of noise: as if the solver had been told before, or a refusal."""

import pytest
import torch

import fewstep
from fewstep.samplers import SOLVERS

CONFIGS = {
    "vp": {"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "clip_sample": False},
    "flow": {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
}
NAMES = {"tcd": "gamma", **{name: "eta" for name, entry in SOLVERS.items() if "eta" in entry.options and name != "alf"}}


def run(scheduler, **told):
    scheduler.set_timesteps(6)
    x, generator = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)), torch.Generator().manual_seed(1)
    for t in scheduler.timesteps:
        x = scheduler.step(torch.tanh(x) * (1 + t / 1000), t, x, generator=generator, return_dict=False, **told)[0]
    return x


@pytest.mark.parametrize("kind", CONFIGS)
def test_as_if_told_before(kind, quiet):
    for name, option in NAMES.items():
        for eta in (0.5, 1.0):
            before = run(fewstep.Scheduler.from_config(CONFIGS[kind], name, **{option: eta}))
            late = fewstep.Scheduler.from_config(CONFIGS[kind], name)
            if eta == 0.5 and name in ("dpm_2_ancestral", "dpmpp_2s_ancestral"):  # stages lie where noise begins
                with pytest.raises(ValueError, match=f"eta=0.5 moves the stages of '{name}'"):
                    run(late, eta=eta)
            else:
                assert torch.equal(run(late, eta=eta), before), name


def test_options_of_that_name_that_are_no_noise_stay(quiet):
    for name in ("alf", "bdia", "gradient_estimation"):
        plain, told = (fewstep.Scheduler.from_config(CONFIGS["vp"], name) for _ in range(2))
        assert torch.equal(run(plain), run(told, eta=0.5)), name
