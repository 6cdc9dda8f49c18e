"""The registry of time grids, and the two ways of saying where a step is: times, and sigmas as schedulers call them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fewstep.registry import Registry
from fewstep.samplers.schedule.base import Array, NoiseSchedule

GridFn = Callable[..., Array]


@dataclass(frozen=True)
class GridEntry:
    """A registered grid: `fn(schedule, n, t_start, t_end, *, options)` returns n + 1 decreasing float64 times."""

    name: str
    fn: GridFn
    options: dict[str, Any]
    reference: str

    @property
    def summary(self) -> str:
        """First line of the function's docstring."""
        return (self.fn.__doc__ or "").strip().split("\n")[0]


FAMILIES = ("times", "levels", "flow_shift", "training_steps", "level_rules", "published")
GRIDS: Registry[GridEntry] = Registry(
    "grid",
    GridEntry,
    [
        f"fewstep.samplers.grids.{name}"
        for name in ("times", "levels", "flow_shift", "training_steps", "level_rules", "published")
    ],
    "@grid(name, reference)",
)
ALPHA_FLOOR = 2.0**-12  # stands for alpha = 0 in the sigma / alpha that is displayed


def grid(name: str, reference: str) -> Callable[[GridFn], GridFn]:
    """Register `f(schedule, n, t_start, t_end, *, options) -> n + 1 times` under a name, at any time, from any package.

    Raises:
        ValueError: a name that exists, a function of other arguments, options that are not keyword-only with defaults.
    """

    def register(fn: GridFn) -> GridFn:
        check_grid(fn, name)
        GRIDS.add(name, GridEntry(name, fn, dict(fn.__kwdefaults__ or {}), reference), fn.__module__)
        return fn

    return register


def check_grid(fn: Any, name: str) -> None:
    """ValueError unless a grid's function can be called with (schedule, n, t_start, t_end)."""
    try:
        inspect.signature(fn).bind(None, 1, 1.0, 0.0)
    except TypeError as error:
        raise ValueError(
            f"the function of grid {name!r} must take (schedule, n, t_start, t_end), and options that are keyword-only with "
            f"defaults; it does not ({error})"
        ) from None


def sigmas_to_times(schedule: NoiseSchedule, sigmas: ArrayLike) -> Array:
    """Times of explicit sigmas: sigma / alpha for VP, VE and EDM schedules (0 is clean data), t itself for flow."""
    sigmas = np.atleast_1d(np.asarray(sigmas, np.float64))
    if not (np.isfinite(sigmas) & (sigmas >= 0)).all():
        raise ValueError(f"`sigmas` must be finite and not negative; got {sigmas}.")
    if schedule.kind == "flow":
        return sigmas.copy()
    with np.errstate(divide="ignore"):
        return np.atleast_1d(schedule.t_of_lam(-np.log(sigmas)))


def times_to_sigmas(schedule: NoiseSchedule, times: ArrayLike) -> Array:
    """Inverse of `sigmas_to_times`: sigma / alpha for VP schedules, sigma for others; 4096 sigma where alpha = 0."""
    alpha, sigma = schedule.alpha(times), schedule.sigma(times)
    return np.asarray(sigma / np.where(alpha > 0, alpha, ALPHA_FLOOR) if schedule.kind == "vp" else sigma)
