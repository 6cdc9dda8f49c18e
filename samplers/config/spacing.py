"""Where a class puts n steps: training steps of discrete models by their spacing, levels of EDM and VE models."""

from __future__ import annotations

import numpy as np

from fewstep.checks import unknown
from fewstep.samplers.config.classes import (
    Convention,
    convention,
    explicit,
    kind_of,
    label_of,
    levels_of,
    sigma_map_of,
    table_of,
)
from fewstep.samplers.config.distilled import RENOISING, consistency_levels, distilled_steps
from fewstep.samplers.config.known_classes import Config
from fewstep.samplers.config.sigma_maps import RAMPS, Levels, end_of, ramped
from fewstep.samplers.grids.levels import linear_ramp, power_ramp
from fewstep.samplers.grids.times import whole_stride
from fewstep.samplers.schedule.base import Array, NoiseSchedule


def _steps(rule: Convention, chosen: Config, n: int, rho: Array) -> Array:
    """n decreasing training steps, whole ones where the class rounds and rounding keeps them apart."""
    spacing = rule.spacing if rule.spacing_fixed else chosen.get("timestep_spacing", rule.spacing)
    total = len(rho)
    clipped = chosen.get("lambda_min_clipped") if rule.bounded else None
    last = total if clipped is None else max(total - int(np.sum(-np.log(rho) < clipped)), 1)
    points = n if rule.closed else n + 1
    if rule.distilled:
        return distilled_steps(total, n, int(chosen.get("original_inference_steps", 50)))
    if n == 1 and rule.closed:
        return np.array([last - 1.0])
    if spacing == "linspace":
        index: Array = np.linspace(0, last - 1, points)[::-1][:n]
    elif spacing == "leading":
        index = (np.arange(points) * whole_stride(last, points))[::-1][:n]
        offset = 0 if rule.spacing_fixed else int(chosen.get("steps_offset", 0))
        index = index + min(offset, total - 1 - float(index[0]))
    elif spacing == "trailing":
        stride = total / n if (n - 1) * total < n * last else last / n
        index = last - np.arange(n) * stride - 1
    else:
        raise unknown("timestep_spacing", spacing, ("linspace", "leading", "trailing"))
    # Rounding before the shift by one, because ties go to the even neighbour.
    whole = np.round(index + 1) - 1 if spacing == "trailing" else np.round(index)
    rounds = rule.whole or spacing != "linspace"
    for steps in (whole, index) if rounds else (index,):
        if (np.diff(steps) < 0).all() and steps[-1] >= 0:
            return steps
    return np.asarray(np.linspace(0, last - 1, points)[::-1][:n])


def table_levels(
    config: Config,
    schedule: NoiseSchedule,
    solver: str | None,
    n: int,
    sigmas: Array | None,
    timesteps: Array | None,
) -> Levels:
    """Levels sigma / alpha of a discrete-time model and the training steps its network is shown."""
    rule, chosen = convention(config, solver), explicit(config)
    rho = levels_of(getattr(schedule, "alphas_cumprod", table_of(config)))
    steps, end = np.arange(len(rho)), end_of(rule, chosen)
    if sigmas is not None:
        return Levels(sigmas, np.interp(np.log(sigmas), np.log(rho), steps), end)
    if timesteps is not None:
        return Levels(np.interp(timesteps, steps, rho), timesteps, end)
    index = _steps(rule, chosen, n, rho)
    levels: Array = np.interp(index, steps, rho)
    name = sigma_map_of(chosen)
    if rule.log_linear and name == "use_exponential_sigmas" and not chosen.get(name):
        levels = ramped(linear_ramp, n + 1, rho[-1], rho[0])[:n]  # its last step leads to the first training step
        return Levels(levels, np.interp(np.log(levels), np.log(rho), steps), "sigma_min")
    if name is None:
        return Levels(levels, np.round(index) if rule.whole else index, end)
    # Classes that reach step 0 map between the levels of their own steps, the others over the whole table.
    high, low = (levels[0], levels[-1]) if rule.closed else (rho[-1], rho[0])
    if name != "use_lu_lambdas":
        high, low = config.get("sigma_max") or high, config.get("sigma_min") or low
    finite = schedule.lam(schedule.t_max), schedule.lam(schedule.t_max - schedule.t_min)
    high = min(high, float(np.exp(-finite[0] if np.isfinite(finite[0]) else -finite[1])))
    levels = ramped(RAMPS[name], n, high, low)
    shown = np.interp(np.log(levels), np.log(rho), steps)
    if name in rule.rounds and config.get("beta_schedule") != rule.truncates:
        shown = np.round(shown)
    elif rule.whole:
        shown = np.floor(shown + 1e-9)
    return Levels(levels, shown, end)


def sigma_levels(
    config: Config,
    schedule: NoiseSchedule,
    solver: str | None,
    n: int,
    sigmas: Array | None,
    timesteps: Array | None,
) -> Levels:
    """Levels of EDM and VE models and their network's noise label; explicit labels name their levels."""
    kind = kind_of(config)
    audio = kind == "edm" and label_of(config) == "audio"
    if kind == "edm" and label_of(config) == "consistency" and sigmas is None:
        return consistency_levels(config, n, timesteps)
    form = config.get("sigma_schedule") or ("karras" if kind == "edm" and not audio else "exponential")
    ramp = {"karras": power_ramp(float(config.get("rho") or 7.0)), "exponential": linear_ramp}.get(form)
    if ramp is None:
        raise unknown("sigma_schedule", form, ("karras", "exponential"))
    if sigmas is None and timesteps is not None:
        named = timesteps if kind == "ve" else np.tan(timesteps * np.pi / 2) if audio else np.exp(4 * timesteps)
        return Levels(named, timesteps, "zero")
    # a network that answers with data has nothing left to do at the smallest level: its last call is one level above
    early = int(kind == "edm" and solver in RENOISING and sigmas is None)
    levels = ramped(ramp, n + early, schedule.t_max, schedule.t_min)[:n] if sigmas is None else sigmas
    if kind == "ve":
        return Levels(levels, levels, "zero")
    label = np.arctan(levels) * 2 / np.pi if audio else 0.25 * np.log(levels)
    if label_of(config) == "consistency":
        return Levels(levels, 1000 * label, "zero")
    return Levels(levels, label, end_of(Convention(end="final_sigmas_type"), explicit(config)))
