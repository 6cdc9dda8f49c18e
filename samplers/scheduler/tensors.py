"""What users of a scheduler see and say: timesteps and sigmas as tensors, and numbers of theirs as something to cache by."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fewstep.samplers.grids.grid_entry import times_to_sigmas
from fewstep.samplers.grids.making import step_count
from fewstep.samplers.schedule.base import Array, Nodes, NoiseSchedule
from fewstep.samplers.schedule.discrete import Discrete


def numbers(values: Any) -> tuple[float, ...] | None:
    """Numbers of a list, an array or a tensor, as something to cache by."""
    if values is None:
        return None
    array = np.asarray(getattr(values, "tolist", lambda: values)(), np.float64)
    return tuple(np.atleast_1d(array).ravel().tolist())


def angles(n: int, first: float, second: float | None) -> Array:
    """n times of an SCM model, which the network is shown: first and second of two, else even from the first to 0."""
    n = step_count(n)
    if second is not None and n == 2:
        return np.array([first, second], np.float64)
    return np.linspace(first, 0.0, n + 1)[:-1]


def model_clock(schedule: NoiseSchedule, shown: Array) -> torch.Tensor:
    """Times for the network: int64 where all are whole steps of discrete training, else float32."""
    whole = isinstance(schedule, Discrete) and bool((shown == np.round(shown)).all())
    return torch.tensor(shown, dtype=torch.int64 if whole else torch.float32)


def public_sigmas(schedule: NoiseSchedule, nodes: Nodes) -> torch.Tensor:
    """What schedulers call sigmas: sigma of flow, VE and EDM models, sigma / alpha of VP models; float32.

    1 - sigma where flow time is inverted.
    """
    sigmas = times_to_sigmas(schedule, nodes.t)
    return torch.tensor(1 - sigmas if getattr(schedule, "sigmas_rise", False) else sigmas, dtype=torch.float32)
