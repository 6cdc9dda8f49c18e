"""Time grids by name, as an array, or as a function: n + 1 strictly decreasing float64 times."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fewstep.checks import MOST_ROWS, unknown
from fewstep.samplers.grids.grid_entry import GRIDS, GridEntry, GridFn, check_grid
from fewstep.samplers.schedule.base import Array, NoiseSchedule

DISTINCT = 1e-9  # by which a time must be less than the one before, as a share of it

# Names that other programs use: (grid, options).
ALIASES: dict[str, tuple[str, dict[str, Any]]] = {
    "time_uniform": ("uniform", {}),
    "time_quadratic": ("quadratic", {}),
    "quad": ("quadratic", {}),
    "log_snr": ("logsnr", {}),
    "lu_lambdas": ("lu", {}),
    "align_your_steps": ("ays", {}),
    "ays_sd15": ("ays", {"table": "sd15"}),
    "ays_sdxl": ("ays", {"table": "sdxl"}),
    "ays_svd": ("ays", {"table": "svd"}),
    "beta57": ("beta", {"a": 0.5, "b": 0.7}),
    "poly_exponential": ("polyexponential", {}),
    "flow_shift": ("flow", {}),
    "ltxv": ("flow", {"mu": 2.05, "shift_terminal": 0.1}),
    "mochi": ("linear_quadratic", {}),
    "oss_wan": ("optimal_steps", {"table": "wan"}),
    "oss_flux": ("optimal_steps", {"table": "flux"}),
    "oss_chroma": ("optimal_steps", {"table": "chroma"}),
}


def find(name: str) -> tuple[GridEntry, dict[str, Any]]:
    """The entry of a grid name or folk name, with the options that the folk name implies."""
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    target, options = ALIASES.get(plain, (plain, {}))
    found = GRIDS.named(target)
    if found is None:
        raise unknown("grid", name, [*GRIDS, *ALIASES])
    return GRIDS[found], dict(options)


def make_grid(
    grid: str | GridFn | ArrayLike | None,
    schedule: NoiseSchedule,
    n: int,
    t_start: float | None = None,
    t_end: float | None = None,
    **options: Any,
) -> Array:
    """n + 1 strictly decreasing times of `schedule`, float64, in its own unit.

    Args:
        grid: a name in `GRIDS` (or a folk name), None for the schedule's default, a function
            `f(schedule, n, t_start, t_end, **options)`, or an array of times. An array of another length than n + 1 is
            resampled: its node index is stretched, lam interpolated between nodes.
        n: number of intervals, at least 1.
        t_start: first time, default `schedule.t_max`; "leading" begins below it. An array brings its own ends.
        t_end: last time, default `schedule.t_end`.
        **options: of the named grid, see `GRIDS[name].options`.

    Raises:
        ValueError: unknown name or option, n < 1, ends out of order or range, times that do not decrease.
    """
    n = step_count(n)
    if grid is None or isinstance(grid, str):
        entry, implied = find(schedule.default_grid if grid is None else grid)
        for option in options:
            if option not in entry.options:
                raise unknown(f"option of grid {entry.name!r}:", option, entry.options or ["(it has none)"])
        return _rule(entry.fn, schedule, n, t_start, t_end, {**implied, **options}, entry.name)
    if callable(grid):
        check_grid(grid, getattr(grid, "__name__", "grid"))
        return _rule(grid, schedule, n, t_start, t_end, options, getattr(grid, "__name__", "grid"))
    if options:
        raise ValueError(f"explicit times take no options; got {sorted(options)}.")
    times = check_times(grid, schedule)
    for name, want, have in (("t_start", t_start, times[0]), ("t_end", t_end, times[-1])):
        if want is not None and not np.isclose(want, have, rtol=1e-9, atol=1e-12):
            raise ValueError(
                f"`{name}`={want!r} contradicts the explicit times, which give {have:.6g}. Pass one of them."
            )
    return times if len(times) == n + 1 else _resample(times, schedule, n)


def step_count(n: Any) -> int:
    """A number of steps, as int; ValueError for anything else, and for more than a table may have."""
    try:
        count = operator.index(n)
    except TypeError:
        raise ValueError(f"the number of steps must be a whole number; got {n!r}.") from None
    if count < 1:
        raise ValueError(f"the number of steps must be at least 1; got {count}.")
    if count > MOST_ROWS:
        raise ValueError(f"the number of steps may be {MOST_ROWS:,} at most; got {count}: ask for fewer.")
    return count


def _rule(
    fn: GridFn,
    schedule: NoiseSchedule,
    n: int,
    t_start: float | None,
    t_end: float | None,
    options: dict[str, Any],
    name: str,
) -> Array:
    start = schedule.t_max if t_start is None else float(t_start)
    end = schedule.t_end if t_end is None else float(t_end)
    if not 0 <= end < start <= schedule.t_max * (1 + 1e-9):
        raise ValueError(
            f"sampling runs from a larger to a smaller time within [0, {schedule.t_max:.6g}]; "
            f"got t_start={start:.6g}, t_end={end:.6g}."
        )
    times = check_times(fn(schedule, n, start, end, **options), schedule, name)
    if len(times) != n + 1:
        raise ValueError(f"grid {name!r} returned {len(times)} times for {n} steps; expected {n + 1}.")
    return times


def check_times(times: ArrayLike, schedule: NoiseSchedule, name: str | None = None) -> Array:
    """Explicit times as a float64 array; ValueError unless 1-D, finite, strictly decreasing, within [0, t_max].

    Two times that differ by less than a billionth are one: what a row divides by their distance would be rounding.
    """
    what = "`times`" if name is None else f"the times of grid {name!r}"
    if hasattr(times, "tolist"):  # arrays, and tensors of any device
        times = times.tolist()
    try:
        times = np.array(times, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{what} must be numbers; got {times!r}.") from None
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"{what} must be a 1-D array of at least 2 values; got shape {times.shape}.")
    if not np.isfinite(times).all():
        i = int(np.argmin(np.isfinite(times)))
        raise ValueError(f"{what} must be finite; got times[{i}]={times[i]}.")
    rising = np.flatnonzero(np.diff(times) > -DISTINCT * np.abs(times[:-1]))
    if rising.size:
        i = int(rising[0])
        sign = ">" if times[i + 1] > times[i] * (1 + DISTINCT) else "="
        hint = "Did you pass ascending times?" if sign == ">" else "Ask for fewer steps, or another grid."
        raise ValueError(
            f"{what} must decrease; got times[{i + 1}]={times[i + 1]:.6g} {sign} times[{i}]={times[i]:.6g}. {hint}"
        )
    if times[-1] < 0 or times[0] > schedule.t_max * (1 + 1e-9):
        raise ValueError(
            f"{what} must lie within [0, {schedule.t_max:.6g}]; got {times[0]:.6g} to {times[-1]:.6g}. "
            "Did you pass training indices? `schedule.time_of_model` turns them into times."
        )
    return times


def _resample(times: Array, schedule: NoiseSchedule, n: int) -> Array:
    """Stretch the node index to n + 1 points: linear in lam between two nodes, in t where a node has no finite lam."""
    place = np.linspace(0, len(times) - 1, n + 1)
    left = np.minimum(place.astype(int), len(times) - 2)
    weight = place - left
    lam = schedule.lam(times)
    with np.errstate(invalid="ignore"):
        in_lam = (1 - weight) * lam[left] + weight * lam[left + 1]
    in_t = (1 - weight) * times[left] + weight * times[left + 1]
    finite = np.isfinite(lam[left]) & np.isfinite(lam[left + 1])
    result = np.where(finite, schedule.t_of_lam(np.where(finite, in_lam, 0.0)), in_t)
    result[0], result[-1] = times[0], times[-1]
    return check_times(result, schedule)
