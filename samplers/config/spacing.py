"""The grid that a diffusers scheduler config describes: its noise levels, and the times its network is shown.

A chain of small ideas: spacing -> training steps -> levels sigma / alpha -> sigma map (Karras, ...) -> final level.
The classes differ only in the entries of `Convention`. Where a class would repeat a level or lose steps (rounding at many
steps, a stride that does not divide the training range), the same rule is applied without rounding.
"""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fewstep.checks import unknown
from fewstep.samplers.config.classes import (
    CLASS_OF_SOLVER,
    CONVENTIONS,
    FLOW_CLASSES,
    Config,
    Convention,
    as_config,
    class_of,
    convention,
    explicit,
    flow_mode,
    kind_of,
    levels_of,
    table_of,
)
from fewstep.samplers.grids.flow_shift import dynamic_shift, shift_time, stretch_to_terminal
from fewstep.samplers.grids.grid_entry import sigmas_to_times
from fewstep.samplers.grids.levels import Ramp, beta_ramp, linear_ramp, power_ramp
from fewstep.samplers.grids.making import make_grid
from fewstep.samplers.grids.times import whole_stride
from fewstep.samplers.schedule.base import Array, NoiseSchedule

# A step that diffusers spends on repeating its last level shrinks the level by this factor, so that levels decrease.
_REPEATED = 1 - 1e-6


class ConfigGrid(NamedTuple):
    """n + 1 decreasing times and the n times that the network is shown, float64."""

    times: Array
    model_times: Array


class _Levels(NamedTuple):
    """n noise levels (sigma / alpha, or flow time), the network's times, and the end: "zero" or "sigma_min"."""

    levels: Array
    shown: Array
    end: str


def grid_from_config(
    config: Any,
    schedule: NoiseSchedule,
    n: int | None,
    solver: str | None = None,
    *,
    sigmas: ArrayLike | None = None,
    timesteps: ArrayLike | None = None,
    mu: float | None = None,
) -> ConfigGrid:
    """The grid of the diffusers class that belongs to `solver`, for this config and n network evaluations.

    Args:
        config: dict, FrozenDict or scheduler object.
        schedule: `schedule_from_config(config)`.
        n: number of steps; may be None where `sigmas` or `timesteps` are given.
        solver: a solver's name, or a diffusers class; None: the config's own class.
        sigmas: explicit levels, decreasing: flow times before the shift, else sigma / alpha; a final 0 may be left out.
        timesteps: explicit times for the network, decreasing. With `sigmas`, the sigmas drive the solver.
        mu: dynamic shift of flow models; required if the config uses dynamic shifting, ignored otherwise.

    Raises:
        ValueError: n < 1, lengths that contradict each other, levels that do not decrease, a missing `mu`.
    """
    mirrored = getattr(schedule, "mirrored", lambda tau: tau)  # an inverted flow's times of the network, both ways
    timesteps = None if timesteps is None else mirrored(timesteps)
    config = as_config(config)
    kind = kind_of(config)
    least = -np.inf if kind == "edm" else 0.0  # EDM networks are shown log sigma / 4
    given, shown = _given("sigmas", sigmas), _given("timesteps", timesteps, sigmas is not None, least)
    if given is not None and len(given) > 1 and given[-1] == 0:
        given = given[:-1]
    n = _count(n, given, shown)
    if kind == "vp":
        times = make_grid("uniform", schedule, n)
        if given is not None:
            times = make_grid(np.append(sigmas_to_times(schedule, given), schedule.t_end), schedule, n)
        elif shown is not None:
            times = make_grid(np.append(schedule.time_of_model(shown), schedule.t_end), schedule, n)
        return ConfigGrid(times, np.asarray(schedule.model_time(times[:-1]) if shown is None else shown, np.float64))
    if kind == "flow":
        found = _flow(config, solver, n, given, shown, mu)
    elif kind in ("edm", "ve"):
        found = _sigma_time(config, schedule, kind, n, given, shown)
    else:
        found = _table(config, schedule, solver, n, given, shown)
    last = 0.0
    if found.end == "sigma_min" and given is None:
        smallest = schedule.t_min if kind == "flow" else float(np.exp(-schedule.lam(schedule.t_min)))
        last = min(smallest, found.levels[-1] * _REPEATED)
    times = sigmas_to_times(schedule, np.append(found.levels, last))
    if not (np.diff(times) < 0).all():
        raise ValueError(f"the levels of this config do not decrease over {n} steps: {found.levels}.")
    if shown is None:
        shown = np.asarray(schedule.model_time(times[:-1]) if kind == "sigma" else found.shown, np.float64)
    return ConfigGrid(times, mirrored(shown))


def _given(name: str, values: Any, repeats: bool = False, least: float = 0.0) -> Array | None:
    """Explicit values as float64; ValueError unless 1-D, finite, not negative and decreasing (or at least not rising)."""
    if values is None:
        return None
    array = np.atleast_1d(np.asarray(values.tolist() if hasattr(values, "tolist") else values, np.float64))
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all() or array.min() < least:
        raise ValueError(f"`{name}` must be a list of finite numbers, none negative; got {values}.")
    rising = np.flatnonzero(np.diff(array) > 0 if repeats else np.diff(array) >= 0)
    if rising.size:
        i = int(rising[0])
        raise ValueError(
            f"`{name}` must decrease; got {name}[{i + 1}]={array[i + 1]:.6g} >= {name}[{i}]={array[i]:.6g}. "
            "Did you pass them in ascending order?"
        )
    return array


def _count(n: int | None, sigmas: Array | None, timesteps: Array | None) -> int:
    """The number of steps, on which everything that was given must agree."""
    lengths = {name: len(v) for name, v in (("sigmas", sigmas), ("timesteps", timesteps)) if v is not None}
    if n is not None:
        try:
            lengths["the number of steps"] = operator.index(n)
        except TypeError:
            raise ValueError(f"the number of steps must be a whole number; got {n!r}.") from None
    if not lengths:
        raise ValueError("pass the number of steps, `sigmas` or `timesteps`.")
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise ValueError(f"lengths differ ({said}): one sigma and one timestep a network evaluation, final 0 aside.")
    count = next(iter(lengths.values()))
    if count < 1:
        raise ValueError(f"the number of steps must be at least 1; got {count}.")
    return count


_RAMPS: dict[str, Ramp] = {
    "use_karras_sigmas": power_ramp(7.0),
    "use_exponential_sigmas": linear_ramp,
    "use_beta_sigmas": beta_ramp(),
    "use_lu_lambdas": linear_ramp,
}


def _map_of(chosen: Config) -> str | None:
    """The config key of the sigma map that a config asks for."""
    wanted = [key for key in _RAMPS if chosen.get(key)]
    if len(wanted) > 1:
        raise ValueError(f"a config can ask for one sigma map; this one has {' and '.join(wanted)}. Choose one.")
    if not wanted and chosen.get("interpolation_type") == "log_linear":
        wanted = ["use_exponential_sigmas"]
    return wanted[0] if wanted else None


def _ramped(ramp: Ramp, n: int, high: float, low: float) -> Array:
    """n levels from high to low along a ramp."""
    levels = np.exp(-ramp(np.linspace(0.0, 1.0, n), -np.log(high), -np.log(low)))
    levels[0] = high
    return levels


def _end(rule: Convention, chosen: Config) -> str:
    """Where the last step leads: "zero" or "sigma_min"."""
    if rule.end == "set_alpha_to_one":
        to_one = chosen.get("set_alpha_to_one")
        return rule.default_end if to_one is None else "zero" if to_one else "sigma_min"
    end = chosen.get("final_sigmas_type", rule.default_end) if rule.end == "final_sigmas_type" else rule.end
    if end not in ("zero", "sigma_min"):
        raise unknown("final_sigmas_type", end, ("zero", "sigma_min"))
    return end


def _steps(rule: Convention, chosen: Config, n: int, rho: Array) -> Array:
    """n decreasing training steps, whole ones where the class rounds and rounding keeps them apart."""
    spacing = "linspace" if rule.spacing_fixed else chosen.get("timestep_spacing", rule.spacing)
    total = len(rho)
    clipped = chosen.get("lambda_min_clipped")
    last = total if clipped is None else max(total - int(np.sum(-np.log(rho) < clipped)), 1)
    points = n if rule.closed else n + 1
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


def _table(
    config: Config,
    schedule: NoiseSchedule,
    solver: str | None,
    n: int,
    sigmas: Array | None,
    timesteps: Array | None,
) -> _Levels:
    """Levels sigma / alpha of a discrete-time model and the training steps its network is shown."""
    rule, chosen = convention(config, solver), explicit(config)
    rho = levels_of(getattr(schedule, "alphas_cumprod", table_of(config)))
    steps, end = np.arange(len(rho)), _end(rule, chosen)
    if sigmas is not None:
        return _Levels(sigmas, np.interp(np.log(sigmas), np.log(rho), steps), end)
    if timesteps is not None:
        return _Levels(np.interp(timesteps, steps, rho), timesteps, end)
    index = _steps(rule, chosen, n, rho)
    levels: Array = np.interp(index, steps, rho)
    name = _map_of(chosen)
    if name is None:
        return _Levels(levels, np.round(index) if rule.whole else index, end)
    # Classes that reach step 0 map between the levels of their own steps, the others over the whole table.
    high, low = (levels[0], levels[-1]) if rule.closed else (rho[-1], rho[0])
    if name != "use_lu_lambdas":
        high, low = config.get("sigma_max") or high, config.get("sigma_min") or low
    finite = schedule.lam(schedule.t_max), schedule.lam(schedule.t_max - schedule.t_min)
    high = min(high, float(np.exp(-finite[0] if np.isfinite(finite[0]) else -finite[1])))
    levels = _ramped(_RAMPS[name], n, high, low)
    shown = np.interp(np.log(levels), np.log(rho), steps)
    if name in rule.rounds and config.get("beta_schedule") != rule.truncates:
        shown = np.round(shown)
    elif rule.whole:
        shown = np.floor(shown + 1e-9)
    return _Levels(levels, shown, end)


def _flow(
    config: Config,
    solver: str | None,
    n: int,
    sigmas: Array | None,
    timesteps: Array | None,
    mu: float | None,
) -> _Levels:
    """Flow times. A flow class shifts its already shifted range once more; explicit sigmas are shifted once."""
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
        return _flow_of_vp_class(config, solver, n, total, base, moved)
    if base is None:
        ends = np.array([1.0, 1 / total])
        first, last = ends if dynamic else shift_time(ends, static)
        base = np.linspace(first, last, n)
    levels, name = moved(base), _map_of(explicit(config))
    if name is not None:
        levels = _ramped(_RAMPS[name], n, levels[0], levels[-1])
    return _Levels(levels, levels * total, "zero")


def _flow_of_vp_class(
    config: Config, solver: str | None, n: int, total: int, base: Array | None, moved: Any
) -> _Levels:
    """Flow times of a class made for VP models (use_flow_sigmas); its network is shown whole times."""
    names = (class_of(config, solver), class_of(config, None), CLASS_OF_SOLVER[""])
    name = next(name for name in names if name in FLOW_CLASSES)
    chosen = explicit(config)
    sigma_map = _map_of(chosen)
    if base is not None:
        levels = moved(base)
    elif sigma_map is not None:
        rho = levels_of(table_of(config))
        high, low = config.get("sigma_max") or rho[-1], config.get("sigma_min") or rho[0]
        rho = _ramped(_RAMPS[sigma_map], n, high, low)
        levels = rho / (1 + rho)
    elif name == "UniPCMultistepScheduler":
        levels = moved(np.linspace(1, 1 / total, n + 1)[:-1])
    else:
        levels = moved((1.0 - np.linspace(1, 1 / total, n + 1))[:0:-1])
    levels = np.minimum(levels, 1 - 1e-6)  # alpha stays positive
    # Classes that always stop at the last level would leave that noise in the sample: their flows go to the data.
    rule = CONVENTIONS[name]
    return _Levels(levels, np.floor(levels * total), "zero" if rule.end == "sigma_min" else _end(rule, chosen))


def _sigma_time(
    config: Config, schedule: NoiseSchedule, kind: str, n: int, sigmas: Array | None, timesteps: Array | None
) -> _Levels:
    """Levels of EDM and VE models and their network's noise label; explicit labels name their levels."""
    audio = kind == "edm" and "rho" not in config  # the class for audio has its own label and no rho
    form = config.get("sigma_schedule", "karras" if kind == "edm" and not audio else "exponential")
    ramp = {"karras": power_ramp(float(config.get("rho", 7.0))), "exponential": linear_ramp}.get(form)
    if ramp is None:
        raise unknown("sigma_schedule", form, ("karras", "exponential"))
    if sigmas is None and timesteps is not None:
        named = timesteps if kind == "ve" else np.tan(timesteps * np.pi / 2) if audio else np.exp(4 * timesteps)
        return _Levels(named, timesteps, "zero")
    levels = _ramped(ramp, n, schedule.t_max, schedule.t_min) if sigmas is None else sigmas
    if kind == "ve":
        return _Levels(levels, levels, "zero")
    label = np.arctan(levels) * 2 / np.pi if audio else 0.25 * np.log(levels)
    return _Levels(levels, label, _end(Convention(end="final_sigmas_type"), explicit(config)))
