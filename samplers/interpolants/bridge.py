"""Diffusion bridges: a process pinned at its data x0 and at a given image mu, with one network call a step.

A process x_t = a_t x0 + s_t eps that is to end in mu at time T is, with q = SNR_T / SNR_t and SNR = (a / s)^2,

    x_t = alpha x0 + beta mu + sigma z,    alpha = a_t (1 - q),    beta = (a_t / a_T) q,    sigma = s_t sqrt(1 - q),

so that y = x - beta mu is a plain process, whose every solver serves: the const register of a Tableau holds mu.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from fewstep.samplers.schedule.base import Array, NoiseSchedule, log, schedule_class
from fewstep.samplers.schedule.continuous import VPLinear

PROCESSES = ("brownian", "vp", "ve")
PINNED = 1e-12  # of t_max, nearer than which is there


@schedule_class
@dataclass(frozen=True, eq=False)
class Bridge(NoiseSchedule):
    """From mu at t_max to data at 0; mu is a degraded image, or whatever data were paired with.

    process     time      a     s              alpha        beta         sigma
    brownian    0..1      1     scale sqrt(t)  1 - t        t            scale sqrt(t (1 - t))
    ve          0..scale  1     t              1 - t^2/T^2  t^2/T^2      t sqrt(1 - t^2/T^2), T = scale
    vp          0..1      that of `vp_linear` with beta_min and beta_max

    Args:
        process: as above. scale: of the noise, or the largest sigma of "ve". beta_min, beta_max: of "vp".

    Networks predict x0 ("sample") and see t. `sample(denoiser, mu, ...)` starts in mu; the first row draws all of the noise,
    and what follows is any solver: `ddim` with eta is DBIM, `ddpm` the posterior sampling of I2SB. A network that predicts
    (x_t - x0) / s_t, as I2SB's, is Denoiser(lambda x, t: x - s(t) * net(x, t), bridge, "sample").

    References: Denoising Diffusion Bridge Models; Zhou, Lou, Khanna, Ermon; 2023; arXiv:2309.16948. Diffusion Bridge Implicit
    Models; Zheng, He, Chen, Bao, Zhu; 2024; arXiv:2405.15885. I2SB: Image-to-Image Schroedinger Bridge; Liu, Vahdat, Huang,
    Theodorou, Nie, Anandkumar; 2023; arXiv:2302.05872.
    """

    process: str = "brownian"
    scale: float = 1.0
    beta_min: float = 0.1
    beta_max: float = 20.0
    kind: ClassVar[str] = "bridge"
    default_grid: ClassVar[str] = "quadratic"

    def __post_init__(self) -> None:
        if self.process not in PROCESSES:
            raise ValueError(f"`process` must be one of {', '.join(map(repr, PROCESSES))}; got {self.process!r}.")
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"`scale` must be a positive number; got {self.scale!r}.")
        VPLinear(self.beta_min, self.beta_max)  # refuses what is none

    t_max = property(lambda self: self.scale if self.process == "ve" else 1.0)  # type: ignore[assignment]
    t_min = property(lambda self: 1e-3 * self.t_max)  # type: ignore[assignment]

    def _base(self, t: ArrayLike) -> tuple[Array, Array, Array, Array]:
        """(a_t / a_T, a_t, s_t, q) of the process without its end; q is SNR_T / SNR_t."""
        t = np.asarray(t, np.float64)[()]
        t = np.where(t > self.t_max * (1 - PINNED), self.t_max, t)[()]  # grids round
        one = np.ones_like(t)
        if self.process == "brownian":
            return one, one, self.scale * np.sqrt(t), t
        if self.process == "ve":
            return one, one, t, (t / self.scale) ** 2
        vp = VPLinear(self.beta_min, self.beta_max)
        ratio = vp.alpha(1.0) / vp.alpha(t)
        return (
            1 / ratio,
            vp.alpha(t),
            vp.sigma(t),
            np.where(t >= 1, 1.0, (ratio * vp.sigma(t) / vp.sigma(1.0)) ** 2)[()],
        )

    def alpha(self, t: ArrayLike) -> Array:
        _, a, _, q = self._base(t)
        return a * (1 - q)

    def beta(self, t: ArrayLike) -> Array:
        ratio, _, _, q = self._base(t)
        return ratio * q

    def sigma(self, t: ArrayLike) -> Array:
        _, _, s, q = self._base(t)
        return s * np.sqrt(1 - q)

    def lam(self, t: ArrayLike) -> Array:
        _, a, s, q = self._base(t)
        return log(a) - log(s) + 0.5 * log(1 - q)

    def t_of_lam(self, lam: ArrayLike) -> Array:
        # of the process itself: e^2lam + e^2lam_T = SNR_t
        _, a, s, _ = self._base(self.t_max)
        free = 0.5 * np.logaddexp(2 * np.asarray(lam, np.float64), 2 * np.log(a / s))
        if self.process == "vp":
            return VPLinear(self.beta_min, self.beta_max).t_of_lam(free)
        return np.exp(-free) if self.process == "ve" else (np.exp(-free) / self.scale) ** 2

    def initial_noise(self, *shape: Any, **how: Any) -> Any:
        """A bridge starts in an image."""
        raise ValueError("a bridge starts from the given image, not from noise: sample(denoiser, mu, ...)")
