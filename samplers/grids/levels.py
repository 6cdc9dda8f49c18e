"""Grids by rule in noise level: ramps in lam = log(alpha / sigma), and published levels.

A grid runs down to the smallest positive level (`sigma_min`, default sigma / alpha at `schedule.t_min`) and ends with one
step to t_end where sigma(t_end) = 0; where alpha(t_start) = 0 the level of the last step before it stands in for the
infinite one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fewstep.checks import unknown
from fewstep.lazy import optional
from fewstep.samplers.grids.grid_entry import grid, sigmas_to_times
from fewstep.samplers.schedule.base import Array, NoiseSchedule

Ramp = Callable[[Array, float, float], Array]  # (u in [0, 1], lam at u = 0, lam at u = 1) -> lam
_DPM = "Lu et al., DPM-Solver, 2022, arXiv 2206.00927"
_EDM = "Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022, arXiv 2206.00364"
_BETA = "Lee et al., Beta Sampling is All You Need, 2024, arXiv 2407.12173"
_AYS = "Sabour et al., Align Your Steps, 2024, arXiv 2404.14507"


def linear_ramp(u: Array, first: float, last: float) -> Array:
    """lam itself equidistant."""
    return first + u * (last - first)


def power_ramp(rho: float) -> Ramp:
    """lam of (sigma / alpha)^(1/rho) equidistant; written relative to the first level, so nothing overflows."""

    def lam_at(u: Array, first: float, last: float) -> Array:
        return first - rho * np.log1p(u * np.expm1((first - last) / rho))

    return lam_at


def beta_quantile(u: Array, a: float, b: float) -> Array:
    with optional("the beta grid"):
        from scipy.special import betaincinv

    if not (a > 0 and b > 0):
        raise ValueError(f"`a` and `b` of a beta grid must be positive; got a={a!r}, b={b!r}.")
    return betaincinv(a, b, u)


def beta_ramp(a: float = 0.6, b: float = 0.6) -> Ramp:
    """lam of sigma / alpha at the quantiles of Beta(a, b) between the two ends."""

    def lam_at(u: Array, first: float, last: float) -> Array:
        low, high = np.exp(-last), np.exp(-first)
        return -np.log(low + beta_quantile(1 - u, a, b) * (high - low))

    return lam_at


def finite_ends(
    schedule: NoiseSchedule, t_start: float, t_end: float, sigma_min: float | None
) -> tuple[float, float, bool]:
    """(lam of the first level, lam of the last positive level, does a step to sigma = 0 follow?)."""
    first, last, tail = t_start, t_end, float(schedule.sigma(t_end)) == 0
    if float(schedule.alpha(t_start)) == 0:
        first = t_start - 1.0 / schedule.num_train_timesteps
    if tail:
        last = schedule.t_min if sigma_min is None else float(sigmas_to_times(schedule, [sigma_min])[0])
        last = min(last, 0.5 * (first + t_end))
    return float(schedule.lam(first)), float(schedule.lam(last)), tail


def _by_level(
    schedule: NoiseSchedule,
    n: int,
    t_start: float,
    t_end: float,
    lam_at: Ramp,
    sigma_min: float | None = None,
) -> Array:
    """Times whose lam is `lam_at(u, lam_first, lam_last)` for equidistant u in [0, 1], with the given ends put back."""
    lam_first, lam_last, tail = finite_ends(schedule, t_start, t_end, sigma_min)
    u = np.linspace(0.0, 1.0, n) if tail else np.linspace(0.0, 1.0, n + 1)
    times = schedule.t_of_lam(lam_at(u, lam_first, lam_last))
    times = np.append(times, t_end) if tail else times
    times[0], times[-1] = t_start, t_end
    return times


@grid("logsnr", _DPM)
@grid("exponential", _EDM)
@grid("lu", _DPM)
def logsnr(schedule: NoiseSchedule, n: int, t_start: float, t_end: float, *, sigma_min: float | None = None) -> Array:
    """Equidistant in lam = log(alpha / sigma), that is geometric in sigma / alpha."""
    return _by_level(schedule, n, t_start, t_end, linear_ramp, sigma_min)


@grid("polyexponential", _EDM)
def polyexponential(
    schedule: NoiseSchedule, n: int, t_start: float, t_end: float, *, power: float = 1.0, sigma_min: float | None = None
) -> Array:
    """log(sigma / alpha) along a ramp (1 - u)^power; power 1 is `exponential`."""
    return _by_level(schedule, n, t_start, t_end, lambda u, a, b: b + (1 - u) ** power * (a - b), sigma_min)


@grid("karras", _EDM)
def karras(
    schedule: NoiseSchedule, n: int, t_start: float, t_end: float, *, rho: float = 7.0, sigma_min: float | None = None
) -> Array:
    """Equidistant in (sigma / alpha)^(1/rho); rho = 1 is linear in sigma, large rho tends to `exponential`."""
    if not rho > 0:
        raise ValueError(f"`rho` must be positive; got {rho!r}. The usual value is 7.")
    return _by_level(schedule, n, t_start, t_end, power_ramp(rho), sigma_min)


@grid("edm", _EDM)
def edm(
    schedule: NoiseSchedule,
    n: int,
    t_start: float,
    t_end: float,
    *,
    rho: float = 7.0,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
) -> Array:
    """`karras` with the levels sigma / alpha = 80..0.002, or as much of that range as the schedule has."""
    lam_first, lam_last, tail = finite_ends(schedule, t_start, t_end, None)
    low, high = max(sigma_min, np.exp(-lam_last)), min(sigma_max, np.exp(-lam_first))
    if not low < high:
        return karras(schedule, n, t_start, t_end, rho=rho)
    return _by_level(schedule, n, t_start, t_end, lambda u, *_: power_ramp(rho)(u, -np.log(high), -np.log(low)))


@grid("beta_sigma", _BETA)
def beta_sigma(
    schedule: NoiseSchedule,
    n: int,
    t_start: float,
    t_end: float,
    *,
    a: float = 0.6,
    b: float = 0.6,
    sigma_min: float | None = None,
) -> Array:
    """Quantiles of Beta(a, b) in sigma / alpha (the reading that diffusers follows)."""
    return _by_level(schedule, n, t_start, t_end, beta_ramp(a, b), sigma_min)


# sigma / alpha of the optimised ten-step schedules; the eleventh level is the smallest one of the model.
_AYS_TABLES = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.02917),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.02917),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}


@grid("ays", _AYS)
def ays(schedule: NoiseSchedule, n: int, t_start: float, t_end: float, *, table: str | None = None) -> Array:
    """Optimised ten-step levels ("sd15", "sdxl", "svd"), log sigma interpolated to any n and stretched to the ends.

    Without `table`, the one whose lam range is nearest to the schedule's.
    """
    if table is not None and table not in _AYS_TABLES:
        raise unknown("AYS table", table, _AYS_TABLES)
    lam_first, lam_last, _ = finite_ends(schedule, t_start, t_end, None)

    def distance(name: str) -> float:
        sigmas = _AYS_TABLES[name]
        return abs(np.log(sigmas[0]) + lam_first) + abs(np.log(sigmas[-1]) + lam_last)

    return by_table(schedule, _AYS_TABLES[table or min(_AYS_TABLES, key=distance)], n, t_start, t_end)


def by_table(schedule: NoiseSchedule, levels: Sequence[float], n: int, t_start: float, t_end: float) -> Array:
    """Published levels sigma / alpha: log sigma interpolated over their index to any n, stretched to the schedule's ends."""
    lam_first, lam_last, _ = finite_ends(schedule, t_start, t_end, None)
    lam = -np.log(levels)
    index = np.arange(len(lam))
    place = np.interp(np.linspace(0, index[-1], n + 1), index, (lam - lam[0]) / (lam[-1] - lam[0]))
    times = schedule.t_of_lam(lam_first + place * (lam_last - lam_first))
    times[0], times[-1] = t_start, t_end
    return times
