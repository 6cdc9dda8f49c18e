"""The coordinate in which grids are learned: lam, bent so that both ends of every schedule are finite.

With r = sigma / (alpha + sigma), which runs from 1 (noise) to 0 (data) on every schedule, lam = log((1 - r) / r) and

    c = log((1 - r + b) / (r + a)),        a = r(t_min) where sampling ends in sigma = 0, else 0,
                                           b = 1 - r(t_max) of the noisiest usable level where it starts at alpha = 0, else 0.

c increases from noise to data and is lam wherever neither end is near.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from fewstep.samplers.schedule.base import Array, NoiseSchedule

FAINTEST = 1e-3  # alpha / sigma that counts as pure noise, where a schedule starts at alpha = 0


@dataclass(frozen=True)
class Coordinate:
    """c(t) and its inverse between t_start and t_end of a schedule, float64, vectorised."""

    schedule: NoiseSchedule
    t_start: float
    t_end: float

    @cached_property
    def _bends(self) -> tuple[float, float]:
        """(a, b)."""
        a = self._r(self.schedule.t_min) if self.schedule.sigma(self.t_end) == 0 else 0.0
        b = FAINTEST if self.schedule.alpha(self.t_start) == 0 else 0.0
        return float(a), b

    def _r(self, t: ArrayLike) -> Array:
        """sigma / (alpha + sigma)."""
        return np.asarray(self.schedule.nodes(t).r)

    def c(self, t: ArrayLike) -> Array:
        """The coordinate of times."""
        a, b = self._bends
        at = self.schedule.nodes(t)
        return np.asarray(np.log((at.alpha / at.S + b) / (at.r + a)))

    def t(self, c: ArrayLike) -> Array:
        """The time at a coordinate, within the two ends."""
        a, b = self._bends
        ratio = np.exp(np.asarray(c, np.float64))
        r = np.clip((1 + b - a * ratio) / (1 + ratio), 0.0, 1.0)
        with np.errstate(divide="ignore"):
            lam = np.log1p(-r) - np.log(r)
        low, high = sorted((self.t_start, self.t_end))
        return np.clip(self.schedule.t_of_lam(lam), low, high)

    def dense(self, n: int) -> Array:
        """n + 1 decreasing times, half as dense as uniform in c and half as uniform in r: near every grid people use."""
        fine = self.t(np.linspace(self.c(self.t_start), self.c(self.t_end), 4097))
        fine[[0, -1]] = self.t_start, self.t_end
        r = self._r(fine)
        share = 0.5 * (r[0] - r) / (r[0] - r[-1]) + 0.5 * np.linspace(0, 1, len(fine))
        times = np.interp(np.linspace(0, 1, n + 1), share, fine)
        times[[0, -1]] = self.t_start, self.t_end
        return times
