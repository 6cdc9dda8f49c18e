"""Noise schedules: x_t = alpha(t) x_0 + sigma(t) eps, with lam = log(alpha / sigma) and its inverse, in float64.

Units of time: VP and flow 0..1 (0 is data), VE and EDM t = sigma. Every class says how far it reaches (`t_max`,
`t_min`) and where sampling ends by default (`t_end`: 0 where sigma reaches 0, else `t_min`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import astuple, is_dataclass
from math import exp, inf
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from fewstep.lazy import door
from fewstep.registry import Registry

Array = NDArray[np.floating[Any]]  # float64 throughout


class Nodes(NamedTuple):
    """Points of a schedule: time, alpha, sigma and lam = log(alpha / sigma), float64 of one shape."""

    t: Array
    alpha: Array
    sigma: Array
    lam: Array

    @property
    def S(self) -> Array:
        """Size of the state, alpha + sigma."""
        return self.alpha + self.sigma

    @property
    def r(self) -> Array:
        """Rectified time, sigma / (alpha + sigma): 0 at data, 1 at noise, on every schedule."""
        return self.sigma / (self.alpha + self.sigma)

    @property
    def rho(self) -> Array:
        """Noise level, sigma / alpha = e^-lam."""
        return np.exp(-self.lam)


class Node(NamedTuple):
    """One point of a schedule: `Nodes` of Python floats."""

    t: float
    alpha: float
    sigma: float
    lam: float

    @property
    def S(self) -> float:
        """Size of the state, alpha + sigma."""
        return self.alpha + self.sigma

    @property
    def r(self) -> float:
        """Rectified time, sigma / (alpha + sigma): 0 at data, 1 at noise, on every schedule."""
        return self.sigma / (self.alpha + self.sigma)

    @property
    def rho(self) -> float:
        """Noise level, sigma / alpha = e^-lam."""
        return inf if self.lam == -inf else exp(-self.lam)


def log(x: Array) -> Array:
    """Natural logarithm with log(0) = -inf and no warning."""
    with np.errstate(divide="ignore"):
        return np.log(x)


def log_alpha_of_lam(lam: ArrayLike) -> Array:
    """log alpha of a VP process: -softplus(-2 lam) / 2, accurate at both ends."""
    return -0.5 * np.logaddexp(0.0, -2 * np.asarray(lam, np.float64))


class NoiseSchedule(ABC):
    """What the forward process does to data: alpha(t), sigma(t), lam(t), t_of_lam(lam), model_time(t).

    Immutable, hashable, picklable; equal when built from equal numbers. All functions take and return float64 and are
    vectorised; lam is +inf where sigma = 0 and -inf where alpha = 0, and `t_of_lam` takes both.
    """

    kind: ClassVar[str]  # "vp" | "ve" | "flow" | "mean-reverting" | "bridge" | "two-sided"
    default_grid: ClassVar[str]
    num_train_timesteps: int = 1000
    t_max: float = 1.0
    t_min: float
    t_end: float = 0.0
    jump_scale: ClassVar[Any] = None  # of a process whose noise back up is not Gaussian, see poisson.py

    @abstractmethod
    def alpha(self, t: ArrayLike) -> Array:
        """Signal level at time t."""

    @abstractmethod
    def sigma(self, t: ArrayLike) -> Array:
        """Noise level at time t."""

    @abstractmethod
    def lam(self, t: ArrayLike) -> Array:
        """Half log signal-to-noise ratio, log(alpha / sigma)."""

    @abstractmethod
    def t_of_lam(self, lam: ArrayLike) -> Array:
        """The time at which log(alpha / sigma) equals lam."""

    def model_time(self, t: ArrayLike) -> Array:
        """What the network is shown at time t: t itself on a continuous schedule."""
        return np.asarray(t, np.float64)[()]

    def time_of_model(self, tau: ArrayLike) -> Array:
        """Inverse of `model_time`."""
        return np.asarray(tau, np.float64)[()]

    def nodes(self, t: ArrayLike) -> Nodes:
        """(t, alpha, sigma, lam) at the given times."""
        t = np.asarray(t, np.float64)[()]
        return Nodes(t, self.alpha(t), self.sigma(t), self.lam(t))

    def node(self, t: Any) -> Node:
        """The same at one time, as Python floats."""
        return Node(*(float(v) for v in self.nodes(float(t))))

    @property
    def has_mean(self) -> bool:
        """Whether states hold a given image beside x0 and noise, `mu`: x = alpha x0 + beta mu + sigma eps."""
        return self.kind in ("mean-reverting", "bridge")

    def beta(self, t: ArrayLike) -> Array:
        """Weight of the other end, where there is one: of `mu`, or of the x1 of an interpolant."""
        return np.zeros_like(np.asarray(t, np.float64))[()]

    def require(self, prediction: Any) -> None:
        """ValueError for a prediction that a network on this schedule cannot have; mostly there is none."""
        del prediction

    @property
    def key(self) -> tuple[Any, ...]:
        """What identifies this schedule: class and numbers."""
        return (type(self).__name__, *astuple(self))  # type: ignore[call-overload]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NoiseSchedule) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def initial_noise(
        self,
        shape: Sequence[int],
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """x_T of shape (B, ...) from the marginal at t_max: N(0, I) for VP and flow, N(0, t_max^2 I) for VE and EDM.

        `generator` may be a list, one a sample. Noise is drawn on the generator's device, then moved.
        """
        shape = tuple(shape)
        per_sample = list(generator) if isinstance(generator, (list, tuple)) else None
        if per_sample is not None and len(per_sample) != shape[0]:
            raise ValueError(
                f"{len(per_sample)} generators for a batch of {shape[0]}: pass one generator, or one a sample."
            )

        def draw(size: tuple[int, ...], source: Any) -> torch.Tensor:
            at = source.device if source is not None else device
            return torch.randn(size, generator=source, device=at, dtype=dtype).to(device)

        if per_sample is None:
            noise = draw(shape, generator)
        else:
            noise = torch.cat([draw((1, *shape[1:]), source) for source in per_sample])
        return noise * float(self.sigma(self.t_max)) if self.kind == "ve" else noise

    @staticmethod
    def from_config(config: Any) -> NoiseSchedule:
        """The schedule that a diffusers scheduler or its config describes; ValueError if it describes none."""
        found: NoiseSchedule = door("fewstep.samplers.config.reading:schedule_from_config")(config)
        return found

    # The named schedules; their classes stand above this one, in modules of their own.

    @staticmethod
    def vp_linear(beta_min: float = 0.1, beta_max: float = 20.0) -> NoiseSchedule:
        """Continuous VP with beta(t) = beta_min + (beta_max - beta_min) t."""
        return SCHEDULES["VPLinear"](float(beta_min), float(beta_max))

    @staticmethod
    def vp_cosine(s: float = 0.008) -> NoiseSchedule:
        """Continuous VP with alpha(t) = cos((t + s) / (1 + s) pi / 2), normalised to alpha(0) = 1."""
        return SCHEDULES["VPCosine"](float(s))

    @staticmethod
    def discrete(alphas_cumprod: ArrayLike, interpolation: str = "cubic") -> NoiseSchedule:
        """A table of alpha^2 for training steps 0..N-1; interpolation "cubic" (smooth) or "log_sigma" (piecewise)."""
        return SCHEDULES["Discrete"].of(alphas_cumprod, interpolation)  # type: ignore[attr-defined, no-any-return]

    @staticmethod
    def ve(sigma_min: float, sigma_max: float) -> NoiseSchedule:
        """Variance exploding: alpha = 1, t = sigma in [sigma_min, sigma_max]; sampling ends at sigma_min."""
        return SCHEDULES["VE"](float(sigma_min), float(sigma_max))

    @staticmethod
    def edm(sigma_min: float = 0.002, sigma_max: float = 80.0, sigma_data: float = 0.5) -> NoiseSchedule:
        """EDM: alpha = 1, t = sigma; sampling ends at sigma = 0."""
        return SCHEDULES["EDM"](float(sigma_min), float(sigma_max), float(sigma_data))

    @staticmethod
    def pfgm(
        D: float = 2048, sigma_min: float = 0.002, sigma_max: float = 80.0, sigma_data: float = 0.5
    ) -> NoiseSchedule:
        """PFGM++ with D extra dimensions: EDM's tables and grids, with a prior and renoising of its own."""
        return SCHEDULES["PFGM"](float(sigma_min), float(sigma_max), float(sigma_data), float(D))

    @staticmethod
    def flow(shift: float = 1.0) -> NoiseSchedule:
        """Rectified flow: alpha = 1 - t, sigma = t. `shift` only moves the default grid."""
        return SCHEDULES["Flow"](float(shift))

    @staticmethod
    def mean_reverting(lam_inf: float = 10 / 255, theta: str = "cosine", delta: float = 0.005) -> NoiseSchedule:
        """Mean-reverting (IR-SDE): x_t = mu + alpha (x_0 - mu) + sigma eps, sigma(1) about lam_inf; `sample` takes mu."""
        return SCHEDULES["MeanReverting"](float(lam_inf), theta, float(delta))

    @staticmethod
    def bridge(
        process: str = "brownian", scale: float = 1.0, beta_min: float = 0.1, beta_max: float = 20.0
    ) -> NoiseSchedule:
        """A process pinned at both ends, x_t = alpha x0 + beta mu + sigma eps, from mu (t_max) to data: DDBM, DBIM, I2SB."""
        return SCHEDULES["Bridge"](process, float(scale), float(beta_min), float(beta_max))

    @staticmethod
    def interpolant(path: str = "linear", gamma: str = "root", scale: float = 1.0) -> NoiseSchedule:
        """x_t = alpha x0 + beta x1 + gamma z between any two laws of data; a `TwoFields` denoiser goes with it."""
        return SCHEDULES["Interpolant"](path, gamma, float(scale))


SCHEDULES: Registry[type[Any]] = Registry(
    "schedule class",
    type,
    [
        *(
            f"fewstep.samplers.schedule.{name}"
            for name in ("continuous", "discrete", "labelled", "poisson", "reverting")
        ),
        *(f"fewstep.samplers.interpolants.{name}" for name in ("bridge", "two_sided")),
    ],
    "@schedule_class above a frozen dataclass that is a NoiseSchedule",
)


def schedule_class(cls: Any) -> Any:
    """Register a frozen dataclass of numbers, text and bytes that is a NoiseSchedule: saved tables know it by its name.

    Raises:
        ValueError: another kind of class, a name that exists.
    """
    if not (isinstance(cls, type) and issubclass(cls, NoiseSchedule) and is_dataclass(cls)):
        raise ValueError(
            f"{getattr(cls, '__name__', cls)!r} is no schedule: @schedule_class stands above @dataclass(frozen=True, "
            "eq=False) and a subclass of NoiseSchedule"
        )
    SCHEDULES.add(cls.__name__, cls, cls.__module__)
    return cls


class VP(NoiseSchedule):
    """Variance preserving: alpha^2 + sigma^2 = 1, everything from log alpha so that both ends stay accurate."""

    kind = "vp"

    @abstractmethod
    def log_alpha(self, t: ArrayLike) -> Array:
        """log(alpha) at time t."""

    def alpha(self, t: ArrayLike) -> Array:
        return np.exp(self.log_alpha(t))

    def sigma(self, t: ArrayLike) -> Array:
        return np.sqrt(-np.expm1(2 * self.log_alpha(t)))

    def lam(self, t: ArrayLike) -> Array:
        log_alpha = self.log_alpha(t)
        return log_alpha - 0.5 * log(-np.expm1(2 * log_alpha))
