"""Two laws of data in the plane and the exact fields of an interpolant between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor


class TwoLaws:
    """x0 and x1 independent, each a mixture of two Gaussians: (means, deviations, weights)."""

    LAWS = (
        ([[1.5, 0.0], [-1.0, 1.2]], [0.3, 0.4], [0.6, 0.4]),
        ([[0.0, 2.0], [0.5, -1.0]], [0.5, 0.3], [0.4, 0.6]),
    )

    def __init__(self) -> None:
        self.laws = [tuple(torch.tensor(part, dtype=torch.float64) for part in law) for law in self.LAWS]

    def draw(self, which: int, n: int, seed: int) -> Tensor:
        """n samples of a law."""
        means, stds, weights = self.laws[which]
        g = torch.Generator().manual_seed(seed)
        i = torch.multinomial(weights, n, True, generator=g)
        return means[i] + stds[i, None] * torch.randn(n, 2, generator=g, dtype=torch.float64)

    def fields(self, schedule: Any, names: Sequence[str]) -> Callable[[Tensor, Tensor], tuple[Tensor, ...]]:
        """The exact network of these fields."""

        def fn(x: Tensor, tau: Tensor) -> tuple[Tensor, ...]:
            t = float(tau)
            (a, da), (b, db), (g, dg) = (map(float, pair) for pair in schedule.weights(t))
            (m0, s0, w0), (m1, s1, w1) = self.laws
            variance = (a * s0[:, None]) ** 2 + (b * s1) ** 2 + g**2
            q = (x[:, None, None] - a * m0[:, None] - b * m1) / variance[..., None]
            near = (w0[:, None] * w1).log() - 0.5 * (q.square().sum(-1) * variance) - variance.log()
            w = torch.softmax(near.flatten(1), 1).view_as(near)[..., None]
            x0 = (w * (m0[:, None] + a * (s0**2)[:, None, None] * q)).sum((1, 2))
            x1 = (w * (m1 + b * (s1**2)[:, None] * q)).sum((1, 2))
            score = -(w * q).sum((1, 2))
            rise = schedule.scale**2 * (1 - 2 * t) / 2 if schedule.gamma == "root" else g * dg
            velocity = da * x0 + db * x1 - rise * score
            known = {"velocity": velocity, "score": score, "x0": x0, "x1": x1, "z": -g * score}
            return tuple(known[name] for name in names)

        return fn

    def distance(self, x: Tensor, which: int = 0) -> float:
        """Kolmogorov-Smirnov's, the largest along eight directions."""
        means, stds, weights = (part.numpy() for part in self.laws[which])
        worst = 0.0
        for angle in np.arange(8) * np.pi / 8:
            along = np.array([np.cos(angle), np.sin(angle)])
            u = np.sort(x.numpy() @ along)
            cdf = (weights * ndtr((u[:, None] - means @ along) / stds)).sum(1)
            steps = np.arange(len(u) + 1) / len(u)
            worst = max(worst, float(np.maximum(steps[1:] - cdf, cdf - steps[:-1]).max()))
        return worst
