"""Grids by rule in time: equidistant, quadratic, and the whole training steps that schedulers take.

Each places n + 1 strictly decreasing times from t_start to t_end.
"""

from __future__ import annotations

import numpy as np

from fewstep.samplers.grids.grid_entry import grid
from fewstep.samplers.schedule.base import Array, NoiseSchedule

_DPM = "Lu et al., DPM-Solver, 2022, arXiv 2206.00927"
_FLAWED = "Lin et al., Common Diffusion Noise Schedules and Sample Steps are Flawed, 2023, arXiv 2305.08891"


@grid("uniform", _DPM)
def uniform(schedule: NoiseSchedule, n: int, t_start: float, t_end: float) -> Array:
    """Equidistant in time."""
    return np.linspace(t_start, t_end, n + 1)


@grid("quadratic", "Song et al., Denoising Diffusion Implicit Models, 2021, arXiv 2010.02502")
def quadratic(schedule: NoiseSchedule, n: int, t_start: float, t_end: float, *, power: float = 2.0) -> Array:
    """Equidistant in t^(1/power): finer towards the data."""
    times = np.linspace(t_start ** (1 / power), t_end ** (1 / power), n + 1) ** power
    times[0], times[-1] = t_start, t_end
    return times


def _on_steps(schedule: NoiseSchedule, index: Array, t_end: float) -> Array:
    """Training indices rounded to whole steps where that keeps them apart, then t_end; strictly above t_end."""
    whole = np.round(index)
    floor = float(schedule.model_time(t_end))
    if (np.diff(whole) < 0).all() and whole[-1] > floor:
        index = whole
    return np.append(schedule.time_of_model(index), t_end)


def whole_stride(steps: float, n: int) -> float:
    """steps / n rounded down to whole training steps, unless that would lose more than a tenth of the range."""
    return steps // n if steps // n >= 0.9 * steps / n else steps / n


def _has_steps(schedule: NoiseSchedule) -> bool:
    return schedule.default_grid == "trailing"


@grid("trailing", _FLAWED)
def trailing(schedule: NoiseSchedule, n: int, t_start: float, t_end: float) -> Array:
    """Training steps counted back from t_start by equal strides, rounded; `uniform` on a continuous schedule."""
    times: Array = np.linspace(t_start, t_end, n + 1)
    if not _has_steps(schedule):
        return times
    times = _on_steps(schedule, schedule.model_time(times[:-1]), t_end)
    times[0] = t_start
    return times


@grid("linspace", _FLAWED)
def linspace(schedule: NoiseSchedule, n: int, t_start: float, t_end: float) -> Array:
    """Training steps equidistant between t_start and step 0 (which is left out); `uniform` on a continuous schedule."""
    first, last = float(schedule.model_time(t_start)), max(float(schedule.model_time(t_end)), 0.0)
    if not _has_steps(schedule) or first <= last:
        return np.linspace(t_start, t_end, n + 1)
    index = np.asarray(np.linspace(first, last, n + 1)[:-1], np.float64)
    times = _on_steps(schedule, index, t_end)
    times[0] = t_start
    return times


@grid("leading", _FLAWED)
def leading(schedule: NoiseSchedule, n: int, t_start: float, t_end: float, *, steps_offset: int = 1) -> Array:
    """Training steps that are multiples of a whole stride, plus an offset; `uniform` on a continuous schedule.

    The first time lies one stride below t_start: the model never sees pure noise (the flaw that the reference names).
    """
    if not _has_steps(schedule):
        return np.linspace(t_start, t_end, n + 1)
    if n == 1 or t_end > 0:
        return linspace(schedule, n, t_start, t_end)
    steps = float(schedule.model_time(t_start)) + 1
    index = np.arange(n)[::-1] * whole_stride(steps, n)
    index += min(float(steps_offset), steps - 1 - index[0])
    times = _on_steps(schedule, index, t_end)
    times[0] = min(times[0], t_start)
    return times
