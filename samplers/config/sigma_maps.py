"""Levels of a config before they are times: the maps that spread them (Karras, ...), and where the last step leads."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fewstep.checks import unknown
from fewstep.samplers.config.classes import Convention
from fewstep.samplers.config.known_classes import Config
from fewstep.samplers.grids.levels import Ramp, beta_ramp, linear_ramp, power_ramp
from fewstep.samplers.schedule.base import Array


class Levels(NamedTuple):
    """n noise levels (sigma / alpha, or flow time), the network's times, and the end: "zero" or "sigma_min"."""

    levels: Array
    shown: Array
    end: str


RAMPS: dict[str, Ramp] = {
    "use_karras_sigmas": power_ramp(7.0),
    "use_exponential_sigmas": linear_ramp,
    "use_beta_sigmas": beta_ramp(),
    "use_lu_lambdas": linear_ramp,
}


def ramped(ramp: Ramp, n: int, high: float, low: float) -> Array:
    """n levels from high to low along a ramp."""
    levels = np.exp(-ramp(np.linspace(0.0, 1.0, n), -np.log(high), -np.log(low)))
    levels[0] = high
    return levels


def end_of(rule: Convention, chosen: Config) -> str:
    """Where the last step leads: "zero" or "sigma_min"."""
    if rule.end == "set_alpha_to_one":
        to_one = chosen.get("set_alpha_to_one")
        return rule.default_end if to_one is None else "zero" if to_one else "sigma_min"
    end = chosen.get("final_sigmas_type", rule.default_end) if rule.end == "final_sigmas_type" else rule.end
    if end not in ("zero", "sigma_min"):
        raise unknown("final_sigmas_type", end, ("zero", "sigma_min"))
    return end
