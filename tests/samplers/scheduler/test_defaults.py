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


@pytest.mark.parametrize(
    ("config", "solver"),
    [(SD, "deis"), (FLOW, "deis"), (EDM, "unipc"), (KARRAS, "unipc"), ({"_class_name": "LCMScheduler"}, "renoise")],
)
def test_by_kind_of_config(config: dict[str, Any], solver: str) -> None:
    made = fewstep.Scheduler.from_config(config)
    assert made.config["solver"] == solver
    assert fewstep.Scheduler.from_config(made.config).config["solver"] == solver
    assert fewstep.Scheduler.from_config(config, solver="dpmpp_2m").config["solver"] == "dpmpp_2m"


@pytest.mark.parametrize("config", [SD, FLOW, EDM, KARRAS], ids=["SD", "flow", "EDM", "Karras"])
def test_nearer_than_the_default_of_before(config: dict[str, Any]) -> None:
    """Error over that of dpmpp_2m, at 8 and 13 evaluations on three mixtures."""
    own = fewstep.Scheduler.from_config(config).config["solver"]
    ratios = [
        error(table(config, own, n), data) / error(table(config, "dpmpp_2m", n), data) for n in (8, 13) for data in DATA
    ]
    assert np.exp(np.mean(np.log(ratios))) < 1
