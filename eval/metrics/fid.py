"""The Frechet inception distance, sFID, and Frechet distances of any extractor, with error bars.

To first order every sample x of the generated set adds to FD^2 its influence

    phi(x) = g_mu . (x - mu) + (x - mu)^T G (x - mu) - tr(G C),   g_mu = dFD^2 / dmu,   G = dFD^2 / dC,

so the means of phi over groups of samples are the pseudo-values of a block jackknife, for one eigen-decomposition instead of
one distance a group. Two solvers on the same seeds have the same groups: their difference is measured by paired ones.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from scipy.special import stdtrit

from ..features import Features, metric
from ..frechet import Gaussian, frechet, gradient_of_distance
from ..result import Result, normal_interval
from ..statistics import FeatureStatistics

HEUSEL = "GANs Trained by a Two Time-Scale Update Rule, Heusel et al., 2017, arXiv 1706.08500"
NASH = "Generating Images with Sparse Representations, Nash et al., 2021, arXiv 2103.03841"


def influences(real: Gaussian, generated: Gaussian, statistics: FeatureStatistics) -> np.ndarray:
    """Mean influence of each group's samples on the squared distance, (groups,)."""
    g_mean, g_cov = gradient_of_distance(real, generated)
    level, n = (g_cov * generated.cov).sum(), statistics.n
    found = []
    for group in statistics.groups:
        mean, scatter = group.moments()
        delta = mean.to(g_mean.device) - generated.mean
        quadratic = (g_cov * scatter.to(g_cov.device)).sum() / group.n + delta @ g_cov @ delta
        found.append((g_mean @ delta + quadratic * n / (n - 1) - level).item())
    return np.array(found)


def _result(name: str, part: str, real: Features, generated: Features, interval: bool) -> Result:
    side = generated.statistics[part]
    a, b = real.statistics[part].gaussian(), side.gaussian()
    distance = frechet(a, b.to(a.mean.device))
    details = {"bound": distance.bound, "of_means": distance.of_means}
    groups = len(side.groups)
    if not interval or groups < 2 or min(group.n for group in side.groups) < 2:
        return Result(name, distance.value, details=details)
    pseudo = distance.value + influences(a, b.to(a.mean.device), side)
    error = float(pseudo.std(ddof=1)) / sqrt(groups)
    low, high = normal_interval(distance.value, error, float(stdtrit(groups - 1, 0.975)))  # Student's t
    return Result(
        name,
        distance.value,
        error,
        (max(low, 0.0), high),
        f"block jackknife of the generated set, first order, {groups} groups",
        details=details,
        groups=tuple(pseudo.tolist()),
    )


@metric("fid", reference=HEUSEL, statistics=("main",))
def fid(real: Features, generated: Features, *, interval: bool = True) -> list[Result]:
    """Squared Frechet distance of the main layer; with the inception extractor it is FID, with others FD-<extractor>.

    FD^2 = |mu_1 - mu_2|^2 + tr C_1 + tr C_2 - 2 tr (C_1 C_2)^(1/2), lower is better; biased upwards by about k / N.

    interval: also its standard error, of the sampling of the generated images (the real side counts as fixed).
    """
    return [_result("fid", "main", real, generated, interval)]


@metric("sfid", reference=NASH, statistics=("spatial",))
def sfid(real: Features, generated: Features, *, interval: bool = True) -> list[Result]:
    """The same on the first 7 channels of Inception's mixed_6/conv with their places: 2023 dimensions."""
    return [_result("sfid", "spatial", real, generated, interval)]
