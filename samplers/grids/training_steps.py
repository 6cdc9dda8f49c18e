"""Grids that user interfaces count in training steps 0..N-1, on every schedule: `normal`, `simple`, `beta` and their kin.

What a step is: of a table, its entry; of a flow, shift((i + 1) / N); of a schedule in sigma, one of N levels equidistant in
log sigma; of any other, the time (i + 1) / N. All end with one step to t_end where sigma(t_end) = 0, and have the n steps
that are asked for; where the interfaces drop repeated steps or take one more, that is said.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fewstep.samplers.grids.flow_shift import shift_time
from fewstep.samplers.grids.grid_entry import grid
from fewstep.samplers.grids.levels import beta_quantile
from fewstep.samplers.grids.times import whole_stride
from fewstep.samplers.schedule.base import Array, NoiseSchedule

_FLAWED = "Lin et al., Common Diffusion Noise Schedules and Sample Steps are Flawed, 2023, arXiv 2305.08891"
_BETA = "Lee et al., Beta Sampling is All You Need, 2024, arXiv 2407.12173"
_TURBO = "Sauer et al., Adversarial Diffusion Distillation, 2023, arXiv 2311.17042"


class Steps(NamedTuple):
    """The training steps of a schedule: index of a time, time of a (fractional) index, and the index of the lowest."""

    index_of: Callable[[float], float]
    time_of: Callable[[Array], Array]
    lowest: float
    whole: bool


def steps_of(schedule: NoiseSchedule) -> Steps:
    """The training steps of any schedule, numbered 0..N-1."""
    N = schedule.num_train_timesteps
    if schedule.default_grid == "trailing":
        return Steps(lambda t: float(schedule.model_time(t)), schedule.time_of_model, 0.0, True)
    if schedule.kind == "flow":
        shift = float(getattr(schedule, "shift", 1.0))
        # interfaces ask for the step of the smallest level, which is shifted already, and shift it again
        lowest = N * float(shift_time(1.0 / N, shift)) - 1
        return Steps(
            lambda t: N * float(shift_time(t, 1 / shift)) - 1,
            lambda i: shift_time((np.asarray(i) + 1) / N, shift),
            lowest,
            True,
        )
    if schedule.default_grid == "karras":
        low, high = (float(schedule.lam(t)) for t in (schedule.t_min, schedule.t_max))
        return Steps(
            lambda t: (N - 1) * (float(schedule.lam(t)) - low) / (high - low),
            lambda i: np.asarray(schedule.t_of_lam(low + np.asarray(i) / (N - 1) * (high - low))),
            0.0,
            False,
        )
    return Steps(lambda t: t / schedule.t_max * N - 1, lambda i: (np.asarray(i) + 1) / N * schedule.t_max, 0.0, False)


def _line(schedule: NoiseSchedule, ends: tuple[float, float], n: int, closed: bool) -> Array:
    """Indices equidistant from t_start to the lowest step; closed: that one is taken, else the step to t_end replaces it."""
    steps, (t_start, t_end) = steps_of(schedule), ends
    first, tail = steps.index_of(t_start), float(schedule.sigma(t_end)) == 0
    last = steps.lowest if tail else steps.index_of(t_end)
    if n == 1 or first <= last:
        return np.linspace(t_start, t_end, n + 1)
    own = closed and tail
    times = steps.time_of(np.linspace(first, last, n if own else n + 1))
    return _ended(np.append(times, t_end) if own else times, t_start, t_end)


def _ended(times: Array, t_start: float, t_end: float) -> Array:
    times[0], times[-1] = t_start, t_end
    return times


def _at(schedule: NoiseSchedule, index: Array, t_start: float, t_end: float) -> Array | None:
    """Times of indices, then t_end; None where they do not fall, or the last lies below t_end."""
    steps = steps_of(schedule)
    times = np.append(steps.time_of(index), t_end)
    times[0] = t_start if index[0] >= steps.index_of(t_start) - 1e-9 else min(times[0], t_start)
    fall = (np.diff(index) < 0).all() and (
        np.diff(times) < 0
    ).all()  # an index that is repeated has two times in rounding
    return times if fall and (np.diff(schedule.lam(times)) > 0).all() else None


@grid("normal", _FLAWED)
def normal(schedule: NoiseSchedule, n: int, t_start: float, t_end: float) -> Array:
    """Training steps equidistant from t_start to step 0, which is visited; then the step to clean data."""
    return _line(schedule, (t_start, t_end), n, closed=True)


@grid("sgm_uniform", _FLAWED)
def sgm_uniform(schedule: NoiseSchedule, n: int, t_start: float, t_end: float) -> Array:
    """The first n of n + 1 training steps equidistant from t_start to step 0, not rounded; then clean data."""
    return _line(schedule, (t_start, t_end), n, closed=False)


@grid("simple", _FLAWED)
def simple(schedule: NoiseSchedule, n: int, t_start: float, t_end: float) -> Array:
    """Every (N / n)-th training step counted down from t_start, truncated to whole ones; then clean data."""
    steps = steps_of(schedule)
    first, last = steps.index_of(t_start), steps.index_of(t_end) if schedule.sigma(t_end) > 0 else -1.0
    stride = (first - last) * np.arange(n) / n
    times = _at(schedule, first - np.floor(stride + 1e-9), t_start, t_end)
    times = _at(schedule, first - stride, t_start, t_end) if times is None else times
    return np.linspace(t_start, t_end, n + 1) if times is None else times


@grid("ddim_uniform", _FLAWED)
def ddim_uniform(schedule: NoiseSchedule, n: int, t_start: float, t_end: float) -> Array:
    """Steps 1, 1 + N // n, ... as `leading`: begins below t_start. Interfaces add a step where the stride does not divide."""
    steps = steps_of(schedule)
    count = steps.index_of(t_start) + 1
    if n == 1 or schedule.sigma(t_end) > 0 or count <= 1:
        return normal(schedule, n, t_start, t_end)
    index = np.arange(n)[::-1] * whole_stride(count, n)
    times = _at(schedule, index + min(1.0, count - 1 - index[0]), t_start, t_end)
    return normal(schedule, n, t_start, t_end) if times is None else times


@grid("beta", _BETA)
def beta(schedule: NoiseSchedule, n: int, t_start: float, t_end: float, *, a: float = 0.6, b: float = 0.6) -> Array:
    """Quantiles of Beta(a, b) in training steps, rounded: steps crowd at both ends; in time on a continuous VP.

    Interfaces drop a step that rounding repeats; here the quantiles are not rounded then.
    """
    steps = steps_of(schedule)
    first, tail = steps.index_of(t_start), float(schedule.sigma(t_end)) == 0
    u = beta_quantile(np.linspace(1.0, 0.0, n + 1), a, b)
    last = 0.0 if tail else steps.index_of(t_end)
    if tail and first > last and (steps.whole or schedule.default_grid == "karras"):
        index = last + (first - last) * u[:-1]
        for found in (np.round(index), index):
            if (times := _at(schedule, found, t_start, t_end)) is not None:
                return _ended(times, t_start, t_end)
    if schedule.default_grid == "karras":
        return _ended(steps.time_of(last + (first - last) * u), t_start, t_end)
    return _ended(t_end + (t_start - t_end) * u, t_start, t_end)


@grid("sd_turbo", _TURBO)
def sd_turbo(schedule: NoiseSchedule, n: int, t_start: float, t_end: float) -> Array:
    """The first n of ten training steps a tenth of the range apart, 999, 899, ..., then clean data; `simple` beyond ten."""
    steps = steps_of(schedule)
    index = steps.index_of(t_start) - np.arange(n) * schedule.num_train_timesteps / 10
    times = _at(schedule, index, t_start, t_end) if index[-1] >= 0 or n == 1 else None
    return simple(schedule, n, t_start, t_end) if times is None else times
