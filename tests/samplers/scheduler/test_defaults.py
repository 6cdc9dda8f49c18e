"""What a config that names no solver is played by: its own solver where it has one, else what errs least on such steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from real_grids import DATA, error, table

import fewstep

SD = {"_class_name": "PNDMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
EDM = {"_class_name": "EDMEulerScheduler"}
KARRAS = {**SD, "_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True}


@pytest.mark.parametrize(("config", "solver"), [(SD, "deis"), (FLOW, "deis"), (EDM, "unipc"), (KARRAS, "unipc")])
@pytest.mark.parametrize("n", [4, 8])
def test_by_kind_of_steps(config: dict[str, Any], solver: str, n: int) -> None:
    """The rows are those of the solver that errs least there, and the config says that nobody chose it."""
    made = fewstep.Scheduler.from_config(config)
    assert made.config["solver"] == "auto" == fewstep.Scheduler.from_config(made.config).config["solver"]
    assert np.array_equal(table(config, "auto", n).W, table(config, solver, n).W)
    assert fewstep.Scheduler.from_config(config, solver="dpmpp_2m").config["solver"] == "dpmpp_2m"


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
    """Error over that of dpmpp_2m, at 8 and 13 evaluations on three mixtures."""
    own = fewstep.Scheduler.from_config(config).config["solver"]
    ratios = [
        error(table(config, own, n), data) / error(table(config, "dpmpp_2m", n), data) for n in (8, 13) for data in DATA
    ]
    assert np.exp(np.mean(np.log(ratios))) < 1
