"""Mean-reverting diffusion: dx = theta_t (mu - x) dt + g dw, g^2 = 2 lam_inf^2 theta_t, at rest in N(mu, lam_inf^2).

With th(t) = int_0^t theta, alpha = e^(-th) and sigma = lam_inf sqrt(1 - e^(-2 th)),

    x_t = mu + alpha (x_0 - mu) + sigma eps,

so that y = x - mu is a plain process, whose every solver serves: the const register of a Tableau holds mu.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from fewstep.samplers.schedule.base import Array, NoiseSchedule, log, schedule_class

if TYPE_CHECKING:
    import torch

THETAS = ("cosine", "linear", "constant")


@schedule_class
@dataclass(frozen=True, eq=False)
class MeanReverting(NoiseSchedule):
    """th(t) = -log(delta) F(t) over time 0..1 (0 is data), so alpha(1) = delta; sampling ends at sigma = 0.

    theta       theta_t proportional to     F(t)
    cosine      sin^2(pi t / 2)             t - sin(pi t) / pi
    linear      t                           t^2
    constant    1                           t

    Args:
        lam_inf: deviation of the stationary law, in the data's unit: 10/255 to 70/255 for images in 0..1.
        theta: "cosine", "linear" or "constant". delta: alpha(1), in (0, 1).

    The start is mu plus noise (`start`), and `sample` takes mu= beside it. Predictions are of x0 itself and of eps; a
    network sees t. Half log-SNR: lam = -log(lam_inf) - log(e^(2 th) - 1) / 2.

    Reference: Image Restoration with Mean-Reverting Stochastic Differential Equations; Luo, Gustafsson, Zhao, Sjoelund,
    Schoen; 2023; arXiv:2301.11699.
    """

    lam_inf: float = 10 / 255
    theta: str = "cosine"
    delta: float = 0.005
    kind: ClassVar[str] = "mean-reverting"
    default_grid: ClassVar[str] = "uniform"
    t_min: ClassVar[float] = 0.01  # type: ignore[misc]

    def __post_init__(self) -> None:
        if not (np.isfinite(self.lam_inf) and self.lam_inf > 0):
            raise ValueError(f"`lam_inf` must be a positive number; got {self.lam_inf!r}.")
        if self.theta not in THETAS:
            raise ValueError(f"`theta` must be one of {', '.join(map(repr, THETAS))}; got {self.theta!r}.")
        if not 0 < self.delta < 1:
            raise ValueError(f"`delta`, the alpha at t = 1, must be in (0, 1); got {self.delta!r}.")

    def _th(self, t: ArrayLike) -> Array:
        t = np.asarray(t, np.float64)[()]
        share = {"constant": t, "linear": t**2}[self.theta] if self.theta != "cosine" else kepler(np.pi * t) / np.pi
        return -np.log(self.delta) * share

    def alpha(self, t: ArrayLike) -> Array:
        return np.exp(-self._th(t))

    def sigma(self, t: ArrayLike) -> Array:
        return self.lam_inf * np.sqrt(-np.expm1(-2 * self._th(t)))

    def beta(self, t: ArrayLike) -> Array:
        return -np.expm1(-self._th(t))

    def lam(self, t: ArrayLike) -> Array:
        return -np.log(self.lam_inf) - 0.5 * log(np.expm1(2 * self._th(t)))

    def t_of_lam(self, lam: ArrayLike) -> Array:
        th = 0.5 * np.logaddexp(0.0, -2 * (np.asarray(lam, np.float64) + np.log(self.lam_inf)))
        share = th / -np.log(self.delta)
        if self.theta == "cosine":
            return inverse_kepler(np.pi * share) / np.pi
        return np.sqrt(share) if self.theta == "linear" else share

    def initial_noise(
        self,
        shape: Sequence[int],
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """lam_inf z of shape (B, ...), what `start` adds to mu. `generator` may be a list, one a sample."""
        return self.lam_inf * super().initial_noise(shape, generator, device, dtype)

    def start(self, mu: torch.Tensor, generator: Any = None) -> torch.Tensor:
        """x_T = mu + lam_inf z in mu's shape (B, ...), dtype and place; `sample(denoiser, x_T, ..., mu=mu)` goes on."""
        return mu + self.initial_noise(mu.shape, generator, mu.device, mu.dtype)


def kepler(E: ArrayLike) -> Array:
    """E - sin E for E >= 0; below 1, where the difference would cancel, E^3/6 (1 - E^2/(4 5) (1 - E^2/(6 7) (...)))."""
    E = np.asarray(E, np.float64)
    series, square = np.ones_like(E), np.minimum(E, 1.0) ** 2
    for k in range(18, 2, -2):
        series = 1 - square / (k * (k + 1)) * series
    return np.where(E < 1, E**3 / 6 * series, E - np.sin(E))[()]


def inverse_kepler(M: ArrayLike) -> Array:
    """E in [0, pi] with E - sin E = M, pi for larger M: Newton's method on a convex function, which goes down to its root."""
    M = np.minimum(np.asarray(M, np.float64), np.pi)
    E = np.cbrt(6 * M)  # at most the root: the first step overshoots it
    for _ in range(8):
        slope = 2 * np.sin(E / 2) ** 2
        E = np.clip(E - (kepler(E) - M) / np.where(slope > 0, slope, 1.0), 0.0, np.pi)
    return E[()]
