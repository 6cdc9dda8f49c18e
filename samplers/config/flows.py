"""Flow times of a config: of the flow classes, and of classes made for VP models that were told of a flow."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

import numpy as np

from fewstep.samplers.config.classes import (
    CLASS_OF_SOLVER,
    CONVENTIONS,
    FLOW_CLASSES,
    class_of,
    explicit,
    flow_mode,
    levels_of,
    sigma_map_of,
    table_of,
)
from fewstep.samplers.config.distilled import RENOISING, fixed_times
from fewstep.samplers.config.known_classes import KNOWN, Config, class_name, completed, known
from fewstep.samplers.config.sigma_maps import RAMPS, Levels, end_of, ramped
from fewstep.samplers.grids.flow_shift import dynamic_shift, shift_time, stretch_to_terminal
from fewstep.samplers.schedule.base import Array

ONCE = "shift_once"  # config entry of ours: what Scheduler.from_config(shift="once") writes
EVEN_CLASSES = ("MiniMaxH3Scheduler", "FlowMapEulerDiscreteScheduler")
TWICE = (
    "this flow config's shift of {shift:g} acts twice, as in diffusers: on the training range, and on the steps within it. "
    'Scheduler.from_config(config, shift="once") shifts once.'
)
MISMATCHED = (
    "explicit `timesteps` go to the network as they are, while their noise levels are shifted by {shift:g}, as in diffusers, "
    "so that the two do not belong together. Pass `sigmas` as well, or make pairs of them by "
    'Scheduler.from_config(config, shift="once").'
)


def flow_levels(
    config: Config,
    solver: str | None,
    n: int,
    sigmas: Array | None,
    timesteps: Array | None,
    mu: float | None,
) -> Levels:
    """Flow times.

    As in diffusers, a flow class shifts its already shifted range once more, and explicit sigmas once; explicit times go to
    the network as they are, while their levels are shifted. Both are told once, and `shift_once` shifts once, or not
    at all where times are given, so that levels and times are pairs. The range is that of the shift the class was made
    with, `made_with_shift`, where set_shift gave another one since.
    """
    c, mode, once = completed(config), flow_mode(config), bool(config.get(ONCE))
    total = int(c.get("num_train_timesteps", 1000))
    static = float(c.get("flow_shift" if mode else "shift") or 1.0)
    dynamic = bool(c.get("use_dynamic_shifting"))
    if dynamic and mu is None:
        raise ValueError("this config uses dynamic shifting: pass `mu` (pipelines derive it from the image size).")
    shift = dynamic_shift(float(mu), c.get("time_shift_type") or "exponential") if dynamic else static  # type: ignore[arg-type]
    paired = timesteps is not None and sigmas is None
    verbatim = class_name(config) == "MiniMaxH3Scheduler" and (sigmas is not None or paired)
    as_given = verbatim or (once and paired)

    def moved(s: Array) -> Array:
        if as_given:
            return s
        s, terminal = shift_time(s, shift), c.get("shift_terminal")
        return stretch_to_terminal(s, terminal) if terminal else s

    base = sigmas if sigmas is not None or timesteps is None else timesteps / total
    if paired and shift != 1 and not as_given:
        _tell(MISMATCHED.format(shift=shift))
    if mode:
        return _of_vp_class(config, solver, n, total, base, moved)
    name = sigma_map_of(explicit(config))
    if base is None and (base := fixed_times(config, n)) is None:
        made = float(config.get("made_with_shift") or static)
        of_class = name is not None or stock(config, solver)
        base = _range_of_class(config, n, total, 1.0 if dynamic or once else made) if of_class else even(n)
    levels = moved(base)
    if name is not None:
        levels = ramped(RAMPS[name], n, levels[0], levels[-1])
    return Levels(levels, levels * total, "zero")


def stock(config: Config, solver: str | None) -> bool:
    """Whether a solver is one that flow classes are, or that of this class: it is played on the steps of the class."""
    rule = known(config)
    own = "heun" if class_name(config) == "FlowMatchHeunDiscreteScheduler" else rule and rule.solver
    return solver in (None, own, "euler", "ddim", "flow_map", *RENOISING, *KNOWN)


def even(n: int) -> Array:
    """n flow times 1, 1 - 1/n, ..., 1/n, before the shift: the steps of classes with solvers of higher order.

    Flow classes end at the last training step and leave it with a leap into the data, which costs Euler's method nothing and
    others a call.
    """
    return np.linspace(1.0, 0.0, n + 1)[:-1]


def _range_of_class(config: Config, n: int, total: int, before: float) -> Array:
    """n flow times before the shift; `before`: the shift that their range has had already."""
    # Classes that begin at 1 and leave 0 out; a training range of 1 is a unit of time and has no last step to end at.
    if class_name(config) in EVEN_CLASSES or total == 1:
        return even(n)
    if before != 1:
        _tell(TWICE.format(shift=before))
    first, last = shift_time(np.array([1.0, 1 / total]), before)
    return np.linspace(first, last, n)


@lru_cache(maxsize=256)
def _tell(message: str) -> None:
    """A warning, once for each message."""
    warnings.warn(message, stacklevel=2)


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
