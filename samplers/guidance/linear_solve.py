"""Conjugate gradients, every sample its own system, a fixed number of iterations and no value read."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fewstep.samplers.run.per_sample import dot


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor], b: Tensor, iterations: int, start: Tensor | None = None, tol: float = 0.0
) -> Tensor:
    """u with A u = b, A symmetric and positive (semi)definite: the best of the Krylov space of the first residual.

    apply: u -> A u, (B, ...), sample by sample. A sample is done where its residual is below tol of b, or at rounding.
    After d iterations, d the number of different eigenvalues, the answer is exact.
    """
    u = torch.zeros_like(b) if start is None else start
    r = b if start is None else b - apply(start)
    direction, square = r, dot(r, r)
    eps = max(tol, 4 * torch.finfo(b.dtype).eps)
    enough = eps**2 * torch.maximum(dot(b, b), square)
    for _ in range(iterations):
        image = apply(direction)
        curvature = dot(direction, image)
        going = (square > enough) & (curvature > 0)
        step = torch.where(going, square / torch.where(going, curvature, 1.0), 0.0)
        u = u + step * direction
        r = r - step * image
        after = dot(r, r)
        direction = r + torch.where(going, after / torch.where(going, square, 1.0), 0.0) * direction
        square = torch.where(going, after, torch.zeros_like(after))
    return u
