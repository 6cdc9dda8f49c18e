"""The grid that a diffusers scheduler config describes: its noise levels, and the times its network is shown.

A chain of small ideas: spacing -> training steps -> levels sigma / alpha -> sigma map (Karras, ...) -> final level.
The classes differ only in the entries of `Convention`. Where a class would repeat a level or lose steps (rounding at many
steps, a stride that does not divide the training range), the same rule is applied without rounding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fewstep.samplers.config.classes import as_config, kind_of
from fewstep.samplers.config.distilled import angle_levels
from fewstep.samplers.config.flows import flow_levels
from fewstep.samplers.config.sigma_maps import Levels
from fewstep.samplers.config.spacing import sigma_levels, table_levels
from fewstep.samplers.grids.grid_entry import sigmas_to_times
from fewstep.samplers.grids.making import make_grid, step_count
from fewstep.samplers.schedule.base import Array, NoiseSchedule

# A step that diffusers spends on repeating its last level shrinks the level by this factor, so that levels decrease.
_REPEATED = 1 - 1e-6


class ConfigGrid(NamedTuple):
    """n + 1 decreasing times and the n times that the network is shown, float64."""

    times: Array
    model_times: Array


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
    given, shown = given_numbers("sigmas", sigmas), given_numbers("timesteps", timesteps, sigmas is not None, least)
    if given is not None and len(given) > 1 and given[-1] == 0:
        given = given[:-1]
    if kind == "angle" and shown is not None and len(shown) > 1 and shown[-1] == 0:
        shown = shown[:-1]
    n = agreed_count(n, given, shown)
    if kind == "vp":
        times = make_grid("uniform", schedule, n)
        if given is not None:
            times = make_grid(np.append(sigmas_to_times(schedule, given), schedule.t_end), schedule, n)
        elif shown is not None:
            times = make_grid(np.append(schedule.time_of_model(shown), schedule.t_end), schedule, n)
        return ConfigGrid(times, np.asarray(schedule.model_time(times[:-1]) if shown is None else shown, np.float64))
    if kind == "angle" and given is None:
        return ConfigGrid(*angle_levels(config, n, shown))
    if kind == "flow":
        found = flow_levels(config, solver, n, given, shown, mu)
    elif kind in ("edm", "ve"):
        found = sigma_levels(config, schedule, solver, n, given, shown)
    elif kind == "angle":
        found = Levels(given, given, "zero")  # type: ignore[arg-type]
    else:
        found = table_levels(config, schedule, solver, n, given, shown)
    last = 0.0
    if found.end == "sigma_min" and given is None:
        smallest = schedule.t_min if kind == "flow" else float(np.exp(-schedule.lam(schedule.t_min)))
        last = min(smallest, found.levels[-1] * _REPEATED)
    times = sigmas_to_times(schedule, np.append(found.levels, last))
    if not (np.diff(times) < 0).all():
        raise ValueError(f"the levels of this config do not decrease over {n} steps: {found.levels}.")
    if shown is None or kind == "edm":
        labelled = kind in ("sigma", "angle")
        shown = np.asarray(schedule.model_time(times[:-1]) if labelled else found.shown, np.float64)
    return ConfigGrid(times, mirrored(shown))


def given_numbers(name: str, values: Any, repeats: bool = False, least: float = 0.0) -> Array | None:
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


def agreed_count(n: int | None, sigmas: Array | None, timesteps: Array | None) -> int:
    """The number of steps, on which everything that was given must agree."""
    lengths = {name: len(v) for name, v in (("sigmas", sigmas), ("timesteps", timesteps)) if v is not None}
    if n is not None:
        lengths["the number of steps"] = step_count(n)
    if not lengths:
        raise ValueError("pass the number of steps, `sigmas` or `timesteps`.")
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise ValueError(f"lengths differ ({said}): one sigma and one timestep a network evaluation, final 0 aside.")
    return step_count(next(iter(lengths.values())))
