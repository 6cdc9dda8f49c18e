"""Discrete-time VP schedules: a table of alpha^2 at the training steps, and the smooth curve through it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewstep.checks import unknown
from fewstep.lazy import optional
from fewstep.samplers.schedule.base import VP, Array, log, log_alpha_of_lam, schedule_class

INTERPOLATIONS = ("cubic", "log_sigma")


def _monotone(curve: Any) -> np.ndarray:
    """Which pieces of a piecewise cubic increase: the slope is a parabola, so look at both ends and at its vertex."""
    a, b, slope = curve.c[0], curve.c[1], curve.c[2]
    width = np.diff(curve.x)
    with np.errstate(divide="ignore", invalid="ignore"):
        vertex = np.clip(np.nan_to_num(-b / (3 * a)), 0, width)
    return np.min([slope + 2 * b * x + 3 * a * x**2 for x in (0.0 * width, vertex, width)], axis=0) >= 0


@schedule_class
@dataclass(frozen=True, eq=False, repr=False)
class Discrete(VP):
    """Training step n (0-based, of N) sits at t = (n + 1) / N; t = 0 is clean data; networks see t N - 1.

    "cubic" runs a C2 spline through c = 1 - alpha (PCHIP where a spline would not be monotone), so that solvers keep
    order 3; "log_sigma" is piecewise linear in log(sigma / alpha), the convention of sigma-space samplers.
    """

    table: bytes = field(repr=False)  # alpha^2, float64: bytes make the schedule hashable
    interpolation: str = "cubic"
    default_grid: ClassVar[str] = "trailing"

    @classmethod
    def of(cls, alphas_cumprod: ArrayLike, interpolation: str = "cubic") -> Discrete:
        """The schedule of a table of alpha^2, 1-D and decreasing in [0, 1); ValueError for anything else."""
        table = np.array(alphas_cumprod, np.float64)
        if table.ndim != 1 or len(table) < 2:
            raise ValueError(f"`alphas_cumprod` must be a 1-D table of at least 2 values; got shape {table.shape}.")
        if not np.isfinite(table).all() or table[0] >= 1 or table[-1] < 0:
            raise ValueError("`alphas_cumprod` must lie in [0, 1): pass cumprod(1 - betas), not betas or alphas.")
        rising = np.flatnonzero(np.diff(table) >= 0)
        if rising.size:
            i = int(rising[0])
            raise ValueError(
                f"`alphas_cumprod` must decrease; got [{i + 1}]={table[i + 1]:.6g} >= [{i}]={table[i]:.6g}. "
                "Is the table reversed, or did you pass betas?"
            )
        if interpolation not in INTERPOLATIONS:
            raise unknown("interpolation", interpolation, INTERPOLATIONS)
        return cls(table.tobytes(), interpolation)

    def __repr__(self) -> str:
        lo, hi = float(self.lam(self.t_max)), float(self.lam(self.t_min))
        return f"Discrete({self.num_train_timesteps} steps, lam {lo:.3g}..{hi:.3g}, {self.interpolation})"

    @property
    def alphas_cumprod(self) -> Array:
        """alpha^2 at training steps 0..N-1."""
        return np.frombuffer(self.table, np.float64)

    @property
    def num_train_timesteps(self) -> int:  # type: ignore[override]
        return len(self.table) // 8

    @property
    def t_min(self) -> float:  # type: ignore[override]
        return 1.0 / self.num_train_timesteps

    def model_time(self, t: ArrayLike) -> Array:
        """The (fractional) training step t N - 1; -1 at clean data."""
        return np.asarray(t, np.float64)[()] * self.num_train_timesteps - 1

    def time_of_model(self, tau: ArrayLike) -> Array:
        """(tau + 1) / N."""
        return (np.asarray(tau, np.float64)[()] + 1) / self.num_train_timesteps

    @cached_property
    def _c_nodes(self) -> Array:
        """c = 1 - alpha at t = 0, 1/N, ..., 1, without cancellation for the first nodes."""
        return np.append(0.0, -np.expm1(0.5 * log(self.alphas_cumprod)))

    @cached_property
    def _lam_nodes(self) -> Array:
        c = self._c_nodes
        return log(1 - c) - 0.5 * log(c * (2 - c))

    @cached_property
    def _curve(self) -> Any:
        """c(t): a monotone piecewise cubic, C2 wherever a plain spline is monotone, else with PCHIP slopes (C1)."""
        with optional("a table of betas"):
            from scipy.interpolate import CubicHermiteSpline, CubicSpline, PchipInterpolator

        t = np.arange(self.num_train_timesteps + 1) / self.num_train_timesteps
        spline, safe = CubicSpline(t, self._c_nodes), PchipInterpolator(t, self._c_nodes).derivative()(t)
        slopes, replaced = spline.derivative()(t), np.zeros(len(t), bool)
        while True:
            bad = np.logical_not(_monotone(spline))
            bad &= np.logical_not(replaced[1:] & replaced[:-1])  # two PCHIP slopes are monotone up to rounding
            if not bad.any():
                break
            replaced |= np.append(bad, False) | np.append(False, bad)
            spline = CubicHermiteSpline(t, self._c_nodes, np.where(replaced, safe, slopes))
        return spline

    def _c(self, t: ArrayLike) -> Array:
        t = np.asarray(t, np.float64)
        if self.interpolation == "cubic":
            c = self._curve(t)
        else:
            c = self._c_log_sigma(t * self.num_train_timesteps)
        return np.where(t >= 1, self._c_nodes[-1], np.clip(c, 0.0, 1.0))[()]

    def _c_log_sigma(self, node: Array) -> Array:
        """Linear in lam between nodes; in the first piece, and in a last one that reaches alpha = 0, linear in c."""
        index = np.arange(self.num_train_timesteps + 1)
        lam = np.nan_to_num(self._lam_nodes, posinf=0.0, neginf=0.0)
        smooth = -np.expm1(log_alpha_of_lam(np.interp(node, index, lam)))
        linear = np.interp(node, index, self._c_nodes)
        last = np.isneginf(self._lam_nodes[-1]) & (node > index[-2])
        return np.where((node < 1) | last, linear, smooth)

    def log_alpha(self, t: ArrayLike) -> Array:
        with np.errstate(divide="ignore"):
            return np.log1p(-self._c(t))

    def alpha(self, t: ArrayLike) -> Array:
        """1 - c(t)."""
        return 1.0 - self._c(t)

    def sigma(self, t: ArrayLike) -> Array:
        """sqrt(c (2 - c))."""
        c = self._c(t)
        return np.sqrt(c * (2 - c))

    def lam(self, t: ArrayLike) -> Array:
        """log(1 - c) - log(c (2 - c)) / 2."""
        c = self._c(t)
        return log(1 - c) - 0.5 * log(c * (2 - c))

    def t_of_lam(self, lam: ArrayLike) -> Array:
        """Inverse by bracketed Newton on the same curve; beyond the table's noisiest entry it returns t_max."""
        lam = np.asarray(lam, np.float64)
        flat = np.atleast_1d(lam).ravel()
        n = self.num_train_timesteps
        piece = np.clip(np.searchsorted(-self._lam_nodes, -flat, side="right") - 1, 0, n - 1)
        target = -np.expm1(log_alpha_of_lam(flat))
        if self.interpolation == "cubic":
            t = self._invert(target, piece)
        else:
            low, high = self._lam_nodes[piece], self._lam_nodes[piece + 1]
            c0, c1 = self._c_nodes[piece], self._c_nodes[piece + 1]
            with np.errstate(invalid="ignore"):
                t = np.where(np.isfinite(low - high), (low - flat) / (low - high), (target - c0) / (c1 - c0))
            t = (piece + np.clip(t, 0.0, 1.0)) / n
        t = np.where(target >= self._c_nodes[-1], 1.0, np.where(np.isnan(flat), np.nan, t))
        return t.reshape(lam.shape)[()]

    def _invert(self, target: Array, piece: NDArray[np.intp]) -> Array:
        """Solve c(t) = target, c increasing, on the cubic of its piece: Newton, bisection where it leaves the bracket."""
        a, b, slope, c0 = self._curve.c[:, piece]  # c(t) of a piece, in powers of d = t - start
        start, width = piece / self.num_train_timesteps, 1.0 / self.num_train_timesteps
        lo, hi = np.zeros_like(start), np.full_like(start, width)
        d = np.clip((target - c0) / (self._c_nodes[piece + 1] - c0), 0.0, 1.0) * width
        with np.errstate(divide="ignore", invalid="ignore"):
            for _ in range(60):
                gap = ((a * d + b) * d + slope) * d + c0 - target
                lo, hi = np.where(gap < 0, d, lo), np.where(gap < 0, hi, d)
                new = d - gap / ((3 * a * d + 2 * b) * d + slope)
                new = np.where((new >= lo) & (new <= hi), new, 0.5 * (lo + hi))
                moved, d = np.abs(new - d), new
                if (moved <= 4e-16 * (start + d)).all():
                    break
        t = start + d
        return np.where(target <= 0, 0.0, t)
