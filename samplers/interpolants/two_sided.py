"""Stochastic interpolants: x_t = alpha x0 + beta x1 + gamma z between any two laws of data, x0 at time 0 and x1 at 1.

    dx/dt = v(x, t) = E[alpha' x0 + beta' x1 + gamma' z | x],    score = -E[z | x] / gamma

has the law of x_t, and so has every SDE whose drift takes back by the score what its noise adds (`flow_sde`). Tables are
written in the frame (alpha, beta): the two ends that would have led to x at speed v without any z.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fewstep.samplers.schedule.base import Array, Nodes, NoiseSchedule, log, schedule_class

Way = Callable[[Array], Array]
QUARTER = np.pi / 2


class Weight(NamedTuple):
    """A weight of an interpolant and its derivative, functions of time."""

    at: Way
    slope: Way


PATHS = {
    "linear": (Weight(lambda t: 1 - t, lambda t: -np.ones_like(t)), Weight(lambda t: 1 * t, np.ones_like)),
    "trigonometric": (
        Weight(lambda t: np.where(t >= 1, 0.0, np.cos(QUARTER * t)), lambda t: -QUARTER * np.sin(QUARTER * t)),
        Weight(lambda t: np.sin(QUARTER * t), lambda t: QUARTER * np.cos(QUARTER * t)),
    ),
}
EDGE = 1e-12  # where the root's slope is no number any more
GAMMAS = {
    "root": Weight(
        lambda t: np.sqrt(t * (1 - t)), lambda t: (1 - 2 * t) / (2 * np.sqrt(np.maximum(t * (1 - t), EDGE)))
    ),
    "quadratic": Weight(lambda t: t * (1 - t), lambda t: 1 - 2 * t),
    "sin2": Weight(lambda t: np.sin(np.pi * t) ** 2, lambda t: np.pi * np.sin(2 * np.pi * t)),
    "none": Weight(np.zeros_like, np.zeros_like),
}


@schedule_class
@dataclass(frozen=True, eq=False)
class Interpolant(NoiseSchedule):
    """Between two laws of data over time 0..1; networks see t. `sample` starts in samples of the law at 1.

    path             alpha         beta            gamma        scale times
    linear           1 - t         t               root         sqrt(t (1 - t))
    trigonometric    cos(pi t/2)   sin(pi t/2)     quadratic    t (1 - t)
                                                   sin2         sin^2(pi t)
                                                   none         0: a flow between two laws

    Args:
        path, gamma: as above. scale: of gamma.

    A denoiser of two fields, `TwoFields`, plays ODEs by every ODE solver and SDEs by "flow_sde". One field, the velocity, is
    enough for ODEs. sigma is beta, so that lam = log(alpha / beta).

    Reference: Stochastic Interpolants: A Unifying Framework for Flows and Diffusions; Albergo, Boffi, Vanden-Eijnden; 2023;
    arXiv:2303.08797.
    """

    path: str = "linear"
    gamma: str = "root"
    scale: float = 1.0
    kind: ClassVar[str] = "two-sided"
    default_grid: ClassVar[str] = "uniform"
    t_min: ClassVar[float] = 1e-3  # type: ignore[misc]

    def __post_init__(self) -> None:
        for name, known in (("path", PATHS), ("gamma", GAMMAS)):
            if getattr(self, name) not in known:
                raise ValueError(f"`{name}` must be one of {', '.join(map(repr, known))}; got {getattr(self, name)!r}.")
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f'`scale` must be a positive number (gamma="none" is without noise); got {self.scale!r}.')

    @property
    def noisy(self) -> bool:
        """Whether there is a z."""
        return self.gamma != "none"

    def weights(self, t: ArrayLike) -> tuple[tuple[Array, Array], tuple[Array, Array], tuple[Array, Array]]:
        """((alpha, alpha'), (beta, beta'), (gamma, gamma')) at times t."""
        t = np.asarray(t, np.float64)
        alpha, beta, gamma = (tuple(np.asarray(f(t))[()] for f in w) for w in (*PATHS[self.path], GAMMAS[self.gamma]))
        return alpha, beta, (self.scale * gamma[0], self.scale * gamma[1])  # type: ignore[return-value]

    def velocity(self, t: ArrayLike) -> tuple[Any, Any]:
        """(alpha', beta'): a velocity as its parts of x0 and x1 in the frame."""
        (_, a), (_, b), _ = self.weights(t)
        return a, b

    def alpha(self, t: ArrayLike) -> Array:
        return self.weights(t)[0][0]

    def beta(self, t: ArrayLike) -> Array:
        return self.weights(t)[1][0]

    sigma = beta

    def lam(self, t: ArrayLike) -> Array:
        return log(self.alpha(t)) - log(self.beta(t))

    def t_of_lam(self, lam: ArrayLike) -> Array:
        lam = np.asarray(lam, np.float64)
        if self.path == "linear":
            return np.exp(-np.logaddexp(0.0, lam))[()]
        back = np.arctan(np.exp(-np.abs(lam))) / QUARTER  # beta / alpha, from the side where it is small
        return np.where(lam > 0, back, 1 - back)[()]

    def require(self, prediction: Any) -> None:
        """ValueError for one field that does not say where x goes: with noise that is the velocity alone."""
        if isinstance(prediction, Velocity) or (prediction == "flow_prediction" and self.path == "linear"):
            return
        if self.noisy or prediction in ("v_prediction", "score", "trigflow"):
            raise ValueError(
                f"between two laws of data a network of one field predicts the velocity; got {prediction!r}. Take "
                'TwoFields(fn, schedule, ("velocity",)), or two fields, as SDEs need, ("velocity", "score") or ("x0", "x1")'
            )

    def initial_noise(self, *shape: Any, **how: Any) -> Any:
        """An interpolant starts in data."""
        raise ValueError("between two laws of data x_T is a sample of the one at t = 1, not noise")


@dataclass(frozen=True)
class Velocity:
    """The prediction of a network that says dx/dt: its parts of the two ends, see `Interpolant.velocity`."""

    schedule: Interpolant

    def __call__(self, nodes: Nodes) -> tuple[Array, Array]:
        return self.schedule.velocity(nodes.t)
