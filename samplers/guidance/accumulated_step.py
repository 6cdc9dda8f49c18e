"""Dreamguider as published: gradients of predicted x0 and predicted eps weighed by time, distance over gradients for a length.

    x' <- x' - s v [c a' + d (1 - q^2) / (q a)] g,    g = dL / dD,    q = a / a',    v the variance of a DDPM step

in the units of a VP process, a and a' of the row and the next. The two terms are the gradient at D and that at eps, whose
derivative is dL/deps = -(sigma / a) g, with the weights that they have in the step: the second is the larger one while x is
noise, the first near the data. And with the sums over the rows so far, every sample its own,

    s = max_i |D_i - D_0| / sqrt(sum_i |g_i|^2)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional as F

from fewstep.samplers.noise.brownian import unit_uniform
from fewstep.samplers.run.guided import Call
from fewstep.samplers.run.per_sample import dot, norm

Map = Callable[[Tensor], Tensor]
FIRST = 1e-6  # of the size of D: how far counts as gone before anything went anywhere
AUGMENTED = 2**35  # counters of views


class Accumulated:
    """What the rows of a run have gone and gathered: kept under the step after, for as long as the run holds its steps."""

    def __init__(self) -> None:
        self.kept: WeakKeyDictionary[Any, tuple[Tensor, Tensor, Tensor]] = WeakKeyDictionary()

    def length(self, call: Call, g: Tensor) -> Tensor:
        """s at this row."""
        x0 = call.x0.detach()
        before = self.kept.get(call.step) if hasattr(call.step, "next") else None
        first, farthest, squares = before or (x0, FIRST * (1 + norm(x0)), torch.zeros_like(norm(x0)))
        farthest, squares = torch.maximum(farthest, norm(x0 - first)), squares + dot(g, g)
        after = getattr(call.step, "next", None)
        if after is not None:
            self.kept[after] = (first, farthest.detach(), squares.detach())
        return farthest / squares.clamp(min=1e-30).sqrt()


def by_time(call: Call, at_x0: float, at_eps: float) -> float:
    """v [c a' + d (1 - q^2) / (q a)] of the row that asks, in the units of its own state."""
    k, nodes = call.step.index, call.step.tableau.nodes
    size = (nodes.alpha**2 + nodes.sigma**2) ** 0.5
    a, after = (float(v) for v in (nodes.alpha / size)[k : k + 2])
    if a == 0:
        return 0.0  # D knows nothing of x there
    q2 = min((a / after) ** 2, 1.0)
    variance = (1 - after**2) / max(1 - a**2, 1e-12) * (1 - q2)
    return float(size[k + 1]) * variance * (at_x0 * after + at_eps * (1 - q2) / (q2**0.5 * a))


def views(count: int, seed: int = 0, shift: float = 0.125, cutout: float = 0.5) -> list[Map]:
    """Differentiable augmentations of images (B, ..., H, W): each a translation by up to `shift` and a square left out.

    They are the same for all samples and steps, so that multistep solvers see a smooth function. The last two axes of what
    comes are moved; zeros come in.

    Reference: Differentiable Augmentation for Data-Efficient GAN Training; Zhao, Liu, Lin, Zhu, Han; 2020; arXiv:2006.10738.
    """
    drawn = [[unit_uniform(seed, (AUGMENTED, k, i)) for i in range(4)] for k in range(count)]
    return [_view(u, shift, cutout) for u in drawn]


def _view(u: list[float], shift: float, cutout: float) -> Map:
    def view(x: Tensor) -> Tensor:
        if x.ndim < 3:
            raise ValueError(
                f"translations and cut-outs are of images, (B, ..., H, W); got {tuple(x.shape)}: give functions of your own"
            )
        H, W = x.shape[-2:]
        down, right = (round((2 * p - 1) * shift * n) for p, n in zip(u[:2], (H, W), strict=True))
        pads = (max(right, 0), max(-right, 0), max(down, 0), max(-down, 0))
        moved = F.pad(x, pads)[..., max(-down, 0) : max(-down, 0) + H, max(-right, 0) : max(-right, 0) + W]
        h, w = round(cutout * H), round(cutout * W)
        top, left = round(u[2] * (H - h)), round(u[3] * (W - w))
        hole = torch.ones(H, W, dtype=x.dtype, device=x.device)
        hole[top : top + h, left : left + w] = 0
        return moved * hole

    return view
