"""Frechet distance and inception score without the bias of few samples, extrapolated to 1/N = 0.

    E F_N = F_inf + k / N + O(1 / N^2)

F_N is found for growing prefixes of one random order of the generated images, so that one pass over the features gives all of
them; a line through (1/N, F_N) by least squares has F_inf as its intercept and k as its slope. Several orders are averaged.

The intercept varies for two reasons: to first order it moves with each image as F at all n images does, which gives the
variance Var(phi) / n of its influence phi; and it differs from order to order, of which the mean of R orders keeps 1/R.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import sqrt
from typing import Any

import numpy as np
from torch import Tensor

from fewstep.checks import whole
from fewstep.eval.gaussian.covariance import Gaussian
from fewstep.eval.gaussian.features import Features
from fewstep.eval.gaussian.frechet import frechet
from fewstep.eval.gaussian.statistics import FeatureStatistics
from fewstep.eval.metrics.blocks import Blocks, rows, same_dimension
from fewstep.eval.metrics.fid_and_sfid import influences
from fewstep.eval.metrics.groups import group_means
from fewstep.eval.metrics.inception_score import divergences, moments, score
from fewstep.eval.metrics.registry import metric
from fewstep.eval.report.result import Result, normal_interval

_PAPER = (
    "Effectively Unbiased FID and Inception Score and where to find them, Chong and Forsyth, 2020, arXiv 1911.07023"
)


def _ten_each(options: Mapping[str, Any]) -> int:
    """Ten images a fit."""
    return 10 * int(options["fits"])


@metric(
    "fid_inf",
    reference=_PAPER,
    statistics=("main",),
    rows=("main",),
    real_rows=False,
    fewest=_ten_each,
    remedy="fewer fits",
)
def fid_inf(
    real: Features,
    generated: Features,
    *,
    fits: int = 15,
    smallest: int | None = None,
    permutations: int = 4,
    seed: int = 2020,
    device: Any = None,
) -> list[Result]:
    """Frechet distance at infinitely many generated images; the real side stays as it is.

    `details`: the slope k (F_N is about F_inf + k / N), "full" (the distance at all n images) and "sd" over the orders.
    Cost: `permutations` times one covariance and `fits` distances.

    Args:
        fits: numbers of images through which the line goes, evenly from `smallest` to all.
        smallest: fewest images of a fit; None: a tenth of all, at most 5000. Below the dimension F_N is no line in 1/N.
        permutations: random orders that are averaged; 1 gives no error.
        seed: of the orders.
        device: where it is computed (float64).

    Raises:
        ValueError: fewer than ten images a fit, sets of different dimension, features that are not finite.

    Reference: Effectively Unbiased FID and Inception Score and where to find them, Chong and Forsyth, 2020, arXiv 1911.07023.
    """
    sizes, x = _prepared("fid_inf", generated, "main", fits, smallest, permutations, device)
    reference = real.statistics["main"].gaussian().to(x.place)
    dim = x.array.shape[1]
    same_dimension("fid_inf", reference.dim, dim)
    if sizes[0] <= dim:
        warnings.warn(
            f"fid_inf extrapolates from subsets of {sizes[0]} images in {dim} dimensions, where the distance is no line in "
            f"1/N yet: give more images, or smallest={2 * dim} or more.",
            stacklevel=2,
        )

    def distances(segments: Sequence[np.ndarray]) -> Iterator[float]:
        statistics = FeatureStatistics(dim)
        for segment in segments:
            for part in x.taken(segment):
                statistics.update(part)
            yield frechet(reference, statistics.gaussian()).value

    return [_extrapolated("fid_inf", sizes, distances, _influence(reference, x), permutations, seed)]


@metric(
    "is_inf",
    reference=_PAPER,
    rows=("logits",),
    real=False,
    higher_is_better=True,
    fewest=_ten_each,
    remedy="fewer fits",
)
def is_inf(
    real: Features | None,
    generated: Features,
    *,
    fits: int = 15,
    smallest: int | None = None,
    permutations: int = 4,
    seed: int = 2020,
    device: Any = None,
) -> list[Result]:
    """Inception score at infinitely many images: no splits, and no bias from their number.

    `details`: the slope (below 0: few images score too low), "full" (the score of all n as one split) and "sd" over the orders.

    Args:
        fits, smallest, permutations, seed, device: as for `fid_inf`.

    Raises:
        ValueError: fewer than ten images a fit, logits that are not finite.

    Reference: Effectively Unbiased FID and Inception Score and where to find them, Chong and Forsyth, 2020, arXiv 1911.07023.
    """
    sizes, x = _prepared("is_inf", generated, "logits", fits, smallest, permutations, device)

    def scores(segments: Sequence[np.ndarray]) -> Iterator[float]:
        parts = [moments(x, segment) for segment in segments]
        totals = itertools.accumulate(p for p, _ in parts)
        negentropies = itertools.accumulate(float(h.sum()) for _, h in parts)
        yield from map(score, totals, negentropies, map(int, sizes))

    distances = divergences(x, np.arange(len(x)))
    influence = distances.mean().exp() * (distances - distances.mean())
    return [_extrapolated("is_inf", sizes, scores, influence, permutations, seed)]


def _prepared(
    name: str,
    generated: Features,
    part: str,
    fits: int,
    smallest: int | None,
    permutations: int,
    device: Any,
) -> tuple[np.ndarray, Blocks]:
    """Numbers of images to fit through, and the checked rows."""
    whole(f"{name}.fits", fits, 2)
    whole(f"{name}.permutations", permutations, 1)
    found = rows(generated, part, name, 10 * fits)
    n = len(found)
    least = min(5000, n // 10) if smallest is None else smallest
    whole(f"{name}.smallest", least, 2)
    if least > n // 2:
        raise ValueError(f"{name} fits from `smallest` to all {n} images; smallest={least} must be at most {n // 2}.")
    return np.linspace(least, n, fits).astype(int), Blocks(found, device=device)


def _extrapolated(
    name: str,
    sizes: np.ndarray,
    values: Callable[[Sequence[np.ndarray]], Iterator[float]],
    influence: Tensor,
    permutations: int,
    seed: int,
) -> Result:
    """The mean intercept; `values` takes the parts of one order by which each number of images exceeds the one before."""
    n, random = int(sizes[-1]), np.random.RandomState(seed)
    found = np.array([list(values(np.split(random.permutation(n), sizes[:-1]))) for _ in range(permutations)])
    slope, intercept = np.polyfit(1 / sizes, found.T, 1)
    value = float(intercept.mean())
    details = {
        "slope": float(slope.mean()),
        "full": float(found[:, -1].mean()),
        "smallest": int(sizes[0]),
        "fits": len(sizes),
        "permutations": permutations,
        "seed": seed,
    }
    groups = group_means(value + influence)
    if permutations == 1:
        return Result(name, value, method="no interval: one order only", details=details, groups=groups)
    sd = float(intercept.std(ddof=1))
    error = sqrt(float(influence.square().mean()) / n + sd**2 / permutations)
    method = f"first-order change with each image, and the spread over {permutations} orders"
    return Result(
        name, value, error, normal_interval(value, error), method, details={**details, "sd": sd}, groups=groups
    )


def _influence(reference: Gaussian, x: Blocks) -> Tensor:
    """(n,) the change of the distance with each generated image."""
    statistics = FeatureStatistics(x.array.shape[1])
    for part in x.parts():
        statistics.update(x[part])
    return influences(reference, statistics.gaussian(), statistics.n, (x[part] for part in x.parts()))
