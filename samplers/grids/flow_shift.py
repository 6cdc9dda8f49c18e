"""Grids in flow time r = sigma / (alpha + sigma), moved by a shift: a translation in lam."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fewstep.checks import unknown
from fewstep.samplers.grids.grid_entry import grid
from fewstep.samplers.schedule.base import Array, NoiseSchedule


def shift_time(t: ArrayLike, shift: float) -> Array:
    """Flow time moved towards noise: s t / (1 + (s - 1) t), a translation of lam by -log s; shift 1/s undoes it."""
    t = np.asarray(t, np.float64)
    return shift * t / (1 + (shift - 1) * t)


def dynamic_shift(mu: float, shift_type: str = "exponential") -> float:
    """The shift that a pipeline's `mu` stands for: e^mu ("exponential") or mu itself ("linear")."""
    if shift_type not in ("exponential", "linear"):
        raise unknown("time shift type", shift_type, ("exponential", "linear"))
    return float(np.exp(mu)) if shift_type == "exponential" else float(mu)


def stretch_to_terminal(t: Array, shift_terminal: float) -> Array:
    """Flow times with 1 - t scaled so that the last equals shift_terminal; a single time has no last one to move."""
    if not 0 < shift_terminal < 1:
        raise ValueError(f"`shift_terminal` must lie between 0 and 1; got {shift_terminal!r}.")
    return 1 - (1 - t) * ((1 - shift_terminal) / (1 - t[-1])) if len(t) > 1 else t


@grid("flow", "Esser et al., Scaling Rectified Flow Transformers, 2024, arXiv 2403.03206")
def flow(
    schedule: NoiseSchedule,
    n: int,
    t_start: float,
    t_end: float,
    *,
    shift: float | None = None,
    mu: float | None = None,
    shift_type: str = "exponential",
    shift_terminal: float | None = None,
) -> Array:
    """Equidistant in flow time sigma / (alpha + sigma), then shifted: static `shift`, or dynamic by `mu`.

    `shift` defaults to the schedule's. `shift_terminal` stretches the grid so that its last positive time is that.
    """
    if mu is not None:
        shift = dynamic_shift(mu, shift_type)
    shift = getattr(schedule, "shift", 1.0) if shift is None else shift
    if not (np.isfinite(shift) and shift > 0):
        raise ValueError(f"`shift` must be a positive number; got {shift!r}.")
    ends = np.exp(-np.logaddexp(0.0, schedule.lam(np.array([t_start, t_end]))))
    first, last = shift_time(ends, 1 / shift)
    r = np.clip(shift_time(np.linspace(first, last, n + 1), shift), 0.0, 1.0)
    if shift_terminal is not None and r[-1] == 0:
        r[:-1] = stretch_to_terminal(r[:-1], shift_terminal)
    with np.errstate(divide="ignore"):
        times = np.array(schedule.t_of_lam(np.log1p(-r) - np.log(r)))
    times[0], times[-1] = t_start, t_end
    return times
