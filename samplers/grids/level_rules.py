"""Grids by formula in the level that user interfaces count in: sigma / alpha, or the time itself on flows.

As in `levels.py`, n levels run from that of t_start to the smallest positive one, and a step to t_end follows where
sigma(t_end) = 0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fewstep.samplers.grids.flow_shift import shift_time
from fewstep.samplers.grids.grid_entry import grid, sigmas_to_times
from fewstep.samplers.grids.levels import finite_ends
from fewstep.samplers.schedule.base import Array, NoiseSchedule

_KL = "Sabour et al., Align Your Steps, 2024, arXiv 2404.14507, theorem 3.1"
_LAPLACE = "Hang et al., Improved Noise Schedule for Diffusion Training, 2024, arXiv 2407.03297"
_VP = "Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022, arXiv 2206.00364"
_MOCHI = "Polyak et al., Movie Gen, 2024, arXiv 2410.13720: a linear part, then a quadratic one"
_TANGENT = "Two arctangents that meet at one half, as the RES4LYF nodes have it; no paper, after arXiv 2308.02157"


class Levels(NamedTuple):
    """Levels at t_start and at the smallest positive one, and whether a step to sigma = 0 follows."""

    high: float
    low: float
    tail: bool


def level_ends(schedule: NoiseSchedule, t_start: float, t_end: float) -> Levels:
    """The levels between which a grid runs: times on flows, whose smallest is the first training step."""
    if schedule.kind != "flow":
        first, last, tail = finite_ends(schedule, t_start, t_end, None)
        return Levels(float(np.exp(-first)), float(np.exp(-last)), tail)
    smallest = float(shift_time(1.0 / schedule.num_train_timesteps, float(getattr(schedule, "shift", 1.0))))
    return Levels(t_start, min(smallest, 0.5 * t_start) if t_end == 0 else t_end, t_end == 0)


def placed(schedule: NoiseSchedule, levels: Array, t_start: float, t_end: float) -> Array:
    """Times of levels, the last of which stands for t_end, with both ends put back."""
    times = sigmas_to_times(schedule, levels)
    times[0], times[-1] = t_start, t_end
    return times


def _ramp(ends: Levels, n: int) -> Array:
    """u from 0 to 1: of n levels where a step to sigma = 0 follows, else of n + 1."""
    return np.linspace(0.0, 1.0, n if ends.tail else n + 1)


def _with_tail(ends: Levels, levels: Array) -> Array:
    return np.append(levels, 0.0) if ends.tail else levels


@grid("kl_optimal", _KL)
def kl_optimal(schedule: NoiseSchedule, n: int, t_start: float, t_end: float) -> Array:
    """Equidistant in arctan of the level: the least bound of the KL divergence where the data are a narrow Gaussian."""
    ends = level_ends(schedule, t_start, t_end)
    angles = np.arctan(ends.high) + _ramp(ends, n) * (np.arctan(ends.low) - np.arctan(ends.high))
    return placed(schedule, _with_tail(ends, np.tan(angles)), t_start, t_end)


@grid("linear_quadratic", _MOCHI)
def linear_quadratic(
    schedule: NoiseSchedule,
    n: int,
    t_start: float,
    t_end: float,
    *,
    threshold: float = 0.025,
    linear_steps: int | None = None,
) -> Array:
    """The level falls by `threshold` of itself in linear_steps (n // 2) equal steps, then quadratically to the end.

    With r the part that is done: r_i = i threshold / L up to L, then the parabola of the same slope that ends in r_n = 1.
    """
    if n == 1:
        return np.array([t_start, t_end])
    L = n // 2 if linear_steps is None else linear_steps
    if not (0 < threshold < 1 and isinstance(L, (int, np.integer)) and 0 < L < n):
        raise ValueError(
            f"linear_quadratic takes 0 < threshold < 1 and linear_steps from 1 to n - 1 = {n - 1}; got {threshold!r}, {L!r}"
        )
    i, rest = np.arange(n + 1), n - L
    slope = threshold / L
    bend = (1 - threshold - slope * rest) / rest**2
    done = slope * i + bend * np.maximum(i - L, 0) ** 2
    if not (np.diff(done) > 0).all():
        raise ValueError(f"linear_quadratic: {L} linear steps of {threshold / L:g} overshoot; give a smaller threshold")
    ends = level_ends(schedule, t_start, t_end)
    low = 0.0 if ends.tail else ends.low
    return placed(schedule, low + (ends.high - low) * (1 - done), t_start, t_end)


@grid("laplace", _LAPLACE)
def laplace(
    schedule: NoiseSchedule, n: int, t_start: float, t_end: float, *, mu: float = 0.0, beta: float = 0.5
) -> Array:
    """Quantiles of a Laplace law of log level, mean mu and scale beta, cut off at the ends: levels crowd at e^mu.

    log level = mu - beta sign(1/2 - u) log(1 - 2 |1/2 - u| + 1e-5); where cutting off repeats a level, the quantiles are
    those of the law between the ends.
    """
    if not beta > 0:
        raise ValueError(f"`beta` of a laplace grid must be positive; got {beta!r}")
    ends = level_ends(schedule, t_start, t_end)
    u = _ramp(ends, n)
    logs = mu - beta * np.sign(0.5 - u) * np.log(1 - 2 * np.abs(0.5 - u) + 1e-5)
    levels = np.clip(np.exp(logs), ends.low, ends.high)
    if not (np.diff(levels) < 0).all():
        first, last = (_laplace_share(np.log(level), mu, beta) for level in (ends.high, ends.low))
        share = first[0] + u * (last[0] - first[0])
        rest = first[1] + u * (last[1] - first[1])  # 1 - share, which is tiny at small levels
        levels = np.exp(mu + beta * np.where(share < 0.5, -np.log(2 * share), np.log(2 * rest)))
    return placed(schedule, _with_tail(ends, levels), t_start, t_end)


def _laplace_share(log_level: float, mu: float, beta: float) -> tuple[float, float]:
    """(share of the law above a log level, share below it)."""
    tail = float(0.5 * np.exp(-abs(log_level - mu) / beta))
    return (tail, 1 - tail) if log_level > mu else (1 - tail, tail)


@grid("vp", _VP)
def vp(
    schedule: NoiseSchedule,
    n: int,
    t_start: float,
    t_end: float,
    *,
    beta_d: float = 19.9,
    beta_min: float = 0.1,
    eps_s: float = 1e-3,
) -> Array:
    """Levels of the linear VP process at times equidistant from 1 to eps_s, or as much of that range as there is.

    level^2 = exp(beta_d t^2 / 2 + beta_min t) - 1.
    """
    if not (beta_d > 0 and beta_min >= 0 and 0 < eps_s < 1):
        raise ValueError(
            f"a vp grid takes beta_d > 0, beta_min >= 0, 0 < eps_s < 1; got {beta_d!r}, {beta_min!r}, {eps_s!r}"
        )
    ends = level_ends(schedule, t_start, t_end)
    times = (np.sqrt(beta_min**2 + 2 * beta_d * np.log1p(np.array(ends[:2]) ** 2)) - beta_min) / beta_d
    first, last = min(1.0, times[0]), max(eps_s, times[1])
    first, last = (first, last) if last < first else (times[0], times[1])
    t = first + _ramp(ends, n) * (last - first)
    return placed(schedule, _with_tail(ends, np.sqrt(np.expm1(0.5 * beta_d * t**2 + beta_min * t))), t_start, t_end)


def _arctangent(n: int, slope: float, pivot: int, start: float, end: float) -> Array:
    """n values from start to end along -arctan(slope (x - pivot))."""
    f = -np.arctan(slope * (np.arange(n) - pivot))
    return end + (start - end) * (f - f[-1]) / (f[0] - f[-1])


@grid("bong_tangent", _TANGENT)
def bong_tangent(
    schedule: NoiseSchedule, n: int, t_start: float, t_end: float, *, pivot: float = 0.6, slope: float = 0.2
) -> Array:
    """Flow time sigma / (alpha + sigma) along two arctangents, 1 to 1/2 and 1/2 to 0, scaled to the ends: made for flows.

    N = n + 2; both bend about point pivot N with slope 40 slope / N.
    """
    if not (0.3 <= pivot <= 0.7 and slope > 0):
        raise ValueError(f"bong_tangent takes 0.3 <= pivot <= 0.7 and slope > 0; got {pivot!r}, {slope!r}")
    if n == 1:
        return np.array([t_start, t_end])
    N = n + 2
    middle, steep = int(N * pivot), slope * 40 / N
    upper = _arctangent(middle, steep, middle, 1.0, 0.5)[:-1] if middle > 1 else np.array([1.0])
    lower = _arctangent(N - middle, steep, 0, 0.5, 0.0)
    first, last = np.exp(-np.logaddexp(0.0, schedule.lam(np.array([t_start, t_end]))))
    r = np.clip(last + (first - last) * np.concatenate([upper, lower]), 0.0, 1.0)
    with np.errstate(divide="ignore"):
        times = np.array(schedule.t_of_lam(np.log1p(-r) - np.log(r)))
    times[0], times[-1] = t_start, t_end
    return times
