"""Learned grids for programs that know grids only: stock diffusers schedulers, ComfyUI.

They take the steps' boundaries and compute weights of their own, so corrections and model times that were learned stay
behind, with a warning. A table that is its solver on a learned grid loses nothing.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from fewstep.samplers.artefact.corrections import base_of, same_model_times, same_weights
from fewstep.samplers.building.resuming import boundaries
from fewstep.samplers.grids.grid_entry import times_to_sigmas
from fewstep.samplers.schedule.base import Array
from fewstep.samplers.schedule.continuous import Flow
from fewstep.samplers.schedule.discrete import Discrete
from fewstep.samplers.table.tableau import Tableau


def to_diffusers(table: Tableau) -> dict[str, Any]:
    """Step boundaries for a stock scheduler, in `set_timesteps(timesteps=...)` or `set_timesteps(sigmas=...)`.

    Returns:
        "timesteps": (steps,) network times, whole and distinct for discrete-time models, which rounds the grid. "sigmas":
        sigma / alpha for VP models, (steps + 1,) with the end of sampling; sigma for VE and EDM models; for flow models
        (steps,) levels without the end and before the schedule's static shift, as FlowMatchEulerDiscreteScheduler takes them.

    Warns where learned corrections or model times stay behind.
    """
    _warn(table)
    schedule, times = table.schedule, boundaries(table)
    shown, sigmas = np.asarray(schedule.model_time(times[:-1])), times_to_sigmas(schedule, times)
    if isinstance(schedule, Flow):
        sigmas = (sigmas / (schedule.shift - (schedule.shift - 1) * sigmas))[:-1]
    timesteps = _whole(shown) if isinstance(schedule, Discrete) else shown
    return {"timesteps": timesteps.tolist(), "sigmas": sigmas.tolist()}


def to_comfyui(table: Tableau) -> list[float]:
    """Sigmas of the step boundaries, (steps + 1,), as custom samplers of ComfyUI and k-diffusion take them.

    sigma / alpha for VP models, sigma for VE, EDM and flow models (shift included). The last is where the table ends: 0.0
    on schedules that are sampled down to sigma = 0. Warns where learned corrections or model times stay behind.
    """
    _warn(table)
    sigmas: list[float] = times_to_sigmas(table.schedule, boundaries(table)).tolist()
    return sigmas


def _whole(shown: Array) -> Array:
    """Whole, distinct, decreasing training steps nearest to those shown, the last at 0 or above."""
    ramp = np.arange(len(shown))
    return np.maximum.accumulate(np.maximum(np.round(shown[::-1]), 0).astype(int) - ramp)[::-1] + ramp[::-1]


def _warn(table: Tableau) -> None:
    """Say what stays behind."""
    base = base_of(table)
    lost = [] if table.filters is None else ["filters"]
    lost += [] if table.cache is None else ["feature cache"]
    lost += [] if same_weights(table, base) else ["corrections of the solver's weights"]
    lost += [] if same_model_times(table, base) else ["times shown to the network"]
    if lost:
        warnings.warn(
            f"a grid holds step boundaries only: the {' and the '.join(lost)} that were learned for this table of "
            f"{table.name} stay behind, and what was measured is not what will run",
            stacklevel=4,
        )
