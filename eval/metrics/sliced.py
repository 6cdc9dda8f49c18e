"""Sliced Wasserstein distances: the mean over directions of the one-dimensional distance, which sorting gives exactly.

    SW^2 = mean_u W^2(u.x, u.y),   W^2 = int_0^1 (F^-1(t) - G^-1(t))^2 dt,   F, G the distributions of u.x and u.y

With as many samples on both sides that is the mean square of the differences of sorted ones; else both quantile functions are
steps, and the integral is taken over the steps of the two.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.checks import whole
from fewstep.eval.gaussian.features import Features
from fewstep.eval.metrics.blocks import Blocks, both
from fewstep.eval.metrics.registry import metric
from fewstep.eval.report.result import Result

AT_ONCE = 64  # directions
NO_INTERVAL = "no interval: the spread over directions is none of the sampling"
BONNEEL = "Sliced and Radon Wasserstein Barycenters of Measures, Bonneel et al., 2015"
BERTHET = "Monge Inception Distance for Generative Models Evaluation, Berthet et al., 2026, arXiv 2605.06797"


@metric("sliced", reference=BONNEEL, rows=("main",))
def sliced(
    real: Features, generated: Features, *, directions: int = 1000, seed: int = 2020, device: Any = None
) -> list[Result]:
    """Sliced Wasserstein distance of order 2, SW (not squared), at any numbers of images.

    `details`: "squared", and "sd" of W^2 over the directions. It is biased upwards at few images, as the plain FID is.

    Args:
        directions: how many, uniform on the sphere.
        seed: of the directions.
        device: where it is computed (float64).

    Raises:
        ValueError: sets of different dimension, features that are not finite.

    Reference: Sliced and Radon Wasserstein Barycenters of Measures, Bonneel, Rabin, Peyre, Pfister, 2015.
    """
    whole("sliced.directions", directions, 1)
    x, y = both(real, generated, "main", "sliced", 2)
    random = torch.Generator().manual_seed(seed)
    found = _squares(Blocks(x, device=device), Blocks(y, device=device), _directions(directions, x.shape[1], random))
    squared = float(found.mean())
    details = {"squared": squared, "sd": float(found.std(correction=0)), "directions": directions, "seed": seed}
    return [Result("sliced", sqrt(squared), method=NO_INTERVAL, details=details)]


@metric("mind", reference=BERTHET, rows=("main",))
def mind(
    real: Features, generated: Features, *, directions: int = 1000, seed: int = 2020, device: Any = None
) -> list[Result]:
    """Monge inception distance: 3 d SW^2, of as many images of both sides; 5000 images tell what FID tells of 50,000.

    Of the larger set so many as the smaller one has are drawn, and the directions after them, as torch-fidelity draws them:
    equal features give its value.

    Args:
        directions: how many.
        seed: of the draws.
        device: where it is computed (float64).

    Raises:
        ValueError: sets of different dimension, features that are not finite.

    Reference: Monge Inception Distance for Generative Models Evaluation, Berthet, Wu, Crepy, Elie, Greff, Sander, 2026,
    arXiv 2605.06797.
    """
    whole("mind.directions", directions, 1)
    x, y = both(real, generated, "main", "mind", 2)
    n, random = min(len(x), len(y)), torch.Generator().manual_seed(seed)
    y, x = (_some(each, n, random) for each in (y, x))
    found = _squares(Blocks(x, device=device), Blocks(y, device=device), _directions(directions, x.shape[1], random))
    details = {"images": n, "directions": directions, "seed": seed}
    return [Result("mind", 3 * x.shape[1] * float(found.mean()), method=NO_INTERVAL, details=details)]


def _some(rows: np.ndarray, n: int, random: torch.Generator) -> np.ndarray:
    """n of the rows by chance; all of them, and no number drawn, where there are no more."""
    return rows if len(rows) == n else rows[torch.randperm(len(rows), generator=random)[:n].numpy()]


def _directions(count: int, dim: int, random: torch.Generator) -> Tensor:
    """float64 (count, d) of length 1; drawn in float32."""
    drawn = torch.randn(count, dim, generator=random)
    return (drawn / drawn.norm(dim=1, keepdim=True).clamp_min(1e-12)).double()


def _squares(x: Blocks, y: Blocks, directions: Tensor) -> Tensor:
    """W^2 along each direction."""
    distance = _apart(len(x), len(y), x.place)
    parts = []
    for some in directions.to(x.place).split(AT_ONCE):
        one, other = (torch.cat([each[part] @ some.T for part in each.parts()]).sort(0).values for each in (x, y))
        parts.append(distance(one, other))
    return torch.cat(parts)


def _apart(n: int, m: int, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """W^2 of sorted columns (n, k) and (m, k): over the steps between the multiples of 1/n and 1/m, in units of 1/(n m)."""
    if n == m:
        return lambda one, other: (one - other).square().mean(0)
    ends = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique()
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    widths = ((ends - starts).double() / (n * m)).to(device)
    i, j = (starts // m).to(device), (starts // n).to(device)
    return lambda one, other: widths @ (one[i] - other[j]).square()
