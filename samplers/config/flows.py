"""Flow times of a config: of the flow classes, and of classes made for VP models that were told of a flow."""

from __future__ import annotations

from typing import Any

import numpy as np

from fewstep.samplers.config.classes import (
    CLASS_OF_SOLVER,
    CONVENTIONS,
    FLOW_CLASSES,
    Config,
    class_of,
    explicit,
    flow_mode,
    levels_of,
    table_of,
)
from fewstep.samplers.config.sigma_maps import RAMPS, Levels, end_of, ramped, sigma_map_of
from fewstep.samplers.grids.flow_shift import dynamic_shift, shift_time, stretch_to_terminal
from fewstep.samplers.schedule.base import Array


def flow_levels(
    config: Config,
    solver: str | None,
    n: int,
    sigmas: Array | None,
    timesteps: Array | None,
    mu: float | None,
) -> Levels:
    """Flow times. A flow class shifts its already shifted range once more; explicit sigmas are shifted once.

    The range is that of the shift the class was made with, `made_with_shift`, where set_shift gave another one since.
    """
    total, mode = int(config.get("num_train_timesteps", 1000)), flow_mode(config)
    static = float(config.get("flow_shift" if mode else "shift") or 1.0)
    dynamic = bool(config.get("use_dynamic_shifting"))
    if dynamic and mu is None:
        raise ValueError("this config uses dynamic shifting: pass `mu` (pipelines derive it from the image size).")
    shift = dynamic_shift(float(mu), config.get("time_shift_type") or "exponential") if dynamic else static  # type: ignore[arg-type]

    def moved(s: Array) -> Array:
        s, terminal = shift_time(s, shift), config.get("shift_terminal")
        return stretch_to_terminal(s, terminal) if terminal else s

    base = sigmas if sigmas is not None or timesteps is None else timesteps / total
    if mode:
        return _of_vp_class(config, solver, n, total, base, moved)
    if base is None:
        ends = np.array([1.0, 1 / total])
        first, last = ends if dynamic else shift_time(ends, float(config.get("made_with_shift") or static))
        base = np.linspace(first, last, n)
    levels, name = moved(base), sigma_map_of(explicit(config))
    if name is not None:
        levels = ramped(RAMPS[name], n, levels[0], levels[-1])
    return Levels(levels, levels * total, "zero")


def _of_vp_class(config: Config, solver: str | None, n: int, total: int, base: Array | None, moved: Any) -> Levels:
    """Flow times of a class made for VP models (use_flow_sigmas); its network is shown whole times."""
    names = (class_of(config, solver), class_of(config, None), CLASS_OF_SOLVER[""])
    name = next(name for name in names if name in FLOW_CLASSES)
    chosen = explicit(config)
    sigma_map = sigma_map_of(chosen)
    if base is not None:
        levels = moved(base)
    elif sigma_map is not None:
        rho = levels_of(table_of(config))
        high, low = config.get("sigma_max") or rho[-1], config.get("sigma_min") or rho[0]
        rho = ramped(RAMPS[sigma_map], n, high, low)
        levels = rho / (1 + rho)
    elif name == "UniPCMultistepScheduler":
        levels = moved(np.linspace(1, 1 / total, n + 1)[:-1])
    else:
        levels = moved((1.0 - np.linspace(1, 1 / total, n + 1))[:0:-1])
    levels = np.minimum(levels, 1 - 1e-6)  # alpha stays positive
    # Classes that always stop at the last level would leave that noise in the sample: their flows go to the data.
    rule = CONVENTIONS[name]
    return Levels(levels, np.floor(levels * total), "zero" if rule.end == "sigma_min" else end_of(rule, chosen))
