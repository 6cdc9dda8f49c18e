"""Kernel distance: the squared maximum mean discrepancy under a polynomial kernel, without bias at any number of samples.

k(x, y) = (gamma x.y + coef)^degree,   gamma = 1 / d
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from fewstep.checks import positive, whole
from fewstep.eval.gaussian.features import Features
from fewstep.eval.metrics.blocks import BLOCK, Blocks, both
from fewstep.eval.metrics.discrepancy import Kernel, discrepancy, unbiased
from fewstep.eval.metrics.groups import group_means
from fewstep.eval.metrics.registry import metric
from fewstep.eval.report.result import Result, normal_interval

_PAPER = "Demystifying MMD GANs, Binkowski, Sutherland, Arbel, Gretton, 2018, arXiv 1801.01401"


@metric(
    "kid",
    reference=_PAPER,
    rows=("main",),
    fewest=lambda options: int(options["subset_size"]),
    remedy="a smaller subset_size, or kid_full",
)
def kid(
    real: Features,
    generated: Features,
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
    degree: int = 3,
    gamma: float | None = None,
    coef: float = 1.0,
    device: Any = None,
) -> list[Result]:
    """KID as it is usually published: the mean over random subsets of the unbiased estimate.

    The subsets are drawn as torch-fidelity draws them (from the generated set first), so equal features give its value. The
    spread over subsets (`details["sd"]`) is no standard error, for subsets of one set overlap: `kid_full` has one.

    Args:
        subsets, subset_size: how many, and of how many images of each set (without replacement).
        seed: of the draws.
        degree, gamma, coef: of the kernel; gamma None is 1/d.
        device: where it is computed (float64).

    Raises:
        ValueError: fewer images than `subset_size`, sets of different dimension, features that are not finite.

    Reference: Demystifying MMD GANs, Binkowski, Sutherland, Arbel, Gretton, 2018, arXiv 1801.01401.
    """
    whole("kid.subsets", subsets, 1)
    whole("kid.subset_size", subset_size, 2)
    x_rows, y_rows = both(real, generated, "main", "kid", 2)
    fewest = min(len(x_rows), len(y_rows))
    if subset_size > fewest:
        raise ValueError(
            f"kid draws subsets of {subset_size} images; the smaller set has {fewest}. Give subset_size={fewest} or less, or "
            "use kid_full, which needs no subsets."
        )
    x, y = (Blocks(each, device=device) for each in (y_rows, x_rows))
    kernel, random = polynomial(x_rows.shape[1], degree, gamma, coef), np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        one, other = (random.choice(len(each), subset_size, replace=False) for each in (x, y))
        values.append(unbiased(x[one], y[other], kernel))
    details = {"sd": float(np.std(values)), "subsets": subsets, "subset_size": subset_size, "seed": seed}
    return [Result("kid", float(np.mean(values)), method="no interval: subsets overlap, use kid_full", details=details)]


@metric("kid_full", reference=_PAPER, rows=("main",), fewest=lambda options: 4)
def kid_full(
    real: Features,
    generated: Features,
    *,
    degree: int = 3,
    gamma: float | None = None,
    coef: float = 1.0,
    block: int = BLOCK,
    device: Any = None,
) -> list[Result]:
    """KID from all pairs of images: unbiased, no subsets, and with a standard error in closed form.

    `error` is of the sampling of both sides, and the interval covers the distance of the distributions that they are from;
    `details` has the error of each side with the other as it is, "error_generated" and "error_real".
    Where both sets have one distribution the estimate is skewed, and its 95 % interval covers some 91 %.

    Args:
        degree, gamma, coef: of the kernel; gamma None is 1/d.
        block: rows at once; memory is block^2 float64.
        device: where it is computed (float64).

    Raises:
        ValueError: fewer than four images, sets of different dimension, features that are not finite.

    Reference: Demystifying MMD GANs, Binkowski, Sutherland, Arbel, Gretton, 2018, arXiv 1801.01401.
    """
    whole("kid_full.block", block, 1)
    x, y = both(real, generated, "main", "kid_full", 4)
    found = discrepancy(Blocks(y, block, device), Blocks(x, block, device), polynomial(x.shape[1], degree, gamma, coef))
    value, error = found.unbiased, found.error
    return [
        Result(
            "kid_full",
            value,
            error,
            normal_interval(value, error),
            "covers the distance of the distributions: variance of the U-statistic over the images of both sides",
            details={"error_generated": found.x.error, "error_real": found.y.error},
            groups=group_means(value + found.x.influence),
        )
    ]


def polynomial(dim: int, degree: int = 3, gamma: float | None = None, coef: float = 1.0) -> Kernel:
    """(gamma x.y + coef)^degree."""
    whole("degree", degree)
    scale = 1 / dim if gamma is None else positive("gamma", gamma)
    if not np.isfinite(coef):
        raise ValueError(f"the kernel's coef must be finite; got {coef!r}.")

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (scale * (x @ y.T) + coef) ** degree

    return kernel
