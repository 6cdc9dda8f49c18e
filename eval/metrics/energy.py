"""Energy distance: twice the mean distance of the two sets' samples from each other, less that within each set.

E(P, Q) = 2 E|x - y| - E|x - x'| - E|y - y'|,    which is MMD^2 under the kernel -|x - y|
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fewstep.checks import whole
from fewstep.eval.gaussian.features import Features
from fewstep.eval.metrics.blocks import BLOCK, Blocks, both
from fewstep.eval.metrics.discrepancy import discrepancy
from fewstep.eval.metrics.groups import group_means
from fewstep.eval.metrics.registry import metric
from fewstep.eval.report.result import Result, normal_interval


@metric(
    "energy",
    reference="Energy statistics: A class of statistics based on distances, Szekely and Rizzo, 2013",
    rows=("main",),
    fewest=lambda options: 4,
)
def energy(real: Features, generated: Features, *, block: int = BLOCK, device: Any = None) -> list[Result]:
    """Energy distance from all pairs of images: no parameter, without bias at any number; it may be negative by chance.

    `error` is of the sampling of both sides; `details` has the error of each with the other as it is, and the biased estimate,
    in which a sample's distance 0 from itself counts.

    Args:
        block: rows at once; memory is block^2 float64.
        device: where it is computed (float64).

    Raises:
        ValueError: fewer than four images, sets of different dimension, features that are not finite.

    Reference: Energy statistics: A class of statistics based on distances, Szekely and Rizzo, 2013.
    """
    whole("energy.block", block, 1)
    x, y = both(real, generated, "main", "energy", 4)
    shift = x.mean(axis=0, dtype="float64")  # distances stay, and squares lose fewer digits
    found = discrepancy(Blocks(y, block, device, shift), Blocks(x, block, device, shift), _nearness)
    value, error = found.unbiased, found.error
    return [
        Result(
            "energy",
            value,
            error,
            normal_interval(value, error),
            "covers the distance of the distributions: variance of the U-statistic over the images of both sides",
            details={"biased": found.biased, "error_generated": found.x.error, "error_real": found.y.error},
            groups=group_means(value + found.x.influence),
        )
    ]


def _nearness(x: Tensor, y: Tensor) -> Tensor:
    """-|x - y|; a sample's distance from itself is 0 but for the root of a rounding, 1e-7 of its size."""
    squared = x.square().sum(1)[:, None] + y.square().sum(1)[None] - 2 * (x @ y.T)
    return -squared.clamp_min(0).sqrt()
