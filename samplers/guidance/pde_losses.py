"""How far a field is from its measurements and from solving its equation, each a number a sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fewstep.checks import positive
from fewstep.samplers.guidance.measurement import Measurement
from fewstep.samplers.guidance.operators import points

Map = Callable[[Tensor], Tensor]
Losses = tuple[Tensor, Tensor]


def residuals(residual: Map, x0: Tensor) -> Tensor:
    """f(x0) as (B, count); ValueError for another batch."""
    f = residual(x0)
    if not isinstance(f, Tensor) or f.ndim < 1 or len(f) != len(x0):
        got = tuple(f.shape) if isinstance(f, Tensor) else type(f).__name__
        raise ValueError(f"`residual` must return what is left of every sample, shape ({len(x0)}, ...); got {got}")
    return f.reshape(len(f), -1)


def mean_losses(known: Measurement, residual: Map | None, huber: float | None, x0: Tensor) -> Losses:
    """|y - A x0|^2 / m and the mean of f^2 / 2, or of Huber's function, each (B,)."""
    obs = known.miss(x0).flatten(1).square().mean(1)
    if residual is None:
        return obs, torch.zeros_like(obs)
    f = residuals(residual, x0)
    zero = torch.zeros_like(f)
    loss = torch.nn.functional.huber_loss
    each = 0.5 * f.square() if huber is None else loss(f, zero, reduction="none", delta=huber)
    return obs, each.mean(1)


def norm_losses(known: Measurement, residual: Map | None, x0: Tensor) -> Losses:
    """|y - A x0| / m and |f| / count, each (B,)."""
    miss = known.miss(x0).flatten(1)
    obs = miss.norm(dim=1) / miss.shape[1]
    if residual is None:
        return obs, torch.zeros_like(obs)
    f = residuals(residual, x0)
    return obs, f.norm(dim=1) / f.shape[1]


def measuring(given: Any) -> Any:
    return points(given) if isinstance(given, Tensor) else given


def two_weights(weights: Any, residual: Map | None) -> tuple[float, float]:
    if not isinstance(weights, (tuple, list)) or len(weights) != 2:
        raise ValueError(f"`weights` are two numbers, of measurements and of the residual; got {weights!r}")
    w_obs, w_pde = (positive("weights", w, zero=True) for w in weights)
    if w_pde and residual is None:
        raise ValueError("a weight of the residual needs a `residual`")
    return w_obs, w_pde
