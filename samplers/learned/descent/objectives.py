"""How to descend: losses of a batch, rules for a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import cos, pi
from typing import Any

import torch
from torch import Tensor

from fewstep.checks import positive, whole

FAINT = 1e-30  # mean square error that counts as none, below which logarithms are not taken
RATES = {"grid": 0.05, "coef": 0.02, "state": 0.01, "tau": 0.05, "mixed": 0.1, "filter": 0.003}


def _huber(e: Tensor) -> Tensor:
    """Quadratic below the batch's median error, linear above."""
    scale = e.detach().median().clamp_min(FAINT)
    return (scale * ((1 + e / scale).sqrt() - 1)).mean()


def _trimmed(e: Tensor) -> Tensor:
    """Mean of the lower nine tenths."""
    return e.sort().values[: max(1, -(-9 * len(e) // 10))].mean()


def _log(e: Tensor) -> Tensor:
    return (e + FAINT).log().mean()


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "mse": lambda e: e.mean(),
    "log": _log,
    "huber": _huber,
    "trimmed": _trimmed,
    "mixed": lambda e: 0.7 * (e.mean() + FAINT).log() + 0.3 * _log(e),  # the rms, and still what it does not see
}
DECAYS: dict[str, Callable[[float], float]] = {
    "none": lambda u: 1.0,
    "cosine": lambda u: 0.02 + 0.98 * 0.5 * (1 + cos(pi * u)),
}


class Lion(torch.optim.Optimizer):
    """p -= lr sign(b1 m + (1 - b1) g),  m <- b2 m + (1 - b2) g, which torch does not have.

    Reference: Chen et al., Symbolic Discovery of Optimization Algorithms, 2023, arXiv 2302.06675.
    """

    def __init__(self, groups: Any, lr: float = 0.01, betas: tuple[float, float] = (0.9, 0.99)):
        super().__init__(groups, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step."""
        for group in self.param_groups:
            first, second = group["betas"]
            for p in group["params"]:
                m = self.state[p].setdefault("average", torch.zeros_like(p))
                p -= group["lr"] * (first * m + (1 - first) * p.grad).sign()
                m.mul_(second).add_(p.grad, alpha=1 - second)


OPTIMIZERS: dict[str, Callable[[Any, float], torch.optim.Optimizer]] = {
    "adam": lambda groups, _: torch.optim.Adam(groups),
    "rmsprop": lambda groups, momentum: torch.optim.RMSprop(groups, momentum=momentum),
    "sgd": lambda groups, momentum: torch.optim.SGD(groups, lr=1.0, momentum=momentum),
    "lion": lambda groups, _: Lion(groups),
}


@dataclass(frozen=True, kw_only=True)
class DescentOptions:
    """How to descend.

    loss: name in LOSSES, or f(x0, truth) -> (B,). steps, batch: of the descent. lr: of all knobs, or by name over RATES.
    optimizer: "adam", "rmsprop", "sgd" or "lion"; momentum is for the two in the middle. clip: largest norm of a gradient.
    decay: "cosine" to 2 %, or "none". every: steps between judgements. patience: judgements without a better one until the
    best is taken up again at a rate `shrink` times as large. ball: radius within which every x_T of the training seeds may
    move. ball_lr: its step. remember: keep the network's activations instead of calling it again. seed: of the order.
    even: samples on which the effects of the knobs are measured, to turn them along axes of equal effect, see `curvature`.
    """

    loss: str | Callable[[Tensor, Tensor], Tensor] = "mixed"
    steps: int = 300
    batch: int = 32
    lr: float | Mapping[str, float] | None = None
    optimizer: str = "adam"
    momentum: float = 0.9
    clip: float = 1.0
    decay: str = "cosine"
    every: int = 10
    patience: int = 8
    shrink: float = 0.5
    ball: float = 0.0
    ball_lr: float = 1.0
    remember: bool = False
    seed: int = 0
    even: int = 0

    def __post_init__(self) -> None:
        """ValueError for what cannot be done, before the network is asked anything."""
        for name, given, known in (
            ("loss", self.loss, LOSSES), ("optimizer", self.optimizer, OPTIMIZERS), ("decay", self.decay, DECAYS)
        ):  # fmt: skip
            if isinstance(given, str) and given not in known:
                raise ValueError(f"`{name}` must be one of {', '.join(known)}; got {given!r}")
        for name in ("steps", "batch", "every"):
            whole(name, getattr(self, name))
        positive("ball", self.ball, zero=True, hint="It is a radius")

    def rate(self, name: str) -> float:
        """The learning rate of a group of knobs."""
        own = RATES.get(name, 0.01)
        if self.lr is None:
            return own
        return float(self.lr.get(name, own)) if isinstance(self.lr, Mapping) else float(self.lr)


def _squares(x: Tensor, y: Tensor) -> Tensor:
    """(B,) mean square differences, kept from zero."""
    return (x - y).double().flatten(1).square().mean(1) + 1e-30
