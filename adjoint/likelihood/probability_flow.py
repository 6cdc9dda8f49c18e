"""The path of the probability flow from data to noise, and the law at its end.

    dy/dr = v = p x + q o,     x = s y,

with o the network's output at x and p, q those of its prediction type.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from fewstep.samplers.grids.making import check_times, make_grid
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.schedule.base import Array, NoiseSchedule
from fewstep.samplers.schedule.outputs import convert

STRUCTURE, NOISE = 1 / 16, 4.0  # of the default grid


class Point(NamedTuple):
    """The flow at one r: s, (p, q) with v = p x + q o, and the network's time."""

    s: float
    p: float
    q: float
    tau: float


class ProbabilityFlow:
    """The path of r between two times of a schedule, and the law at its end."""

    def __init__(self, denoiser: Denoiser, t_start: float | None, t_end: float | None, grid: Any, prior: Any):
        schedule = denoiser.schedule
        if grid is not None and not isinstance(grid, str) and not callable(grid):
            times = check_times(grid, schedule)
            if not times[-1] > 0:
                raise ValueError(
                    "explicit times must end above 0, where the network still knows the noise; got 0 at the end"
                )
            t_start, t_end = (have if t is None else t for t, have in ((t_start, times[0]), (t_end, times[-1])))
        high = schedule.t_max if t_start is None else float(t_start)
        low = schedule.t_min if t_end is None else float(t_end)
        self.to_clean = low == 0
        low = float(schedule.t_min) if self.to_clean else low
        if not 0 < low < high <= schedule.t_max * (1 + 1e-9):
            raise ValueError(
                f"expected 0 <= t_end < t_start <= {schedule.t_max:.6g}, and t_start above t_min = {schedule.t_min:.3g} "
                f"where t_end is 0; got t_start={high:.6g}, t_end={0.0 if self.to_clean else low:.6g}"
            )
        if prior is None and schedule.jump_scale is not None:
            raise ValueError(f"{type(schedule).__name__} does not start from a Gaussian: pass its density as `prior`")
        convert(denoiser.prediction, ["flow"] * 2, schedule.nodes(np.array([high, low])))
        self.denoiser, self.grid, self.prior, self.times = denoiser, grid, prior, (high, low)
        self.std = float(schedule.sigma(high)) if schedule.kind == "ve" else 1.0

    def nodes(self, n: int | None) -> Array:
        """n + 1 rising values of r; the two ends alone for None."""
        times = np.array(self.times)
        if n is not None:
            times = make_grid(stretched if self.grid is None else self.grid, self.denoiser.schedule, n, *self.times)
        return np.asarray(self.denoiser.schedule.nodes(times[::-1]).r)

    @property
    def ends(self) -> tuple[float, float, float]:
        """t_start, t_end, and sigma / alpha of the noise that the density is told with."""
        high, low = self.times
        return (
            high,
            0.0 if self.to_clean else low,
            0.0 if self.to_clean else float(self.denoiser.schedule.node(low).rho),
        )

    def at(self, r: float) -> Point:
        """What the slope needs to know at r."""
        schedule = self.denoiser.schedule
        lam = math.log((1 - r) / r) if r < 1 else -math.inf
        nodes = schedule.nodes(np.clip(np.atleast_1d(schedule.t_of_lam(lam)), *self.times[::-1]))
        (p,), (q,) = convert(self.denoiser.prediction, ["flow"], nodes)
        return Point(float(nodes.S[0]), float(p), float(q), float(schedule.model_time(nodes.t[0])))

    def log_prior(self, x: Tensor) -> Tensor:
        """Log density of x at the noise end, (B,)."""
        if self.prior is None:
            d = x[0].numel()
            return -0.5 * (x / self.std).square().flatten(1).sum(1) - d * math.log(self.std * math.sqrt(2 * math.pi))
        value = self.prior(x)
        if not isinstance(value, Tensor) or value.shape != x.shape[:1]:
            what = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"`prior` must map x_T to one log density a sample, ({len(x)},); it returned {what}")
        return value.to(x)


def stretched(schedule: NoiseSchedule, n: int, t_start: float, t_end: float) -> Array:
    """Equidistant in log((r + 1/16) / (4 - r)): of fine grids the most accurate for data with structure of 0.02 to 0.4."""
    first, last = schedule.nodes(np.array([t_start, t_end])).r
    a, b = (math.log((r + STRUCTURE) / (NOISE - r)) for r in (first, last))
    e = np.exp(np.linspace(a, b, n + 1))
    r = np.clip((NOISE * e - STRUCTURE) / (1 + e), last, first)
    with np.errstate(divide="ignore"):
        times = np.asarray(schedule.t_of_lam(np.log1p(-r) - np.log(r)))
    times[0], times[-1] = t_start, t_end
    return times
