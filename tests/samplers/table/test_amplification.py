"""The consistency proof: sound plans pass, wrong ones do not, and what amplifies rounding is told with the number."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

import fewstep
from fewstep.samplers import SOLVERS, Denoiser, NoiseSchedule, Tableau, build, sample
from fewstep.samplers.run.lowering import LOST
from fewstep.samplers.table.consistency import MOST

COSINE = {
    "_class_name": "DPMSolverMultistepScheduler",
    "beta_schedule": "squaredcos_cap_v2",
    "num_train_timesteps": 1000,
}
SCALED = {**COSINE, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
WAN = {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True, "prediction_type": "flow_prediction"}
CONFIGS: dict[str, dict[str, Any]] = {
    "cosine": COSINE,
    "cosine karras": {**COSINE, "use_karras_sigmas": True},
    "cosine beta": {**COSINE, "use_beta_sigmas": True},
    "cosine exponential": {**COSINE, "use_exponential_sigmas": True},
    "leading": {**SCALED, "timestep_spacing": "leading", "steps_offset": 1},
    "trailing, zero terminal SNR": {**SCALED, "timestep_spacing": "trailing", "rescale_betas_zero_snr": True},
    "Wan 2.2": {**WAN, "flow_shift": 12.0},
    "SD3": {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0, "num_train_timesteps": 1000},
}
FORMS = [("deis", {"order": k}) for k in (1, 2, 3)] + [
    (name, {"form": form}) for name in ("rex", "reversible_heun") for form in ("x0", "eps", "flow")
]  # fmt: skip
ALL = [(name, dict[str, Any]()) for name, entry in SOLVERS.items() if entry.kind == "tableau"] + FORMS


def plan(config: dict[str, Any], name: str, n: int, **options: Any) -> Tableau:
    """The table of a Scheduler, whose warnings about float32 do not matter here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = fewstep.Scheduler.from_config(config, name, **options)
        scheduler.set_timesteps(n)
    table: Tableau = scheduler._table.tableau
    return table


def told(config: str, name: str, n: int, options: dict[str, Any]) -> str:
    """Why a plan is refused, but for amplification that is told with a number beyond what a precision can bear."""
    try:
        assert plan(CONFIGS[config], name, n, **options).amplification <= MOST
    except ValueError as error:
        number = str(error).partition("amplifies rounding ")[2].partition(" times")[0]
        if not number or float(number) <= (LOST if "in float32" in str(error) else MOST):
            return f"{config} {name} {options} {n}: {error}"
    return ""


@pytest.mark.parametrize("config", ["cosine karras", "cosine beta", "Wan 2.2"])
def test_rounding_is_no_fault(config: str) -> None:
    """Those that were refused for what rounding had become."""
    for name, options in (("deis", {"order": 3}), ("pndm", {}), *FORMS):
        for n in (8, 10, 20):
            assert not (why := told(config, name, n, options)), why


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
def test_nothing_sound_is_refused(config: str) -> None:
    for name, options in ALL:
        for n in (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 30, 50):
            assert not (why := told(config, name, n, options)), why


def test_amplification_is_what_float32_feels() -> None:
    """A point: what float32 makes of it is its rounding times the number, and sampling warns of it."""
    table = plan(CONFIGS["Wan 2.2"], "reversible_heun", 20, form="eps")
    point = Denoiser(lambda x, tau: torch.full_like(x, 0.3), table.schedule, "sample")
    x = torch.randn(64, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exact = sample(point, x, table)
    with pytest.warns(UserWarning, match=r"amplifies rounding \d\.\de\+\d+ times .* in float32"):
        rough = sample(point, x.float(), table)
    error = float((rough - exact).abs().max())
    assert 1e-3 < error / (6e-8 * table.amplification) < 3
    sound = build("dpmpp_2m", NoiseSchedule.vp_linear(), 20)
    assert sound.amplification == 1.0


def test_a_plan_of_which_float32_keeps_nothing_is_refused_in_float32() -> None:
    """Published rows of PNDM from the end of a cosine table: two eps at alpha = 5e-5 are told apart 2,000 times too far."""
    scheduler = fewstep.Scheduler.from_config({**COSINE, "timestep_spacing": "trailing"}, "pndm", limiter=False)
    with pytest.raises(ValueError, match=r"pndm amplifies rounding \d\.\de\+\d+ times .* or float64"):
        scheduler.set_timesteps(26)


def test_a_plan_that_amplifies_beyond_float64_is_refused_with_the_number() -> None:
    """u+ = 1e3 u - (1e3 - 1) u_old and the like: consistent rows, of whose result nothing is left."""
    base = build("ddim", NoiseSchedule.vp_linear(), 8)
    W = np.zeros((8, 2, base.registers))
    for k in range(8):  # x_k+1 = ddim + 1e3 (x_k - carry'), carry' an own copy of the same trajectory
        W[k, 0, 0], W[k, 0, 2] = base.W[k, 1, :2].sum(), base.W[k, 1, 2]
        W[k, 1] = base.W[k, 0] * 0
        a, b = base.W[k, 1, :2].sum(), base.W[k, 1, 2]
        W[k, 1, 0], W[k, 1, 1], W[k, 1, 2] = -1e3 * a, 1001 * a, b
        W[k, 0] = [a, 0, b, *[0] * (base.registers - 3)]
    with pytest.raises(ValueError, match=r"amplifies rounding \d\.\de\+\d+ times, so that even float64"):
        facts = {"order": 1, "history": 1, "groups": (1,) * 8}
        Tableau("wild", base.schedule, base.nodes, base.model_times, W, base.forms, **facts)
