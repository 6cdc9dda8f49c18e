"""What a config that names no solver is played by: its own solver where it has one, else what errs least on such steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from real_grids import CONFIGS, DATA, error, table
from spreads import ratio_of_deviations

import fewstep

SD = {"_class_name": "PNDMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
EDM = {"_class_name": "EDMEulerScheduler"}
KARRAS = {**SD, "_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True}


@pytest.mark.parametrize(
    ("config", "n", "solver", "grid"),
    [
        (SD, 4, "unipc", None), (SD, 8, "deis", None), (SD, 12, "unipc", "beta"), (SD, 50, "unipc", "beta"),
        (FLOW, 4, "deis", None), (FLOW, 11, "deis", None), (FLOW, 12, "unipc", "beta"),
        (EDM, 5, "deis", None), (EDM, 6, "unipc", None), (EDM, 20, "unipc", None),
        (KARRAS, 5, "deis", None), (KARRAS, 6, "unipc", None), (KARRAS, 20, "unipc", None),
    ],
)  # fmt: skip
def test_by_kind_of_steps(config: dict[str, Any], n: int, solver: str, grid: str | None) -> None:
    """The rows are those of the solver that errs least there, and the config says that nobody chose it."""
    made = fewstep.Scheduler.from_config(config)
    assert made.config["solver"] == "auto" == fewstep.Scheduler.from_config(made.config).config["solver"]
    assert np.array_equal(table(config, "auto", n).W, table(config, solver, n, **({"grid": grid} if grid else {})).W)
    assert fewstep.Scheduler.from_config(config, solver="dpmpp_2m").config["solver"] == "dpmpp_2m"


def test_the_grid_is_beta_only_where_nothing_but_a_number_is_asked() -> None:
    """A grid by name, levels, times, a start in the middle, noise and a shift of each image stay what they are."""
    auto, schedule = fewstep.Scheduler.from_config(FLOW), fewstep.NoiseSchedule.flow(3.0)
    levels = np.linspace(1, 0, 21)[:-1]
    auto.set_timesteps(sigmas=levels)
    assert np.allclose(auto.sigmas[:-1], 3 * levels / (1 + 2 * levels), rtol=1e-6)
    auto.set_timesteps(timesteps=1000 * levels)
    assert np.allclose(auto.timesteps, 1000 * levels)
    for asked, mu, shift in (({"grid": "flow"}, None, 3.0), ({"use_dynamic_shifting": True}, 1.0, np.e)):
        made = fewstep.Scheduler.from_config(FLOW, **asked)
        made.set_timesteps(20, mu=mu)
        r = made.sigmas.double().numpy()
        assert np.ptp(np.diff(r / (shift - (shift - 1) * r))) < 1e-5
    beta = fewstep.build("unipc", schedule, 20, grid="beta").nodes.t
    assert np.array_equal(fewstep.build("auto", schedule, 20).nodes.t, beta)
    assert np.array_equal(fewstep.build("auto", schedule, 20, stochastic=True).nodes.t, beta)
    for asked in ({"t_start": 0.6}, {"grid": "flow"}):
        assert not np.array_equal(fewstep.build("auto", schedule, 20, **asked).nodes.t[1:-1], beta[1:-1])


@pytest.mark.parametrize(
    "name", ["sd3 shift 3", "hunyuanvideo shift 7", "wan2.2-ti2v-5b UniPC flow 5", "cogvideox-5b DDIM", "sd14_old_0.4"]
)
def test_with_noise_the_deviation_is_right_from_ten_evaluations(name: str) -> None:
    """On Gaussian data within 15 %, where the config's own steps end in a long one that returns the mean."""
    for n in (10, 13, 20, 50):
        assert abs(ratio_of_deviations(table(CONFIGS[name], "auto", n, stochastic=True)) - 1) < 0.15, n


@pytest.mark.parametrize("asked", ["auto", None])
def test_a_model_that_was_made_for_a_solver_gets_it(asked: str | None) -> None:
    lcm = {"_class_name": "LCMScheduler"}
    assert fewstep.Scheduler.from_config(lcm, solver=asked).config["solver"] == "renoise"
    before = fewstep.Scheduler.from_config(SD, solver="heun").config
    assert fewstep.Scheduler.from_config(before, solver="auto").config["solver"] == "auto"


def test_shifted_flows_and_starts_in_the_middle_are_even() -> None:
    for shift in (1.0, 3.0, 12.0):
        flow = fewstep.NoiseSchedule.flow(shift)
        for start in (None, 0.6):
            rows = [fewstep.build(solver, flow, 9, t_start=start).W for solver in ("auto", "deis")]
            assert np.array_equal(*rows)
    stochastic = fewstep.build("auto", fewstep.NoiseSchedule.vp_linear(), 8, stochastic=True)
    assert stochastic.stochastic and np.array_equal(
        stochastic.W, fewstep.build("dpmpp_2m_sde", stochastic.schedule, 8).W
    )


@pytest.mark.parametrize("config", [SD, FLOW, EDM, KARRAS], ids=["SD", "flow", "EDM", "Karras"])
def test_nearer_than_the_default_of_before(config: dict[str, Any]) -> None:
    """Error over that of dpmpp_2m, at 5 to 30 evaluations on three mixtures."""
    own = fewstep.Scheduler.from_config(config).config["solver"]
    ratios = [
        error(table(config, own, n), data) / error(table(config, "dpmpp_2m", n), data)
        for n in (5, 8, 13, 20, 30)
        for data in DATA
    ]
    assert np.exp(np.mean(np.log(ratios))) < 1
