"""Continuous-time schedules in closed form: VP linear, VP cosine, VE, EDM, rectified flow and angles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike

from fewstep.samplers.schedule.base import VP, Array, NoiseSchedule, log, log_alpha_of_lam, schedule_class


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"`{name}` must be a positive number; got {value!r}.")


@schedule_class
@dataclass(frozen=True, eq=False)
class VPLinear(VP):
    """log alpha = -(beta_max - beta_min) t^2 / 4 - beta_min t / 2 (Song et al., arXiv 2011.13456)."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    default_grid: ClassVar[str] = "logsnr"
    t_min: ClassVar[float] = 1e-3  # type: ignore[misc]
    t_end: ClassVar[float] = 1e-3  # type: ignore[misc]

    def __post_init__(self) -> None:
        _positive(beta_min=self.beta_min, beta_max=self.beta_max)
        if self.beta_max <= self.beta_min:
            raise ValueError(f"`beta_max` must exceed `beta_min`; got {self.beta_max} <= {self.beta_min}.")

    def log_alpha(self, t: ArrayLike) -> Array:
        t = np.asarray(t, np.float64)[()]
        return -0.25 * (self.beta_max - self.beta_min) * t**2 - 0.5 * self.beta_min * t

    def t_of_lam(self, lam: ArrayLike) -> Array:
        # The positive root of (beta_max - beta_min) t^2 / 2 + beta_min t = L, written without cancellation.
        L = -2 * log_alpha_of_lam(lam)
        root = self.beta_min + np.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * L)
        return np.divide(2 * L, root, out=np.full_like(L, np.inf), where=np.isfinite(L))[()]


@schedule_class
@dataclass(frozen=True, eq=False)
class VPCosine(VP):
    """alpha = cos(a) / cos(b), a = (t + s) / (1 + s) pi / 2, b = a(0) (Nichol and Dhariwal, arXiv 2102.09672)."""

    s: float = 0.008
    default_grid: ClassVar[str] = "logsnr"
    t_max: ClassVar[float] = 0.9946  # type: ignore[misc]
    t_min: ClassVar[float] = 1e-3  # type: ignore[misc]
    t_end: ClassVar[float] = 1e-3  # type: ignore[misc]

    def __post_init__(self) -> None:
        _positive(s=self.s)

    def _angles(self, t: ArrayLike) -> tuple[Array, float, Array]:
        scale = 0.5 * np.pi / (1 + self.s)
        t = np.asarray(t, np.float64)[()]
        return (t + self.s) * scale, self.s * scale, t * scale

    def log_alpha(self, t: ArrayLike) -> Array:
        return log(self.alpha(t))

    def alpha(self, t: ArrayLike) -> Array:
        a, b, _ = self._angles(t)
        return np.cos(a) / np.cos(b)

    def sigma(self, t: ArrayLike) -> Array:
        a, b, a_minus_b = self._angles(t)
        return np.sqrt(np.sin(a_minus_b) * np.sin(a + b)) / np.cos(b)

    def lam(self, t: ArrayLike) -> Array:
        return log(self.alpha(t)) - log(self.sigma(t))

    def t_of_lam(self, lam: ArrayLike) -> Array:
        _, b, _ = self._angles(0.0)
        a = np.arccos(np.exp(log_alpha_of_lam(lam)) * np.cos(b))
        return np.maximum((a - b) * (1 + self.s) * 2 / np.pi, 0.0)[()]


class SigmaTime(NoiseSchedule):
    """alpha = 1 and t = sigma."""

    kind = "ve"
    default_grid = "karras"

    def alpha(self, t: ArrayLike) -> Array:
        return np.ones_like(np.asarray(t, np.float64))[()]

    def sigma(self, t: ArrayLike) -> Array:
        return np.array(t, np.float64)[()]

    def lam(self, t: ArrayLike) -> Array:
        return -log(np.asarray(t, np.float64))[()]

    def t_of_lam(self, lam: ArrayLike) -> Array:
        return np.exp(-np.asarray(lam, np.float64))[()]


def _sigma_range(sigma_min: float, sigma_max: float) -> None:
    _positive(sigma_min=sigma_min, sigma_max=sigma_max)
    if sigma_max <= sigma_min:
        raise ValueError(f"`sigma_max` must exceed `sigma_min`; got {sigma_max} <= {sigma_min}.")


@schedule_class
@dataclass(frozen=True, eq=False)
class VPSigma(VP):
    """VP in the time t = sigma / alpha, so alpha = 1 / sqrt(1 + t^2); networks see log(t) / 4 (EDM's noise label)."""

    sigma_min: float
    sigma_max: float
    default_grid: ClassVar[str] = "karras"

    def __post_init__(self) -> None:
        _sigma_range(self.sigma_min, self.sigma_max)

    t_max = property(lambda self: self.sigma_max)  # type: ignore[assignment]
    t_min = property(lambda self: self.sigma_min)  # type: ignore[assignment]

    def log_alpha(self, t: ArrayLike) -> Array:
        return -0.5 * np.log1p(np.asarray(t, np.float64)[()] ** 2)

    def lam(self, t: ArrayLike) -> Array:
        return -log(np.asarray(t, np.float64))[()]

    def t_of_lam(self, lam: ArrayLike) -> Array:
        return np.exp(-np.asarray(lam, np.float64))[()]

    def model_time(self, t: ArrayLike) -> Array:
        """log(t) / 4."""
        return 0.25 * log(np.asarray(t, np.float64))[()]

    def time_of_model(self, tau: ArrayLike) -> Array:
        """exp(4 tau)."""
        return np.exp(4 * np.asarray(tau, np.float64))[()]


@schedule_class
@dataclass(frozen=True, eq=False)
class VE(SigmaTime):
    """Variance exploding in sigma (Song et al., arXiv 2011.13456); ends at sigma_min."""

    sigma_min: float
    sigma_max: float

    def __post_init__(self) -> None:
        _sigma_range(self.sigma_min, self.sigma_max)

    t_max = property(lambda self: self.sigma_max)  # type: ignore[assignment]
    t_min = property(lambda self: self.sigma_min)  # type: ignore[assignment]
    t_end = property(lambda self: self.sigma_min)  # type: ignore[assignment]


@schedule_class
@dataclass(frozen=True, eq=False)
class EDM(SigmaTime):
    """EDM (Karras et al., arXiv 2206.00364); ends at sigma = 0. sigma_data belongs to the network's preconditioning."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        _sigma_range(self.sigma_min, self.sigma_max)
        _positive(sigma_data=self.sigma_data)

    t_max = property(lambda self: self.sigma_max)  # type: ignore[assignment]
    t_min = property(lambda self: self.sigma_min)  # type: ignore[assignment]


@schedule_class
@dataclass(frozen=True, eq=False)
class Flow(NoiseSchedule):
    """alpha = 1 - t, sigma = t, lam = log((1 - t) / t) (Liu et al., arXiv 2209.03003); networks see 1000 t."""

    shift: float = 1.0
    num_train_timesteps: int = 1000
    kind: ClassVar[str] = "flow"
    default_grid: ClassVar[str] = "flow"

    def __post_init__(self) -> None:
        _positive(shift=self.shift, num_train_timesteps=self.num_train_timesteps)

    # a training range of 1 is a unit of time, not a number of steps
    t_min = property(lambda self: 1 / self.num_train_timesteps if self.num_train_timesteps > 1 else 1e-3)  # type: ignore[assignment]

    def alpha(self, t: ArrayLike) -> Array:
        return 1.0 - np.asarray(t, np.float64)[()]

    def sigma(self, t: ArrayLike) -> Array:
        return np.array(t, np.float64)[()]

    def lam(self, t: ArrayLike) -> Array:
        t = np.asarray(t, np.float64)[()]
        with np.errstate(divide="ignore"):
            return np.log1p(-t) - np.log(t)

    def t_of_lam(self, lam: ArrayLike) -> Array:
        return np.exp(-np.logaddexp(0.0, np.asarray(lam, np.float64)))[()]

    def model_time(self, t: ArrayLike) -> Array:
        """t * num_train_timesteps."""
        return self.num_train_timesteps * np.asarray(t, np.float64)[()]

    def time_of_model(self, tau: ArrayLike) -> Array:
        """tau / num_train_timesteps."""
        return np.asarray(tau, np.float64)[()] / self.num_train_timesteps


@schedule_class
@dataclass(frozen=True, eq=False)
class InvertedFlow(Flow):
    """Flow whose network counts time from noise to data, as Mochi's does: it sees 1000 (1 - t)."""

    sigmas_rise: ClassVar[bool] = True  # in the sigmas that schedulers display

    def mirrored(self, tau: ArrayLike) -> Array:
        """num_train_timesteps - tau: between the time that the network sees and that of `Flow`, both ways."""
        return self.num_train_timesteps - np.asarray(tau, np.float64)[()]

    def model_time(self, t: ArrayLike) -> Array:
        """(1 - t) * num_train_timesteps."""
        return self.mirrored(super().model_time(t))

    def time_of_model(self, tau: ArrayLike) -> Array:
        """1 - tau / num_train_timesteps."""
        return super().time_of_model(self.mirrored(tau))


@schedule_class
@dataclass(frozen=True, eq=False)
class CleanTimeFlow(InvertedFlow):
    """Flow whose network counts time from noise to data while its scheduler's sigmas fall, as MiniMax-H3's do."""

    sigmas_rise: ClassVar[bool] = False


@schedule_class
@dataclass(frozen=True, eq=False)
class TrigFlow(NoiseSchedule):
    """alpha = cos t, sigma = sigma_data sin t, t in 0..pi/2 (Lu, Song, sCM, arXiv 2410.11081); networks see unit * t.

    With sigma_data = 1 it is variance preserving, and dx/dt is the v prediction.
    """

    # pipelines of SCMScheduler leave the last of `timesteps` out, as it is 0
    shows_end = property(lambda self: self.unit == 1)

    sigma_data: float = 0.5
    unit: float = 1.0
    kind: ClassVar[str] = "vp"
    default_grid: ClassVar[str] = "uniform"
    t_max: ClassVar[float] = np.pi / 2  # type: ignore[misc]
    t_min: ClassVar[float] = 1e-3  # type: ignore[misc]

    def __post_init__(self) -> None:
        _positive(sigma_data=self.sigma_data, unit=self.unit)

    def alpha(self, t: ArrayLike) -> Array:
        t = np.asarray(t, np.float64)[()]
        return np.where(t >= self.t_max, 0.0, np.cos(t))[()]

    def sigma(self, t: ArrayLike) -> Array:
        return self.sigma_data * np.sin(np.asarray(t, np.float64)[()])

    def lam(self, t: ArrayLike) -> Array:
        return log(self.alpha(t)) - log(self.sigma(t))

    def t_of_lam(self, lam: ArrayLike) -> Array:
        lam = np.asarray(lam, np.float64)
        # tan t = e^-lam / sigma_data, from the side where the exponential is small
        t = np.where(lam > 0, np.arctan2(np.exp(-np.maximum(lam, 0.0)), self.sigma_data),
                     np.arctan2(1.0, self.sigma_data * np.exp(np.minimum(lam, 0.0))))  # fmt: skip
        return np.asarray(t)[()]

    def model_time(self, t: ArrayLike) -> Array:
        """unit * t."""
        return self.unit * np.asarray(t, np.float64)[()]

    def time_of_model(self, tau: ArrayLike) -> Array:
        """tau / unit, at most pi/2."""
        return np.minimum(np.asarray(tau, np.float64) / self.unit, self.t_max)[()]

    def initial_noise(self, *shape: Any, **how: Any) -> torch.Tensor:
        """x_T from N(0, sigma_data^2 I)."""
        return super().initial_noise(*shape, **how) * self.sigma_data
