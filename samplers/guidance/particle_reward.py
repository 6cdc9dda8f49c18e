"""The reward that tilts the density of particles: differentiable, or a black box that may fail for some of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.samplers.run.per_sample import wide


@dataclass(frozen=True)
class Tilt:
    """exp(beta r): r of x0 ("x0") or of the noisy state ("x"), beta by lam; gradient: whether the drift follows it.

    decode: latents -> what r is a function of; None: themselves.
    """

    reward: Callable[[Any], Any] | None
    on: str
    ramp: Callable[[float], float]
    gradient: bool = True
    decode: Callable[[Tensor], Any] | None = None

    def __post_init__(self) -> None:
        if self.on not in ("x0", "x"):
            raise ValueError(f'`on` must be "x0" or "x"; got {self.on!r}')
        if not all(f is None or callable(f) for f in (self.reward, self.ramp)):
            raise ValueError("`reward` and `ramp` must be functions, of a batch and of lam")
        if self.reward is None and not (self.gradient is True and self.decode is None):
            raise ValueError("`gradient` and `decode` are of a reward: give one, fkc(..., reward=f)")

    @property
    def through(self) -> bool:
        """Whether its gradient goes back through the networks."""
        return self.reward is not None and self.gradient and self.on == "x0"

    def at(self, x: Tensor, x0: Tensor | None, lam: float, last: bool = False) -> tuple[Tensor, Tensor | None]:
        """beta r at x0, a function of x, or else at x itself, (B,), and its gradient in x; zero at pure noise.

        Of a black box no gradient, and NaN where it failed; last: where it raises for all, so does this.
        """
        beta = 0.0 if lam == -inf else float(self.ramp(lam))
        if not self.gradient:
            return beta * self._asked(x if x0 is None else x0, last), None
        assert self.reward is not None
        with torch.enable_grad():
            x = x.detach().requires_grad_() if x0 is None else x
            value = self.reward(self._seen(x if x0 is None else x0))
        if not isinstance(value, Tensor) or value.shape != x.shape[:1]:
            raise ValueError(
                f"`reward` must give one differentiable number a sample, ({x.shape[0]},); got {_got(value)}"
            )
        if not value.requires_grad:
            raise ValueError(
                "`reward` has no gradient in its argument (it detaches it, or is no function of tensors): say so, "
                "fkc(..., reward=f, gradient=False), which needs none, or give a reward of differentiable numbers"
            )
        (g,) = torch.autograd.grad(value, x, torch.ones_like(value))  # a sum would have no graph under no_grad
        return beta * wide(value.detach()), beta * wide(g)

    def _seen(self, x: Tensor) -> Any:
        return x if self.decode is None else self.decode(x)

    @torch.no_grad()
    def _asked(self, x: Tensor, last: bool) -> Tensor:
        """r of every sample, (B,), NaN where it is not finite or raised; where a batch raises, each is asked alone."""
        assert self.reward is not None
        x = x.detach()
        try:
            return _numbers(self.reward(self._seen(x)), x)
        except _WrongShape:
            raise
        except Exception as together:
            found, reason = [], together
            for one in x.split(1):
                try:
                    found.append(_numbers(self.reward(self._seen(one)), one))
                except Exception as alone:
                    reason = alone
                    found.append(wide(one).new_full((1,), torch.nan))
            value = torch.cat(found)
            if last and not bool(value.isfinite().any()):
                raise ValueError(f"the reward raised for every particle, the last time: {reason}") from reason
            return value


class _WrongShape(ValueError):
    """A reward of no (B,) numbers, which is nobody's failure but its writer's."""


def _numbers(value: Any, x: Tensor) -> Tensor:
    """(B,) of whatever a reward gives, on the device of x; -inf is a failure too."""
    if not isinstance(value, Tensor):
        try:
            value = torch.from_numpy(np.asarray(value, np.float64).copy())
        except (TypeError, ValueError):
            raise _WrongShape(f"`reward` must give one number a sample, ({len(x)},); got {_got(value)}") from None
    if value.shape != x.shape[:1]:
        raise _WrongShape(f"`reward` must give one number a sample, ({len(x)},); got {_got(value)}")
    found = wide(value.detach().to(x.device, wide(x).dtype))
    return torch.where(found.isfinite(), found, torch.nan)


def _got(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"shape {tuple(shape)}" if shape is not None else type(value).__name__
